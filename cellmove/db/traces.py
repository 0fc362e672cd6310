"""Reads what moves have left in a cell's database, for those who know nothing but the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellmove.db.state import transaction
from cellmove.db.tables import CellDatabase

if TYPE_CHECKING:
    from collections.abc import Collection

MOVES = ("resize", "migrate")
"""The actions in a server's history that begin a move."""


def cross_cell_migrations(database: CellDatabase, server_id: str) -> list[dict[str, Any]]:
    """The server's cross-cell migration records in this cell, oldest first."""
    from sqlalchemy import select, true

    table = database["migrations"]
    query = (
        select(table)
        .where(table.c.instance_uuid == server_id, table.c.deleted == 0, table.c.cross_cell_move == true())
        .order_by(table.c.id)
    )
    with transaction(database.engine, database.name) as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def move_actions(database: CellDatabase, server_id: str) -> list[dict[str, Any]]:
    """What began moves of this server, oldest first: ``action``, ``request_id``, ``start_time``."""
    from sqlalchemy import select

    table = database["instance_actions"]
    query = (
        select(table.c.action, table.c.request_id, table.c.start_time)
        .where(table.c.instance_uuid == server_id, table.c.action.in_(MOVES), table.c.deleted == 0)
        .order_by(table.c.start_time, table.c.id)
    )
    with transaction(database.engine, database.name) as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def node_of(database: CellDatabase, providers: Collection[str]) -> tuple[str, str] | None:
    """Host and name of the compute node of this cell that is one of these resource providers, if any."""
    from sqlalchemy import select

    table = database["compute_nodes"]
    query = select(table.c.host, table.c.hypervisor_hostname).where(
        table.c.uuid.in_(list(providers)), table.c.deleted == 0
    )
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query).first()
    return None if row is None else (row.host, row.hypervisor_hostname)
