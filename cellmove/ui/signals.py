"""The first signal asks a run to finish its current action, the second one ends the process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from cellmove.engine.events import EventKind
from cellmove.ui.fault import EarlyExit

if TYPE_CHECKING:
    pass


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


UNDER_WAY = (EventKind.STEP_STARTED, EventKind.ACTION_STARTED, EventKind.UNDO_STARTED)
"""Events after which an interrupt has to wait for the action in hand."""


class Signals:
    """Counts signals: the first one asks, the second one ends.

    Called, it gives the number of the first signal, or 0.
    """

    def __init__(self, again: str) -> None:
        self.number = 0
        self.busy = False
        self.again = again
        self.announce: Callable[[str], None] = lambda _text: None

    def __call__(self) -> int:
        return self.number

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle one signal."""
        if self.number:
            leave_now(128 + number, self.again)
        self.number = number
        if not self.busy:
            raise EarlyExit(number)
        self.announce("Finishing the current action. Press Ctrl-C again to quit immediately.")


def leave_now(code: int, again: str) -> NoReturn:
    """End the process at once: no cleaning up that could take time. The journal is right anyway.

    :param again: what to type then
    """
    from cellmove.ui.console import draws_over

    with suppress(OSError):
        if draws_over(sys.stderr):
            os.write(2, b"\x1b[?25h\n")  # a spinner has hidden the cursor
        os.write(2, f"Aborted. The journal records where the move stopped.\nnext: {again}\n".encode())
    os._exit(code)


@contextmanager
def install_signals(again: str) -> Iterator[Signals]:
    """Receive signals during the block, except those that the caller (nohup, cron) had ignored.

    :param again: what to type when one ends the block at once
    """
    signals = Signals(again)
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, signals.receive)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
