"""What the databases say about every server of a cell, for the checks of a plan: never one query a server.

The servers come page by page; what belongs to a page's servers is asked for by their ids, a query a table.
As in :mod:`cellmove.db.look`, whose rules these are, every column is named and none may hold a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellmove.core import ownership
from cellmove.db import look, queries, records, survey
from cellmove.db.shapes import IMAGE, VTPM_SECRET, Group, MigrationRow, make_migration, object_fields, parse_json
from cellmove.db.state import transaction
from cellmove.db.survey import in_batches
from cellmove.db.types import AnyColumn, AnyRow, Query, Record

if TYPE_CHECKING:
    from sqlalchemy import Engine, FromClause

    from cellmove.db.shapes import BlockDevice
    from cellmove.db.tables import CellDatabase

PAGE = survey.BATCH
"""Servers of one page: few enough that their extras, which hold long JSON, do not matter."""

PROPERTIES = (
    "min_ram",
    "min_disk",
    "hw_tpm_version",
    "hw_firmware_type",
    "hw_firmware_stateless",
    "hw_architecture",
    "architecture",
    "hw_emulation_architecture",
    "os_secure_boot",
)
"""The properties of an image that the checks look at. All that a server has of them are ten times as many rows."""

SPEC = ("availability_zone", "is_bfv", "numa_topology")
"""The fields of a request spec that the checks look at. Whole ones, kilobytes each, are not kept."""

API = "the API"


# --- the servers of a cell ---


def mapped(api_engine: Engine, cell_id: int, ids: Collection[str] | None = None) -> dict[str, bool]:
    """The servers that are mapped to a cell, and whether each is queued for delete.

    :param ids: of these alone
    """
    from sqlalchemy import column, select, table

    found = table(
        "instance_mappings", column("id"), column("instance_uuid"), column("cell_id"), column("queued_for_delete")
    )
    query = select(found.c.id, found.c.instance_uuid, found.c.queued_for_delete).where(found.c.cell_id == cell_id)
    if ids is not None:
        rows = in_batches(api_engine, API, ids, query, found.c.instance_uuid)
        return {row.instance_uuid: bool(row.queued_for_delete) for row in rows}
    known: dict[str, bool] = {}
    last = 0
    while True:
        with transaction(api_engine, API) as connection:
            page = connection.execute(query.where(found.c.id > last).order_by(found.c.id).limit(survey.PAGE)).all()
        known |= {row.instance_uuid: bool(row.queued_for_delete) for row in page}
        if len(page) < survey.PAGE:
            return known
        last = page[-1].id


def pages(database: CellDatabase) -> Iterator[Record]:
    """Every live row of ``instances``, hidden ones too, with its extra: a page of rows by server, in their order."""
    table = database["instances"]
    query = queries.instances(database["instances"], database["instance_extra"]).order_by(table.c.uuid).limit(PAGE)
    last = ""
    while True:
        with transaction(database.engine, database.name) as connection:
            page = connection.execute(query.where(table.c.uuid > last)).all()
        if page:
            yield {row.uuid: row for row in page}
        if len(page) < PAGE:
            return
        last = page[-1].uuid


def rows_of(database: CellDatabase, ids: Collection[str]) -> Iterator[Record]:
    """As :func:`pages`, of these servers alone."""
    query, table = queries.instances(database["instances"], database["instance_extra"]), database["instances"]
    for batch in survey.batches(ids):
        yield {row.uuid: row for row in in_batches(database.engine, database.name, batch, query, table.c.uuid)}


# --- what belongs to them ---


def metadata(database: CellDatabase, ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The system metadata that the checks look at, by server."""
    from sqlalchemy import select

    table = database["instance_system_metadata"]
    wanted = [*(f"{IMAGE}{name}" for name in PROPERTIES), VTPM_SECRET, ownership.KEY]
    query = select(table.c.instance_uuid, table.c.key, table.c.value).where(
        table.c.key.in_(wanted), table.c.deleted == 0
    )
    found: dict[str, dict[str, str]] = {}
    for row in in_batches(database.engine, database.name, ids, query, table.c.instance_uuid):
        found.setdefault(row.instance_uuid, {})[row.key] = row.value or ""
    return found


def tags(database: CellDatabase, ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The tags, sorted, by server."""
    from sqlalchemy import select

    table = database["tags"]
    query = select(table.c.resource_id, table.c.tag)
    found = _by_server(in_batches(database.engine, database.name, ids, query, table.c.resource_id), "resource_id")
    return {server_id: tuple(sorted(row.tag for row in rows)) for server_id, rows in found.items()}


def devices(database: CellDatabase, ids: Collection[str]) -> dict[str, list[BlockDevice]]:
    """The block device mappings by server, the boot disk first."""
    key = database["block_device_mapping"].c.instance_uuid
    rows = in_batches(database.engine, database.name, ids, queries.devices(database["block_device_mapping"]), key)
    return {server_id: look.in_order(own) for server_id, own in _by_server(rows, "instance_uuid").items()}


def migrations(
    database: CellDatabase, ids: Collection[str], statuses: Collection[str]
) -> dict[str, list[MigrationRow]]:
    """The migration records of some statuses by server, oldest first."""
    rows = in_batches(
        database.engine,
        database.name,
        ids,
        queries.migrations(database["migrations"]).where(database["migrations"].c.status.in_(sorted(statuses))),
        database["migrations"].c.instance_uuid,
    )
    found = _by_server(rows, "instance_uuid")
    return {server_id: [make_migration(row) for row in own] for server_id, own in found.items()}


def shares(database: CellDatabase, ids: Collection[str]) -> dict[str, int]:
    """How many manila shares each server has mapped; those without any are left out."""
    from sqlalchemy import func, select

    if "share_mapping" not in database.tables:
        return {}
    key = database["share_mapping"].c.instance_uuid
    query = select(key.label("server"), func.count().label("rows")).group_by(key)
    return {row.server: row.rows for row in in_batches(database.engine, database.name, ids, query, key)}


def _rows_of_servers(database: CellDatabase, name: str) -> tuple[FromClause, AnyColumn]:
    """A table whose rows belong to servers, and the column that says to whom."""
    table = database[name]
    if name != look.EVENTS:
        return table, table.c[records.KEYS.get(name, "instance_uuid")]
    actions = database["instance_actions"]
    return table.join(actions, actions.c.id == table.c.action_id), actions.c.instance_uuid


def _by_server(rows: Iterable[AnyRow], key: str) -> dict[str, list[AnyRow]]:
    found: dict[str, list[AnyRow]] = {}
    for row in rows:
        found.setdefault(getattr(row, key), []).append(row)
    return found


# --- what the API's database knows of them ---


def building(api_engine: Engine, ids: Collection[str]) -> set[str]:
    """Those that are still being scheduled for the first time."""
    from sqlalchemy import column, select, table

    requests = table("build_requests", column("instance_uuid"))
    return {row.instance_uuid for row in in_batches(api_engine, API, ids, select(requests), requests.c.instance_uuid)}


def request_specs(api_engine: Engine, ids: Collection[str]) -> dict[str, Record]:
    """Of each server's stored request spec the fields :data:`SPEC`, in its own shape; those that cannot be read are left out.

    They are taken out here: MariaDB's JSON functions take twice as long as reading whole specs does.
    """
    from sqlalchemy import column, select, table

    specs = table("request_specs", column("instance_uuid"), column("spec"))
    found = {}
    for row in in_batches(api_engine, API, ids, select(specs), specs.c.instance_uuid):
        spec = parse_json(row.spec)
        if spec:
            fields = object_fields(spec)
            found[row.instance_uuid] = {"nova_object.data": {name: fields.get(name) for name in SPEC}}
    return found


def groups(api_engine: Engine, ids: Collection[str]) -> dict[str, Group]:
    """The server group of each server that is a member of one."""
    from sqlalchemy import column, select, table

    known = table("instance_groups", column("id"), column("uuid"), column("name"))
    members = table("instance_group_member", column("group_id"), column("instance_uuid"))
    policies = table("instance_group_policy", column("group_id"), column("policy"))
    query = select(members.c.instance_uuid, known.c.id, known.c.uuid, known.c.name, policies.c.policy).select_from(
        members.join(known, known.c.id == members.c.group_id).outerjoin(policies, policies.c.group_id == known.c.id)
    )
    found = list(in_batches(api_engine, API, ids, query, members.c.instance_uuid))
    if not found:
        return {}
    others = members.alias()
    both = members.join(others, others.c.group_id == members.c.group_id)
    wanted = select(others.c.group_id, others.c.instance_uuid).select_from(both).distinct()
    named: dict[int, set[str]] = {}
    for row in in_batches(api_engine, API, ids, wanted, members.c.instance_uuid):
        named.setdefault(row.group_id, set()).add(row.instance_uuid)
    made = {
        row.id: Group(row.uuid, row.name or "", row.policy or "", tuple(sorted(named.get(row.id, ())))) for row in found
    }
    return {row.instance_uuid: made[row.id] for row in reversed(found)}


def hosts(database: CellDatabase, ids: Collection[str]) -> dict[str, str]:
    """The hosts of those servers that are live and visible in a cell and have one."""
    from sqlalchemy import false, select

    table = database["instances"]
    query = select(table.c.uuid, table.c.host).where(
        table.c.deleted == 0, table.c.hidden == false(), table.c.host.is_not(None)
    )
    return {row.uuid: row.host for row in in_batches(database.engine, database.name, ids, query, table.c.uuid)}


# --- what waits for them in another cell ---


def unique_values(database: CellDatabase, ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The values of servers' live rows that no other row of the table may have, and whose they are; by table."""
    from sqlalchemy import select

    found: dict[str, dict[str, str]] = {}
    for name, column in look.UNIQUE:
        table = database[name]
        query = select(table.c[column].label("value"), table.c.instance_uuid).where(table.c.deleted == 0)
        rows = in_batches(database.engine, database.name, ids, query, table.c.instance_uuid)
        found[name] = {row.value: row.instance_uuid for row in rows if row.value}
    return found


def leftovers(
    target: CellDatabase, ids: Collection[str], values: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, int]]:
    """The rows in the target cell that servers' own would meet, by server and table: :func:`cellmove.db.look.leftovers`.

    :param values: :func:`unique_values` of their own rows
    """
    from sqlalchemy import func, select

    found: dict[str, dict[str, int]] = {}
    for row in _rows_there(target, ids):
        found.setdefault(row.server, {})[row.name] = row.rows
    for name, column in look.UNIQUE:
        owners, key = values[name], target[name].c[column]
        query = select(key.label("value"), func.count().label("rows")).group_by(key)
        if name == "virtual_interfaces":  # unique together with ``deleted``
            query = query.where(target[name].c.deleted == 0)
        met: dict[str, int] = {}
        for row in in_batches(target.engine, target.name, owners, query, key):
            if row.value in owners:
                met[owners[row.value]] = met.get(owners[row.value], 0) + row.rows
        for server_id, count in met.items():
            if count > found.get(server_id, {}).get(name, 0):
                found.setdefault(server_id, {})[name] = count
    return found


def _rows_there(target: CellDatabase, ids: Collection[str]) -> Iterator[AnyRow]:
    """How many rows each table has of each server, deleted ones too.

    One statement for all tables: what it costs is to name the servers, who nearly always have none.
    """
    from sqlalchemy import bindparam, func, literal, select, union_all

    wanted: Any = bindparam("ids", expanding=True)
    counts = []
    for name in (*records.KEYS, look.EVENTS):
        if name in target.tables and name not in look.HARMLESS:
            rows, key = _rows_of_servers(target, name)
            query = select(literal(name).label("name"), key.label("server"), func.count().label("rows"))
            counts.append(query.select_from(rows).where(key.in_(wanted)).group_by(key))
    for batch in survey.batches(ids):
        with transaction(target.engine, target.name) as connection:
            found = connection.execute(union_all(*counts), {"ids": batch}).all()
        yield from found


def missing_columns(
    source: CellDatabase, target: CellDatabase, unknown: Mapping[str, list[str]], ids: Collection[str]
) -> dict[str, list[str]]:
    """What the target's schema has no place for although servers have data there, by server.

    The values stay in the database: they may be anything.

    :param unknown: :func:`cellmove.db.look.unknown_columns` of the two
    :returns: see :func:`cellmove.db.look.missing_columns`
    """
    from sqlalchemy import case, func, select

    missing: dict[str, list[str]] = {}
    for name, columns in unknown.items():
        rows, key = _rows_of_servers(source, name)
        table = source[name]
        held = [func.max(case((_holds(table.c[column]), 1), else_=0)).label(column) for column in columns]
        query: Query = select(key.label("server"), *held).select_from(rows).group_by(key)
        if "deleted" in table.c:
            query = query.where(table.c.deleted == 0)
        for row in in_batches(source.engine, source.name, ids, query, key):
            if name not in target.tables:
                missing.setdefault(row.server, []).append(name)
                continue
            full = [f"{name}.{column}" for at, column in enumerate(columns, 1) if row[at]]
            if full:
                missing.setdefault(row.server, []).extend(full)
    return missing


def _holds(column: AnyColumn) -> Any:
    """Whether a column of a row holds anything: neither NULL nor empty nor zero."""
    from sqlalchemy import types

    if isinstance(column.type, types.Numeric | types.Integer | types.Boolean):
        return column != 0
    if isinstance(column.type, types.String):
        return column != ""
    return column.is_not(None)
