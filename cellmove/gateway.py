"""The one way to the cloud: databases, buses and APIs, each opened when first asked for and kept.

A gateway is shared by everything a run does. It holds no state about moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cellmove.cloud import identity
from cellmove.db import cells as cells_module
from cellmove.db.tables import CellDatabase, open_cell_database
from cellmove.errors import CannotConnect
from cellmove.hosts import bus as bus_module
from cellmove.settings import require

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cellmove.db.cells import Cell
    from cellmove.hosts.bus import Bus
    from cellmove.settings import Settings


class Gateway:
    """Connections of one run.

    :param settings: where everything is
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._databases: dict[str, CellDatabase] = {}
        self._buses: dict[str, Bus] = {}

    @cached_property
    def api_engine(self) -> Engine:
        """The API database."""
        engine = cells_module.open_database(
            require(self.settings, "api_database_url"), connect_timeout=self.settings.connect_timeout
        )
        cells_module.probe_database(engine)
        return engine

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells but cell0."""
        return cells_module.read_cells(self.api_engine, self.settings)

    @cached_property
    def cell0(self) -> Cell | None:
        """Where the services of the API level record that they are alive; None when its mapping cannot be used."""
        return cells_module.read_cell0(self.api_engine, self.settings)

    def cell(self, name_or_uuid: str) -> Cell:
        """One cell by name or UUID."""
        return cells_module.find_cell(self.cells, name_or_uuid)

    def database(self, cell: Cell) -> CellDatabase:
        """The database of a cell, its tables reflected."""
        if cell.uuid not in self._databases:
            engine = cells_module.open_database(cell.database_url, connect_timeout=self.settings.connect_timeout)
            try:
                cells_module.probe_database(engine)
            except CannotConnect as error:
                raise CannotConnect(f"database of {cell.name}: {error}") from None
            self._databases[cell.uuid] = open_cell_database(engine, cell.name)
        return self._databases[cell.uuid]

    def bus(self, cell: Cell) -> Bus:
        """The message bus of a cell."""
        return self._bus(cell.transport_url, cell.name)

    @property
    def api_bus(self) -> Bus:
        """The API-level bus: the scheduler and the superconductor listen there."""
        return self._bus(require(self.settings, "transport_url"), "API")

    @property
    def notification_bus(self) -> Bus:
        """Where nova's superconductor sends its notifications: the API-level bus, if they have none of their own."""
        url = self.settings.notifications.url
        return self._bus(url, "notifications") if url else self.api_bus

    def _bus(self, url: str, name: str) -> Bus:
        if url not in self._buses:
            self._buses[url] = bus_module.open_bus(url, name, self.settings)
        return self._buses[url]

    @cached_property
    def admin(self) -> Any:
        """The operator's own openstack connection."""
        connection = identity.connect(self.settings)
        identity.probe(connection)
        return connection

    @cached_property
    def service(self) -> Any:
        """An openstack connection with role ``service``: neutron wants it for port bindings."""
        connection = identity.connect_service(self.settings)
        identity.probe(connection)
        return connection

    def reach(self, cells: Iterable[Cell]) -> None:
        """Make sure, within seconds, that everything a move needs is there and lets us in.

        :param cells: those whose databases and buses will be used
        :raises CannotConnect: naming what is not
        """
        for engine in (self.api_engine, *(self.database(cell).engine for cell in cells)):
            cells_module.probe_database(engine)
        for bus in (self.api_bus, *(self.bus(cell) for cell in cells)):
            bus_module.probe_broker(bus)
        identity.probe(self.admin)
        identity.probe(self.service)
