"""Open the session of a command, with its progress and its signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cellmove.engine.events import Event
from cellmove.ui.invocation import Options
from cellmove.ui.signals import ACTION_EVENTS, install_signals

if TYPE_CHECKING:
    from cellmove.operations.context import Session
    from cellmove.ui.progress import Renderer


@contextmanager
def running(
    options: Options,
    activity: str = "reading the state of the cloud",
    observer: Renderer | None = None,
    retry_command: str = "",
    only_reads: bool = False,
) -> Iterator[Session]:
    """Open a session; show progress and receive signals while the block runs.

    :param activity: is shown on a terminal until the first event
    :param observer: shows the progress instead of the usual renderer
    :param retry_command: is printed when a second signal ends the process; empty: the command that continues the move
    :param only_reads: the command writes nothing, not even to the journal
    """
    _silence_libraries()
    from cellmove.core import settings
    from cellmove.core.policy import Consent
    from cellmove.operations.context import open_session
    from cellmove.ui.progress import renderer_for

    global_options = options.global_options
    with (
        install_signals(global_options.inserted(retry_command or options.retry_command)) as signals,
        ExitStack() as stack,
    ):
        progress = observer or stack.enter_context(renderer_for(sys.stderr, options.quiet, activity=activity))
        signals.announce = progress.announce

        def observe(event: Event) -> None:
            signals.busy = signals.busy or event.kind in ACTION_EVENTS
            progress(options.record_event(event))
            if not retry_command:
                signals.retry_command = global_options.inserted(options.retry_command)

        environ = dict(os.environ) | ({"CELLMOVE_CONFIG": options.config} if options.config else {})
        options.session = open_session(
            settings.load(options.settings_flags(), environ),
            observe,
            interrupted=signals,
            consent=Consent(options.yes, progress.ask if is_interactive() else None),
            only_reads=only_reads,
            global_options=global_options,
        )
        yield options.session


def is_interactive() -> bool:
    """Whether the operator can be asked: input and output go through a terminal."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):  # closed, or absent
        return False


def _silence_libraries() -> None:
    """Keep libraries from writing between the lines on stderr, unless CELLMOVE_DEBUG is set."""
    import logging
    import warnings

    if os.environ.get("CELLMOVE_DEBUG"):
        logging.basicConfig(level=logging.INFO)
        return
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
