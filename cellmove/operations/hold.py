"""A move that is held between its preparation and the stop of the guest, so that a person chooses the minute.

Meanwhile what the guest writes is passed on. While it is held the move's goal is the state that it has,
``dest-prepared``; whoever raises the goal (``cellmove finish``, from any terminal) lets it go on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import CallError, RolledBack, Stopped
from cellmove.core.move import Move, State, Step, is_held
from cellmove.core.request import command_of
from cellmove.engine.events import Event, EventKind
from cellmove.operations.context import is_locked

if TYPE_CHECKING:
    from cellmove.engine.action import Context
    from cellmove.operations.context import Session

REFRESH = 10.0
"""Seconds between two passes."""


@dataclass(frozen=True)
class Hold:
    """How long.

    :param until: of this machine, with its zone; None: until somebody says so
    :param gate: asked instead, often: True lets it go on, False ends it here, None makes it wait. Then nothing is passed
        on meanwhile: a pass is made before the stop anyway
    """

    until: datetime.datetime | None = None
    gate: Callable[[], bool | None] | None = None


def hold(session: Session, move: Move, wish: Hold, context: Context) -> bool:
    """Pass on what changes until it is time.

    :param context: of the move, as a step that begins now would have it
    :returns: whether to go on
    :raises Interrupted: after a signal; the move stays prepared
    """
    answer = _answer(session, move, wish)
    if wish.gate is not None and answer is not None:
        return answer
    until = f"until {wish.until:%H:%M}, or " if wish.until else "until "
    title = f"held {until}cellmove finish {move.id}" if wish.gate is None else "prepared, and waits for its turn"
    began, due, waits = session.clock.monotonic(), 0.0, session.clock.waits()

    def tell(kind: EventKind, seconds: float = 0.0) -> None:
        session.observer(
            Event(kind, move.id, move.server_name, step="hold", action="hold", title=title, seconds=seconds)
        )

    session.observer(Event(EventKind.NOTE, move.id, move.server_name, step="hold", text=title))
    tell(EventKind.ACTION_STARTED)
    while (answer := _answer(session, move, wish)) is None:
        context.leave_if_asked()
        if wish.gate is None and session.clock.monotonic() >= due:
            _pass_on(context)
            due = session.clock.monotonic() + REFRESH
        session.clock.sleep(next(waits))
    tell(EventKind.ACTION_FINISHED, seconds=session.clock.monotonic() - began)
    return answer


def _answer(session: Session, move: Move, wish: Hold) -> bool | None:
    """Whether it goes on, or ends here; None: not yet."""
    if wish.until is not None and session.clock.utc_now() >= wish.until:
        return True
    there = session.journal.move(move.id)
    if there is None or not is_held(there):
        return True
    return wish.gate() if wish.gate is not None else None


def _pass_on(context: Context) -> None:
    """A connection that breaks costs a pass, not the move: the guest runs on."""
    from cellmove.steps import stream

    if not stream.is_streamed(context):
        return
    try:
        stream.refresh(context)
    except CallError as error:
        context.note(f"{error}; it is tried again")


def let_go(session: Session, move: Move, wanted: State = State.FINISHED) -> Move:
    """Tell the run that holds a move to go on, and wait until it has.

    :param wanted: the state that the move is to reach: FINISHED or CONFIRMED
    :returns: the move, finished
    :raises RolledBack: it failed and was rolled back
    :raises Stopped: that run ended before it was finished
    """
    if is_held(move):
        session.journal.set_goal(move.id, wanted.value)
    waits = session.clock.waits()
    while True:
        is_over = not is_locked(session, move)  # asked first: what is read then is the last word of that run
        move = session.journal.move(move.id) or move
        if move.state in (State.FINISHED, State.CONFIRMED):
            return move
        if not move.is_open:
            raise RolledBack(
                f"{Step.FINISH} of {move.server_name} failed in the run that held it, which has told why",
                state=f"{move.id} is {move.state}",
                next_command=command_of(move),
            )
        if is_over:
            raise Stopped(
                f"the run that held {move.server_name} ended before it was finished",
                state=f"{move.id} is {move.state}",
                next_command=f"cellmove resume {move.id}",
            )
        session.clock.sleep(next(waits))
