"""One server's rows: copied to another cell in one transaction, and removed for good.

Rows are copied raw, by reflection, so that nothing depends on what an object happened to have
loaded: native cross-cell moves lose keypairs, NUMA topologies, PCI requests, faults and the port part
of VIF addresses exactly there (nova bugs 2108974 and the TODOs of TargetDBSetupTask).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cellmove.core.errors import CallFailed
from cellmove.db import statements
from cellmove.db.history import ROWS_A_STATEMENT, events_of_server
from cellmove.db.shapes import read_object
from cellmove.db.state import transaction
from cellmove.db.tables import CellDatabase
from cellmove.db.types import Query, Record, Values

if TYPE_CHECKING:
    from sqlalchemy import Connection, Delete, Table

KEYS: Mapping[str, str] = {
    "instances": "uuid",
    "instance_extra": "instance_uuid",
    "instance_info_caches": "instance_uuid",
    "instance_metadata": "instance_uuid",
    "instance_system_metadata": "instance_uuid",
    "block_device_mapping": "instance_uuid",
    "virtual_interfaces": "instance_uuid",
    "tags": "resource_id",
    "instance_actions": "instance_uuid",
    "migrations": "instance_uuid",
    "instance_faults": "instance_uuid",
    "instance_id_mappings": "uuid",
}
"""The tables whose rows travel, in the order of insertion, and the column that names the server.

instance_actions_events travel with their actions. Not copied: pci_devices and services (a host's),
console_auth_tokens (made anew), security_group_instance_association (nova-network's, empty since).
"""

DELETED_FIRST: Mapping[str, str] = {
    "console_auth_tokens": "instance_uuid",
    "consoles": "instance_uuid",
    "security_group_instance_association": "instance_uuid",
    "instance_id_mappings": "uuid",
    "instance_faults": "instance_uuid",
    "migrations": "instance_uuid",
    "tags": "resource_id",
    "virtual_interfaces": "instance_uuid",
    "block_device_mapping": "instance_uuid",
    "instance_system_metadata": "instance_uuid",
    "instance_metadata": "instance_uuid",
    "instance_info_caches": "instance_uuid",
    "instance_extra": "instance_uuid",
}
"""What goes, soft-deleted rows included, before actions and at last the instance itself."""

Rows = dict[str, list[Record]]


def read_rows(database: CellDatabase, server_id: str) -> Rows:
    """All live rows of a server in one consistent look."""
    rows: Rows = {}
    with transaction(database.engine, database.name) as connection:
        for name, key in KEYS.items():
            if name in database.tables:
                rows[name] = _live_rows(connection, database[name], key, server_id)
        query = events_of_server(database["instance_actions"], database["instance_actions_events"])
        found = connection.execute(query, {"instance_uuid": server_id, "deleted": 0})
        rows["instance_actions_events"] = [dict(row._mapping) for row in found]
    return rows


def _live_rows(connection: Connection, table: Table, key: str, server_id: str) -> list[Record]:
    mine = {key: server_id, **({"deleted": 0} if "deleted" in table.c else {})}
    query = statements.rows(table, *mine, order=("id" if "id" in table.c else key,))
    return [dict(row._mapping) for row in connection.execute(query, mine)]


def removed_devices(database: CellDatabase, server_id: str) -> list[str]:
    """UUIDs of block devices that were taken off the server in this cell (nova keeps their rows as deleted)."""
    table = database["block_device_mapping"]
    query = statements.rows(table, "instance_uuid", columns=("uuid", "deleted"))
    with transaction(database.engine, database.name) as connection:
        found = connection.execute(query, {"instance_uuid": server_id})
        return [row.uuid for row in found if row.uuid and row.deleted]


def copy_server(
    source: CellDatabase,
    target: CellDatabase,
    server_id: str,
    *,
    migration_uuid: str,
    new_flavor: Values,
) -> dict[str, int]:
    """Copy a server's rows, hidden, into the target cell in one transaction.

    What differs from the source's rows, and why:

    * ``hidden`` is set, so that lists show one server; ids are the target's own;
    * ``compute_id`` and ``dest_compute_id`` are NULL: they count compute nodes of another cell;
    * ``migration_context`` is NULL until the destination claims;
    * the new flavor is stashed: the claim at the destination reads it;
    * BDMs carry neither attachment nor connection: those belong to the source, and a clean-up at the
      destination must never reach them.

    :returns: how many rows of each table
    :raises CallFailed: when rows of this server are in the target already, or a column is missing
        there that holds data
    """
    rows = read_rows(source, server_id)
    if not rows["instances"]:
        raise CallFailed(f"the server has no live row in {source.name}", kind="404")
    with transaction(target.engine, target.name) as connection:
        known = _migration_of(connection, target, server_id, migration_uuid)
        if known:
            return {name: len(found) for name, found in rows.items() if found}
        for name in KEYS:
            if name == "instance_actions":
                _insert_actions(connection, target, rows)
            elif name == "instance_id_mappings":
                _insert_id_mappings(connection, target, rows.get(name, []))
            elif rows.get(name):
                changed = [_adapted(name, row, new_flavor) for row in rows[name]]
                _insert(connection, target, name, changed)
    return {name: len(found) for name, found in rows.items() if found}


def _migration_of(connection: Connection, database: CellDatabase, server_id: str, migration_uuid: str) -> bool:
    mine = {"uuid": migration_uuid, "instance_uuid": server_id}
    query = statements.rows(database["migrations"], *mine, columns=("id",))
    return connection.execute(query, mine).first() is not None


def _adapted(name: str, row: Values, new_flavor: Values) -> Record:
    values = dict(row)
    if name == "instances":
        values |= {"hidden": 1, "compute_id": None}
    elif name == "instance_extra":
        flavors = read_object(values["flavor"], "instance_extra.flavor") | {"new": dict(new_flavor)}
        values |= {"migration_context": None, "flavor": json.dumps(flavors)}
    elif name == "block_device_mapping" and values.get("destination_type") == "volume":
        values |= {"attachment_id": None, "connection_info": None}
    elif name == "migrations":
        values["dest_compute_id"] = None
    return values


def _insert(connection: Connection, database: CellDatabase, name: str, rows: list[Record]) -> None:
    fitting = [_fit(database, name, row) for row in rows]
    connection.execute(statements.insertion(database[name]), fitting)


def _fit(database: CellDatabase, name: str, row: Values) -> Record:
    """The row without its id, in the target's columns.

    :raises CallFailed: when a value would be lost because the target's schema has no column for it
    """
    table = database[name]
    lost = [column for column, value in row.items() if column not in table.c and value not in (None, 0, "")]
    if lost:
        raise CallFailed(f"{name} in {database.name} has no column {', '.join(lost)}, which holds data", kind="schema")
    return {column: value for column, value in row.items() if column in table.c and column != "id"}


def _insert_actions(connection: Connection, database: CellDatabase, rows: Rows) -> None:
    """Insert the actions at once, then their events: one statement an action takes minutes for a long history."""
    actions = rows["instance_actions"]
    if not actions:
        return
    table = database["instance_actions"]
    connection.execute(statements.insertion(table), [_fit(database, "instance_actions", row) for row in actions])
    # The rows were inserted in their order, so their ids are in it as well (one statement each, or one for all).
    query = statements.rows(table, "instance_uuid", columns=("id",), order=("id",))
    found = connection.execute(query, {"instance_uuid": actions[0]["instance_uuid"]}).scalars().all()
    new_ids = dict(zip((row["id"] for row in actions), found[-len(actions) :], strict=True))
    events = [row | {"action_id": new_ids[row["action_id"]]} for row in rows["instance_actions_events"]]
    if events:
        _insert(connection, database, "instance_actions_events", events)


def _insert_id_mappings(connection: Connection, database: CellDatabase, rows: list[Record]) -> None:
    """Keep the EC2 id (the metadata service shows it as instance-id) where it is free in the target."""
    if "instance_id_mappings" not in database.tables:
        return
    table = database["instance_id_mappings"]
    for row in rows:
        values = _fit(database, "instance_id_mappings", row)
        taken = connection.execute(statements.rows(table, "id", columns=("id",)), {"id": row["id"]}).first()
        if taken is None:
            values["id"] = row["id"]
        connection.execute(statements.insertion(table), values)


LABELS: Mapping[str, str] = {"instance_metadata": "instance_uuid", "tags": "resource_id"}
"""What an owner hangs on a server, and may change while it is being moved."""


def copy_labels(source: CellDatabase, target: CellDatabase, server_id: str, connection: Connection) -> None:
    """Make metadata and tags in the target what they are in the source now.

    :param connection: of the target
    """
    with transaction(source.engine, source.name) as reading:
        rows = {name: _live_rows(reading, source[name], key, server_id) for name, key in LABELS.items()}
    for name, key in LABELS.items():
        connection.execute(statements.removal(target[name], key), {key: server_id})
        if rows[name]:
            _insert(connection, target, name, rows[name])


def delete_server(database: CellDatabase, server_id: str) -> bool:
    """Remove a hidden copy of a server for good, in one transaction.

    Hard, as nova does it: four unique keys ignore ``deleted``, so a soft-deleted leftover would keep
    the server from ever coming back to this cell.

    :returns: whether there was anything
    :raises CallFailed: ``kind`` conflict when the row is visible; nothing is deleted then
    """
    with transaction(database.engine, database.name) as connection:
        instances = database["instances"]
        row = connection.execute(_locking(instances), {"uuid": server_id}).one_or_none()
        if row is None:
            return False
        if not row.hidden:
            raise CallFailed(f"the server's row in {database.name} is visible; it is not deleted", kind="conflict")
        for name, key in DELETED_FIRST.items():
            if name in database.tables and key in database[name].c:
                connection.execute(statements.removal(database[name], key), {key: server_id})
        actions, events = database["instance_actions"], database["instance_actions_events"]
        query = statements.rows(actions, "instance_uuid", columns=("id",))
        numbers = connection.execute(query, {"instance_uuid": server_id}).scalars().all()
        # By ids, not by a subquery: MariaDB before 11.1 reads and locks the events of all servers for that.
        for at in range(0, len(numbers), ROWS_A_STATEMENT):
            part = {"action_ids": numbers[at : at + ROWS_A_STATEMENT]}
            connection.execute(_events_removal(events), part)
        connection.execute(statements.removal(actions, "instance_uuid"), {"instance_uuid": server_id})
        gone = connection.execute(_hidden_removal(instances), {"id": row.id}).rowcount
        if gone != 1:
            raise CallFailed(f"the server's row in {database.name} changed meanwhile", kind="conflict")
    return True


@functools.cache
def _locking(instances: Table) -> Query:
    return statements.rows(instances, "uuid", columns=("id", "hidden")).with_for_update()


@functools.cache
def _events_removal(events: Table) -> Delete:
    from sqlalchemy import bindparam

    return statements.removal(events).where(events.c.action_id.in_(bindparam("action_ids", expanding=True)))


@functools.cache
def _hidden_removal(instances: Table) -> Delete:
    return statements.removal(instances, "id").where(instances.c.hidden != 0)
