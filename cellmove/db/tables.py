"""A cell's tables, reflected, so that any nova schema from Ussuri on is read and written as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.db.cells import translate_errors

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

CELL_TABLES = (
    "instances", "instance_extra", "instance_info_caches", "instance_metadata", "instance_system_metadata",
    "block_device_mapping", "virtual_interfaces", "tags", "instance_actions", "instance_actions_events",
    "migrations", "instance_faults", "instance_id_mappings", "security_group_instance_association",
    "console_auth_tokens", "share_mapping", "services", "compute_nodes", "pci_devices", "consoles",
)  # fmt: skip
"""The tables that a move may read or write; those that a release does not have are simply not there."""


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
        return self.tables[table]


def open_cell_database(engine: Engine, name: str) -> CellDatabase:
    """Reflect the tables of a cell database."""
    from sqlalchemy import MetaData, inspect

    with translate_errors():
        present = set(inspect(engine).get_table_names())
        metadata = MetaData()
        metadata.reflect(engine, only=[table for table in CELL_TABLES if table in present], resolve_fks=False)
    return CellDatabase(name, engine, dict(metadata.tables))
