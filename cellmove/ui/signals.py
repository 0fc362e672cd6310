"""The first signal asks a run to finish its current action. The second one ends the process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from cellmove.engine.events import EventKind
from cellmove.ui.fault import EarlyExit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ACTION_EVENTS = (EventKind.STEP_STARTED, EventKind.ACTION_STARTED, EventKind.UNDO_STARTED)
"""Events after which an interrupt waits for the current action."""


class Signals:
    """Receive signals; the first one asks the run to stop, the second one ends the process.

    A call returns the number of the first signal, or 0.
    """

    def __init__(self, retry_command: str) -> None:
        self.number = 0
        self.busy = False
        self.retry_command = retry_command
        self.announce: Callable[[str], None] = lambda _text: None

    def __call__(self) -> int:
        return self.number

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle one signal."""
        if self.number:
            abort(128 + number, self.retry_command)
        self.number = number
        if not self.busy:
            raise EarlyExit(number)
        self.announce("Finishing the current action. Press Ctrl-C again to quit immediately.")


def abort(exit_code: int, retry_command: str) -> NoReturn:
    """End the process at once, without any clean-up that could take time. The journal is consistent all the same."""
    from cellmove.ui.console import draws_over

    with suppress(OSError):
        if draws_over(sys.stderr):
            os.write(2, b"\x1b[?25h\n")  # a spinner has hidden the cursor
        os.write(2, f"Aborted. The journal records where the move stopped.\nnext: {retry_command}\n".encode())
    os._exit(exit_code)


@contextmanager
def install_signals(retry_command: str) -> Iterator[Signals]:
    """Receive signals during the block, except those that the caller (nohup, cron) ignores.

    :param retry_command: is printed when a second signal ends the process
    """
    signals = Signals(retry_command)
    handlers = {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            handlers[number] = signal.signal(number, signals.receive)
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
