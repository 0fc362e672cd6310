"""Run the steps of a move: one step, or all to ``finish`` or ``confirm``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellmove.core.errors import (
    Interrupted,
    Locked,
    OlderJournal,
    Refused,
    Stopped,
    Unreachable,
    Usage,
)
from cellmove.core.move import HELD, TO_FINISH, TRANSITIONS, Move, State, Step, is_held, next_commands
from cellmove.core.request import command_of, continued_by, plan_values, request_of
from cellmove.core.shell import command_line
from cellmove.engine.executor import (
    busy_step,
    context_before,
)
from cellmove.operations import permission
from cellmove.operations.context import Session, fresh, lock, make_runner
from cellmove.operations.execute import calls_to_consequences, check_server_and_journal, run_actions
from cellmove.operations.hold import hold as hold_move
from cellmove.operations.hold import release
from cellmove.operations.probe import parse as parse_probe
from cellmove.operations.verify import require as require_as_before
from cellmove.steps.reconcile import moved_by_others

if TYPE_CHECKING:
    from cellmove.core.request import MoveRequest
    from cellmove.operations.hold import Hold
    from cellmove.operations.probe import Probe


def run_step(session: Session, move: Move, step: Step, *, force: bool = False, probes: Sequence[Probe] = ()) -> Move:
    """Run one step; a failure rolls back only this step where that is possible.

    :param force: confirm a server although it differs from its state before the move
    :param probes: the guest has to answer them before the move is confirmed
    :raises Refused: another step is next; the message names it
    :raises Unverified: the server differs from its state before the move, and the step is confirm
    """
    if step is Step.FINISH and is_held(move):
        return _cut_over(session, move)
    again = command_line(step.value, move.id, force=force, probe=tuple(each.text for each in probes))
    with lock(session, move.server_id, move.server_name):
        move = fresh(session, move)
        _check_no_other(session, move)
        check_server_and_journal(session, move, step)
        if _is_past(move, step):
            return move
        _check_turn(session, move, step)
        if step is Step.CONFIRM and not force and busy_step(session.journal.entries_of(move.id), move) is None:
            require_as_before(session, move, probes, again)
        permission.for_step(session, move, step, again)
        return run_actions(session, move, step, undo_whole_move=False)


def run_to_finish(
    session: Session, move: Move, *, confirm: bool, hold: Hold | None = None, request: MoveRequest | None = None
) -> Move:
    """Run all steps to ``finish``, and to ``confirm`` if wanted; a failure rolls everything back.

    :param hold: wait before the guest is stopped
    :param request: the request of the command that continues the move; recorded in the journal
    :returns: the move; it is still held if the gate of ``hold`` ended the run
    """
    with lock(session, move.server_id, move.server_name):
        move = fresh(session, move)
        check_server_and_journal(session, move)
        if move.state is State.ROLLING_BACK:
            raise Refused(
                f"{move.id} is being rolled back",
                state="partly rolled back",
                next_command=f"cellmove rollback {move.id}",
            )
        busy = busy_step(session.journal.entries_of(move.id), move)
        if busy is Step.REVERT or (busy is Step.CONFIRM and not confirm):
            raise Refused(
                f"{busy} of {move.id} was started and is not complete",
                state="nothing was written by this run",
                next_command=f"cellmove resume {move.id}",
            )
        goal = State.CONFIRMED if confirm else State.FINISHED
        again = request.command if request is not None else f"cellmove resume {move.id}"
        permission.for_run(session, move, goal, again)
        if request is not None and move.is_open and move.state is not goal:
            move = _keep_request(session, move, request)
        if hold is not None and move.state in (State.PLANNED, HELD):
            move, continues = _hold(session, session.journal.set_goal(move.id, HELD.value), hold)
            if not continues:
                return move
        if move.is_open and move.goal_state != goal:
            move = session.journal.set_goal(move.id, goal.value)
        return run_to_goal(session, move)


def run_to_goal(session: Session, move: Move) -> Move:
    """Run the steps up to the move's goal. A failure before the end of ``finish`` rolls the whole move back."""
    if move.goal_state == HELD:
        return run_actions(session, move, Step.PREP_DEST, undo_whole_move=True) if move.state is State.PLANNED else move
    steps = (*TO_FINISH, Step.CONFIRM) if move.goal_state == State.CONFIRMED else TO_FINISH
    arrived = False
    for step in steps:
        if TRANSITIONS[step][0] is move.state:
            if step is Step.CONFIRM and busy_step(session.journal.entries_of(move.id), move) is None:
                _verify_before_confirm(session, move, arrived=arrived)
            try:
                move = run_actions(session, move, step, undo_whole_move=step in TO_FINISH)
            except OlderJournal as error:
                if not arrived:
                    raise
                raise Stopped(
                    error.message,
                    state=f"this run brought the move to {move.state}; it wrote nothing after that",
                    next_command=error.next_command,
                ) from None
            arrived = True
    return move


def _cut_over(session: Session, move: Move) -> Move:
    """Finish a held move: by the run that holds it, or by this run if that one has ended.

    A move that was requested with ``--confirm`` is confirmed in both cases.
    """
    request = request_of(move)
    confirm = request is not None and request.confirm
    permission.for_run(session, move, State.CONFIRMED if confirm else State.FINISHED, f"cellmove finish {move.id}")
    try:
        return run_to_finish(session, move, confirm=confirm)
    except Locked:
        return release(session, move, State.CONFIRMED if confirm else State.FINISHED)


def _keep_request(session: Session, move: Move, request: MoveRequest) -> Move:
    """Record the newest request of a move. Commands that are printed later repeat its options."""
    earlier = request_of(move)
    wanted = continued_by(earlier, request) if earlier is not None else request
    if wanted == earlier:
        return move
    return session.journal.set_plan(move.id, {**move.plan, **plan_values(wanted)}, move.state)


def _hold(session: Session, move: Move, until: Hold) -> tuple[Move, bool]:
    """Prepare a move and wait.

    :returns: the move, and whether its run continues
    """
    move = run_to_goal(session, move)
    try:
        with calls_to_consequences(session, move):
            continues = hold_move(session, move, until, context_before(make_runner(session), move, Step.PREP_SOURCE))
    except Interrupted as error:
        request = request_of(move)
        if request is not None and (request.hold or request.cutover_at):
            error.state = f"{move.id} is prepared and its guest runs; cellmove finish {move.id} stops the guest"
            error.next_command = request.command
        raise
    move = fresh(session, move)
    return move, continues or not is_held(move)  # another terminal may have released it just now


def _verify_before_confirm(session: Session, move: Move, *, arrived: bool) -> None:
    """Verify a moved server before a whole run confirms the move.

    :param arrived: this run moved the server
    :raises Stopped: the server differs, or cannot be verified, and this run moved it
    :raises Refused: the same, and an earlier run moved it
    """
    request = request_of(move)
    probes = [parse_probe(text) for text in request.probes] if request is not None else []
    again = command_line("confirm", move.id, probe=request.probes if request is not None else ())
    try:
        require_as_before(session, move, probes, again)
    except (Refused, Unreachable, Usage) as error:
        if not arrived:
            raise
        raise Stopped(
            error.message,
            state="this run moved it to the target; the move is finished, and was not confirmed",
            next_command=error.next_command,
        ) from None


def _check_no_other(session: Session, move: Move) -> None:
    """Refuse a closed move whose server is being moved by nova or with another journal."""
    how = "" if move.is_open else moved_by_others(session.gateway, move.server_id)
    if how:
        raise Refused(
            f"{move.id} of {move.server_name} is {move.state}, but {how}",
            state="nothing was written",
            next_command=f"cellmove adopt {move.server_id}",
        )


def _check_turn(session: Session, move: Move, step: Step) -> None:
    busy = busy_step(session.journal.entries_of(move.id), move)
    if TRANSITIONS[step][0] is move.state and busy in (None, step):
        return
    commands = next_commands(move, busy)
    if move.state is State.SERVER_GONE:
        why = f"the server is gone, and {move.id} is closed"
    elif busy is not None:
        why = f"{busy} of {move.id} was started and is not complete"
    else:
        why = f"cannot run {step}: {move.id} is {move.state}"
    again = command_of(move) if move.state is State.ROLLED_BACK else f"cellmove show {move.id}"
    raise Refused(why, state="nothing was written", next_command=commands[0] if commands else again)


def _is_past(move: Move, step: Step) -> bool:
    """Return whether this step was completed before; then the command does nothing."""
    after = {
        Step.PREP_DEST: (State.DEST_PREPARED, State.SOURCE_PREPARED, State.FINISHED, State.CONFIRMED),
        Step.PREP_SOURCE: (State.SOURCE_PREPARED, State.FINISHED, State.CONFIRMED),
        Step.FINISH: (State.FINISHED, State.CONFIRMED),
        Step.CONFIRM: (State.CONFIRMED,),
        Step.REVERT: (State.REVERTED,),
    }
    return move.state in after[step]
