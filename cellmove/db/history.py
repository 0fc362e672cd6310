"""A server's action history: instance_actions and their events, as nova writes them.

nova-compute looks an action up by (server, request id) before it runs a method and fails when there
is none (nova/db/main/api.py, action_event_start), so the action has to be in the cell that is called.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellmove import statements
from cellmove.db.state import present, transaction
from cellmove.db.tables import CellDatabase
from cellmove.errors import CallFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Select, Table, Update

SUCCESS = "Success"
ERROR = "Error"


def ensure_action(
    connection: Connection, database: CellDatabase, server_id: str, *, action: str, request_id: str,
    user_id: str, project_id: str, now: datetime.datetime,
) -> int:  # fmt: skip
    """Record that an action was started, unless it is recorded; returns its row's id."""
    known = _action_id(connection, database, server_id, request_id)
    if known is not None:
        return known
    values = {
        "instance_uuid": server_id, "action": action, "request_id": request_id, "user_id": user_id,
        "project_id": project_id, "start_time": now, "created_at": now, "updated_at": now, "deleted": 0,
    }  # fmt: skip
    return inserted_id(connection.execute(statements.insertion(database["instance_actions"]), values))


def has_action(connection: Connection, database: CellDatabase, server_id: str, request_id: str) -> bool:
    """Whether an action with this request id is recorded."""
    return _action_id(connection, database, server_id, request_id) is not None


def is_recorded(database: CellDatabase, server_id: str, request_id: str) -> bool:
    """Return whether an action with this request id is recorded in a cell."""
    with transaction(database.engine, database.name) as connection:
        return has_action(connection, database, server_id, request_id)


def start_event(
    database: CellDatabase, server_id: str, *, request_id: str, event: str, host: str, now: datetime.datetime,
    connection: Connection | None = None,
) -> None:  # fmt: skip
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
    values: dict[str, Any] = {
        **mine, "start_time": now, "created_at": now, "deleted": 0, "host": host,
    }  # fmt: skip
    connection.execute(statements.insertion(events), present(events, values))
    connection.execute(statements.change(actions, "id"), {"updated_at": now, **statements.keyed(id=action_id)})


def finish_event(
    database: CellDatabase, server_id: str, *, request_id: str, event: str, now: datetime.datetime,
    error: str = "", connection: Connection | None = None,
) -> None:  # fmt: skip
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
    values: dict[str, Any] = {"finish_time": now, "result": ERROR if error else SUCCESS, "updated_at": now}
    if error:
        values |= {"details": error[:255]} if "details" in events.c else {}
    connection.execute(_ending(events), {**values, **statements.keyed(action_id=action_id, event=event)})
    mark: dict[str, Any] = {"updated_at": now}
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

    :param but: a request whose actions are left as they are in either cell
    """
    actions, events, faults = (
        source[name] for name in ("instance_actions", "instance_actions_events", "instance_faults")
    )
    mine = {"instance_uuid": server_id, "deleted": 0}
    with transaction(source.engine, source.name) as connection:
        done, happened, wrong = (
            [dict(row._mapping) for row in connection.execute(query, mine)]
            for query in (
                statements.rows(actions, *mine, order=("id",)),
                events_of_server(actions, events),
                statements.rows(faults, *mine, order=("id",)),
            )
        )
    with transaction(target.engine, target.name) as connection:
        for action in done:
            if action["request_id"] == but:
                continue
            action_id = _action_id(connection, target, server_id, action["request_id"], action["action"])
            if action_id is None:
                table = target["instance_actions"]
                action_id = inserted_id(connection.execute(statements.insertion(table), _fitting(action, table)))
            table = target["instance_actions_events"]
            query = statements.rows(table, "action_id", columns=("event",))
            known = set(connection.execute(query, {"action_id": action_id}).scalars())
            for event in happened:
                if event["action_id"] == action["id"] and event["event"] not in known:
                    values = _fitting(event, table) | {"action_id": action_id}
                    connection.execute(statements.insertion(table), values)
        table = target["instance_faults"]
        query = statements.rows(table, "instance_uuid", columns=("created_at", "code", "message"))
        told = {tuple(row) for row in connection.execute(query, {"instance_uuid": server_id})}
        for fault in wrong:
            if (fault["created_at"], fault["code"], fault["message"]) not in told:
                connection.execute(statements.insertion(table), _fitting(fault, table))


@functools.cache
def events_of_server(actions: Table, events: Table) -> Select[Any]:
    """The live events of a server's live actions: sent with its id as ``instance_uuid``, and 0 as ``deleted``."""
    mine = statements.rows(actions, "instance_uuid", "deleted", columns=("id",))
    return statements.rows(events, "deleted").where(events.c.action_id.in_(mine)).order_by(events.c.id)


def inserted_id(result: CursorResult[Any]) -> int:
    """The id that the database gave a row just inserted."""
    key = result.inserted_primary_key
    if key is None:
        raise CallFailed("the database did not say which id it gave a new row")
    return int(key[0])


def _fitting(row: Mapping[str, Any], table: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in table.c and name != "id"}


def _action_id(
    connection: Connection, database: CellDatabase, server_id: str, request_id: str, action: str = ""
) -> int | None:
    key = {"instance_uuid": server_id, "request_id": request_id, "deleted": 0, **({"action": action} if action else {})}
    found: int | None = connection.execute(_newest_first(database["instance_actions"], *key), key).scalar()
    return found


@functools.cache
def _newest_first(actions: Table, *key: str) -> Select[Any]:
    query = statements.rows(actions, *key, columns=("id",))
    return query.order_by(actions.c.created_at.desc(), actions.c.id.desc())
