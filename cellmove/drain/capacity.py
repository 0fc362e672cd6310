"""The capacity of target cells, by placement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.cloud import placement
from cellmove.db import look

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.clock import Clock
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway

RESOURCE_CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")


@dataclass(frozen=True)
class CellCapacity:
    """The capacity of one target cell.

    :param hosts: its compute hosts that are up and enabled
    :param total: of all these hosts together, by resource class; likewise ``used``
    """

    cell: CellRef
    hosts: tuple[str, ...]
    total: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)

    def free_percent(self, pending: Mapping[str, float] | None = None) -> float:
        """Return how many percent of the scarcest resource are free.

        :param pending: resources that placement does not count yet
        """
        shares = [
            100.0 * (total - self.used.get(name, 0) - (pending or {}).get(name, 0)) / total
            for name, total in self.total.items()
            if name in RESOURCE_CLASSES and total
        ]
        return min(shares, default=0.0)


def cell_capacities(gateway: Gateway, clock: Clock, cells: Iterable[Cell]) -> tuple[CellCapacity, ...]:
    """Read the capacity of each cell: two calls of placement for each host.

    :raises CallError: placement cannot be asked
    """
    capacities = []
    for cell in cells:
        database = gateway.database(cell)
        services = look.services_of(database, clock.heartbeat_time(), gateway.settings.service_down_time)
        hosts = {
            service.host
            for service in services
            if service.binary == look.COMPUTE and service.up and not service.disabled
        }
        total: dict[str, float] = {}
        used: dict[str, float] = {}
        for node in look.nodes_of(database):
            if node.host in hosts:
                for name, (most, taken) in placement.room_of(gateway.admin, node.uuid).items():
                    total[name] = total.get(name, 0) + most
                    used[name] = used.get(name, 0) + taken
        capacities.append(CellCapacity(cell.ref, tuple(sorted(hosts)), total, used))
    return tuple(capacities)
