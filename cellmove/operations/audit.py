"""Find the leftovers of moves in the whole cloud, and repair those that are safe to repair.

Repairs are recorded like a move: one record for each server, one action for each leftover. ``list``, ``show`` and
``resume`` know them, and the next run completes what an interrupted run started.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.core.documents import to_document
from cellmove.core.errors import CallError, CannotConnect, Interrupted, Locked, Refused, Usage, before_writing
from cellmove.core.move import AUDIT, Move, State, Step, next_commands
from cellmove.core.reference import means
from cellmove.engine.executor import Runner, busy_step, run_step
from cellmove.engine.locks import server_lock

if TYPE_CHECKING:
    from cellmove.checks.leftover import Leftover
    from cellmove.core.cell_names import CellRef
    from cellmove.core.request import AuditRequest
    from cellmove.operations.context import Session
    from cellmove.steps.survey import Ours


@dataclass(frozen=True)
class RepairResult:
    """A leftover and the result of its repair.

    :param outcome: "mended" (repaired), "left" (not repaired), or empty if no repair was tried
    :param why: the repair, or the reason why there was none
    :param repair: the id of the repair's record in the journal
    """

    leftover: Leftover
    outcome: str = ""
    why: str = ""
    repair: str = ""


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    :param mode: whether repairs were requested: "no", "dry-run" or "yes"
    :param unseen: for each cell that could not be read, the reason
    :param command: the command line that repairs the leftovers
    """

    now: datetime.datetime
    cells: tuple[CellRef, ...]
    results: tuple[RepairResult, ...]
    mode: str = "no"
    unseen: tuple[str, ...] = ()
    command: str = ""

    @property
    def remaining(self) -> tuple[Leftover, ...]:
        """Return the leftovers that were not repaired. Things that belong to an open move are no leftovers."""
        return tuple(each.leftover for each in self.results if each.leftover.owner is None and each.outcome != "mended")


def audit(session: Session, request: AuditRequest) -> AuditReport:
    """Find leftovers, and repair them if the request says so.

    :raises Usage: there is no such cell, or several servers have a requested name
    :raises Unreachable: a part of the cloud cannot be read; nothing was written
    :raises Refused: the repair has no consent
    :raises Stopped: a repair stopped part-way
    """
    from cellmove.checks.find_leftovers import classify
    from cellmove.steps.survey import gather

    older_than = request.older_than
    patience = session.settings.long_rpc_timeout if older_than is None else older_than * 60
    repairs = request.repair and not request.dry_run
    for word in request.servers:
        session.journal.require_no_move_id(word)
    if repairs:
        _complete_repairs(session, request.servers)
    with _reading():
        reachable, unseen = session.gateway.reachable(session.gateway.cells)
        if unseen and (repairs or not reachable):  # a server with rows in an unread cell must not lose its others
            raise CannotConnect("; ".join(unseen))
        chosen = [session.gateway.cell(name) for name in dict.fromkeys(request.cells)] or list(reachable)
        if request.cells:
            request = replace(request, cells=tuple(cell.uuid for cell in chosen))
        cloud = gather(session.gateway, session.clock, _ours(session, patience), chosen, reachable)
    leftovers = [each for each in classify(cloud) if _is_meant(request.servers, each.server_id, each.server_name)]
    _require_one_each(request.servers, {(each.server_id, each.server_name) for each in leftovers})
    results = (
        _repair(session, leftovers, patience, request.command)
        if repairs
        else [RepairResult(leftover) for leftover in leftovers]
    )
    mode = "yes" if repairs else "dry-run" if request.repair else "no"
    return AuditReport(cloud.now, tuple(cell.ref for cell in chosen), tuple(results), mode, unseen, request.command)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except CallError as error:
        raise before_writing(error) from None


def _ours(session: Session, patience: float) -> Ours:
    """Return what this journal records about moves, without repairs."""
    from cellmove.checks.audit_snapshot import KnownMove
    from cellmove.steps.survey import Ours

    moves, open_moves = {}, {}
    for move in session.journal.all_moves():
        if move.is_repair:
            continue
        if not move.is_open:
            generation = max(map(ownership.number_of, move.generations), default=-1)
            moves[move.id] = KnownMove(move.id, move.state.value, is_open=False, generation=generation)
            continue
        commands = next_commands(move, busy_step(session.journal.entries_of(move.id), move))
        known = KnownMove(move.id, move.state.value, is_open=True, next_command=commands[0] if commands else "")
        moves[move.id] = open_moves[move.server_id] = known
    return Ours(open_moves, moves, ownership.owner_of_journal(session.settings.journal), patience)


def _is_meant(servers: Sequence[str], server_id: str, name: str) -> bool:
    return not servers or any(means(word, server_id, name) for word in servers)


def _require_one_each(words: Sequence[str], servers: Iterable[tuple[str, str]]) -> None:
    """Refuse a name that several servers have.

    :param servers: UUIDs and names
    :raises Usage: with the UUIDs of the servers
    """
    found = sorted(servers)
    for word in words:
        named = [server_id for server_id, name in found if means(word, server_id, name)]
        if len(named) > 1:
            lines = "\n".join(f"  {server_id}" for server_id in named)
            raise Usage(f"{len(named)} servers have the name {word}; use the UUID of one:\n{lines}")


# repairing


def _complete_repairs(session: Session, servers: Sequence[str]) -> None:
    """Complete the repairs that earlier runs started, before new ones are started."""
    begun = [move for move in session.journal.open_moves() if move.is_repair]
    meant = [move for move in begun if _is_meant(servers, move.server_id, move.server_name)]
    _require_one_each(servers, {(move.server_id, move.server_name) for move in meant})
    for move in meant:
        with _lock(session, move.server_id, move.server_name):
            run_repair(session, session.journal.move(move.id) or move)


def _repair(session: Session, leftovers: Sequence[Leftover], patience: float, again: str) -> list[RepairResult]:
    """Repair the safe leftovers, server by server, in the order in which they were found.

    :param again: the command line that continues after an interrupt
    """
    from cellmove.operations import permission

    safe: dict[str, list[Leftover]] = {}
    for leftover in leftovers:
        if leftover.safe and leftover.owner is None:
            safe.setdefault(leftover.server_id, []).append(leftover)
    if safe:
        permission.ask(session, _question(safe.values()), again)
    done: dict[tuple[str, ...], RepairResult] = {}
    for number, own in enumerate(safe.values()):
        if session.interrupted():
            raise Interrupted(
                f"interrupted; the leftovers of {number} of {len(safe)} servers were processed",
                signal_number=session.interrupted(),
                state="no repair is incomplete",
                next_command=again,
            )
        for result in _repair_server(session, own, patience):
            done[result.leftover.key] = result
    return [done.get(leftover.key, RepairResult(leftover)) for leftover in leftovers]


def _question(many: Iterable[list[Leftover]]) -> str:
    """Return one line that says what will be repaired."""
    every = [leftover for own in many for leftover in own]
    kinds = [leftover.kind.value for leftover in every]
    listed = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    servers = len({leftover.server_id for leftover in every})
    return f"repair {listed} of {servers} server{'s' if servers != 1 else ''}."


def _repair_server(session: Session, leftovers: Sequence[Leftover], patience: float) -> list[RepairResult]:
    """Record and make the repairs of one server. A server that another run has locked or moves is left as it is."""
    from cellmove.steps.repair import RepairOutcome, make_plan, name_of, outcome_of

    first = leftovers[0]
    name, now = first.server_name or first.server_id, session.clock.text()
    plan = make_plan(leftovers, _ours(session, patience))
    move = Move(
        f"audit-{session.clock.new_token()}", first.server_id, name, AUDIT, State.REPAIRING, now, now, to_document(plan)
    )
    try:
        with _lock(session, move.server_id, move.server_name):
            session.journal.open_move(move)
            run_repair(session, move)
    except (Locked, Refused) as error:
        return [RepairResult(leftover, "left", error.message) for leftover in leftovers]
    outcomes = {entry.action: outcome_of(entry) for entry in session.journal.entries_of(move.id)}
    found = []
    for number, (leftover, wanted) in enumerate(zip(leftovers, plan.findings, strict=True), 1):
        result = outcomes.get(name_of(number, wanted), RepairOutcome())
        found.append(
            RepairResult(leftover, "mended" if result.mended else "left", result.mended or result.left, move.id)
        )
    return found


def run_repair(session: Session, move: Move) -> Move:
    """Make the repairs of a record, without those that an earlier run completed. The caller holds the lock.

    :raises Stopped: the cloud does not answer; the journal records which repairs are complete
    """
    from cellmove.steps.repair import actions_for

    actions = {Step.REPAIR: actions_for(move)}
    runner = Runner(session.journal, session.gateway, session.clock, session.observer, actions, session.interrupted)
    return run_step(runner, move, Step.REPAIR, undo_whole_move=False)


@contextmanager
def _lock(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    with (
        server_lock(session.lock_directory, server_id, server_name),
        session.journal.server_lock(server_id, server_name),
    ):
        yield
