"""SQL on the lab's databases: one connection that may see and change everything."""

import datetime
import decimal
import json

from lab.client import layout
from lab.layout import CELLS, LOOPBACK, PASSWORD, cell_labelled

# Columns that hold JSON; they are shown parsed.
JSON_COLUMNS = {
    "network_info", "connection_info", "flavor", "migration_context", "numa_topology", "pci_requests", "vcpu_model",
    "device_metadata", "trusted_certs", "resources", "keypairs", "extra_info", "spec",
}  # fmt: skip

DEADLOCK = 1213  # ER_LOCK_DEADLOCK
PURGES = 5


def connect_database():
    """One connection that may read everything."""
    import pymysql

    return pymysql.connect(
        host=LOOPBACK,
        port=layout().port("mariadb"),
        user="lab",
        password=PASSWORD,
        autocommit=True,
        charset="utf8mb4",
        cursorclass=pymysql.cursors.DictCursor,
    )


def plain(column, value):
    """A value as JSON can hold it; JSON text is parsed."""
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if column in JSON_COLUMNS and isinstance(value, str) and value[:1] in '{["n':
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def rows(connection, statement, *values):
    """The rows of a statement, as plain dicts."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [{name: plain(name, value) for name, value in row.items()} for row in cursor.fetchall()]


def open_events(server_id, cell):
    """The events of a server's actions in one cell that have begun and not ended, by name."""
    connection = connect_database()
    try:
        found = rows(
            connection,
            f"SELECT e.event FROM nova_{cell}.instance_actions_events e JOIN nova_{cell}.instance_actions a "
            "ON a.id = e.action_id WHERE a.instance_uuid = %s AND e.finish_time IS NULL ORDER BY e.id",
            server_id,
        )
        return [row["event"] for row in found]
    finally:
        connection.close()


def is_in_task(server_id):
    """Whether nova is at work on a server, by the row that its API would show.

    Costs a hundredth of what the API takes to show the server, so a test may ask often.
    """
    connection = connect_database()
    try:
        found = rows(
            connection,
            "SELECT c.uuid FROM nova_api.instance_mappings m JOIN nova_api.cell_mappings c ON c.id = m.cell_id "
            "WHERE m.instance_uuid = %s",
            server_id,
        )
        return any(
            row["vm_state"] != "error" and (row["task_state"] or row["vm_state"] == "building")
            for cell in found
            for row in rows(
                connection,
                f"SELECT task_state, vm_state FROM nova_{cell_labelled(cell['uuid'])}.instances WHERE uuid = %s AND deleted = 0",
                server_id,
            )
        )
    finally:
        connection.close()


def port_statuses(server_id):
    """The statuses of a server's ports, as neutron knows them."""
    connection = connect_database()
    try:
        found = rows(connection, "SELECT status FROM neutron.ports WHERE device_id = %s", server_id)
        return [row["status"] for row in found]
    finally:
        connection.close()


def purge(server_id):
    """Make a server that the API no longer shows gone for good: its rows in all cells, what it holds in placement.

    A test that failed half-way may leave an instance that is hidden, or in a cell that the mapping does not point at;
    nova would count its resources for ever. Nova may be writing the same rows: a deadlock that the database ended is
    tried again.
    """
    import pymysql

    for again in reversed(range(PURGES)):
        try:
            purge_once(server_id)
            return
        except pymysql.err.OperationalError as error:
            if error.args[0] != DEADLOCK or not again:
                raise


def purge_once(server_id):
    """What `purge` does, without trying again."""
    connection = connect_database()
    try:
        consumers = {server_id}
        for cell in CELLS:
            database = f"nova_{cell}"
            held = rows(connection, f"SELECT uuid FROM {database}.migrations WHERE instance_uuid = %s", server_id)
            consumers |= {row["uuid"] for row in held if row["uuid"]}
            with connection.cursor() as cursor:
                cursor.execute(
                    f"UPDATE {database}.instances SET deleted = id, deleted_at = UTC_TIMESTAMP() "
                    "WHERE uuid = %s AND deleted = 0",
                    (server_id,),
                )
                cursor.execute(
                    # One in error that has no instance would keep the host's resource tracker from starting.
                    f"UPDATE {database}.migrations SET deleted = id, deleted_at = UTC_TIMESTAMP() "
                    "WHERE instance_uuid = %s AND deleted = 0",
                    (server_id,),
                )
        with connection.cursor() as cursor:
            for consumer in consumers:
                cursor.execute("DELETE FROM placement.allocations WHERE consumer_id = %s", (consumer,))
                cursor.execute("DELETE FROM placement.consumers WHERE uuid = %s", (consumer,))
    finally:
        connection.close()
