"""Plan a new move, or find the open move that a command refers to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import Refused
from cellmove.core.move import Move, State, standing
from cellmove.core.move_plan import plan_document, plan_of
from cellmove.core.reference import is_uuid
from cellmove.core.request import MoveRequest, command_of
from cellmove.db import state
from cellmove.engine.executor import busy_step
from cellmove.engine.record import record_of
from cellmove.operations import permission
from cellmove.operations.context import Session, before_anything_is_written, lock
from cellmove.operations.find import reconcile_server
from cellmove.steps.endpoints import chosen_host

if TYPE_CHECKING:
    from cellmove.checks.preflight import CheckResult
    from cellmove.cloud.servers import ShownServer


@dataclass(frozen=True)
class PlanReport:
    """The result of ``plan``.

    :param move: the move that was opened, or the open one that fits; None after a dry run or a refusal
    :param request: the request, with UUIDs of cells; None where the report was made from a move alone
    """

    move: Move | None
    summary: Mapping[str, object]
    checks: tuple[CheckResult, ...]
    request: MoveRequest | None = None

    @property
    def refused(self) -> bool:
        """Return whether any check refuses the move."""
        return any(check.level == "refusal" for check in self.checks)


def plan(
    session: Session,
    request: MoveRequest,
    *,
    open_move: bool,
    runs_to: State | None = None,
    server: ShownServer | None = None,
) -> PlanReport:
    """Run all checks without writing to the cloud; open the move if ``open_move`` is set and no check refuses.

    :param runs_to: the state that the command leads to; it needs consent before the move is opened. None: it only plans
    :param server: the server of the request, if nova was asked for it before
    """
    from cellmove.steps.plan import gather

    server = server or _find_server(session, request.server)
    there = _open_move(session, server.id)
    request = with_uuids(session, request)
    if there is not None:
        if _fits(session, there, request, exactly=True):
            return PlanReport(there, {}, (), request)
        raise _has_another_goal(session, there)
    with before_anything_is_written():
        planned = gather(
            session.gateway,
            session.clock,
            request,
            shown=None if is_uuid(request.server) else server,
            begun_today=permission.begun_today(session),
        )
        report = PlanReport(None, planned.summary, (*planned.checks, *permission.unwatched(session, runs_to)), request)
        found = planned.plan
        if not report.refused and found is not None:
            gateway = session.gateway
            gateway.reach(
                [gateway.cell(found.source_cell_uuid)], one_of=[gateway.cell(uuid) for uuid in found.target_cell_uuids]
            )
    if report.refused or found is None or not open_move:
        return report
    if runs_to is not None:
        permission.for_plan(session, found, runs_to, request.command)
    reconcile_server(session, found.server_id)
    with lock(session, found.server_id, found.server_name):
        now = session.clock.text()
        request_id = f"req-{session.clock.new_uuid()}"
        found = dataclasses.replace(found, request_id=request_id, max_hosts=request.max_hosts)
        move = Move(
            id=f"move-{session.clock.new_token()}",
            server_id=found.server_id,
            server_name=found.server_name,
            kind=found.kind,
            state=State.PLANNED,
            created_at=now,
            updated_at=now,
            plan=plan_document(found),
        )
        session.journal.open_move(move)
    return PlanReport(move, planned.summary, planned.checks, request)


def move_for(session: Session, request: MoveRequest) -> PlanReport:
    """Return the move that ``resize`` or ``migrate`` refers to: the open one that fits, or a newly planned one.

    :raises Refused: the server has an open move with another goal
    """
    server = _find_server(session, request.server)
    move = _open_move(session, server.id)
    request = with_uuids(session, request)
    if move is None:
        move = _done_already(session, server.id, request)
        if move is not None:
            return PlanReport(move, {}, (), request)
        runs_to = State.CONFIRMED if request.confirm else State.FINISHED
        return plan(session, request, open_move=True, runs_to=runs_to, server=server)
    if not _fits(session, move, request, exactly=False):
        raise _has_another_goal(session, move)
    return PlanReport(move, {}, (), request)


def _open_move(session: Session, server_id: str) -> Move | None:
    """Return the open move of a server; None without one, or if the owner ended it."""
    reconcile_server(session, server_id)
    move = session.journal.open_move_of(server_id)
    if move is not None and move.is_repair:
        raise Refused(
            f"{move.id} of {move.server_name} is not complete: it repairs leftovers that an audit found",
            state="nothing was written by this run",
            next_command=f"cellmove resume {move.id}",
        )
    return move


def _find_server(session: Session, server: str) -> ShownServer:
    """Find the server that a request names. A UUID is not looked up here; the plan does that.

    :raises Usage: no server has this name, or several have
    :raises Unreachable: nova cannot be reached
    """
    from cellmove.cloud.servers import ShownServer, show_server

    if is_uuid(server):
        return ShownServer(server.lower())
    session.journal.require_no_move_id(server)
    with before_anything_is_written():
        return show_server(session.gateway.admin, server)


def with_uuids(session: Session, request: MoveRequest) -> MoveRequest:
    """Replace the cells of a request by their UUIDs, which are recorded and printed.

    :raises Usage: no cell has this name, or several have
    """
    wanted = request.destination
    if not wanted.cell and not wanted.cells:
        return request
    with before_anything_is_written():
        cell = session.gateway.cell(wanted.cell).uuid if wanted.cell else ""
        cells = tuple(session.gateway.cell(word).uuid for word in wanted.cells)
    return dataclasses.replace(request, destination=dataclasses.replace(wanted, cell=cell, cells=cells))


def _wanted_uuid(session: Session, move: Move) -> str:
    """Return the UUID of the cell that the operator chose for a move; empty if none was chosen.

    :raises Usage: an earlier version recorded a name, and no cell or several cells have it now
    """
    word = plan_of(move).wanted
    if not word or is_uuid(word):
        return word
    with before_anything_is_written():
        return session.gateway.cell(word).uuid


def _has_another_goal(session: Session, move: Move) -> Refused:
    busy = busy_step(session.journal.entries_of(move.id), move)
    return Refused(
        f"{move.server_name} already has an open move, {move.id}, with another goal: {command_of(move)}",
        state=f"that move is {standing(move, busy)}; nothing was written by this run",
        next_command=f"cellmove show {move.id}",
    )


def _fits(session: Session, move: Move, request: MoveRequest, *, exactly: bool) -> bool:
    """Return whether a command refers to this move. An option that is not given fits every value of the move.

    :param request: with UUIDs of cells
    :param exactly: a destination that is not given now fits only a move without one
    """
    plan, host, cell, flavor = plan_of(move), request.destination.host, request.destination.cell, request.flavor
    wanted = _wanted_uuid(session, move)
    unsaid = ("",) if exactly else (plan.wanted_host, wanted)
    return (
        (not flavor) == (move.kind == "migration")
        and flavor in ("", plan.flavor_name, plan.new_flavor_id)
        and plan.wanted_host in ((host,) if host else unsaid)
        and wanted in ((cell,) if cell else (*unsaid, *([wanted] if host else [])))
        and request.transfer in ("", plan.transfer_wish)
        and (plan.max_hosts is None or request.max_hosts in (0, plan.max_hosts))
        and (plan.bwlimit is None or request.bwlimit in (0, plan.bwlimit))
    )


def _done_already(session: Session, server_id: str, request: MoveRequest) -> Move | None:
    """Return the server's last move if the same command made it and the server is still at its target.

    The same command, run every night from cron, must not move a server back and forth.
    """
    moves = [move for move in session.journal.moves_of(server_id) if not move.is_repair]
    if not moves or moves[-1].state is not State.CONFIRMED or not _fits(session, moves[-1], request, exactly=True):
        return None
    chosen = chosen_host(record_of(moves[-1], session.journal.entries_of(moves[-1].id)))
    with before_anything_is_written():
        instance = state.read_instance(
            session.gateway.database(session.gateway.cell(chosen.target_cell_uuid)), server_id
        )
    return moves[-1] if instance is not None and instance["host"] == chosen.target_host else None
