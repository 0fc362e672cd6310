"""Processes one server of a drain: checks, move, verification and confirm, from the point that an earlier run reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellmove.core.clock import seconds_of
from cellmove.core.errors import (
    CallError,
    CellmoveError,
    Interrupted,
    JournalLost,
    JournalUnreachable,
    Locked,
    Refused,
    RolledBack,
    Stopped,
    Unverified,
    Usage,
)
from cellmove.core.move import HELD, Move, State, Step, is_held, next_commands
from cellmove.core.request import Destination, MoveRequest, command_of
from cellmove.core.shell import command_line
from cellmove.db import look
from cellmove.drain import census
from cellmove.drain.item import JobResult, Stage
from cellmove.drain.options import DrainOptions, plan_command, skip_reason
from cellmove.engine.executor import busy_step
from cellmove.operations import planning
from cellmove.operations.context import hook_run
from cellmove.operations.find import find_move, reconcile_server
from cellmove.operations.hold import Hold
from cellmove.operations.recover import resume, rollback
from cellmove.operations.reporting import report_failure
from cellmove.operations.run import run_step, run_to_finish
from cellmove.operations.verify import verify

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.drain.item import Task
    from cellmove.operations.context import Session
    from cellmove.operations.probe import Probe

MOVES_A_DAY_REACHED = "policy-day"
"""The code of the rule ``policy.moves_a_day``. It refuses any new move, not one server."""

LOCKED_BY_OTHER_RUN = "locked-by-another-run"
"""The code of a server on which another run works."""

ROLLED_BACK = "rolled-back"
"""The code of a failed server whose move was rolled back."""

REQUEUED_AFTER_ROLLBACK = "taken-back"
"""The code of a server whose move was rolled back without a failure, and which waits again."""

CLOCK_TOLERANCE_SECONDS = 5.0
CODES_LENGTH = 64


@dataclass(frozen=True)
class MoveJob:
    """The values that are equal for all servers of a run.

    :param set_move: called with the id of the server and its move, as soon as the move exists
    :param may_stop_guest: by server id, see :class:`cellmove.operations.hold.Hold`; None: every guest may be stopped at once
    """

    options: DrainOptions
    source: Cell
    probes: Sequence[Probe]
    set_move: Callable[[str, str], None]
    may_stop_guest: Callable[[str], bool | None] | None = None


def process_server(session: Session, job: MoveJob, task: Task) -> JobResult:
    """Process a server as far as possible.

    :param task: as it was taken from the queue
    :raises Interrupted: a signal arrived; the journal records where the move stopped
    """
    try:
        move = _current_move(session, task)
        if task.stage in (Stage.SOAKING, Stage.CONFIRMING):
            return _finish_soak(session, job, move)
        return _continue(session, job, task, move)
    except (Interrupted, JournalLost, JournalUnreachable):
        raise
    except Locked as error:
        return JobResult(Stage.WAITING, error.message, LOCKED_BY_OTHER_RUN)
    except CallError as error:
        return _failed(session, task, Stopped(str(error)))
    except CellmoveError as error:
        return _failed(session, task, error)


def _failed(session: Session, task: Task, error: CellmoveError) -> JobResult:
    move = session.journal.open_move_of(task.server_id)
    reason = " ".join(part for part in (error.message, f"({error.state})" if error.state else "") if part)
    if isinstance(error, Usage) and move is None and not _exists(session, task):
        return JobResult(Stage.GONE, "the server does not exist any more", "gone")
    code = ROLLED_BACK if isinstance(error, RolledBack) else "stopped"
    return JobResult(Stage.FAILED, reason, code, error.next_command or _next_command(session, task, move))


def _next_command(session: Session, task: Task, move: Move | None) -> str:
    """Return the command that continues a move which the drain does not continue."""
    commands = next_commands(move, busy_step(session.journal.entries_of(move.id), move)) if move is not None else ()
    return commands[0] if commands else f"cellmove plan {task.server_id} --dry-run"


def _exists(session: Session, task: Task) -> bool:
    return look.mapping_of(session.gateway.api_engine, task.server_id) is not None


def _current_move(session: Session, task: Task) -> Move | None:
    """Return the server's open move, or the last one that this drain started."""
    reconcile_server(session, task.server_id)
    return session.journal.open_move_of(task.server_id) or (
        session.journal.move(task.move_id) if task.move_id else None
    )


def _continue(session: Session, job: MoveJob, task: Task, move: Move | None) -> JobResult:
    """Start the server's move, or continue one that an earlier run left.

    A server that is MOVING when it is taken had its lease expired: the run that moved it has died.
    """
    was_moving = task.stage is Stage.MOVING
    if was_moving and (move is None or move.state is State.ROLLED_BACK):
        return JobResult(Stage.WAITING, "its move was rolled back", REQUEUED_AFTER_ROLLBACK)
    if move is not None and not move.is_open and not was_moving:
        move = None  # of an earlier attempt
    if move is None:
        return _start(session, job, task)
    if move.is_repair:
        reason = f"{move.id} repairs leftovers of the server"
        return JobResult(Stage.SKIPPED, reason, "repair", f"cellmove resume {move.id}")
    if not move.is_open:
        return _settle_or_close(session, job, move)
    is_manual = not move.goal_state or move.goal_state == HELD or move.state is State.FINISHED
    if is_manual and not (was_moving and _is_of_this_drain(task, move)):
        reason = f"{move.id} was started outside of this drain and is {move.state}"
        return JobResult(Stage.SKIPPED, reason, "open-move", _next_command(session, task, move))
    if move.state is State.FINISHED:
        return _settle_or_close(session, job, move)
    return _resume(session, job, move, was_moving=was_moving)


def _resume(session: Session, job: MoveJob, move: Move, *, was_moving: bool) -> JobResult:
    """Continue an open move that is not finished."""
    job.set_move(move.server_id, move.id)
    was_rolling_back = was_moving and move.state is State.ROLLING_BACK
    # Without a goal state, the run died before its first action. With HELD, it died before it stopped the guest.
    waits = move.state in (State.PLANNED, HELD) and (job.may_stop_guest is not None or move.goal_state == HELD)
    if not move.goal_state or waits:
        return _run(session, job, move)
    move = resume(session, move)
    if was_rolling_back and move.state is State.ROLLED_BACK:
        return JobResult(Stage.WAITING, f"{move.id} was rolled back", REQUEUED_AFTER_ROLLBACK)
    return _settle_or_close(session, job, move)


def _is_of_this_drain(task: Task, move: Move) -> bool:
    """Return whether a run of this drain opened the move. That run may have died before it stored the move's id."""
    return move.id == task.move_id or seconds_of(move.created_at) >= task.began - CLOCK_TOLERANCE_SECONDS


def _start(session: Session, job: MoveJob, task: Task) -> JobResult:
    """Check a server again, and move it."""
    excluded = _excluded(session, job, task)
    if excluded is not None:
        return excluded
    options = job.options
    request = MoveRequest(
        task.server_id,
        task.new_flavor,
        Destination(cells=options.to),
        force_locked=options.force_locked,
        accept_loss=options.accept_loss,
        max_hosts=options.max_hosts,
        transfer=options.transfer or "",
        bwlimit=options.bwlimit or 0,
    )
    report = planning.plan(session, request, open_move=True, runs_to=State.FINISHED)
    retry = plan_command(options, task.server_id, task.new_flavor)
    if report.move is None or report.refused:
        refusals = [check for check in report.checks if check.level == "refusal"]
        if any(check.code == MOVES_A_DAY_REACHED for check in refusals):
            return JobResult(Stage.WAITING, refusals[0].text, MOVES_A_DAY_REACHED)
        text = "; ".join(f"{check.text} ({check.remedy})" if check.remedy else check.text for check in refusals)
        codes = ",".join(dict.fromkeys(check.code for check in refusals))
        return JobResult(Stage.REFUSED, text, codes[:CODES_LENGTH], retry)
    job.set_move(task.server_id, report.move.id)
    try:
        return _run(session, job, report.move)
    except Refused as error:
        move = session.journal.move(report.move.id)
        if move is None or move.state is not State.PLANNED:
            raise
        rollback(session, move)  # the operator's rules changed after the plan
        return JobResult(Stage.REFUSED, error.message, "refused", retry)


def _run(session: Session, job: MoveJob, move: Move) -> JobResult:
    """Run a move to its finish and confirm it. Roll it back where no more guests may be stopped."""
    may_stop_guest = job.may_stop_guest
    hold = Hold(gate=lambda: may_stop_guest(move.server_id)) if may_stop_guest is not None else None
    move = run_to_finish(session, move, confirm=False, hold=hold)
    if is_held(move):
        move = rollback(session, move)
        reason = f"{move.id} was rolled back before its guest was stopped"
        return JobResult(Stage.WAITING, reason, REQUEUED_AFTER_ROLLBACK)
    return _settle_or_close(session, job, move)


def _excluded(session: Session, job: MoveJob, task: Task) -> JobResult | None:
    """Return why a server is not moved any more; None if it is. It may have changed since the census."""
    gateway = session.gateway
    mapping = look.mapping_of(gateway.api_engine, task.server_id)
    database = gateway.database(job.source)
    instance = look.instance_of(database, task.server_id)
    if mapping is None or mapping.cell_uuid != job.source.uuid or instance is None:
        return JobResult(Stage.GONE, f"the server is no longer in {job.source.label}", "gone")
    # The census has checked the projects, which do not change.
    include = tuple(include for include in job.options.include if include.kind != "project")
    exclude = tuple(exclude for exclude in job.options.exclude if exclude.kind != "project")
    values = census.values_of(instance, look.tags_of(database, task.server_id), ())
    skipped = skip_reason(replace(job.options, include=include, exclude=exclude), values)
    return JobResult(Stage.SKIPPED, skipped[1], skipped[0]) if skipped is not None else None


def _settle_or_close(session: Session, job: MoveJob, move: Move) -> JobResult:
    """Settle a finished move; return the result of any other."""
    return _settle(session, job, move) if move.state is State.FINISHED else _closed(move)


def _closed(move: Move) -> JobResult:
    if move.state is State.CONFIRMED:
        return JobResult(Stage.MOVED)
    if move.state is State.REVERTED:
        return JobResult(Stage.REVERTED, f"{move.id} was reverted", "reverted", command_of(move))
    if move.state is State.SERVER_GONE:
        return JobResult(Stage.GONE, "its owner deleted it", "gone")
    if move.state is State.ROLLED_BACK:
        return JobResult(Stage.FAILED, f"{move.id} was rolled back", ROLLED_BACK, command_of(move))
    return JobResult(Stage.FAILED, f"{move.id} is {move.state}", "stopped", f"cellmove show {move.id}")


def _settle(session: Session, job: MoveJob, move: Move) -> JobResult:
    """Let a server in VERIFY_RESIZE soak, confirm it, or leave it there."""
    options = job.options
    busy = busy_step(session.journal.entries_of(move.id), move)
    if busy in (Step.CONFIRM, Step.REVERT):
        return _closed(resume(session, move))
    if options.confirm == "verified" and not options.soak:
        return _confirm(session, job, move)
    return _verify(session, job, move) or JobResult(Stage.SOAKING, after=options.confirm_after or options.soak)


def _verify(session: Session, job: MoveJob, move: Move) -> JobResult | None:
    """Return the result of a server that fails verification, or that stays unconfirmed; None for any other."""
    differences = verify(session, move, job.probes).differences
    if differences:
        reason = "; ".join(check.text for check in differences)
        return _unverified(session, job, move, reason, is_reported=False)
    if job.options.confirm == "never":
        return JobResult(Stage.MOVED, "in VERIFY_RESIZE", "", f"cellmove confirm {move.id}")
    return None


def _finish_soak(session: Session, job: MoveJob, move: Move | None) -> JobResult:
    """Confirm a server whose soak is over."""
    if move is None:
        return JobResult(Stage.FAILED, "its move is not in the journal any more", "stopped")
    if not move.is_open:
        return _closed(move)
    busy = busy_step(session.journal.entries_of(move.id), move)
    if busy in (Step.CONFIRM, Step.REVERT):
        return _closed(resume(session, move))
    result = _verify(session, job, move) if job.options.confirm == "never" else None
    return result or _confirm(session, job, move)


def _confirm(session: Session, job: MoveJob, move: Move) -> JobResult:
    """Verify a server and confirm it. A server that fails verification is not confirmed."""
    try:
        move = run_step(session, move, Step.CONFIRM, probes=job.probes)
    except Refused as error:
        move = session.journal.move(move.id) or move
        if move.state is not State.FINISHED:
            raise
        return _unverified(session, job, move, error.message, is_reported=True)
    return _closed(move)


def _unverified(session: Session, job: MoveJob, move: Move, reason: str, *, is_reported: bool) -> JobResult:
    """Revert or leave a server that failed verification, unless its owner ended the move meanwhile.

    :param is_reported: whether the hook ``on_failure`` has run for this failure
    """
    move = find_move(session, move.id)
    if not move.is_open:
        return _closed(move)
    reverts = job.options.on_unverified == "revert"
    if not is_reported:
        state = f"the move is finished, and {'is being reverted' if reverts else 'was not confirmed'}"
        command = f"cellmove revert {move.id}" if reverts else _verify_command(job, move)
        report_failure(hook_run(session), move, Unverified(reason, state=state, next_command=command))
    reason = " ".join(line.strip() for line in reason.splitlines())
    if reverts:
        move = run_step(session, move, Step.REVERT)
        if move.state is State.REVERTED:
            return JobResult(Stage.REVERTED, reason, "unverified", command_of(move))
        return _closed(move)
    return JobResult(Stage.UNVERIFIED, reason, "unverified", _verify_command(job, move))


def _verify_command(job: MoveJob, move: Move) -> str:
    return command_line("verify", move.id, probe=job.options.probes)
