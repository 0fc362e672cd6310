"""What is left of a cell when its servers are gone: what stands in the way of deleting it, and what to type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.cloud import placement
from cellmove.cloud.services import compute_services
from cellmove.db import census, look, survey

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway


@dataclass(frozen=True)
class Ending:
    """What it takes to be done with a cell.

    :param hindrances: why nova would refuse, in its own order; none: it is possible now
    :param commands: what to type then, in this order
    """

    hindrances: tuple[str, ...]
    commands: tuple[str, ...]


def look_at(gateway: Gateway, cell: Cell) -> Ending:
    """See what nova would say: nova/cmd/manage.py, ``delete_cell``; nova/api/openstack/compute/services.py, ``delete``.

    :raises CallError: something cannot be looked at
    """
    database = gateway.database(cell)
    live = sum(state != "deleted" for _uuid, _number, state in survey.rows(database, cell.id))
    mapped = census.mapped(gateway.api_engine, cell.id)
    deleted = sum(mapped.values())
    hindrances = []
    if live:
        hindrances.append(
            f"{live} servers have a row in {cell.name} that is not deleted (hidden ones are those of unconfirmed moves)"
        )
    if len(mapped) - deleted:
        hindrances.append(f"{len(mapped) - deleted} servers are mapped to {cell.name}")
    moving = sorted(set(survey.moving(database)))
    if moving:
        hindrances.append(f"{len(moving)} servers are being moved there by somebody: {', '.join(moving[:3])}")
    nodes = survey.hosts(database)
    for uuid, host in sorted(nodes.items(), key=lambda pair: pair[1]):
        held = placement.consumers_of(gateway.admin, uuid)
        if held:
            hindrances.append(
                f"placement still holds something of {host} for {len(held)} servers or migrations: {', '.join(held[:3])}"
            )
    hosts = {host for host, uuid in look.host_cells(gateway.api_engine).items() if uuid == cell.uuid}
    services = [each for each in compute_services(gateway.admin) if each.host in hosts | set(nodes.values())]
    commands = [
        # Rows of deleted servers, and of those that left, are archived with their mappings; delete_cell insists on it.
        "nova-manage db archive_deleted_rows --all-cells --until-complete",
        *(f"openstack compute service delete {each.id}  # {each.host}, once its nova-compute is stopped" for each in services),
        f"nova-manage cell_v2 delete_cell --cell_uuid {cell.uuid}",
        "systemctl restart nova-scheduler nova-conductor nova-api  # wherever they run: each keeps the list of cells",
    ]  # fmt: skip
    return Ending(tuple(hindrances), tuple(commands))
