"""A cell's tables, reflected, so that any nova schema from Ussuri on is read and written as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cellmove.core.errors import CallFailed, Misconfigured
from cellmove.db.engines import name_of, translate_errors

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

    from cellmove.db.cells import Cell

CELL_TABLES = (
    "instances",
    "instance_extra",
    "instance_info_caches",
    "instance_metadata",
    "instance_system_metadata",
    "block_device_mapping",
    "virtual_interfaces",
    "tags",
    "instance_actions",
    "instance_actions_events",
    "migrations",
    "instance_faults",
    "instance_id_mappings",
    "security_group_instance_association",
    "console_auth_tokens",
    "share_mapping",
    "services",
    "compute_nodes",
    "pci_devices",
    "consoles",
)
"""The tables that a move may read or write; those that a release does not have are simply not there."""

REQUIRED = (
    "instances",
    "instance_extra",
    "instance_info_caches",
    "instance_system_metadata",
    "block_device_mapping",
    "instance_actions",
    "instance_actions_events",
    "migrations",
    "services",
    "compute_nodes",
)
"""Those of them that every release has and every command reads."""


@dataclass(frozen=True)
class CellDatabase:
    """An open cell database.

    :param name: the cell's name, for messages
    :param tables: reflected tables by name
    """

    name: str
    engine: Engine
    tables: dict[str, Table]

    def __getitem__(self, table: str) -> Table:
        found = self.tables.get(table)
        if found is None:
            raise CallFailed(f"the database of {self.name}: it has no table {table}", kind="no-table")
        return found


class Databases(Protocol):
    """What has the databases of a whole cloud open: the gateway."""

    @property
    def api_engine(self) -> Engine: ...

    @property
    def cells(self) -> tuple[Cell, ...]: ...

    def database(self, cell: Cell) -> CellDatabase: ...


def open_cell_database(engine: Engine, name: str) -> CellDatabase:
    """Reflect the tables of a cell database.

    :param name: the cell's, for messages
    :raises Misconfigured: it is no cell database of nova
    :raises CallError: it cannot be read
    """
    from sqlalchemy import MetaData, inspect

    with translate_errors(engine):
        present = set(inspect(engine).get_table_names())
        metadata = MetaData()
        missing = [table for table in REQUIRED if table not in present]
        if missing:
            raise Misconfigured(
                f"{name_of(engine)}: it is no cell database of nova: it has no table {missing[0]}"
                f" (cell_mappings.database_connection of {name}; a new one is filled by nova-manage db sync)"
            )
        metadata.reflect(engine, only=[table for table in CELL_TABLES if table in present], resolve_fks=False)
    return CellDatabase(name, engine, dict(metadata.tables))
