"""What is left of a cell when its servers are gone: what stands in the way of deleting it, and what to type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cellmove.cloud import placement
from cellmove.cloud.services import compute_services
from cellmove.core.errors import CallError, CellmoveError, ServersRemain, SomeFailed, Unreachable, Usage
from cellmove.core.move import State
from cellmove.core.request import AuditRequest
from cellmove.core.shell import command_line
from cellmove.db import census, look, survey
from cellmove.drain.item import TROUBLED, UNDER_WAY, Stage

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.move import Move
    from cellmove.db.cells import Cell
    from cellmove.drain.item import Task
    from cellmove.gateway import Gateway
    from cellmove.operations.context import Session

NAMED = 20
"""Servers that an error names one by one."""

SOME = 3
"""Servers that a line names."""


@dataclass(frozen=True)
class Ending:
    """What it takes to be done with a cell.

    :param hindrances: why nova would refuse, in its own order; none: it is possible now
    :param commands: what to type then, in this order
    """

    hindrances: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    :param stopped: why nothing was begun any more although servers wait
    :param tasks: every server of the drain
    :param unconfirmed: those in VERIFY_RESIZE that nobody is going to confirm but the operator
    :param halfway: those whose move failed and is not over
    :param ending: what is left to be done about the cell; None while servers of it wait
    :param leftovers: what moves have left behind in it
    :param unseen: why the cell could not be looked at in the end
    :param is_new: whether anything was there to do
    """

    record: Move | None
    cell: CellRef
    stopped: str
    tasks: tuple[Task, ...]
    ending: Ending | None
    unconfirmed: tuple[Task, ...] = ()
    halfway: tuple[Task, ...] = ()
    leftovers: tuple[str, ...] = ()
    unseen: str = ""
    is_new: bool = True

    @property
    def state(self) -> str:
        """What is to be known of the servers besides what became of each."""
        if not self.halfway:
            return "nothing is under way"
        names = ", ".join(task.name for task in self.halfway)
        return f"the move{'s' if len(self.halfway) > 1 else ''} of {names} stopped half-way"

    def named(self, *stages: Stage) -> list[Task]:
        """The servers in these stages."""
        return [task for task in self.tasks if task.stage in stages]


def looked_at(session: Session, source: Cell, ended: Ended) -> Ended:
    """See what is left to be done about the cell, and what moves have left behind in it."""
    from cellmove.operations.audit import audit

    try:
        ours = {
            move.server_id: f"cellmove {'confirm' if move.state is State.FINISHED else 'show'} {move.id}"
            for move in session.journal.open_moves()
            if not move.is_repair
        }
        found = look_at(session.gateway, source, ours)
        # Nothing is under way any more: what changed just now is nobody's at work, and is named as well.
        report = audit(session, AuditRequest(cells=(source.uuid,), older_than=0.0))
    except (CallError, Unreachable, Usage) as error:  # the servers are moved all the same
        return replace(ended, unseen=str(error))
    texts = tuple(f"{each.server_name or each.server_id or each.cell}: {each.text}" for each in report.remaining)
    return replace(ended, ending=found, leftovers=texts)


def document(ended: Ended) -> dict[str, Any]:
    """What is left of the cell, as plain JSON; empty while servers of it wait."""
    if ended.ending is None:
        return {"unseen": ended.unseen} if ended.unseen else {}
    hindrances = list(ended.ending.hindrances)
    return {
        "leftovers": list(ended.leftovers), "hindrances": hindrances,
        "commands": [] if hindrances or ended.leftovers else list(ended.ending.commands),
    }  # fmt: skip


def verdict(ended: Ended, again: str, *, told: bool = False) -> CellmoveError | None:
    """The consequence that makes the exit code of what a run came to; None when all servers were moved.

    :param again: the command, to be typed again
    :param told: whoever reads it has read already what became of each server
    """
    if ended.record is not None and ended.record.state is State.ROLLED_BACK:
        again = command_line("drain status", ended.cell.uuid)  # the command would begin another drain
    waiting, soaking = ended.named(Stage.WAITING, *UNDER_WAY), ended.named(Stage.SOAKING)
    bad, kept = ended.named(*TROUBLED), ended.named(Stage.SKIPPED, Stage.REFUSED)
    if waiting or (ended.stopped and soaking):
        return ServersRemain(
            f"{_servers([*waiting, *soaking])} remain{_s([*waiting, *soaking])} in {ended.cell}: {ended.stopped or 'stopped'}",
            state=ended.state, next_command=again,
        )  # fmt: skip
    if soaking:
        return ServersRemain(
            f"{_servers(soaking)} of {ended.cell} wait{_s(soaking)} in VERIFY_RESIZE to be confirmed",
            state="they run at the target", next_command=again,
        )  # fmt: skip
    if not bad and not kept:
        return None
    parts = [f"{_servers(bad)} of {ended.cell} failed"] if bad else []
    parts += [f"{_servers(kept)} {'was' if len(kept) == 1 else 'were'} left in {ended.cell}"] if kept else []
    said = [] if told else [f"{task.name}: {task.stage}: {task.reason}" for task in (*bad, *kept)[:NAMED]]
    more = 0 if told else len(bad) + len(kept) - len(said)
    said += [f"and {more} more: {command_line('drain status', ended.cell.uuid)}"] if more else []
    commands = [task.next_command for task in (*bad, *kept) if task.next_command]
    return SomeFailed(
        "\n".join([", ".join(parts), *said]), state=ended.state, next_command=commands[0] if commands else ""
    )


def _servers(tasks: Sequence[Task]) -> str:
    return f"{len(tasks)} server{'s' if len(tasks) != 1 else ''}"


def _s(tasks: Sequence[Task]) -> str:
    return "s" if len(tasks) == 1 else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SOME} more" if len(names) > SOME else ""
    return ", ".join(names[:SOME]) + more


def look_at(gateway: Gateway, cell: Cell, ours: Mapping[str, str]) -> Ending:
    """See what nova would say: nova/cmd/manage.py, ``delete_cell``; nova/api/openstack/compute/services.py, ``delete``.

    :param ours: server -> what to type about it, of all that the journal's own moves are about
    :raises CallError: something cannot be looked at
    """
    database = gateway.database(cell)
    live = sum(state != "deleted" for _uuid, _number, state in survey.rows(database, cell.id))
    mapped = census.mapped(gateway.api_engine, cell.id)
    deleted = sum(mapped.values())
    hindrances = []
    if live:
        hindrances.append(
            f"{live} server{'s have' if live != 1 else ' has'} a row in {cell.label} that is not deleted "
            "(hidden ones are those of unconfirmed moves)"
        )
    if len(mapped) - deleted:
        still = len(mapped) - deleted
        hindrances.append(f"{still} server{'s are' if still != 1 else ' is'} mapped to {cell.label}")
    moving = sorted(set(survey.moving(database)))
    if moving:
        words = "servers are" if len(moving) != 1 else "server is"
        named = [f"{each} ({ours[each]})" if each in ours else f"{each} by somebody" for each in moving]
        hindrances.append(f"{len(moving)} {words} being moved there: {_some(named)}")
    nodes = survey.hosts(database)
    for uuid, host in sorted(nodes.items(), key=lambda pair: pair[1]):
        held = placement.consumers_of(gateway.admin, uuid)
        if held:
            hindrances.append(
                f"placement still holds something of {host} for {len(held)} server{'s' if len(held) != 1 else ''} "
                f"or migration{'s' if len(held) != 1 else ''}: {_some(held)}"
            )
    hosts = {host for host, uuid in look.host_cells(gateway.api_engine).items() if uuid == cell.uuid}
    services = [each for each in compute_services(gateway.admin) if each.host in hosts | set(nodes.values())]
    # Deleting a host's service takes its mapping away, too; one whose service has gone already keeps it.
    only_mapped = sorted(hosts - {each.host for each in services})
    commands = [
        # Rows of deleted servers, and of those that left, are archived with their mappings; delete_cell insists on it.
        "nova-manage db archive_deleted_rows --all-cells --until-complete",
        # By UUID services are known from 2.53 on, and not every client asks for so new a version by itself.
        *(f"openstack --os-compute-api-version 2.53 compute service delete {each.id}  # {each.host}, once its nova-compute is stopped" for each in services),
        *(f"nova-manage cell_v2 delete_host --cell_uuid {cell.uuid} --host {host}" for host in only_mapped),
        f"nova-manage cell_v2 delete_cell --cell_uuid {cell.uuid}",
        "systemctl restart nova-scheduler nova-conductor nova-api  # wherever they run: each keeps the list of cells",
    ]  # fmt: skip
    return Ending(tuple(hindrances), tuple(commands))
