"""A server's action history: instance_actions and their events, as nova writes them.

nova-compute looks an action up by (server, request id) before it runs a method and fails when there
is none (nova/db/main/api.py, action_event_start), so the action has to be in the cell that is called.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CallFailed
from cellmove.db import statements
from cellmove.db.state import present, transaction
from cellmove.db.tables import CellDatabase
from cellmove.db.types import AnyResult, Query, Record, Values

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Table, Update

SUCCESS = "Success"
ERROR = "Error"

ROWS_A_STATEMENT = 1000
"""Ids that one statement names: a list of tens of thousands would exceed a server's limits."""


def ensure_action(
    connection: Connection,
    database: CellDatabase,
    server_id: str,
    *,
    action: str,
    request_id: str,
    user_id: str,
    project_id: str,
    now: datetime.datetime,
) -> int:
    """Record that an action was started, unless it is recorded; returns its row's id."""
    known = _action_id(connection, database, server_id, request_id)
    if known is not None:
        return known
    values = {
        "instance_uuid": server_id,
        "action": action,
        "request_id": request_id,
        "user_id": user_id,
        "project_id": project_id,
        "start_time": now,
        "created_at": now,
        "updated_at": now,
        "deleted": 0,
    }
    return inserted_id(connection.execute(statements.insertion(database["instance_actions"]), values))


def has_action(connection: Connection, database: CellDatabase, server_id: str, request_id: str) -> bool:
    """Whether an action with this request id is recorded."""
    return _action_id(connection, database, server_id, request_id) is not None


def is_recorded(database: CellDatabase, server_id: str, request_id: str) -> bool:
    """Return whether an action with this request id is recorded in a cell."""
    with transaction(database.engine, database.name) as connection:
        return has_action(connection, database, server_id, request_id)


def start_event(
    database: CellDatabase,
    server_id: str,
    *,
    request_id: str,
    event: str,
    host: str,
    now: datetime.datetime,
    connection: Connection | None = None,
) -> None:
    """Record that a part of an action began, unless it is recorded. Without the action: nothing."""
    if connection is None:
        with transaction(database.engine, database.name) as own:
            start_event(database, server_id, request_id=request_id, event=event, host=host, now=now, connection=own)
        return
    action_id = _action_id(connection, database, server_id, request_id)
    if action_id is None:
        return
    events, actions = database["instance_actions_events"], database["instance_actions"]
    mine = {"action_id": action_id, "event": event}
    if connection.execute(statements.rows(events, *mine, columns=("id",)), mine).first() is not None:
        return
    values: Record = {
        **mine,
        "start_time": now,
        "created_at": now,
        "deleted": 0,
        "host": host,
    }
    connection.execute(statements.insertion(events), present(events, values))
    connection.execute(statements.change(actions, "id"), {"updated_at": now, **statements.keyed(id=action_id)})


def finish_event(
    database: CellDatabase,
    server_id: str,
    *,
    request_id: str,
    event: str,
    now: datetime.datetime,
    error: str = "",
    connection: Connection | None = None,
) -> None:
    """Record how a part of an action ended, if it is recorded and has not ended.

    :param error: what went wrong; empty for success. The action is then marked as failed too
    """
    if connection is None:
        with transaction(database.engine, database.name) as own:
            finish_event(database, server_id, request_id=request_id, event=event, now=now, error=error, connection=own)
        return
    action_id = _action_id(connection, database, server_id, request_id)
    if action_id is None:
        return
    events, actions = database["instance_actions_events"], database["instance_actions"]
    values: Record = {"finish_time": now, "result": ERROR if error else SUCCESS, "updated_at": now}
    if error:
        values |= {"details": error[:255]} if "details" in events.c else {}
    connection.execute(_ending(events), {**values, **statements.keyed(action_id=action_id, event=event)})
    mark: Record = {"updated_at": now}
    if error:
        mark["message"] = ERROR
    connection.execute(statements.change(actions, "id"), {**mark, **statements.keyed(id=action_id)})


@functools.cache
def _ending(events: Table) -> Update:
    return statements.change(events, "action_id", "event").where(events.c.finish_time.is_(None))


def event_state(database: CellDatabase, server_id: str, request_id: str, event: str) -> str:
    """How a part of an action stands: "" (never began), "running", "Success" or "Error"."""
    with transaction(database.engine, database.name) as connection:
        action_id = _action_id(connection, database, server_id, request_id)
        if action_id is None:
            return ""
        mine = {"action_id": action_id, "event": event}
        columns = ("result", "start_time", "finish_time")
        query = statements.rows(database["instance_actions_events"], *mine, columns=columns)
        rows = list(connection.execute(query, mine))
    if not rows:
        return ""
    if len(rows) == 1 and rows[0].finish_time is not None:
        return str(rows[0].result)
    # Every call inserts a row, but nova ends them all in the first one (action_event_finish takes
    # .first()), so the newest call has ended when any end is not older than the newest beginning.
    ended = [row for row in rows if row.finish_time is not None]
    last = max(ended, key=lambda row: row.finish_time, default=None)
    if last is None or last.finish_time < max(row.start_time for row in rows):
        return "running"
    return str(last.result)


def event_begun(database: CellDatabase, server_id: str, request_id: str, event: str) -> datetime.datetime | None:
    """When a part of an action was last begun, by the clock of who began it; None when it never was."""
    from sqlalchemy import func, select

    with transaction(database.engine, database.name) as connection:
        action_id = _action_id(connection, database, server_id, request_id)
        events = database["instance_actions_events"]
        begun: datetime.datetime | None = connection.execute(
            select(func.max(events.c.start_time)).where(events.c.action_id == action_id, events.c.event == event)
        ).scalar()
        return begun


def last_fault(database: CellDatabase, server_id: str) -> str:
    """The newest fault's message, or an empty text."""
    from sqlalchemy import select

    table = database["instance_faults"]
    with transaction(database.engine, database.name) as connection:
        text = connection.execute(
            select(table.c.message)
            .where(table.c.instance_uuid == server_id, table.c.deleted == 0)
            .order_by(table.c.id.desc())
        ).scalar()
    return str(text or "")


def copy_news(source: CellDatabase, target: CellDatabase, server_id: str, *, but: str = "") -> None:
    """Copy the actions, events and faults that one cell has of a server and the other lacks.

    nova's own revert takes along its own action and forgets whatever else happened while the server was
    resized (nova/conductor/tasks/cross_cell_migrate.py, ``_update_instance_actions`` in RevertResizeTask),
    and its finish forgets what the owner did since the target's records were made.

    A history may have tens of thousands of rows, of which most are in both cells: their keys are compared, and only what
    is missing is read in full. The number of statements does not depend on the length of the history.

    :param but: a request whose actions are left as they are in either cell
    """
    mine = {"instance_uuid": server_id, "deleted": 0}
    with transaction(target.engine, target.name) as connection:
        new_ids = _copy_actions(source, connection, target, mine, but)
        _copy_events(source, connection, target, mine, new_ids)
        _copy_faults(source, connection, target, mine)


def _copy_actions(
    source: CellDatabase, connection: Connection, target: CellDatabase, mine: Values, but: str
) -> dict[int, int]:
    """Copy the actions that the other cell lacks.

    :returns: the id of each action in the other cell, by its id in this one
    """
    columns = ("id", "request_id", "action")
    keys = statements.rows(source["instance_actions"], *mine, columns=columns, order=("id",))
    wanted = {row.id: (row.request_id, row.action) for row in _read(source, keys, mine) if row.request_id != but}
    known = _ids_by_key(connection, target, mine)
    # Two actions of one request that have one name are one action in the other cell, as nova would find them.
    first = {key: number for number, key in reversed(wanted.items())}
    missing = [number for key, number in first.items() if key not in known]
    if missing:
        insert_rows(connection, target["instance_actions"], _rows_by_id(source, "instance_actions", missing))
        known = _ids_by_key(connection, target, mine)
    return {number: known[key] for number, key in wanted.items() if key in known}


def _copy_events(
    source: CellDatabase,
    connection: Connection,
    target: CellDatabase,
    mine: Values,
    new_ids: Mapping[int, int],
) -> None:
    """Copy the events that actions lack in the other cell.

    :param new_ids: see :func:`_copy_actions`
    """
    query = _keys_of_events(target["instance_actions"], target["instance_actions_events"])
    known = {(row.action_id, row.event) for row in connection.execute(query, {"instance_uuid": mine["instance_uuid"]})}
    query = _keys_of_events(source["instance_actions"], source["instance_actions_events"], "deleted")
    missing = [
        row.id
        for row in _read(source, query, mine)
        if row.action_id in new_ids and (new_ids[row.action_id], row.event) not in known
    ]
    rows = _rows_by_id(source, "instance_actions_events", missing)
    moved = [row | {"action_id": new_ids[row["action_id"]]} for row in rows]
    insert_rows(connection, target["instance_actions_events"], moved)


def _copy_faults(source: CellDatabase, connection: Connection, target: CellDatabase, mine: Values) -> None:
    wrong = _read(source, statements.rows(source["instance_faults"], *mine, order=("id",)), mine)
    table = target["instance_faults"]
    query = statements.rows(table, "instance_uuid", columns=("created_at", "code", "message"))
    recorded = {tuple(row) for row in connection.execute(query, {"instance_uuid": mine["instance_uuid"]})}
    rows = [dict(row._mapping) for row in wrong if (row.created_at, row.code, row.message) not in recorded]
    insert_rows(connection, table, rows)


def _read(database: CellDatabase, query: Query, values: Values) -> Sequence[Row[Any]]:
    """Rows in a transaction of its own, so that an error names this database."""
    with transaction(database.engine, database.name) as connection:
        return connection.execute(query, values).all()


def _ids_by_key(connection: Connection, database: CellDatabase, mine: Values) -> dict[tuple[str, str], int]:
    """The live actions of a server by request and name; of several with one key the newest."""
    query = _oldest_first(database["instance_actions"], *mine)
    return {(row.request_id, row.action): row.id for row in connection.execute(query, mine)}


def _rows_by_id(database: CellDatabase, table: str, numbers: Sequence[int]) -> list[Record]:
    """Rows with these ids, in the order of their ids."""
    rows: list[Record] = []
    for at in range(0, len(numbers), ROWS_A_STATEMENT):
        part = _read(database, _with_ids(database[table]), {"numbers": numbers[at : at + ROWS_A_STATEMENT]})
        rows += [dict(row._mapping) for row in part]
    return sorted(rows, key=lambda row: int(row["id"]))


def insert_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows of another cell with ids of this one; columns that this cell lacks are left out."""
    if rows:
        connection.execute(statements.insertion(table), [_fitting(row, table) for row in rows])


@functools.cache
def _with_ids(table: Table) -> Query:
    from sqlalchemy import bindparam

    return statements.rows(table).where(table.c.id.in_(bindparam("numbers", expanding=True)))


@functools.cache
def _oldest_first(actions: Table, *key: str) -> Query:
    return statements.rows(actions, *key, columns=("id", "request_id", "action"), order=("created_at", "id"))


@functools.cache
def _keys_of_events(actions: Table, events: Table, *key: str) -> Query:
    """What tells a live action's events apart."""
    from sqlalchemy import bindparam

    query = statements.rows(events, *key, columns=("id", "action_id", "event"))
    owners = statements.rows(actions, "instance_uuid", columns=("id",)).where(
        actions.c.deleted == bindparam("alive", 0)
    )
    return query.where(events.c.action_id.in_(owners))


@functools.cache
def events_of_server(actions: Table, events: Table) -> Query:
    """The live events of a server's live actions: sent with its id as ``instance_uuid``, and 0 as ``deleted``."""
    mine = statements.rows(actions, "instance_uuid", "deleted", columns=("id",))
    return statements.rows(events, "deleted").where(events.c.action_id.in_(mine)).order_by(events.c.id)


def inserted_id(result: AnyResult) -> int:
    """The id that the database gave a row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise CallFailed("the database did not say which id it gave a new row")
    return int(key[0])


def _fitting(row: Values, table: Any) -> Record:
    return {name: value for name, value in row.items() if name in table.c and name != "id"}


def _action_id(connection: Connection, database: CellDatabase, server_id: str, request_id: str) -> int | None:
    key = {"instance_uuid": server_id, "request_id": request_id, "deleted": 0}
    found: int | None = connection.execute(_newest_first(database["instance_actions"], *key), key).scalar()
    return found


@functools.cache
def _newest_first(actions: Table, *key: str) -> Query:
    query = statements.rows(actions, *key, columns=("id",))
    return query.order_by(actions.c.created_at.desc(), actions.c.id.desc())
