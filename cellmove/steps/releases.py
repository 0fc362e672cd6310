"""Which nova release runs at the API level: what cellmove writes and sends in its place has to look like that release's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core.errors import CallError, CellmoveError
from cellmove.db import look
from cellmove.steps import endpoints

if TYPE_CHECKING:
    from cellmove.db.tables import CellDatabase
    from cellmove.engine.action import Context

SHARES_IN_NOTIFICATIONS = 68
"""The service version (2025.1) from which ``InstanceActionPayload`` is 1.9 and names shares; before it is 1.8."""

PCI_REQUESTS_NAME_THE_SERVER = 64
"""The service version (Zed) from which a resize writes whose the PCI requests of a request spec are.

nova/compute/api.py, ``resize``; commit a93092e0d5.
"""


def superconductor_version(context: Context) -> int:
    """The lowest service version of the superconductors that are up; where none can be seen, of the cells' conductors.

    Superconductors record themselves in cell0, together with the API whose release they have.
    """
    gateway = context.gateway
    if gateway.cell0 is not None:
        try:
            versions = _conductors(context, gateway.database(gateway.cell0))
        except (CallError, CellmoveError):
            versions = []  # a cell0 that cannot be reached from here does not hold up a move
        if versions:
            return min(versions)
    ends = (endpoints.source(context), endpoints.target(context))
    return max((version for database in ends for version in _conductors(context, database)), default=0)


def _conductors(context: Context, database: CellDatabase) -> list[int]:
    down_time = context.gateway.settings.service_down_time
    services = look.services_of(database, context.clock.heartbeat_time(), down_time)
    return [each.version for each in services if each.binary == look.CONDUCTOR and each.up]
