"""The generation of a server's mark (:mod:`cellmove.core.ownership`): read, and raised by compare-and-swap."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.core.errors import CallFailed
from cellmove.db import state, statements

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cellmove.db.tables import CellDatabase


def raise_generation(
    database: CellDatabase, server_id: str, expected: str, wanted: str, now: datetime.datetime, *, owner: str = ""
) -> None:
    """Give a server's mark another generation, if it has the expected one or already the wanted one.

    :param expected: :data:`cellmove.core.ownership.UNNUMBERED` of a mark that has none yet
    :param owner: the mark's first value, if it has to name another journal from now on
    :raises CallFailed: ``kind`` conflict when it has another one, or the mark is gone
    """
    key = {"instance_uuid": server_id, "key": ownership.GENERATION, "deleted": 0, "value": expected}
    change = statements.change(database["instance_system_metadata"], *key)
    values = {"value": wanted, "updated_at": now, **statements.keyed(**key)}
    with state.transaction(database.engine, database.name) as connection:
        if connection.execute(change, values).rowcount != 1:
            found = _read(connection, database, server_id, now)
            if found not in (expected, wanted) or (found == expected != ownership.UNNUMBERED):
                raise CallFailed(f"the mark in {database.name} has generation {found or 'none'}", kind="conflict")
            state.set_system_metadata(connection, database, server_id, ownership.GENERATION, wanted, now)
        if owner:
            state.set_system_metadata(connection, database, server_id, ownership.KEY, owner, now)


def _read(connection: Connection, database: CellDatabase, server_id: str, now: datetime.datetime) -> str:
    """Return the generation and lock it until the transaction ends."""
    table = database["instance_system_metadata"]
    mine = {"instance_uuid": server_id, "key": ownership.KEY, "deleted": 0}
    # A write, not a locking read: SQLite has none.
    if (
        connection.execute(statements.change(table, *mine), {"updated_at": now, **statements.keyed(**mine)}).rowcount
        != 1
    ):
        return ownership.ABSENT
    query = statements.rows(table, "instance_uuid", "key", "deleted", columns=("value",))
    found = connection.execute(query, {**mine, "key": ownership.GENERATION}).scalar()
    return str(found) if found else ownership.UNNUMBERED
