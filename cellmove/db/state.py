"""State writes: instance, migration, mapping, request spec. Compare-and-swap, its row count checked.

Each function is one transaction unless it takes a connection. A swap that finds its new values
already there is content: that is what makes repeating one harmless.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellmove.core.errors import CallFailed, NotFound
from cellmove.db import statements
from cellmove.db.engines import translate_errors
from cellmove.db.shapes import object_fields, read_object, unreadable
from cellmove.db.tables import CellDatabase
from cellmove.db.types import Record, Values

if TYPE_CHECKING:
    from sqlalchemy import Connection, Delete, Engine, Table, TableClause, Update
    from sqlalchemy.sql.elements import ColumnElement


@contextmanager
def transaction(engine: Engine, whose: str) -> Iterator[Connection]:
    """One transaction, its errors translated.

    :param whose: the database's name in messages
    """
    with translate_errors(f"database of {whose}"), engine.begin() as connection:
        yield connection


def present(table: Table, values: Values) -> Record:
    """The values whose columns this schema has (older releases lack some, such as compute_id)."""
    return {name: value for name, value in values.items() if name in table.c}


# instances


def read_instance(database: CellDatabase, server_id: str) -> Record | None:
    """The live row of a server in this cell, or None."""
    query = statements.rows(database["instances"], "uuid", "deleted")
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query, {"uuid": server_id, "deleted": 0}).one_or_none()
    return None if row is None else dict(row._mapping)


def swap_instance(
    database: CellDatabase,
    server_id: str,
    expected: Values,
    values: Values,
    now: datetime.datetime,
    connection: Connection | None = None,
    *,
    content: bool = True,
) -> None:
    """Change an instance's row if it is as expected, or already changed.

    :param content: whether finding the new values there already will do
    :raises CallFailed: ``kind`` conflict when another process changed it meanwhile
    """
    if connection is None:
        with transaction(database.engine, database.name) as own:
            swap_instance(database, server_id, expected, values, now, own, content=content)
        return
    table, key = database["instances"], {"uuid": server_id, "deleted": 0}
    _swap(connection, database.name, table, key, expected, values, now, "the server", content)


WAS = "was_"
"""What the names of a swap's expected values begin with."""


@functools.cache
def _swap_statement(table: Table, key: tuple[str, ...], expected: tuple[str, ...], nullable: tuple[str, ...]) -> Update:
    """A compare-and-swap. Any of the values that are sent for an expected column will do.

    :param nullable: the columns of the expected ones for which NULL will do as well
    """
    from sqlalchemy import bindparam

    clauses: list[ColumnElement[bool]] = []
    for name in expected:
        column = table.c[name]
        clause = column.in_(bindparam(WAS + name, expanding=True))
        clauses.append(clause | column.is_(None) if name in nullable else clause)
    return statements.change(table, *key).where(*clauses)


def _swap(
    connection: Connection,
    whose: str,
    table: Table,
    key: Values,
    expected: Values,
    values: Values,
    now: datetime.datetime,
    what: str,
    content: bool,
) -> None:
    values = present(table, values)
    choices = {name: value if isinstance(value, tuple) else (value,) for name, value in expected.items()}
    known = {name: [each for each in wanted if each is not None] for name, wanted in choices.items()}
    nullable = tuple(name for name, wanted in choices.items() if None in wanted)
    swap = _swap_statement(table, tuple(key), tuple(known), nullable)
    changed = connection.execute(
        swap,
        {**values, "updated_at": now, **statements.keyed(**key), **{WAS + name: each for name, each in known.items()}},
    ).rowcount
    if changed == 1:
        return
    names = tuple(sorted(set(expected) | set(values)))
    row = connection.execute(statements.rows(table, *key, columns=names), key).one_or_none()
    if row is None:
        raise NotFound(f"{what} has no live row in {whose}")
    found = dict(row._mapping)
    if content and values and all(found[name] == value for name, value in values.items()):
        return
    seen = ", ".join(f"{name}={found[name]!r}" for name in sorted(expected) if name in found)
    raise CallFailed(f"{what} was changed by another process in {whose}: found {seen}", kind="conflict")


CARRIED_OVER = ("display_name", "display_description", "hostname", "locked", "locked_by")
"""What an owner may change in every state, so also while the other cell's row is the one that will count."""


def carry_over(
    connection: Connection, database: CellDatabase, server_id: str, instance: Values, now: datetime.datetime
) -> None:
    """Give a cell's row what its owner changed in the other cell's since it was copied.

    :param instance: the other cell's row
    """
    swap_instance(database, server_id, {}, owners_part(instance), now, connection)


def owners_part(instance: Values) -> Record:
    """Those columns of a row, of :data:`CARRIED_OVER`, that this schema has."""
    return {name: instance[name] for name in CARRIED_OVER if name in instance}


# system metadata and extra


def read_system_metadata(database: CellDatabase, server_id: str) -> dict[str, str]:
    """The live system_metadata of a server."""
    table = database["instance_system_metadata"]
    query = statements.rows(table, "instance_uuid", "deleted", columns=("key", "value"))
    with transaction(database.engine, database.name) as connection:
        rows = connection.execute(query, {"instance_uuid": server_id, "deleted": 0})
        return {row.key: row.value for row in rows}


def set_system_metadata(
    connection: Connection,
    database: CellDatabase,
    server_id: str,
    key: str,
    value: str | None,
    now: datetime.datetime,
) -> None:
    """Set one key, or remove it (None).

    Removing is a hard delete, as nova does it (_instance_metadata_update_in_place): soft-deleted
    rows would come back as second values when deleted records are read.
    """
    table = database["instance_system_metadata"]
    mine = {"instance_uuid": server_id, "key": key}
    if value is None:
        connection.execute(statements.removal(table, *mine), mine)
        return
    live = mine | {"deleted": 0}
    found = connection.execute(statements.rows(table, *live, columns=("value",)), live).first()
    if found is not None and found.value == value:
        return  # nova writes only what changed, too
    if found is not None:
        change = {"value": value, "updated_at": now}
        connection.execute(statements.change(table, *live), change | statements.keyed(**live))
    else:
        connection.execute(statements.insertion(table), {**live, "value": value, "created_at": now})


def remove_system_metadata(
    connection: Connection, database: CellDatabase, server_id: str, keys: Collection[str]
) -> None:
    """Remove keys for good (see :func:`set_system_metadata`); those that are not there are fine."""
    query = _keys_removal(database["instance_system_metadata"])
    connection.execute(query, {"instance_uuid": server_id, "keys": list(keys)})


@functools.cache
def _keys_removal(system_metadata: Table) -> Delete:
    from sqlalchemy import bindparam

    mine = statements.removal(system_metadata, "instance_uuid")
    return mine.where(system_metadata.c.key.in_(bindparam("keys", expanding=True)))


def read_extra(database: CellDatabase, server_id: str) -> Record:
    """The live instance_extra row of a server; empty when there is none."""
    query = statements.rows(database["instance_extra"], "instance_uuid", "deleted", order=("id",))
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query, {"instance_uuid": server_id, "deleted": 0}).first()
    return {} if row is None else dict(row._mapping)


def set_extra(
    connection: Connection, database: CellDatabase, server_id: str, values: Values, now: datetime.datetime
) -> None:
    """Change columns of a server's instance_extra row. There must never be a second row."""
    table, key = database["instance_extra"], {"instance_uuid": server_id, "deleted": 0}
    change = {**present(table, values), "updated_at": now}
    connection.execute(statements.change(table, *key), change | statements.keyed(**key))


def set_flavors(
    connection: Connection,
    database: CellDatabase,
    server_id: str,
    *,
    old: Values | None,
    new: Values | None,
    now: datetime.datetime,
) -> None:
    """Set the stashed old and new flavor beside the current one (nova/objects/instance.py, _save_flavor)."""
    query = statements.rows(database["instance_extra"], "instance_uuid", "deleted", columns=("flavor",))
    text = connection.execute(query, {"instance_uuid": server_id, "deleted": 0}).scalar()
    if text is None:
        raise NotFound("the server has no live instance_extra row")
    flavors = read_object(text, "instance_extra.flavor")
    flavors |= {"old": old, "new": new}
    set_extra(connection, database, server_id, {"flavor": json.dumps(flavors)}, now)


def current_flavor(extra: Values) -> Record:
    """The primitive of the flavor that an instance_extra row says the server has.

    :raises NotFound: there is no row: the server was deleted
    """
    if not extra:
        raise NotFound("the server has no live instance_extra row")
    flavor = read_object(extra["flavor"], "instance_extra.flavor").get("cur")
    if not isinstance(flavor, dict) or "nova_object.data" not in flavor:
        raise unreadable("instance_extra.flavor")
    return flavor


# migrations


def read_migration(database: CellDatabase, migration_uuid: str) -> Record | None:
    """One migration record of this cell, or None."""
    query = statements.rows(database["migrations"], "uuid", "deleted")
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query, {"uuid": migration_uuid, "deleted": 0}).one_or_none()
    return None if row is None else dict(row._mapping)


def insert_migration(database: CellDatabase, values: Values, now: datetime.datetime) -> None:
    """Insert a migration record unless one with its uuid is there already."""
    table = database["migrations"]
    query = statements.rows(table, "uuid", columns=("id",))
    with transaction(database.engine, database.name) as connection:
        if connection.execute(query, {"uuid": values["uuid"]}).first() is None:
            fresh = {**present(table, values), "created_at": now, "deleted": 0}
            connection.execute(statements.insertion(table), fresh)


def swap_migration(
    database: CellDatabase,
    migration_uuid: str,
    expected: Values,
    values: Values,
    now: datetime.datetime,
    connection: Connection | None = None,
    *,
    content: bool = True,
) -> None:
    """Change a migration record if it is as expected, or already changed (see :func:`swap_instance`)."""
    if connection is None:
        with transaction(database.engine, database.name) as own:
            swap_migration(database, migration_uuid, expected, values, now, own, content=content)
        return
    table, key = database["migrations"], {"uuid": migration_uuid, "deleted": 0}
    _swap(connection, database.name, table, key, expected, values, now, "the migration", content)


# block device mappings


def volume_mappings(database: CellDatabase, server_id: str) -> list[Record]:
    """The live volume BDMs of a server: id, uuid, volume_id, attachment_id, device_name, delete_on_termination."""
    key = {"instance_uuid": server_id, "deleted": 0, "destination_type": "volume"}
    names = ("id", "uuid", "volume_id", "attachment_id", "device_name", "delete_on_termination")
    query = statements.rows(database["block_device_mapping"], *key, columns=names, order=("id",))
    with transaction(database.engine, database.name) as connection:
        return [dict(row._mapping) for row in connection.execute(query, key)]


def set_attachment(database: CellDatabase, mapping_id: int, attachment_id: str | None, now: datetime.datetime) -> None:
    """Point a BDM at another attachment. Its connection_info stays, as nova leaves it (see :mod:`cellmove.db.mappings`)."""
    query = statements.change(database["block_device_mapping"], "id")
    values = {"attachment_id": attachment_id, "updated_at": now, **statements.keyed(id=mapping_id)}
    with transaction(database.engine, database.name) as connection:
        connection.execute(query, values)


# services


def read_service(database: CellDatabase, host: str, binary: str = "nova-compute") -> Record | None:
    """The services row of a host in this cell, or None."""
    query = statements.rows(database["services"], "host", "binary", "deleted")
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query, {"host": host, "binary": binary, "deleted": 0}).first()
    return None if row is None else dict(row._mapping)


# the API database


def api_table(engine: Engine, name: str) -> Table:
    """A table of the API database, reflected."""
    from sqlalchemy import MetaData, Table

    with translate_errors("API database"):
        return Table(name, MetaData(), autoload_with=engine, resolve_fks=False)


def mapped_cell(engine: Engine, server_id: str) -> int | None:
    """The id of the cell that a server's instance mapping points at."""
    query = statements.rows(_mappings(), "instance_uuid", columns=("cell_id",))
    with transaction(engine, "the API") as connection:
        cell_id: int | None = connection.execute(query, {"instance_uuid": server_id}).scalar()
    return cell_id


@functools.cache
def _mappings() -> TableClause:
    from sqlalchemy import column, table

    return table("instance_mappings", column("cell_id"), column("instance_uuid"), column("updated_at"))


@functools.cache
def _specs() -> TableClause:
    from sqlalchemy import column, table

    return table("request_specs", column("spec"), column("instance_uuid"), column("updated_at"))


def swap_mapping(engine: Engine, server_id: str, source: int, target: int, now: datetime.datetime) -> None:
    """Point a server's instance mapping at another cell: the pivot of a move.

    :param source: id of the cell that it must point at now (or it already points at the target)
    :raises CallFailed: ``kind`` conflict when it points anywhere else
    """
    key = {"instance_uuid": server_id, "cell_id": source}
    values = {"cell_id": target, "updated_at": now, **statements.keyed(**key)}
    with transaction(engine, "the API") as connection:
        changed = connection.execute(statements.change(_mappings(), *key), values).rowcount
    if changed != 1 and mapped_cell(engine, server_id) != target:
        raise CallFailed(
            "the server's instance mapping points neither at the source cell nor at the target", kind="conflict"
        )


def read_request_spec(engine: Engine, server_id: str) -> Record:
    """The stored request spec of a server, as an object primitive.

    :raises NotFound: it has none
    :raises CallFailed: it cannot be read; ``kind`` is ``unreadable``
    """
    query = statements.rows(_specs(), "instance_uuid", columns=("spec",))
    with transaction(engine, "the API") as connection:
        text = connection.execute(query, {"instance_uuid": server_id}).scalar()
    if text is None:
        raise NotFound("the server has no request spec in the API database")
    spec = read_object(text, "request_specs.spec")
    if not object_fields(spec):
        raise unreadable("request_specs.spec")
    return spec


def write_request_spec(engine: Engine, server_id: str, spec: Values, now: datetime.datetime) -> None:
    """Store a request spec; what belongs to a single request must have been taken out."""
    values = {"spec": json.dumps(spec), "updated_at": now, **statements.keyed(instance_uuid=server_id)}
    with transaction(engine, "the API") as connection:
        changed = connection.execute(statements.change(_specs(), "instance_uuid"), values).rowcount
    if changed != 1:
        raise NotFound("the server has no request spec in the API database")
