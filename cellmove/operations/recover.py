"""Resume a move where a run stopped, or roll it back."""

from __future__ import annotations

from dataclasses import replace

from cellmove.core.errors import (
    CallError,
    CellmoveError,
    Interrupted,
    Refused,
    Stopped,
    Unreachable,
    Usage,
)
from cellmove.core.move import TO_FINISH, Move, State, Step
from cellmove.engine.executor import (
    busy_step,
    is_undoing,
    next_choice,
    past_pivot,
)
from cellmove.operations import audit, permission
from cellmove.operations.context import Session, fresh, lock, make_runner
from cellmove.operations.execute import is_deleted, require_current, run_actions, undo_actions
from cellmove.operations.run import run_to_goal
from cellmove.steps.reconcile import BEFORE_THE_SWITCH


def resume(session: Session, move: Move, *, host_restarted: bool = False) -> Move:
    """Resume a move where a run stopped: complete its step, or its rollback. A move that is at rest is returned as it is.

    :param host_restarted: the operator states that the compute host of the pending call was restarted after the call
    """
    session = replace(session, host_restarted=host_restarted)
    with lock(session, move.server_id, move.server_name):
        move = fresh(session, move)
        if not move.is_open:
            return move
        if move.is_repair:
            return audit.run_repair(session, move)
        if is_deleted(session, move):
            return _sweep(session, move)
        require_current(session, move)
        entries = session.journal.entries_of(move.id)
        runner = make_runner(session)
        step = busy_step(entries, move)
        if move.state is State.ROLLING_BACK:
            return undo_actions(session, move, None)
        if step is None:
            if move.is_running_to_goal and move.state is State.PLANNED:
                permission.check_rules(session, move)  # consent was given, but nothing has begun
            return run_to_goal(session, move) if move.is_running_to_goal else move
        if (
            is_undoing(entries)
            and not past_pivot(runner, entries, step)
            and next_choice(runner, move, entries, step) is None
        ):
            return undo_actions(session, move, step)
        move = run_actions(session, move, step, undo_whole_move=bool(move.goal_state) and step in TO_FINISH)
        return run_to_goal(session, move) if move.is_running_to_goal and step in TO_FINISH else move


def resume_all(session: Session) -> list[Move]:
    """Resume every open move. A move that cannot be resumed does not prevent the others.

    :raises Stopped: some moves could not be resumed; the message lists each with its next command
    :raises Unreachable: the journal cannot be reached; or none was resumed, since the cloud cannot be reached
    """
    done: list[Move] = []
    failures: list[tuple[Move, CellmoveError]] = []
    resumed = False
    for move in session.journal.open_moves():
        try:
            done.append(resume(session, move))
            resumed = resumed or done[-1] != move
        except Interrupted:
            raise
        except CallError as error:
            failures.append((move, Stopped(str(error), next_command=f"cellmove resume {move.id}")))
        except CellmoveError as error:
            session.journal.move(move.id)  # raises if the journal is lost: then the others cannot be resumed either
            failures.append((move, error))
    if failures:
        nothing_reached = not resumed and all(isinstance(error, (Unreachable, Usage)) for _, error in failures)
        kind = Unreachable if nothing_reached else Stopped
        raise kind("\n".join(_left_open(*failure) for failure in failures), next_command="cellmove list")
    return done


def rollback(session: Session, move: Move, *, host_restarted: bool = False) -> Move:
    """Roll a move back: undo everything before the pivot, or revert after it.

    :param host_restarted: the operator states that the compute host of the pending call was restarted after the call
    :raises Refused: the move is confirmed, or its confirm has started to remove the source
    """
    session = replace(session, host_restarted=host_restarted)
    with lock(session, move.server_id, move.server_name):
        move = fresh(session, move)
        if move.state in (State.ROLLED_BACK, State.REVERTED, State.SERVER_GONE):
            return move
        if move.is_repair:
            raise Refused(
                f"{move.id} repairs leftovers; repairs are not rolled back",
                state=f"it is {move.state}; nothing was written by this run",
                next_command=f"cellmove {'resume' if move.is_open else 'show'} {move.id}",
            )
        if not move.is_open:
            raise Refused(f"{move.id} is {move.state} and can no longer be rolled back")
        if is_deleted(session, move):
            return _sweep(session, move)
        require_current(session, move)
        entries = session.journal.entries_of(move.id)
        runner = make_runner(session)
        step = busy_step(entries, move)
        if step is not None and past_pivot(runner, entries, step):
            if step is Step.REVERT:
                return run_actions(session, move, step, undo_whole_move=False)
            if step is Step.FINISH:
                move = run_actions(session, move, step, undo_whole_move=False)
                return run_actions(session, move, Step.REVERT, undo_whole_move=False)
            raise Refused(
                f"{step} of {move.id} has passed the point of no return",
                state="it has started to remove the server's records and disks at the source; nothing was written by this run",
                next_command=f"cellmove resume {move.id}",
            )
        if move.state is State.FINISHED:
            if step is Step.CONFIRM:
                try:
                    move = undo_actions(session, move, Step.CONFIRM)
                except (Stopped, Unreachable, Interrupted) as error:
                    error.next_command = f"cellmove rollback {move.id}"  # to resume would be to confirm
                    raise
            return run_actions(session, move, Step.REVERT, undo_whole_move=False)
        return undo_actions(session, move, None)


def _left_open(move: Move, error: CellmoveError) -> str:
    again = error.next_command or f"cellmove resume {move.id}"
    return f"{move.id} ({move.server_name}): {error.message}; next: {again}"


def _has_switched(session: Session, move: Move) -> bool:
    return past_pivot(make_runner(session), session.journal.entries_of(move.id), Step.FINISH)


def _sweep(session: Session, move: Move) -> Move:
    """Remove the leftovers of a server that its owner deleted. The caller holds the lock."""
    if move.state in BEFORE_THE_SWITCH and not _has_switched(session, move):
        move = undo_actions(session, move, None)
        return session.journal.set_state(move.id, State.SERVER_GONE)
    if move.state is not State.SWEEPING:
        move = session.journal.set_state(move.id, State.SWEEPING)
    return run_actions(session, move, Step.SWEEP, undo_whole_move=False)
