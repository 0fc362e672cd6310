"""Reads what moves have left in a cell's database, for those who know nothing but the server."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.db.state import transaction
from cellmove.db.tables import CellDatabase
from cellmove.db.types import Record

if TYPE_CHECKING:
    from collections.abc import Collection

MOVES = ("resize", "migrate")
"""The actions in a server's history that begin a move."""

CONDUCTED = {
    "resize": "conductor_migrate_server",
    "migrate": "conductor_migrate_server",
    "confirmResize": "conductor_confirm_snapshot_based_resize",
    "revertResize": "conductor_revert_snapshot_based_resize",
}
"""What nova's API begins and its conductor does: the action, and the event that the conductor keeps open all the while."""


@dataclass(frozen=True)
class Conducted:
    """One such action, as one cell knows it.

    :param request_id: nova-api's, the same in every cell
    :param at: when the action was begun, UTC
    :param how: how the conductor's part stands: "" (not begun), "running", "Success" or "Error"
    :param host: the conductor's; empty when it has not begun
    """

    action: str
    request_id: str
    at: datetime.datetime
    how: str
    host: str


def last_conducted(database: CellDatabase, server_id: str) -> Conducted | None:
    """The newest action of :data:`CONDUCTED` that a cell knows of."""
    from sqlalchemy import select

    actions, events = database["instance_actions"], database["instance_actions_events"]
    query = (
        select(actions.c.id, actions.c.action, actions.c.request_id, actions.c.start_time)
        .where(actions.c.instance_uuid == server_id, actions.c.action.in_(list(CONDUCTED)), actions.c.deleted == 0)
        .order_by(actions.c.start_time, actions.c.id)
    )
    with transaction(database.engine, database.name) as connection:
        rows = list(connection.execute(query))
        if not rows:
            return None
        # Of one second the one that goes on from the other is the later: nova copies the newest first.
        newest = max(rows, key=lambda row: (row.start_time, row.action not in MOVES))
        name = CONDUCTED[newest.action]
        columns = [events.c.result, events.c.finish_time, *([events.c.host] if "host" in events.c else [])]
        found = connection.execute(
            select(*columns).where(events.c.action_id == newest.id, events.c.event == name).order_by(events.c.id)
        ).first()
    how = "" if found is None else "running" if found.finish_time is None else str(found.result)
    host = str(found._mapping.get("host") or "") if found is not None else ""
    return Conducted(newest.action, newest.request_id, newest.start_time, how, host)


def cross_cell_migrations(database: CellDatabase, server_id: str) -> list[Record]:
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


def cold_migrations(database: CellDatabase, server_id: str) -> list[Record]:
    """Like :func:`cross_cell_migrations`, with those that nova has not decided where to send yet."""
    from sqlalchemy import select

    table = database["migrations"]
    query = (
        select(table)
        .where(
            table.c.instance_uuid == server_id,
            table.c.deleted == 0,
            table.c.migration_type.in_(("migration", "resize")),
        )
        .order_by(table.c.id)
    )
    with transaction(database.engine, database.name) as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def move_actions(database: CellDatabase, server_id: str) -> list[Record]:
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
