"""Open the session of a command, with its progress and its signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cellmove.engine.events import Event
from cellmove.ui.invocation import Options
from cellmove.ui.signals import UNDER_WAY, install_signals

if TYPE_CHECKING:
    from cellmove.operations.context import Session
    from cellmove.ui.progress import Renderer


@contextmanager
def running(
    options: Options,
    activity: str = "looking at the cloud",
    observer: Renderer | None = None,
    again: str = "",
    only_reads: bool = False,
) -> Iterator[Session]:
    """Open a session; progress is shown and signals are received while the block runs.

    :param activity: what a terminal shows until something happens
    :param observer: who shows it instead
    :param again: what to type after a second signal, which leaves at once; empty: what goes on with the move
    :param only_reads: the command writes nothing, not even to the journal
    """
    _hush()
    from cellmove.core import settings
    from cellmove.core.policy import Consent
    from cellmove.operations.context import open_session
    from cellmove.ui.progress import renderer_for

    with install_signals(options.in_front.inserted(again or options.again)) as signals, ExitStack() as stack:
        watching = observer or stack.enter_context(renderer_for(sys.stderr, options.quiet, activity=activity))
        signals.announce = watching.announce

        def observe(event: Event) -> None:
            signals.busy = signals.busy or event.kind in UNDER_WAY
            watching(options.hear(event))
            signals.again = signals.again if again else options.in_front.inserted(options.again)

        environ = dict(os.environ) | ({"CELLMOVE_CONFIG": options.config} if options.config else {})
        found = settings.load(options.flags(), environ)
        consent = Consent(options.yes, watching.ask if at_a_terminal() else None)
        options.session = open_session(
            found, observe, interrupted=signals, consent=consent, only_reads=only_reads, in_front=options.in_front
        )
        yield options.session


def at_a_terminal() -> bool:
    """Whether a person can be asked: what is typed and what is shown go through a terminal."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):  # closed, or none at all
        return False


def _hush() -> None:
    """Keep libraries from writing on stderr between our lines, unless somebody is looking for a fault."""
    import logging
    import warnings

    if os.environ.get("CELLMOVE_DEBUG"):
        logging.basicConfig(level=logging.INFO)
        return
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
