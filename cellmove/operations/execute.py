"""Run or undo the actions of a step for a session, and turn a call that failed outside any action into its consequence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellmove.core.cell_names import allowed_cells
from cellmove.core.errors import (
    CallError,
    OlderJournal,
    Refused,
    RolledBack,
    Stopped,
    before_writing,
)
from cellmove.core.move import Move, State, Step, next_commands
from cellmove.engine import executor
from cellmove.engine.executor import (
    busy_step,
    context_before,
    facts_of,
    undo,
)
from cellmove.engine.retry import patiently
from cellmove.operations.context import Session, fresh, make_runner
from cellmove.steps.reconcile import owners_deed

if TYPE_CHECKING:
    pass


def run_actions(session: Session, move: Move, step: Step, *, undo_whole_move: bool) -> Move:
    facts = facts_of(move, session.journal.entries_of(move.id))
    with calls_to_consequences(session, move, step):
        targets = [facts["target_cell_uuid"]] if "target_cell_uuid" in facts else allowed_cells(facts)
        cell = session.gateway.cell
        session.gateway.reach([cell(facts["source_cell_uuid"])], one_of=[cell(word) for word in targets])
        try:
            return executor.run_step(make_runner(session, move), move, step, undo_whole_move=undo_whole_move)
        except RolledBack as error:
            if is_deleted(session, fresh(session, move)):
                error.state = "its owner deleted the server meanwhile"
                error.next_command = f"cellmove rollback {move.id}"
            raise


def undo_actions(session: Session, move: Move, step: Step | None) -> Move:
    again = f"cellmove rollback {move.id}" if step is None else ""
    with calls_to_consequences(session, move, again=again):
        return undo(make_runner(session, move), move, step)


@contextmanager
def calls_to_consequences(session: Session, move: Move, step: Step | None = None, *, again: str = "") -> Iterator[None]:
    """What a call came to outside any action: the cloud was not reached, so nothing changed.

    :param step: which one could not begin; None for rolling back
    :param again: what to type next; empty: what goes on with the move
    """
    try:
        yield
    except CallError as error:
        entries = session.journal.entries_of(move.id)
        busy = busy_step(entries, move)
        commands = next_commands(move, busy, step)
        # A whole run may have done steps before this one.
        part_way = (
            busy or move.state is State.ROLLING_BACK or (move.is_running_to_goal and move.state is not State.PLANNED)
        )
        command = again or (commands[0] if commands else "")
        if not part_way:
            raise before_writing(error, next_command=command) from None
        raise Stopped(str(error), state="the move stands where it stood", next_command=command) from None


def is_deleted(session: Session, move: Move) -> bool:
    """Whether the owner deleted the server, and something of it is left."""
    if move.state is State.SWEEPING:
        return True
    return owners_deed(make_runner(session), move, session.journal.entries_of(move.id)) is State.SWEEPING


def check_server_and_journal(session: Session, move: Move, step: Step | None = None) -> None:
    """Make sure that the server is there, and that this journal is not older than its move.

    :param step: that is to run
    :raises OlderJournal: another copy of the journal has gone on with the move
    """
    if is_deleted(session, move):
        raise Refused(
            f"{move.server_name} was deleted by its owner",
            state="something of the move is left; nothing was written by this run",
            next_command=f"cellmove resume {move.id}",
        )
    require_current(session, move, step)


def require_current(session: Session, move: Move, step: Step | None = None) -> None:
    """Refuse a journal that is older than the move; see :mod:`cellmove.steps.fence`.

    :param step: that is to run; None: going on or back
    """
    if not move.is_open or move.is_repair or move.is_drain:
        return
    from cellmove.steps.fence import require_current

    entries = session.journal.entries_of(move.id)
    busy = busy_step(entries, move)
    context = context_before(make_runner(session), move, busy or Step.PREP_DEST)
    with calls_to_consequences(session, move, step):
        patiently(session, lambda: require_current(context, entries, busy or Step.PREP_DEST, move.generations))


def is_older(session: Session, move: Move) -> bool:
    """Whether this journal is older than an open move of it."""
    try:
        require_current(session, move)
    except OlderJournal:
        return True
    return False
