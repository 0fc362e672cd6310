"""One server's rows: copied to another cell in one transaction, and removed for good.

Rows are copied raw, by reflection, so that nothing depends on what an object happened to have
loaded: native cross-cell moves lose keypairs, NUMA topologies, PCI requests, faults and the port part
of VIF addresses exactly there (nova bugs 2108974 and the TODOs of TargetDBSetupTask).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellmove.db.history import inserted_id
from cellmove.db.state import transaction
from cellmove.db.tables import CellDatabase
from cellmove.errors import CallFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

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

Rows = dict[str, list[dict[str, Any]]]


def read_rows(database: CellDatabase, server_id: str) -> Rows:
    """All live rows of a server in one consistent look."""
    from sqlalchemy import select

    rows: Rows = {}
    with transaction(database.engine, database.name) as connection:
        for name, key in KEYS.items():
            if name not in database.tables:
                continue
            table = database[name]
            query = select(table).where(table.c[key] == server_id)
            if "deleted" in table.c:
                query = query.where(table.c.deleted == 0)
            order = table.c.id if "id" in table.c else table.c[key]
            rows[name] = [dict(row._mapping) for row in connection.execute(query.order_by(order))]
        events = database["instance_actions_events"]
        action_ids = [row["id"] for row in rows["instance_actions"]]
        query = select(events).where(events.c.action_id.in_(action_ids), events.c.deleted == 0)
        found = connection.execute(query.order_by(events.c.id)) if action_ids else ()
        rows["instance_actions_events"] = [dict(row._mapping) for row in found]
    return rows


def removed_devices(database: CellDatabase, server_id: str) -> list[str]:
    """UUIDs of block devices that were taken off the server in this cell (nova keeps their rows as deleted)."""
    from sqlalchemy import select

    table = database["block_device_mapping"]
    query = select(table.c.uuid).where(table.c.instance_uuid == server_id, table.c.deleted != 0)
    with transaction(database.engine, database.name) as connection:
        return [row.uuid for row in connection.execute(query) if row.uuid]


def copy_server(
    source: CellDatabase, target: CellDatabase, server_id: str, *, migration_uuid: str,
    new_flavor: Mapping[str, Any],
) -> dict[str, int]:  # fmt: skip
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
    from sqlalchemy import select

    table = database["migrations"]
    query = select(table.c.id).where(table.c.uuid == migration_uuid, table.c.instance_uuid == server_id)
    return connection.execute(query).first() is not None


def _adapted(name: str, row: Mapping[str, Any], new_flavor: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(row)
    if name == "instances":
        values |= {"hidden": 1, "compute_id": None}
    elif name == "instance_extra":
        flavors = json.loads(values["flavor"]) | {"new": dict(new_flavor)}
        values |= {"migration_context": None, "flavor": json.dumps(flavors)}
    elif name == "block_device_mapping" and values.get("destination_type") == "volume":
        values |= {"attachment_id": None, "connection_info": None}
    elif name == "migrations":
        values["dest_compute_id"] = None
    return values


def _insert(connection: Connection, database: CellDatabase, name: str, rows: list[dict[str, Any]]) -> None:
    from sqlalchemy import insert

    fitting = [_fit(database, name, row) for row in rows]
    connection.execute(insert(database[name]), fitting)


def _fit(database: CellDatabase, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without its id, in the target's columns.

    :raises CallFailed: when a value would be lost because the target's schema has no column for it
    """
    table = database[name]
    lost = [column for column, value in row.items() if column not in table.c and value not in (None, 0, "")]
    if lost:
        raise CallFailed(f"{name} in {database.name} has no column {', '.join(lost)}, which holds data", kind="schema")
    return {column: value for column, value in row.items() if column in table.c and column != "id"}


def _insert_actions(connection: Connection, database: CellDatabase, rows: Rows) -> None:
    from sqlalchemy import insert

    new_ids: dict[int, int] = {}
    for row in rows["instance_actions"]:
        result = connection.execute(
            insert(database["instance_actions"]).values(_fit(database, "instance_actions", row))
        )
        new_ids[row["id"]] = inserted_id(result)
    events = [row | {"action_id": new_ids[row["action_id"]]} for row in rows["instance_actions_events"]]
    if events:
        _insert(connection, database, "instance_actions_events", events)


def _insert_id_mappings(connection: Connection, database: CellDatabase, rows: list[dict[str, Any]]) -> None:
    """Keep the EC2 id (the metadata service shows it as instance-id) where it is free in the target."""
    from sqlalchemy import insert, select

    if "instance_id_mappings" not in database.tables:
        return
    table = database["instance_id_mappings"]
    for row in rows:
        values = _fit(database, "instance_id_mappings", row)
        taken = connection.execute(select(table.c.id).where(table.c.id == row["id"])).first()
        if taken is None:
            values["id"] = row["id"]
        connection.execute(insert(table).values(values))


LABELS: Mapping[str, str] = {"instance_metadata": "instance_uuid", "tags": "resource_id"}
"""What an owner hangs on a server, and may change while it is being moved."""


def copy_labels(source: CellDatabase, target: CellDatabase, server_id: str, connection: Connection) -> None:
    """Make metadata and tags in the target what they are in the source now.

    :param connection: of the target
    """
    from sqlalchemy import delete

    rows = read_rows(source, server_id)
    for name, key in LABELS.items():
        connection.execute(delete(target[name]).where(target[name].c[key] == server_id))
        if rows.get(name):
            _insert(connection, target, name, rows[name])


def delete_server(database: CellDatabase, server_id: str) -> bool:
    """Remove a hidden copy of a server for good, in one transaction.

    Hard, as nova does it: four unique keys ignore ``deleted``, so a soft-deleted leftover would keep
    the server from ever coming back to this cell.

    :returns: whether there was anything
    :raises CallFailed: ``kind`` conflict when the row is visible; nothing is deleted then
    """
    from sqlalchemy import delete, select

    with transaction(database.engine, database.name) as connection:
        instances = database["instances"]
        row = connection.execute(
            select(instances.c.id, instances.c.hidden).where(instances.c.uuid == server_id).with_for_update()
        ).one_or_none()
        if row is None:
            return False
        if not row.hidden:
            raise CallFailed(f"the server's row in {database.name} is visible; it is not deleted", kind="conflict")
        for name, key in DELETED_FIRST.items():
            if name in database.tables and key in database[name].c:
                connection.execute(delete(database[name]).where(database[name].c[key] == server_id))
        actions, events = database["instance_actions"], database["instance_actions_events"]
        mine = select(actions.c.id).where(actions.c.instance_uuid == server_id)
        connection.execute(delete(events).where(events.c.action_id.in_(mine)))
        connection.execute(delete(actions).where(actions.c.instance_uuid == server_id))
        gone = connection.execute(delete(instances).where(instances.c.id == row.id, instances.c.hidden != 0)).rowcount
        if gone != 1:
            raise CallFailed(f"the server's row in {database.name} changed meanwhile", kind="conflict")
    return True
