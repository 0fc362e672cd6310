"""Run or undo the actions of a step. A call that fails outside of every action becomes the end of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    undo,
)
from cellmove.engine.record import record_of
from cellmove.engine.retry import patiently
from cellmove.operations.context import Session, fresh, make_runner
from cellmove.steps.endpoints import chosen_host, has_chosen
from cellmove.steps.reconcile import owners_deed


def run_actions(session: Session, move: Move, step: Step, *, undo_whole_move: bool) -> Move:
    """Run the actions of a step, after its databases, buses and APIs were reached.

    :param undo_whole_move: a failure before the pivot rolls back the whole move, not only the step
    :returns: the move in its new state
    :raises RolledBack: the step failed and was rolled back
    :raises Stopped: the step stopped part-way
    """
    record = record_of(move, session.journal.entries_of(move.id))
    with calls_to_consequences(session, move, step):
        plan = record.plan
        targets = [chosen_host(record).target_cell_uuid] if has_chosen(record) else plan.allowed_cells
        cell = session.gateway.cell
        session.gateway.reach([cell(plan.source_cell_uuid)], one_of=[cell(word) for word in targets])
        try:
            return executor.run_step(make_runner(session, move), move, step, undo_whole_move=undo_whole_move)
        except RolledBack as error:
            if is_deleted(session, fresh(session, move)):
                error.state = "the owner deleted the server during the step"
                error.next_command = f"cellmove rollback {move.id}"
            raise


def undo_actions(session: Session, move: Move, step: Step | None) -> Move:
    """Undo the actions of one step, or (None) of the whole move."""
    again = f"cellmove rollback {move.id}" if step is None else ""
    with calls_to_consequences(session, move, again=again):
        return undo(make_runner(session, move), move, step)


@contextmanager
def calls_to_consequences(session: Session, move: Move, step: Step | None = None, *, again: str = "") -> Iterator[None]:
    """Turn a call that failed outside of every action into the end of the command. Nothing changed by it.

    :param step: the step that could not start; None for a rollback
    :param again: the command to type next; empty: the one that resumes the move
    :raises Unreachable: no action of the move was started
    :raises Stopped: the move is part-way
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
        raise Stopped(str(error), state="this run changed nothing", next_command=command) from None


def is_deleted(session: Session, move: Move) -> bool:
    """Return whether the owner deleted the server while leftovers of the move remain."""
    if move.state is State.SWEEPING:
        return True
    return owners_deed(make_runner(session), move, session.journal.entries_of(move.id)) is State.SWEEPING


def check_server_and_journal(session: Session, move: Move, step: Step | None = None) -> None:
    """Make sure that the server exists and that this journal is not older than its move.

    :param step: the step that will run
    :raises Refused: the owner deleted the server
    :raises OlderJournal: another copy of the journal continued the move
    """
    if is_deleted(session, move):
        raise Refused(
            f"{move.server_name} was deleted by its owner",
            state="leftovers of the move remain; nothing was written by this run",
            next_command=f"cellmove resume {move.id}",
        )
    require_current(session, move, step)


def require_current(session: Session, move: Move, step: Step | None = None) -> None:
    """Refuse a journal that is older than the move; see :mod:`cellmove.steps.fence`.

    :param step: the step that will run; None: resume or roll back
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
    """Return whether another copy of the journal continued this open move."""
    try:
        require_current(session, move)
    except OlderJournal:
        return True
    return False
