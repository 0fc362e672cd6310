"""Hold a prepared move before its guest is stopped, until the operator releases it or a time has come.

While a streamed move is held, changes of its disks are copied. The goal of a held move is the state that it has,
``dest-prepared``. ``cellmove finish``, typed in any terminal, raises the goal and so releases the move.
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

REFRESH_SECONDS = 10.0
"""Time between two passes over the disks."""


@dataclass(frozen=True)
class Hold:
    """How long a move is held.

    :param until: local time with its zone; None: until the operator releases the move
    :param gate: polled instead: True continues the move, False ends the run here, None waits. No disks are copied
        while a gate waits, since a pass is made before the stop
    """

    until: datetime.datetime | None = None
    gate: Callable[[], bool | None] | None = None


def hold(session: Session, move: Move, until: Hold, context: Context) -> bool:
    """Copy changes of the disks until the move is released.

    :param context: the context of a step that would start now
    :returns: whether the move continues
    :raises Interrupted: after a signal; the move stays prepared
    """
    decision = _decision(session, move, until)
    if until.gate is not None and decision is not None:
        return decision
    time = f"until {until.until:%H:%M}, or " if until.until else "until "
    title = f"held {time}cellmove finish {move.id}" if until.gate is None else "prepared, waiting for a free place"
    began, due, waits = session.clock.monotonic(), 0.0, session.clock.waits()

    def tell(kind: EventKind, seconds: float = 0.0) -> None:
        session.observer(
            Event(kind, move.id, move.server_name, step="hold", action="hold", title=title, seconds=seconds)
        )

    session.observer(Event(EventKind.NOTE, move.id, move.server_name, step="hold", text=title))
    tell(EventKind.ACTION_STARTED)
    while (decision := _decision(session, move, until)) is None:
        context.leave_if_asked()
        if until.gate is None and session.clock.monotonic() >= due:
            _copy_changes(context)
            due = session.clock.monotonic() + REFRESH_SECONDS
        session.clock.sleep(next(waits))
    tell(EventKind.ACTION_FINISHED, seconds=session.clock.monotonic() - began)
    return decision


def _decision(session: Session, move: Move, until: Hold) -> bool | None:
    """Return whether the move continues (True) or its run ends here (False); None: not decided yet."""
    if until.until is not None and session.clock.utc_now() >= until.until:
        return True
    there = session.journal.move(move.id)
    if there is None or not is_held(there):
        return True
    return until.gate() if until.gate is not None else None


def _copy_changes(context: Context) -> None:
    """Copy changes once. A failed pass is repeated later, because the guest still runs."""
    from cellmove.steps import stream

    if not stream.is_streamed(context):
        return
    try:
        stream.refresh(context)
    except CallError as error:
        context.note(f"{error}; the copy will be tried again")


def release(session: Session, move: Move, wanted: State = State.FINISHED) -> Move:
    """Release a move that another run holds, and wait until that run has finished it.

    :param wanted: FINISHED or CONFIRMED
    :returns: the finished move
    :raises RolledBack: the step failed in that run and was rolled back
    :raises Stopped: that run ended before the move was finished
    """
    if is_held(move):
        session.journal.set_goal(move.id, wanted.value)
    waits = session.clock.waits()
    while True:
        is_over = not is_locked(
            session, move
        )  # read before the move, so that the move is read after the last write of that run
        move = session.journal.move(move.id) or move
        if move.state in (State.FINISHED, State.CONFIRMED):
            return move
        if not move.is_open:
            raise RolledBack(
                f"{Step.FINISH} of {move.server_name} failed in the run that held the move; the reason is in the output of that run",
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
