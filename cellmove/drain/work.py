"""One server of a drain: looked at once more, moved, verified and confirmed, on from wherever an earlier run left it."""

from __future__ import annotations

from collections.abc import Sequence
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
from cellmove.core.move import HELD, Move, Phase, State, Step, is_held, next_commands
from cellmove.core.request import Destination, MoveRequest, command_of
from cellmove.core.shell import command_line
from cellmove.db import look
from cellmove.drain import census
from cellmove.drain.item import Stage
from cellmove.drain.story import STOPS_AND_STARTS
from cellmove.drain.wish import Wish, look_again, why_not
from cellmove.engine.events import EventKind
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
    from collections.abc import Callable

    from cellmove.core.move import Entry
    from cellmove.db.cells import Cell
    from cellmove.drain.item import Task
    from cellmove.engine.events import Event
    from cellmove.operations.context import Session
    from cellmove.operations.probe import Probe

DAY_IS_USED_UP = "policy-day"
"""The code of the rule ``policy.moves_a_day``: it speaks against beginning anything more, not against a server."""


LOCKED_BY_ANOTHER = "locked-by-another-run"
"""The code of a server on which somebody else is at work."""


@dataclass(frozen=True)
class Outcome:
    """What became of a server.

    :param stage: WAITING puts it back
    :param after: seconds until a soaking server is due, or one that is put back may be taken again
    """

    stage: Stage
    reason: str = ""
    code: str = ""
    next_command: str = ""
    after: float = 0.0


@dataclass(frozen=True)
class Job:
    """What all servers of a run are moved with.

    :param begun: told which move a server has, as soon as it has one
    :param gate: by server, whether its guest may be stopped (:class:`cellmove.operations.hold.Hold`); None: all may at once
    """

    wish: Wish
    source: Cell
    probes: Sequence[Probe]
    begun: Callable[[str, Move], None]
    gate: Callable[[str], bool | None] | None = None


def work(session: Session, job: Job, task: Task) -> Outcome:
    """Bring a server on as far as it goes.

    :param task: as it was taken from the queue
    :raises Interrupted: a signal came; the journal records where it stands
    """
    try:
        move = _move_of(session, task)
        if task.stage in (Stage.SOAKING, Stage.CONFIRMING):
            return _soaked(session, job, move)
        return _move(session, job, task, move)
    except (Interrupted, JournalLost, JournalUnreachable):
        raise
    except Locked as error:
        return Outcome(Stage.WAITING, error.message, LOCKED_BY_ANOTHER)
    except CallError as error:
        return _failed(session, task, Stopped(str(error)))
    except CellmoveError as error:
        return _failed(session, task, error)


def _failed(session: Session, task: Task, error: CellmoveError) -> Outcome:
    move = session.journal.open_move_of(task.server_id)
    reason = " ".join(part for part in (error.message, f"({error.state})" if error.state else "") if part)
    if isinstance(error, Usage) and move is None and not _is_there(session, task):
        return Outcome(Stage.GONE, "it is not there any more", "gone")
    code = "rolled-back" if isinstance(error, RolledBack) else "stopped"
    return Outcome(Stage.FAILED, reason, code, error.next_command or _next(session, task, move))


def _next(session: Session, task: Task, move: Move | None) -> str:
    """What to type about a server with which it does not go on."""
    commands = next_commands(move, busy_step(session.journal.entries_of(move.id), move)) if move is not None else ()
    return commands[0] if commands else f"cellmove plan {task.server_id} --dry-run"


def _is_there(session: Session, task: Task) -> bool:
    return look.mapping_of(session.gateway.api_engine, task.server_id) is not None


def _move_of(session: Session, task: Task) -> Move | None:
    """The server's open move as it is now, or the one that this drain began last."""
    reconcile_server(session, task.server_id)
    return session.journal.open_move_of(task.server_id) or (
        session.journal.move(task.move_id) if task.move_id else None
    )


def _move(session: Session, job: Job, task: Task, move: Move | None) -> Outcome:
    is_orphan = task.stage is Stage.MOVING
    if is_orphan and (move is None or move.state is State.ROLLED_BACK):
        return Outcome(Stage.WAITING, "its move was rolled back", "taken-back")
    if move is not None and not move.is_open and not is_orphan:
        move = None  # an earlier night's; this is another try
    if move is None:
        return _begin(session, job, task)
    if move.is_repair:
        return Outcome(Stage.SKIPPED, f"{move.id} mends leftovers of it", "repair", f"cellmove resume {move.id}")
    by_hand = not move.goal_state or move.goal_state == HELD or move.state is State.FINISHED
    if move.is_open and by_hand and not (is_orphan and _is_ours(task, move)):
        why = f"{move.id} is somebody's, and {move.state}"
        return Outcome(Stage.SKIPPED, why, "open-move", _next(session, task, move))
    if move.is_open and move.state is not State.FINISHED:
        job.begun(task.server_id, move)
        taking_back = is_orphan and move.state is State.ROLLING_BACK
        # Without an aim the run died before it had done anything; with this one, before its guest was to be stopped.
        waits = move.state in (State.PLANNED, HELD) and (job.gate is not None or move.goal_state == HELD)
        if not move.goal_state or waits:
            return _run(session, job, move)
        move = resume(session, move)
        if taking_back and move.state is State.ROLLED_BACK:
            return Outcome(Stage.WAITING, f"{move.id} was rolled back", "taken-back")
    return _ended(session, job, move)


def _is_ours(task: Task, move: Move) -> bool:
    """Whether a run of this drain opened this move; it may have died before it could note that."""
    return move.id == task.move_id or seconds_of(move.created_at) >= task.began - 5


def _begin(session: Session, job: Job, task: Task) -> Outcome:
    """Look at a server once more, and move it."""
    unwanted = _unwanted(session, job, task)
    if unwanted is not None:
        return unwanted
    wish = job.wish
    request = MoveRequest(
        task.server_id, task.new_flavor, Destination(cells=wish.to), force_locked=wish.force_locked,
        accept_loss=wish.accept_loss, max_hosts=wish.max_hosts, transfer=wish.transfer or "", bwlimit=wish.bwlimit or 0,
    )  # fmt: skip
    report = planning.plan(session, request, open_move=True, runs_to=State.FINISHED)
    if report.move is None or report.refused:
        refusals = [check for check in report.checks if check.level == "refusal"]
        if any(check.code == DAY_IS_USED_UP for check in refusals):
            return Outcome(Stage.WAITING, refusals[0].text, DAY_IS_USED_UP)
        text = "; ".join(f"{check.text} ({check.remedy})" if check.remedy else check.text for check in refusals)
        codes = ",".join(dict.fromkeys(check.code for check in refusals))
        return Outcome(Stage.REFUSED, text, codes[:64], look_again(wish, task.server_id, task.new_flavor))
    job.begun(task.server_id, report.move)
    try:
        return _run(session, job, report.move)
    except Refused as error:
        move = session.journal.move(report.move.id)
        if move is None or move.state is not State.PLANNED:
            raise
        rollback(session, move)  # a rule that was made this very moment
        return Outcome(Stage.REFUSED, error.message, "refused", look_again(wish, task.server_id, task.new_flavor))


def _run(session: Session, job: Job, move: Move) -> Outcome:
    """Run a move to its finish, and on to its end; where no guest is to be stopped any more, roll it back."""
    gate = job.gate
    holding = Hold(gate=lambda: gate(move.server_id)) if gate is not None else None
    move = run_to_finish(session, move, confirm=False, hold=holding)
    if is_held(move):
        move = rollback(session, move)
        return Outcome(Stage.WAITING, f"{move.id} was rolled back before its guest was stopped", "taken-back")
    return _ended(session, job, move)


def _unwanted(session: Session, job: Job, task: Task) -> Outcome | None:
    """Why a server is not to be moved any more: its owner, or the operator, may have changed it since the census."""
    gateway = session.gateway
    mapping = look.mapping_of(gateway.api_engine, task.server_id)
    database = gateway.database(job.source)
    instance = look.instance_of(database, task.server_id)
    if mapping is None or mapping.cell_uuid != job.source.uuid or instance is None:
        return Outcome(Stage.GONE, f"it is not in {job.source.label} any more", "gone")
    # Projects are the census' business: a server does not change its project, nor a project its name in between.
    include, exclude = (
        tuple(each for each in filters if each.kind != "project") for filters in (job.wish.include, job.wish.exclude)
    )
    values = census.values_of(instance, look.tags_of(database, task.server_id), ())
    found = why_not(replace(job.wish, include=include, exclude=exclude), values)
    return Outcome(Stage.SKIPPED, found[1], found[0]) if found is not None else None


def _ended(session: Session, job: Job, move: Move) -> Outcome:
    """What a move that was run came to; one that is finished goes on to its end."""
    if move.state is State.FINISHED:
        return _settle(session, job, move)
    return _closed(move)


def _closed(move: Move) -> Outcome:
    return {
        State.CONFIRMED: Outcome(Stage.MOVED),
        State.REVERTED: Outcome(Stage.REVERTED, f"{move.id} was reverted", "reverted", command_of(move)),
        State.SERVER_GONE: Outcome(Stage.GONE, "its owner deleted it", "gone"),
        State.ROLLED_BACK: Outcome(Stage.FAILED, f"{move.id} was rolled back", "rolled-back", command_of(move)),
    }.get(move.state) or Outcome(Stage.FAILED, f"{move.id} is {move.state}", "stopped", f"cellmove show {move.id}")  # fmt: skip


def _settle(session: Session, job: Job, move: Move) -> Outcome:
    """A server in VERIFY_RESIZE: let it soak, confirm it, or leave it."""
    wish = job.wish
    busy = busy_step(session.journal.entries_of(move.id), move)
    if busy in (Step.CONFIRM, Step.REVERT):
        return _closed(resume(session, move))
    if wish.confirm == "verified" and not wish.soak:
        return _confirm(session, job, move)
    return _verified(session, job, move) or Outcome(Stage.SOAKING, after=wish.confirm_after or wish.soak)


def _verified(session: Session, job: Job, move: Move) -> Outcome | None:
    """What a server comes to that is not what it was, or is not to be confirmed; None for all others."""
    found = verify(session, move, job.probes).differences
    if found:
        return _unverified(session, job, move, "; ".join(check.text for check in found), is_reported=False)
    if job.wish.confirm == "never":
        return Outcome(Stage.MOVED, "in VERIFY_RESIZE", "", f"cellmove confirm {move.id}")
    return None


def _soaked(session: Session, job: Job, move: Move | None) -> Outcome:
    """A server that has run at the target for long enough."""
    if move is None:
        return Outcome(Stage.FAILED, "its move is not in the journal any more", "stopped")
    if not move.is_open:
        return _closed(move)
    busy = busy_step(session.journal.entries_of(move.id), move)
    if busy in (Step.CONFIRM, Step.REVERT):
        return _closed(resume(session, move))
    found = _verified(session, job, move) if job.wish.confirm == "never" else None
    return found or _confirm(session, job, move)


def _confirm(session: Session, job: Job, move: Move) -> Outcome:
    """Verify a server and confirm it; what is not what it was is not confirmed."""
    try:
        move = run_step(session, move, Step.CONFIRM, probes=job.probes)
    except Refused as error:
        move = session.journal.move(move.id) or move
        if move.state is not State.FINISHED:
            raise
        return _unverified(session, job, move, error.message, is_reported=True)
    return _closed(move)


def _unverified(session: Session, job: Job, move: Move, reason: str, *, is_reported: bool) -> Outcome:
    """Revert or leave a server that failed verification, unless its owner ended the move meanwhile.

    :param is_reported: whether the run that verified it has run ``on_failure`` already
    """
    move = find_move(session, move.id)
    if not move.is_open:
        return _closed(move)
    reverts = job.wish.on_unverified == "revert"
    if not is_reported:
        state = f"the move is finished, and {'is being reverted' if reverts else 'was not confirmed'}"
        command = f"cellmove revert {move.id}" if reverts else _look_again(job, move)
        report_failure(hook_run(session), move, Unverified(reason, state=state, next_command=command))
    reason = " ".join(line.strip() for line in reason.splitlines())
    if reverts:
        move = run_step(session, move, Step.REVERT)
        if move.state is State.REVERTED:
            return Outcome(Stage.REVERTED, reason, "unverified", command_of(move))
        return _closed(move)
    return Outcome(Stage.UNVERIFIED, reason, "unverified", _look_again(job, move))


def _look_again(job: Job, move: Move) -> str:
    return command_line("verify", move.id, probe=job.wish.probes)


class Downtime:
    """Whether a server's guest is down just now, or not yet shown where it runs, as its move's lines and events tell.

    An interrupt waits until that is over: a drain that is stopped at six in the morning must not leave guests
    off until the next night, nor owners without them.

    :param move: as an earlier run left it; None when there is none. ``entries`` are its lines
    """

    def __init__(self, move: Move | None = None, entries: Sequence[Entry] = ()) -> None:
        live = {entry.action for entry in entries if entry.phase is not Phase.UNDONE}
        there, back = (stop for stop, _start in STOPS_AND_STARTS)
        self.is_down = (
            move is not None and move.is_open and (back in live or (there in live and move.state is not State.FINISHED))
        )

    def hear(self, event: Event) -> None:
        """An action or a step begins or is done."""
        stops = [stop for stop, _start in STOPS_AND_STARTS]
        if event.kind is EventKind.ACTION_STARTED and event.action in stops:
            self.is_down = True
        elif (event.kind is EventKind.UNDO_FINISHED and event.action in stops) or (
            event.kind is EventKind.STEP_FINISHED and event.step in (Step.FINISH, Step.REVERT)
        ):
            self.is_down = False
