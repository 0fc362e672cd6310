"""The decommission of an emptied cell: what prevents its deletion, and the commands that delete it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cellmove.cloud import placement
from cellmove.cloud.services import compute_services
from cellmove.core.errors import CallError, Unreachable, Usage
from cellmove.core.move import State
from cellmove.core.request import AuditRequest
from cellmove.db import census, look, survey
from cellmove.drain.result import Decommission, RunResult

if TYPE_CHECKING:
    from cellmove.cloud.services import ComputeService
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway
    from cellmove.operations.context import Session

NAMES_A_LINE = 3


def with_decommission(session: Session, source: Cell, result: RunResult) -> RunResult:
    """Add to a result what prevents the deletion of the cell, and the leftovers of moves in it."""
    from cellmove.operations.audit import audit

    try:
        commands = {
            move.server_id: f"cellmove {'confirm' if move.state is State.FINISHED else 'show'} {move.id}"
            for move in session.journal.open_moves()
            if not move.is_repair
        }
        decommission = check_cell(session.gateway, source, commands)
        # No move is in progress any more, so even recent findings are leftovers.
        report = audit(session, AuditRequest(cells=(source.uuid,), older_than=0.0))
    except (CallError, Unreachable, Usage) as error:  # the servers are moved in any case
        return replace(result, unchecked_reason=str(error))
    leftovers = tuple(
        f"{finding.server_name or finding.server_id or finding.cell}: {finding.text}" for finding in report.remaining
    )
    return replace(result, decommission=decommission, leftovers=leftovers)


def check_cell(gateway: Gateway, cell: Cell, commands_by_server: Mapping[str, str]) -> Decommission:
    """Check whether nova would delete a cell.

    nova: nova/cmd/manage.py, ``delete_cell``; nova/api/openstack/compute/services.py, ``delete``.

    :param commands_by_server: for each server with an open move in the journal, the command that continues it
    :raises CallError: the cell cannot be checked
    """
    nodes = survey.hosts(gateway.database(cell))
    obstacles = [
        *_row_obstacles(gateway, cell),
        *_migration_obstacles(gateway, cell, commands_by_server),
        *_placement_obstacles(gateway, nodes),
    ]
    hosts = {host for host, uuid in look.host_cells(gateway.api_engine).items() if uuid == cell.uuid}
    services = [service for service in compute_services(gateway.admin) if service.host in hosts | set(nodes.values())]
    return Decommission(tuple(obstacles), _commands(cell, hosts, services))


def _row_obstacles(gateway: Gateway, cell: Cell) -> list[str]:
    database = gateway.database(cell)
    rows = sum(state != "deleted" for _uuid, _number, state in survey.rows(database, cell.id))
    mapped = sum(not queued for queued in census.mapped(gateway.api_engine, cell.id).values())
    obstacles = []
    if rows:
        obstacles.append(
            f"{rows} server{'s have' if rows != 1 else ' has'} a row in {cell.label} that is not deleted "
            "(hidden rows belong to unconfirmed moves)"
        )
    if mapped:
        obstacles.append(f"{mapped} server{'s are' if mapped != 1 else ' is'} mapped to {cell.label}")
    return obstacles


def _migration_obstacles(gateway: Gateway, cell: Cell, commands_by_server: Mapping[str, str]) -> list[str]:
    moving = sorted(set(survey.moving(gateway.database(cell))))
    if not moving:
        return []
    servers = [f"{server_id} ({commands_by_server.get(server_id, 'not by cellmove')})" for server_id in moving]
    verb = "servers have" if len(moving) != 1 else "server has"
    return [f"{len(moving)} {verb} a migration in progress in {cell.label}: {_shortened(servers)}"]


def _placement_obstacles(gateway: Gateway, nodes: Mapping[str, str]) -> list[str]:
    obstacles = []
    for uuid, host in sorted(nodes.items(), key=lambda node: node[1]):
        consumers = placement.consumers_of(gateway.admin, uuid)
        if consumers:
            plural = "s" if len(consumers) != 1 else ""
            obstacles.append(
                f"placement has allocations on {host} for {len(consumers)} server{plural} or migration{plural}: "
                f"{_shortened(consumers)}"
            )
    return obstacles


def _commands(cell: Cell, hosts: set[str], services: Sequence[ComputeService]) -> tuple[str, ...]:
    # Deleting the service of a host deletes its mapping as well. A host without a service keeps its mapping.
    only_mapped = sorted(hosts - {service.host for service in services})
    return (
        # delete_cell refuses while rows of deleted and moved servers, or their mappings, are not archived.
        "nova-manage db archive_deleted_rows --all-cells --until-complete",
        # UUIDs of services need microversion 2.53, and not every client negotiates it.
        *(
            f"openstack --os-compute-api-version 2.53 compute service delete {service.id}"
            f"  # {service.host}, after its nova-compute is stopped"
            for service in services
        ),
        *(f"nova-manage cell_v2 delete_host --cell_uuid {cell.uuid} --host {host}" for host in only_mapped),
        f"nova-manage cell_v2 delete_cell --cell_uuid {cell.uuid}",
        "systemctl restart nova-scheduler nova-conductor nova-api  # on every controller: they cache the list of cells",
    )


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_A_LINE} more" if len(names) > NAMES_A_LINE else ""
    return ", ".join(names[:NAMES_A_LINE]) + more
