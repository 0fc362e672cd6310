"""Tables like nova's in SQLite, their rows, and another writer who changes one at the worst moment."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.pool import StaticPool

from cellmove.db.tables import CellDatabase

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as nova's tables hold it
LATER = NOW + datetime.timedelta(minutes=1)
SERVER = "server-1"
OTHER = "server-2"

Rows = list[dict[str, Any]]


def add_table(metadata: MetaData, name: str, *columns: str, key: str = "instance_uuid") -> None:
    """A table with the columns that all of nova's have."""
    Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column(key, String(36)),
        Column("deleted", Integer),  # nova's schema has no default either
        Column("deleted_at", DateTime),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
        *(Column(column, DateTime if column.endswith("_time") else Text) for column in columns),
    )


def make_cell(name: str, *, extra_column: bool = True) -> CellDatabase:
    """A cell's database, empty.

    :param extra_column: whether instance_extra has the column keypairs
    """
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata = MetaData()
    add_table(metadata, "instances", "host", "task_state", "vm_state", "display_name", "locked", key="uuid")
    instances = metadata.tables["instances"]
    instances.append_column(Column("hidden", Integer))
    instances.append_column(Column("compute_id", Integer))
    add_table(metadata, "instance_extra", "flavor", "migration_context", *(["keypairs"] if extra_column else []))
    add_table(metadata, "instance_info_caches", "network_info")
    add_table(metadata, "instance_metadata", "key", "value")
    add_table(metadata, "instance_system_metadata", "key", "value")
    add_table(
        metadata, "block_device_mapping", "uuid", "volume_id", "destination_type", "attachment_id", "connection_info",
        "device_name", "delete_on_termination",
    )  # fmt: skip
    add_table(metadata, "virtual_interfaces", "address")
    Table(
        "tags",
        metadata,
        Column("resource_id", String(36), primary_key=True),
        Column("tag", String(80), primary_key=True),
    )
    add_table(metadata, "instance_actions", "action", "request_id", "user_id", "project_id", "start_time", "message")
    add_table(
        metadata, "instance_actions_events", "event", "host", "result", "start_time", "finish_time", "details",
        key="unused",
    )  # fmt: skip
    metadata.tables["instance_actions_events"].append_column(Column("action_id", Integer))
    add_table(metadata, "migrations", "uuid", "status", "dest_compute")
    metadata.tables["migrations"].append_column(Column("dest_compute_id", Integer))
    add_table(metadata, "instance_faults", "message", "code")
    add_table(metadata, "instance_id_mappings", key="uuid")
    add_table(metadata, "console_auth_tokens", "token_hash")
    add_table(metadata, "consoles", "port")
    add_table(metadata, "security_group_instance_association", "security_group_id")
    add_table(metadata, "services", "binary", "version", key="host")
    metadata.create_all(engine)
    return CellDatabase(name, engine, dict(metadata.tables))


def put(database: CellDatabase, name_of_table: str, **values: Any) -> int:
    """Insert a row, live and visible unless told otherwise; its id."""
    values = {name: 0 for name in ("deleted", "hidden") if name in database[name_of_table].c} | values
    with database.engine.begin() as connection:
        key = connection.execute(insert(database[name_of_table]).values(values)).inserted_primary_key
        return int(key[0] or 0) if key else 0


def rows(database: CellDatabase, name: str) -> Rows:
    """All rows of a table."""
    with database.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(*database[name].c))]


def content(database: CellDatabase) -> dict[str, Rows]:
    """All rows of all tables, to be compared with those of another moment."""
    return {name: rows(database, name) for name in database.tables}


@contextmanager
def another_writer(engine: Engine, before: str, change: str) -> Iterator[list[str]]:
    """Somebody else's statement, executed just before the first one of ours that begins so.

    :returns: the statement of ours, when it came
    """
    came: list[str] = []

    def on_execute(_connection: Any, cursor: Any, statement: str, *_others: Any) -> None:
        if not came and statement.startswith(before):
            came.append(statement)
            cursor.connection.execute(change)

    event.listen(engine, "before_cursor_execute", on_execute)
    try:
        yield came
    finally:
        event.remove(engine, "before_cursor_execute", on_execute)


@contextmanager
def rolled_back(database: CellDatabase) -> Iterator[Connection]:
    """A transaction that never commits: what was written in it must not be there afterwards."""
    with database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()
