"""What a move will be: the plan of a new one, or the open one that a command means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove import permission
from cellmove.db import state
from cellmove.errors import Refused
from cellmove.move import Move, State
from cellmove.pipeline import facts_of
from cellmove.session import Session, before_anything_is_written, lock, reconcile_server

if TYPE_CHECKING:
    from cellmove.preflight import Check


@dataclass(frozen=True)
class PlanReport:
    """What ``plan`` found.

    :param move: the move that was opened, or the open one that fits; None for a dry run or a refusal
    """

    move: Move | None
    summary: Mapping[str, Any]
    checks: tuple[Check, ...]

    @property
    def refused(self) -> bool:
        """Whether any check refuses the move."""
        return any(check.level == "refusal" for check in self.checks)


def plan(
    session: Session, server: str, flavor: str | None, *, host: str | None, cell: str | None,
    force_locked: bool, open_move: bool, max_hosts: int | None = None, accept_loss: tuple[str, ...] = (),
    runs_to: State | None = None, cells: tuple[str, ...] = (), transfer: str | None = None, bwlimit: int | None = None,
) -> PlanReport:  # fmt: skip
    """Look at everything, write nothing to the cloud; with ``open_move`` and no refusal, open the move.

    :param max_hosts: how many of the scheduler's hosts are tried; None: as many as it offers
    :param accept_loss: names of losses that are no reason against it
    :param runs_to: the command goes on to this state at once, so it needs consent before the move is opened
    :param cells: the cells it may go to, instead of ``cell`` and ``host``: see :func:`cellmove.steps.plan.gather`
    :param transfer: how local disks are to travel; None: as the settings say
    :param bwlimit: bytes a second that are sent at most while the guest runs; None: as the settings say
    """
    from cellmove.steps.plan import gather

    there = _open_move(session, server)
    if there is not None:
        if _fits(there, flavor, host, _cell_name(session, cell), exactly=True, transfer=transfer):
            return PlanReport(there, {}, ())
        raise _has_another_aim(there)
    with before_anything_is_written():
        planned = gather(
            session.gateway,
            session.clock,
            server=server,
            flavor=flavor,
            host=host,
            cell=cell,
            force_locked=force_locked,
            accept_loss=accept_loss,
            begun_today=permission.begun_today(session),
            cells=cells,
            transfer=transfer,
            bwlimit=bwlimit,
        )
        report = PlanReport(None, planned.summary, (*planned.checks, *permission.unwatched(session, runs_to)))
        if not report.refused:
            gateway = session.gateway
            targets = [gateway.cell(name) for name in planned.facts["target_cells"]]
            gateway.reach([gateway.cell(planned.facts["source_cell_uuid"])], one_of=targets)
    if report.refused or not open_move:
        return report
    facts = planned.facts
    if max_hosts:
        facts["command"] += f" --max-hosts {max_hosts}"
    if runs_to is not None:
        permission.for_plan(session, facts, runs_to)
    reconcile_server(session, facts["server_id"])
    with lock(session, facts["server_id"], facts["server_name"]):
        now = session.clock.text()
        move = Move(
            id=f"move-{session.clock.new_token()}",
            server_id=facts["server_id"],
            server_name=facts["server_name"],
            kind=facts["kind"],
            state=State.PLANNED,
            created_at=now,
            updated_at=now,
            plan={**facts, "request_id": f"req-{session.clock.new_uuid()}", "max_hosts": max_hosts or 0},
        )
        session.journal.open_move(move)
    return PlanReport(move, planned.summary, planned.checks)


def move_for(
    session: Session, server: str, flavor: str | None, *, host: str | None, cell: str | None, force_locked: bool,
    max_hosts: int | None = None,
    accept_loss: tuple[str, ...] = (), confirm: bool = False, transfer: str | None = None, bwlimit: int | None = None,
) -> PlanReport:  # fmt: skip
    """The move that this command means: the open one that fits, or a newly planned one.

    :param confirm: the command goes on to confirm
    :raises Refused: the server has an open move of another kind
    """
    move = _open_move(session, server)
    cell = _cell_name(session, cell)
    if move is None:
        move = _done_already(session, server, flavor, host, cell)
        if move is not None:
            return PlanReport(move, {}, ())
        aim = State.CONFIRMED if confirm else State.FINISHED
        return plan(
            session, server, flavor, host=host, cell=cell, force_locked=force_locked, open_move=True,
            max_hosts=max_hosts, accept_loss=accept_loss, runs_to=aim, transfer=transfer, bwlimit=bwlimit,
        )  # fmt: skip
    if not _fits(move, flavor, host, cell, exactly=False, transfer=transfer):
        raise _has_another_aim(move)
    return PlanReport(move, {}, ())


def _open_move(session: Session, server: str) -> Move | None:
    """The open move of a server named by name or UUID, if there is one and its owner has not ended it."""
    server_id = _server_id(session, server)
    reconcile_server(session, server_id)
    move = session.journal.open_move_of(server_id)
    if move is not None and move.is_repair:
        raise Refused(
            f"{move.id} was begun on {move.server_name} and not finished: it mends leftovers that an audit found",
            state="nothing was written by this run",
            next_command=f"cellmove resume {move.id}",
        )
    return move


def _server_id(session: Session, server: str) -> str:
    from cellmove.cloud.servers import find_server, is_uuid

    if is_uuid(server):
        return server.lower()  # whether there is such a server the plan finds out
    with before_anything_is_written():
        return str(find_server(session.gateway.admin, server)["id"])


def _cell_name(session: Session, cell: str | None) -> str | None:
    if not cell:
        return None
    with before_anything_is_written():
        return session.gateway.cell(cell).name


def _has_another_aim(move: Move) -> Refused:
    return Refused(
        f"{move.server_name} already has an open move, {move.id}, with another aim: {move.plan['command']}",
        state=f"that move is {move.state}; nothing was written",
        next_command=f"cellmove show {move.id}",
    )


def _fits(
    move: Move, flavor: str | None, host: str | None, cell: str | None, *, exactly: bool, transfer: str | None = None
) -> bool:
    """Whether a command with these words means this move.

    :param exactly: what is not said has not been said then either
    """
    facts = move.plan
    unsaid = ("",) if exactly else (facts["wanted_host"], facts["wanted_cell"])
    kind_fits = (flavor is None) == (move.kind == "migration")
    flavor_fits = flavor in (None, facts["flavor_name"], facts["new_flavor_id"])
    host_fits = facts["wanted_host"] in ((host,) if host else unsaid)
    cell_fits = facts["wanted_cell"] in ((cell,) if cell else (*unsaid, *([facts["wanted_cell"]] if host else [])))
    transfer_fits = transfer in (None, facts.get("transfer_wish"))
    return kind_fits and flavor_fits and host_fits and cell_fits and transfer_fits


def _done_already(session: Session, server: str, flavor: str | None, host: str | None, cell: str | None) -> Move | None:
    """The server's last move, if this very command made it and the server is still where it took it.

    Run every night from cron, the same command must not move a server back and forth.
    """
    server_id = _server_id(session, server)
    moves = [move for move in session.journal.all_moves() if move.server_id == server_id and not move.is_repair]
    if not moves or moves[-1].state is not State.CONFIRMED or not _fits(moves[-1], flavor, host, cell, exactly=True):
        return None
    facts = facts_of(moves[-1], session.journal.entries_of(moves[-1].id))
    with before_anything_is_written():
        instance = state.read_instance(
            session.gateway.database(session.gateway.cell(facts["target_cell_uuid"])), server_id
        )
    return moves[-1] if instance is not None and instance["host"] == facts["target_host"] else None
