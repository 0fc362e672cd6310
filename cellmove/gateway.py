"""Opens databases, buses and APIs, each on its first use, and keeps them.

All parts of a run share one gateway. It holds every state of clients and no state about moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cellmove.cloud import identity
from cellmove.core.errors import CannotConnect, Misconfigured
from cellmove.core.settings import require
from cellmove.db import cells as cells_module
from cellmove.db import engines, rights
from cellmove.db.identity import DatabaseIdentity, identity_of
from cellmove.db.tables import CellDatabase, open_cell_database
from cellmove.hosts.bus import probe_broker
from cellmove.hosts.bus_opener import BusOpener
from cellmove.hosts.compute import SentCalls
from cellmove.hosts.disk_links import DiskLinks

if TYPE_CHECKING:
    from openstack.connection import Connection
    from sqlalchemy import Engine

    from cellmove.core.settings import Settings
    from cellmove.db.cells import Cell
    from cellmove.db.rights import Rights
    from cellmove.hosts.bus import Bus


@dataclass
class Choice:
    """What holds while a target host is chosen.

    :param full: hosts that may not be chosen now, because enough servers are on their way there
    :param chosen: the host that was chosen, for those who count moves a host
    :param rejected: set when none was found although there are some that are only full just now
    """

    full: tuple[str, ...] = ()
    chosen: str = ""
    rejected: bool = False


@contextmanager
def anywhere(_server_id: str) -> Iterator[Choice]:
    """A choice that nothing limits: what holds for a single move."""
    yield Choice()


class Gateway:
    """Connections of one run. Its threads share them.

    :param settings: where everything is
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._databases: dict[str, CellDatabase] = {}
        self._buses: dict[str, Bus] = {}
        self._bus_opener = BusOpener(settings)
        self.sent_calls = SentCalls()
        self._identities: dict[str, DatabaseIdentity] = {}
        self._rights: dict[str, Rights | None] = {}
        self._opening = threading.RLock()
        self.links = DiskLinks(settings.ssh)
        self.choosing: Callable[[str], AbstractContextManager[Choice]] = anywhere

    @cached_property
    def api_engine(self) -> Engine:
        """The API database."""
        engine = engines.open_database(
            require(self.settings, "api_database_url"),
            connect_timeout=self.settings.connect_timeout,
            name=cells_module.API_DATABASE,
            setting="[api_database]connection, or CELLMOVE_API_DATABASE",
        )
        engines.probe_database(engine)
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
        with self._opening:
            return self._databases.get(cell.uuid) or self._open(cell)

    def reachable(self, cells: Iterable[Cell]) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
        """The cells whose databases can be read, and why each of the others cannot: for those who can do without some."""
        found, why = [], []
        for cell in cells:
            try:
                self.database(cell)
            except CannotConnect as error:
                why.append(str(error))
            else:
                found.append(cell)
        return tuple(found), tuple(why)

    def _open(self, cell: Cell) -> CellDatabase:
        name, setting = f"the database of {cell.label}", f"cell_mappings.database_connection of {cell.label}"
        if cell.database_problem:
            raise Misconfigured(f"{name}: the URL in {setting} cannot be used: {cell.database_problem}")
        engine = engines.open_database(
            cell.database_url, connect_timeout=self.settings.connect_timeout, name=name, setting=setting
        )
        engines.probe_database(engine)
        self._databases[cell.uuid] = opened = open_cell_database(engine, cell.label)
        return opened

    def identity(self, cell: Cell) -> DatabaseIdentity:
        """What the database of a cell says about itself. Each is asked once."""
        if cell.uuid not in self._identities:
            self._identities[cell.uuid] = identity_of(self.database(cell))
        return self._identities[cell.uuid]

    def lacking_rights(self, cell: Cell | None) -> Rights | None:
        """What a move writes to a database and we may not; None: nothing. Each is asked once.

        :param cell: None: the API database
        """
        key = cell.uuid if cell is not None else ""
        if key not in self._rights:
            if cell is None:
                self._rights[key] = rights.lacking_rights(self.api_engine, rights.API_WRITES, {})
            else:
                database = self.database(cell)
                wanted = rights.cell_writes(database.tables)
                self._rights[key] = rights.lacking_rights(database.engine, wanted, database.tables)
        return self._rights[key]

    def bus(self, cell: Cell) -> Bus:
        """The message bus of a cell."""
        setting = f"cell_mappings.transport_url of {cell.label}"
        if cell.transport_problem:
            why = f"the URL in {setting} cannot be used: {cell.transport_problem}"
            raise Misconfigured(f"the message bus of {cell.label}: {why}")
        return self._bus(cell.transport_url, cell.label, setting)

    @property
    def api_bus(self) -> Bus:
        """The API-level bus: the scheduler and the superconductor listen there."""
        setting = "[DEFAULT]transport_url, or CELLMOVE_TRANSPORT_URL"
        return self._bus(require(self.settings, "transport_url"), "API", setting)

    @property
    def notification_bus(self) -> Bus:
        """Where nova's superconductor sends its notifications: the API-level bus, if they have none of their own."""
        url = self.settings.notifications.url
        if not url:
            return self.api_bus
        return self._bus(url, "notifications", "[oslo_messaging_notifications]transport_url")

    def _bus(self, url: str, name: str, setting: str) -> Bus:
        """A bus; two cells that share one share its connections, and each names it as its own."""
        with self._opening:
            if url not in self._buses:
                self._buses[url] = self._bus_opener.open(url, name, setting=setting)
            bus = self._buses[url]
        return bus if bus.name == name else replace(bus, name=name, transport=bus.transport.named(name))

    @cached_property
    def admin(self) -> Connection:
        """The operator's own openstack connection."""
        connection = identity.connect(self.settings)
        identity.probe(connection)
        return connection

    @cached_property
    def service(self) -> Connection:
        """An openstack connection with role ``service``: neutron wants it for port bindings."""
        connection = identity.connect_service(self.settings)
        identity.probe(connection)
        return connection

    def reach(self, cells: Collection[Cell], one_of: Collection[Cell] = ()) -> None:
        """Make sure, within seconds, that everything a move needs is there and lets us in.

        :param cells: those whose databases and buses will be used
        :param one_of: those of which one will be used; none: there are no such cells
        :raises CannotConnect: naming what is not
        """
        engines.probe_database(self.api_engine)
        probe_broker(self.api_bus)
        for cell in cells:
            self.reach_cell(cell)
        errors: list[CannotConnect] = []
        for cell in one_of:
            try:
                self.reach_cell(cell)
                break
            except CannotConnect as error:
                errors.append(error)
        else:
            if errors:
                raise errors[0] if len(errors) == 1 else CannotConnect("; ".join(map(str, errors)))
        identity.probe(self.admin)
        identity.probe(self.service)

    def reach_cell(self, cell: Cell) -> None:
        """Make sure that a cell's database and bus are there and let us in.

        :raises CannotConnect: naming what is not
        """
        engines.probe_database(self.database(cell).engine)
        probe_broker(self.bus(cell))
