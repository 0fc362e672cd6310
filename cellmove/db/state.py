"""State writes: instance, migration, mapping, request spec. Compare-and-swap, its row count checked.

Each function is one transaction unless it takes a connection. A swap that finds its new values
already there is content: that is what makes repeating one harmless.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cellmove.db.cells import translate_errors
from cellmove.db.tables import CellDatabase
from cellmove.errors import CallFailed, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.sql.elements import ColumnElement


@contextmanager
def transaction(engine: Engine, whose: str) -> Iterator[Connection]:
    """One transaction, its errors translated.

    :param whose: the database's name in messages
    """
    with translate_errors(f"database of {whose}"), engine.begin() as connection:
        yield connection


def conditions(table: Table, expected: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """WHERE clauses for the expected values; a tuple means any of them, None is NULL."""
    clauses: list[ColumnElement[bool]] = []
    for name, value in expected.items():
        column = table.c[name]
        choices = value if isinstance(value, tuple) else (value,)
        clause: ColumnElement[bool] = column.in_([choice for choice in choices if choice is not None])
        if None in choices:
            clause = clause | column.is_(None)
        clauses.append(clause)
    return clauses


def present(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose columns this schema has (older releases lack some, such as compute_id)."""
    return {name: value for name, value in values.items() if name in table.c}


# instances


def read_instance(database: CellDatabase, server_id: str) -> dict[str, Any] | None:
    """The live row of a server in this cell, or None."""
    from sqlalchemy import select

    table = database["instances"]
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(select(table).where(table.c.uuid == server_id, table.c.deleted == 0)).one_or_none()
    return None if row is None else dict(row._mapping)


def swap_instance(
    database: CellDatabase, server_id: str, expected: Mapping[str, Any], values: Mapping[str, Any],
    now: datetime.datetime, connection: Connection | None = None, *, content: bool = True,
) -> None:  # fmt: skip
    """Change an instance's row if it is as expected, or already changed.

    :param content: whether finding the new values there already will do
    :raises CallFailed: ``kind`` conflict when somebody else changed it meanwhile
    """
    if connection is None:
        with transaction(database.engine, database.name) as own:
            swap_instance(database, server_id, expected, values, now, own, content=content)
        return
    table, key = database["instances"], {"uuid": server_id, "deleted": 0}
    _swap(connection, database.name, table, key, expected, values, now, "the server", content)


def _swap(
    connection: Connection, whose: str, table: Table, key: Mapping[str, Any], expected: Mapping[str, Any],
    values: Mapping[str, Any], now: datetime.datetime, what: str, content: bool = True,
) -> None:  # fmt: skip
    from sqlalchemy import select, update

    values = present(table, values)
    where = conditions(table, key)
    changed = connection.execute(
        update(table).where(*where, *conditions(table, expected)).values(**values, updated_at=now)
    ).rowcount
    if changed == 1:
        return
    names = sorted(set(expected) | set(values))
    row = connection.execute(select(*(table.c[name] for name in names)).where(*where)).one_or_none()
    if row is None:
        raise NotFound(f"{what} has no live row in {whose}")
    found = dict(row._mapping)
    if content and values and all(found[name] == value for name, value in values.items()):
        return
    seen = ", ".join(f"{name}={found[name]!r}" for name in sorted(expected) if name in found)
    raise CallFailed(f"{what} was changed by somebody else in {whose}: found {seen}", kind="conflict")


CARRIED_OVER = ("display_name", "display_description", "hostname", "locked", "locked_by")
"""What an owner may change in every state, so also while the other cell's row is the one that will count."""


def carry_over(
    connection: Connection, database: CellDatabase, server_id: str, instance: Mapping[str, Any], now: datetime.datetime
) -> None:
    """Give a cell's row what its owner changed in the other cell's since it was copied.

    :param instance: the other cell's row
    """
    swap_instance(database, server_id, {}, owners_part(instance), now, connection)


def owners_part(instance: Mapping[str, Any]) -> dict[str, Any]:
    """Those columns of a row, of :data:`CARRIED_OVER`, that this schema has."""
    return {name: instance[name] for name in CARRIED_OVER if name in instance}


# system metadata and extra


def read_system_metadata(database: CellDatabase, server_id: str) -> dict[str, str]:
    """The live system_metadata of a server."""
    from sqlalchemy import select

    table = database["instance_system_metadata"]
    with transaction(database.engine, database.name) as connection:
        rows = connection.execute(
            select(table.c.key, table.c.value).where(table.c.instance_uuid == server_id, table.c.deleted == 0)
        )
        return {row.key: row.value for row in rows}


def set_system_metadata(
    connection: Connection, database: CellDatabase, server_id: str, key: str, value: str | None,
    now: datetime.datetime,
) -> None:  # fmt: skip
    """Set one key, or remove it (None).

    Removing is a hard delete, as nova does it (_instance_metadata_update_in_place): soft-deleted
    rows would come back as second values when deleted records are read.
    """
    from sqlalchemy import delete, insert, select, update

    table = database["instance_system_metadata"]
    mine = (table.c.instance_uuid == server_id, table.c.key == key)
    if value is None:
        connection.execute(delete(table).where(*mine))
        return
    found = connection.execute(select(table.c.value).where(*mine, table.c.deleted == 0)).first()
    if found is not None and found.value == value:
        return  # nova writes only what changed, too
    if found is not None:
        connection.execute(update(table).where(*mine, table.c.deleted == 0).values(value=value, updated_at=now))
    else:
        connection.execute(
            insert(table).values(instance_uuid=server_id, key=key, value=value, created_at=now, deleted=0)
        )


def remove_system_metadata(
    connection: Connection, database: CellDatabase, server_id: str, keys: Collection[str]
) -> None:
    """Remove keys for good (see :func:`set_system_metadata`); those that are not there are fine."""
    from sqlalchemy import delete

    table = database["instance_system_metadata"]
    connection.execute(delete(table).where(table.c.instance_uuid == server_id, table.c.key.in_(list(keys))))


def read_extra(database: CellDatabase, server_id: str) -> dict[str, Any]:
    """The live instance_extra row of a server; empty when there is none."""
    from sqlalchemy import select

    table = database["instance_extra"]
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(
            select(table).where(table.c.instance_uuid == server_id, table.c.deleted == 0).order_by(table.c.id)
        ).first()
    return {} if row is None else dict(row._mapping)


def set_extra(
    connection: Connection, database: CellDatabase, server_id: str, values: Mapping[str, Any], now: datetime.datetime
) -> None:
    """Change columns of a server's instance_extra row. There must never be a second row."""
    from sqlalchemy import update

    table = database["instance_extra"]
    connection.execute(
        update(table)
        .where(table.c.instance_uuid == server_id, table.c.deleted == 0)
        .values(**present(table, values), updated_at=now)
    )


def set_flavors(
    connection: Connection, database: CellDatabase, server_id: str, *, old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None, now: datetime.datetime,
) -> None:  # fmt: skip
    """Set the stashed old and new flavor beside the current one (nova/objects/instance.py, _save_flavor)."""
    from sqlalchemy import select

    table = database["instance_extra"]
    text = connection.execute(
        select(table.c.flavor).where(table.c.instance_uuid == server_id, table.c.deleted == 0)
    ).scalar()
    if text is None:
        raise NotFound("the server has no live instance_extra row")
    flavors = json.loads(text)
    flavors |= {"old": old, "new": new}
    set_extra(connection, database, server_id, {"flavor": json.dumps(flavors)}, now)


def current_flavor(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The primitive of the flavor that an instance_extra row says the server has.

    :raises NotFound: there is no row: the server was deleted
    """
    if not extra:
        raise NotFound("the server has no live instance_extra row")
    flavor: dict[str, Any] = json.loads(extra["flavor"])["cur"]
    return flavor


# migrations


def read_migration(database: CellDatabase, migration_uuid: str) -> dict[str, Any] | None:
    """One migration record of this cell, or None."""
    from sqlalchemy import select

    table = database["migrations"]
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(
            select(table).where(table.c.uuid == migration_uuid, table.c.deleted == 0)
        ).one_or_none()
    return None if row is None else dict(row._mapping)


def insert_migration(database: CellDatabase, values: Mapping[str, Any], now: datetime.datetime) -> None:
    """Insert a migration record unless one with its uuid is there already."""
    from sqlalchemy import insert, select

    table = database["migrations"]
    with transaction(database.engine, database.name) as connection:
        known = connection.execute(select(table.c.id).where(table.c.uuid == values["uuid"])).first()
        if known is None:
            connection.execute(insert(table).values(**present(table, values), created_at=now, deleted=0))


def swap_migration(
    database: CellDatabase, migration_uuid: str, expected: Mapping[str, Any], values: Mapping[str, Any],
    now: datetime.datetime, connection: Connection | None = None, *, content: bool = True,
) -> None:  # fmt: skip
    """Change a migration record if it is as expected, or already changed (see :func:`swap_instance`)."""
    if connection is None:
        with transaction(database.engine, database.name) as own:
            swap_migration(database, migration_uuid, expected, values, now, own, content=content)
        return
    table, key = database["migrations"], {"uuid": migration_uuid, "deleted": 0}
    _swap(connection, database.name, table, key, expected, values, now, "the migration", content)


# block device mappings


def volume_mappings(database: CellDatabase, server_id: str) -> list[dict[str, Any]]:
    """The live volume BDMs of a server: id, uuid, volume_id, attachment_id, device_name, delete_on_termination."""
    from sqlalchemy import select

    table = database["block_device_mapping"]
    names = ("id", "uuid", "volume_id", "attachment_id", "device_name", "delete_on_termination")
    columns = [table.c[name] for name in names]
    with transaction(database.engine, database.name) as connection:
        rows = connection.execute(
            select(*columns)
            .where(table.c.instance_uuid == server_id, table.c.deleted == 0, table.c.destination_type == "volume")
            .order_by(table.c.id)
        )
        return [dict(row._mapping) for row in rows]


def set_attachment(database: CellDatabase, mapping_id: int, attachment_id: str | None, now: datetime.datetime) -> None:
    """Point a BDM at another attachment. Its connection_info stays, as nova leaves it (see :mod:`cellmove.db.mappings`)."""
    from sqlalchemy import update

    table = database["block_device_mapping"]
    with transaction(database.engine, database.name) as connection:
        connection.execute(
            update(table).where(table.c.id == mapping_id).values(attachment_id=attachment_id, updated_at=now)
        )


# services


def read_service(database: CellDatabase, host: str, binary: str = "nova-compute") -> dict[str, Any] | None:
    """The services row of a host in this cell, or None."""
    from sqlalchemy import select

    table = database["services"]
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(
            select(table).where(table.c.host == host, table.c.binary == binary, table.c.deleted == 0)
        ).first()
    return None if row is None else dict(row._mapping)


# the API database


def api_table(engine: Engine, name: str) -> Table:
    """A table of the API database, reflected."""
    from sqlalchemy import MetaData, Table

    with translate_errors("API database"):
        return Table(name, MetaData(), autoload_with=engine, resolve_fks=False)


def mapped_cell(engine: Engine, server_id: str) -> int | None:
    """The id of the cell that a server's instance mapping points at."""
    from sqlalchemy import column, select, table

    mappings = table("instance_mappings", column("cell_id"), column("instance_uuid"))
    with transaction(engine, "the API") as connection:
        cell_id: int | None = connection.execute(
            select(mappings.c.cell_id).where(mappings.c.instance_uuid == server_id)
        ).scalar()
    return cell_id


def swap_mapping(engine: Engine, server_id: str, source: int, target: int, now: datetime.datetime) -> None:
    """Point a server's instance mapping at another cell: the pivot of a move.

    :param source: id of the cell that it must point at now (or it already points at the target)
    :raises CallFailed: ``kind`` conflict when it points anywhere else
    """
    from sqlalchemy import column, table, update

    mappings = table("instance_mappings", column("cell_id"), column("instance_uuid"), column("updated_at"))
    with transaction(engine, "the API") as connection:
        changed = connection.execute(
            update(mappings)
            .where(mappings.c.instance_uuid == server_id, mappings.c.cell_id == source)
            .values(cell_id=target, updated_at=now)
        ).rowcount
    if changed != 1 and mapped_cell(engine, server_id) != target:
        raise CallFailed(
            "the server's instance mapping points neither at the source cell nor at the target", kind="conflict"
        )


def read_request_spec(engine: Engine, server_id: str) -> dict[str, Any]:
    """The stored request spec of a server, as an object primitive."""
    from sqlalchemy import column, select, table

    specs = table("request_specs", column("spec"), column("instance_uuid"))
    with transaction(engine, "the API") as connection:
        text = connection.execute(select(specs.c.spec).where(specs.c.instance_uuid == server_id)).scalar()
    if text is None:
        raise NotFound("the server has no request spec in the API database")
    spec: dict[str, Any] = json.loads(text)
    return spec


def write_request_spec(engine: Engine, server_id: str, spec: Mapping[str, Any], now: datetime.datetime) -> None:
    """Store a request spec; what belongs to a single request must have been taken out."""
    from sqlalchemy import column, table, update

    specs = table("request_specs", column("spec"), column("instance_uuid"), column("updated_at"))
    with transaction(engine, "the API") as connection:
        changed = connection.execute(
            update(specs).where(specs.c.instance_uuid == server_id).values(spec=json.dumps(spec), updated_at=now)
        ).rowcount
    if changed != 1:
        raise NotFound("the server has no request spec in the API database")
