"""Looks at what the databases say about one server and the cells around it. Only reads.

Two rules: every column is named, and columns that may hold secrets (``connection_info``,
``user_data``, passwords in system metadata) are never read.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cellmove import mark
from cellmove.db import records
from cellmove.db.cells import translate_errors
from cellmove.db.shapes import (
    IMAGE,
    VTPM_SECRET,
    BlockDevice,
    Flavor,
    Group,
    Instance,
    InstanceMapping,
    MigrationRow,
    Node,
    Service,
    current_flavor,
    make_device,
    make_flavor,
    make_instance,
    make_migration,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine, Select, Table

    from cellmove.db.tables import CellDatabase
    from cellmove.gateway import Gateway

EVENTS = "instance_actions_events"
"""Belongs to a server by way of instance_actions."""

HARMLESS = ("instance_id_mappings",)
"""Rows of a server that no one minds to find in the target cell: neither unique nor looked up twice."""

UNIQUE = (("block_device_mapping", "uuid"), ("migrations", "uuid"), ("virtual_interfaces", "address"))
"""Columns by which a server's rows can meet another server's."""

MADE_ANEW = frozenset({"instances.compute_id", "migrations.dest_compute_id"})
"""Columns (of 2023.2 and later) whose values mean nothing in another cell and are not copied."""

COMPUTE = "nova-compute"
CONDUCTOR = "nova-conductor"


# --- the API database ---


def _rows(engine: Engine, query: Select[Any]) -> list[Any]:
    with translate_errors(), engine.connect() as connection:
        return list(connection.execute(query))


def mapping_of(api_engine: Engine, server_id: str) -> InstanceMapping | None:
    """The server's instance mapping, None when there is none."""
    from sqlalchemy import column, select, table

    mappings = table("instance_mappings", column("instance_uuid"), column("cell_id"), column("queued_for_delete"))
    cells = table("cell_mappings", column("id"), column("uuid"))
    query = (
        select(cells.c.uuid, mappings.c.queued_for_delete)
        .select_from(mappings.outerjoin(cells, cells.c.id == mappings.c.cell_id))
        .where(mappings.c.instance_uuid == server_id)
    )
    rows = _rows(api_engine, query)
    return InstanceMapping(rows[0].uuid or "", bool(rows[0].queued_for_delete)) if rows else None


def has_build_request(api_engine: Engine, server_id: str) -> bool:
    """Whether the server is still being scheduled for the first time."""
    from sqlalchemy import column, select, table

    requests = table("build_requests", column("id"), column("instance_uuid"))
    return bool(_rows(api_engine, select(requests.c.id).where(requests.c.instance_uuid == server_id)))


def host_cells(api_engine: Engine) -> dict[str, str]:
    """Every mapped compute host and the UUID of its cell."""
    from sqlalchemy import column, select, table

    hosts = table("host_mappings", column("host"), column("cell_id"))
    cells = table("cell_mappings", column("id"), column("uuid"))
    query = select(hosts.c.host, cells.c.uuid).select_from(hosts.join(cells, cells.c.id == hosts.c.cell_id))
    return {row.host: row.uuid for row in _rows(api_engine, query)}


def find_flavors(api_engine: Engine, name_or_id: str) -> list[Flavor]:
    """The flavors whose id, or else whose name, is the given one."""
    from sqlalchemy import column, or_, select, table

    columns = ("id", "flavorid", "name", "vcpus", "memory_mb", "root_gb", "ephemeral_gb", "swap", "disabled")
    flavors = table("flavors", *map(column, columns))
    extra = table("flavor_extra_specs", column("flavor_id"), column("key"), column("value"))
    query = select(flavors).where(or_(flavors.c.flavorid == name_or_id, flavors.c.name == name_or_id))
    found = _rows(api_engine, query)
    rows = [row for row in found if row.flavorid == name_or_id] or found
    if not rows:
        return []
    specs: dict[int, dict[str, str]] = {}
    wanted = select(extra).where(extra.c.flavor_id.in_([row.id for row in rows]))
    for spec in _rows(api_engine, wanted):
        specs.setdefault(spec.flavor_id, {})[spec.key] = spec.value or ""
    return [make_flavor({**row._mapping, "extra_specs": specs.get(row.id, {})}) for row in rows]


def flavor_of_row(api_engine: Engine, number: int | None) -> Flavor | None:
    """The flavor that a migration record means by the number of its row; None when it was deleted since."""
    from sqlalchemy import column, select, table

    flavors = table("flavors", column("id"), column("flavorid"))
    rows = _rows(api_engine, select(flavors.c.flavorid).where(flavors.c.id == number))
    return next(iter(find_flavors(api_engine, rows[0].flavorid)), None) if rows else None


def flavor_names(api_engine: Engine) -> list[str]:
    """The names of all flavors, for suggestions."""
    from sqlalchemy import column, select, table

    flavors = table("flavors", column("name"))
    return [row.name for row in _rows(api_engine, select(flavors.c.name).order_by(flavors.c.name))]


def availability_zones(api_engine: Engine, hosts: Collection[str]) -> dict[str, str]:
    """The zone of each of these hosts that an aggregate puts in one."""
    from sqlalchemy import column, select, table

    members = table("aggregate_hosts", column("host"), column("aggregate_id"))
    metadata = table("aggregate_metadata", column("aggregate_id"), column("key"), column("value"), column("id"))
    query = (
        select(members.c.host, metadata.c.value)
        .select_from(members.join(metadata, metadata.c.aggregate_id == members.c.aggregate_id))
        .where(metadata.c.key == "availability_zone", members.c.host.in_(list(hosts)))
        .order_by(metadata.c.id.desc())
    )
    return {row.host: row.value for row in _rows(api_engine, query)}


def aggregate_metadata(api_engine: Engine, hosts: Collection[str]) -> dict[tuple[str, str], frozenset[str]]:
    """The values that the aggregates of these hosts have, by host and key."""
    from sqlalchemy import column, select, table

    members = table("aggregate_hosts", column("host"), column("aggregate_id"))
    metadata = table("aggregate_metadata", column("aggregate_id"), column("key"), column("value"))
    query = (
        select(members.c.host, metadata.c.key, metadata.c.value)
        .select_from(members.join(metadata, metadata.c.aggregate_id == members.c.aggregate_id))
        .where(members.c.host.in_(list(hosts)))
    )
    found: dict[tuple[str, str], frozenset[str]] = {}
    for row in _rows(api_engine, query):
        found[row.host, row.key] = found.get((row.host, row.key), frozenset()) | {row.value}
    return found


def availability_zone_of(api_engine: Engine, host: str, default: str) -> str:
    """The availability zone of a compute host.

    nova/availability_zones.py, get_host_availability_zone: the zone of an aggregate with the host
    in it, or else ``[DEFAULT]default_availability_zone``.
    """
    return availability_zones(api_engine, [host]).get(host, default)


def group_of(api_engine: Engine, server_id: str) -> Group | None:
    """The server group that the server is a member of, if any."""
    from sqlalchemy import column, select, table

    groups = table("instance_groups", column("id"), column("uuid"), column("name"))
    members = table("instance_group_member", column("group_id"), column("instance_uuid"))
    policies = table("instance_group_policy", column("group_id"), column("policy"))
    query = (
        select(groups.c.id, groups.c.uuid, groups.c.name, policies.c.policy)
        .select_from(
            groups.join(members, members.c.group_id == groups.c.id).outerjoin(
                policies, policies.c.group_id == groups.c.id
            )
        )
        .where(members.c.instance_uuid == server_id)
    )
    rows = _rows(api_engine, query)
    if not rows:
        return None
    group = rows[0]
    others = _rows(api_engine, select(members.c.instance_uuid).where(members.c.group_id == group.id))
    return Group(group.uuid, group.name or "", group.policy or "", tuple(sorted(row.instance_uuid for row in others)))


def group_hosts(gateway: Gateway, member_uuids: Collection[str], excluding: Collection[str]) -> list[str]:
    """The hosts of a server group's members in all cells, sorted.

    nova computes the same, but from one cell only (nova/objects/instance_group.py, get_hosts).

    :param excluding: members that do not count: the server that moves
    """
    from sqlalchemy import column, false, select, table

    wanted = sorted(set(member_uuids) - set(excluding))
    if not wanted:
        return []
    mappings = table("instance_mappings", column("instance_uuid"), column("cell_id"))
    cells = table("cell_mappings", column("id"), column("uuid"))
    query = (
        select(mappings.c.instance_uuid, cells.c.uuid)
        .select_from(mappings.join(cells, cells.c.id == mappings.c.cell_id))
        .where(mappings.c.instance_uuid.in_(wanted))
    )
    by_cell: dict[str, list[str]] = {}
    for row in _rows(gateway.api_engine, query):
        by_cell.setdefault(row.uuid, []).append(row.instance_uuid)
    hosts: set[str] = set()
    for cell in gateway.cells:
        if cell.uuid in by_cell:
            database = gateway.database(cell)
            instances = database["instances"]
            live = select(instances.c.host).where(
                instances.c.uuid.in_(by_cell[cell.uuid]), instances.c.deleted == 0,
                instances.c.hidden == false(), instances.c.host.is_not(None),
            )  # fmt: skip
            hosts.update(row.host for row in _rows(database.engine, live))
    return sorted(hosts)


# --- a cell's database ---


def instance_of(database: CellDatabase, server_id: str) -> Instance | None:
    """The server's row (not a deleted one) with its extra and what is known of its image."""
    from sqlalchemy import or_, select

    table = database["instances"]
    rows = _rows(database.engine, instances_query(database).where(table.c.uuid == server_id))
    if not rows:
        return None
    system = database["instance_system_metadata"]
    wanted = select(system.c.key, system.c.value).where(
        system.c.instance_uuid == server_id,
        system.c.deleted == 0,
        or_(system.c.key.startswith(IMAGE, autoescape=True), system.c.key.in_([VTPM_SECRET, mark.KEY])),
    )
    metadata = {item.key: item.value or "" for item in _rows(database.engine, wanted)}
    return make_instance(rows[0], metadata)


def instances_query(database: CellDatabase) -> Select[Any]:
    """What :func:`cellmove.db.shapes.make_instance` needs of the live instances and their extras."""
    from sqlalchemy import select

    table, extra = database["instances"], database["instance_extra"]
    return (
        select(
            table.c.uuid, table.c.display_name, table.c.project_id, table.c.user_id, table.c.vm_state,
            table.c.task_state, table.c.host, table.c.node, table.c.availability_zone, table.c.image_ref,
            table.c.root_gb, table.c.locked, table.c.locked_by, table.c.hidden, table.c.config_drive,
            table.c.ephemeral_key_uuid, table.c.created_at, extra.c.flavor, extra.c.numa_topology,
            extra.c.pci_requests,
        )
        .select_from(table.outerjoin(extra, extra.c.instance_uuid == table.c.uuid))
        .where(table.c.deleted == 0)
    )  # fmt: skip


def flavors_of(database: CellDatabase, server_id: str) -> tuple[Flavor | None, Flavor | None]:
    """The flavor that a resized server had and the one that it has now; None for what its row does not hold."""
    from sqlalchemy import select

    table = database["instance_extra"]
    rows = _rows(
        database.engine, select(table.c.flavor).where(table.c.instance_uuid == server_id, table.c.deleted == 0)
    )
    stored = rows[0].flavor if rows else None
    return current_flavor(stored, "old"), current_flavor(stored)


def block_devices_of(database: CellDatabase, server_id: str) -> list[BlockDevice]:
    """The server's block device mappings, the boot disk first."""
    query = devices_query(database).where(database["block_device_mapping"].c.instance_uuid == server_id)
    return in_order(_rows(database.engine, query))


def devices_query(database: CellDatabase) -> Select[Any]:
    """What :func:`cellmove.db.shapes.make_device` needs of the live block device mappings."""
    from sqlalchemy import false, literal, select

    table = database["block_device_mapping"]
    encrypted = table.c.encrypted if "encrypted" in table.c else literal(value=False).label("encrypted")
    query = select(
        table.c.id, table.c.instance_uuid, table.c.uuid, table.c.source_type, table.c.destination_type,
        table.c.boot_index, table.c.guest_format, table.c.device_name, table.c.volume_id, table.c.attachment_id, encrypted,
    ).where(table.c.deleted == 0)  # fmt: skip
    if "no_device" in table.c:
        query = query.where((table.c.no_device == false()) | table.c.no_device.is_(None))
    return query


def in_order(rows: Iterable[Any]) -> list[BlockDevice]:
    """The devices of one server, the boot disk first."""
    return [make_device(row) for row in sorted(rows, key=lambda row: (row.boot_index != 0, row.id))]


def services_of(database: CellDatabase, now: datetime.datetime, service_down_time: float) -> list[Service]:
    """The computes and conductors of a cell, by host."""
    from sqlalchemy import select

    table = database["services"]
    query = select(
        table.c.host, table.c.binary, table.c.version, table.c.disabled, table.c.forced_down,
        table.c.last_seen_up, table.c.created_at,
    ).where(table.c.deleted == 0, table.c.binary.in_([COMPUTE, CONDUCTOR])).order_by(table.c.host)  # fmt: skip
    return [
        Service(
            host=row.host or "",
            binary=row.binary,
            version=row.version or 0,
            disabled=bool(row.disabled),
            up=is_up(row._mapping, now, service_down_time),
        )
        for row in _rows(database.engine, query)
    ]


def is_up(service_row: Mapping[str, Any], now: datetime.datetime, service_down_time: float) -> bool:
    """Whether a service counts as alive.

    nova/servicegroup/api.py and drivers/db.py: not forced down, and the last heartbeat (or else the
    row's birth) at most ``service_down_time`` away, into the future as well.

    :param service_row: with ``forced_down``, ``last_seen_up`` and ``created_at``
    :param now: UTC, without a zone as the database's own times are
    """
    if service_row["forced_down"]:
        return False
    heard = service_row["last_seen_up"] or service_row["created_at"]
    return heard is not None and abs((now - heard).total_seconds()) <= service_down_time


def nodes_of(database: CellDatabase) -> list[Node]:
    """The compute nodes of a cell, by host."""
    from sqlalchemy import select

    table = database["compute_nodes"]
    query = select(
        table.c.uuid, table.c.host, table.c.hypervisor_hostname, table.c.vcpus, table.c.vcpus_used,
        table.c.memory_mb, table.c.memory_mb_used,
    ).where(table.c.deleted == 0).order_by(table.c.host, table.c.hypervisor_hostname)  # fmt: skip
    return [
        Node(
            uuid=row.uuid or "",
            host=row.host or "",
            name=row.hypervisor_hostname or "",
            vcpus=row.vcpus or 0,
            vcpus_used=row.vcpus_used or 0,
            memory_mb=row.memory_mb or 0,
            memory_mb_used=row.memory_mb_used or 0,
        )
        for row in _rows(database.engine, query)
    ]


def migrations_of(database: CellDatabase, server_id: str) -> list[MigrationRow]:
    """The server's migration records, oldest first."""
    query = migrations_query(database).where(database["migrations"].c.instance_uuid == server_id)
    return [make_migration(row) for row in _rows(database.engine, query)]


def migrations_query(database: CellDatabase) -> Select[Any]:
    """What :func:`cellmove.db.shapes.make_migration` needs of the migration records, oldest first."""
    from sqlalchemy import select

    table = database["migrations"]
    return select(
        table.c.instance_uuid, table.c.uuid, table.c.status, table.c.migration_type, table.c.source_compute,
        table.c.dest_compute,
    ).where(table.c.deleted == 0).order_by(table.c.id)  # fmt: skip


def row_counts(database: CellDatabase, server_id: str, *, with_deleted: bool) -> dict[str, int]:
    """How many rows each table has of this server; tables without any are left out."""
    from sqlalchemy import func, literal, select, union_all

    counts = []
    for name in (*records.KEYS, EVENTS):
        if name in database.tables:
            rows = _of_instance(database, name, server_id, with_deleted=with_deleted).subquery()
            counts.append(select(literal(name).label("name"), func.count().label("rows")).select_from(rows))
    with translate_errors(), database.engine.connect() as connection:
        found = connection.execute(union_all(*counts))
        return {row.name: row.rows for row in found if row.rows}


def tags_of(database: CellDatabase, server_id: str) -> tuple[str, ...]:
    """The server's tags, sorted."""
    from sqlalchemy import select

    table = database["tags"]
    return tuple(
        sorted(row.tag for row in _rows(database.engine, select(table.c.tag).where(table.c.resource_id == server_id)))
    )


def share_count(database: CellDatabase, server_id: str) -> int:
    """How many manila shares the server has mapped (0 as well when the release knows none)."""
    from sqlalchemy import func, select

    if "share_mapping" not in database.tables:
        return 0
    table = database["share_mapping"]
    query = select(func.count().label("rows")).where(table.c.instance_uuid == server_id)
    return int(_rows(database.engine, query)[0].rows)


def leftovers(source: CellDatabase, target: CellDatabase, server_id: str) -> dict[str, int]:
    """Rows in the target cell that the server's own would meet there.

    Soft-deleted ones count: the unique keys on ``instances.uuid``, ``instance_info_caches
    .instance_uuid``, ``block_device_mapping.uuid`` and ``migrations.uuid`` ignore ``deleted``.

    :returns: table name to number of rows
    """
    from sqlalchemy import func, select

    found = row_counts(target, server_id, with_deleted=True)
    for name in HARMLESS:
        found.pop(name, None)
    for name, key in UNIQUE:
        keys = _values(source, name, key, server_id)
        if not keys:
            continue
        table = target[name]
        query = select(func.count().label("rows")).where(table.c[key].in_(keys))
        if name == "virtual_interfaces":  # unique together with ``deleted``
            query = query.where(table.c.deleted == 0)
        count = int(_rows(target.engine, query)[0].rows)
        if count > found.get(name, 0):
            found[name] = count
    return found


def _values(database: CellDatabase, name: str, key: str, server_id: str) -> list[str]:
    from sqlalchemy import select

    table = database[name]
    query = select(table.c[key]).where(table.c.instance_uuid == server_id, table.c.deleted == 0)
    return [row[0] for row in _rows(database.engine, query) if row[0]]


def missing_columns(source: CellDatabase, target: CellDatabase, server_id: str) -> list[str]:
    """What the target cell's schema has no place for although the server has data there.

    :returns: ``table.column``, or ``table`` when the whole table is missing
    """
    missing: list[str] = []
    for name, columns in unknown_columns(source, target).items():
        rows = _rows(source.engine, _of_instance(source, name, server_id, with_deleted=False, columns=columns))
        if name not in target.tables:
            missing += [name] if rows else []
        else:
            missing += [f"{name}.{column}" for i, column in enumerate(columns) if any(row[i] for row in rows)]
    return missing


def unknown_columns(source: CellDatabase, target: CellDatabase) -> dict[str, list[str]]:
    """The columns of servers' tables that the target cell's schema does not have: all of a table that is not there."""
    unknown: dict[str, list[str]] = {}
    for name in (*records.KEYS, EVENTS):
        known: Iterable[str] = target.tables[name].c.keys() if name in target.tables else ()
        columns = source.tables[name].c.keys() if name in source.tables else []
        unknown[name] = [column for column in columns if f"{name}.{column}" not in MADE_ANEW and column not in known]
    return {name: columns for name, columns in unknown.items() if columns}


def _of_instance(
    database: CellDatabase, name: str, server_id: str, *, with_deleted: bool, columns: Collection[str] = ()
) -> Select[Any]:
    """The rows of a table that belong to a server."""
    from sqlalchemy import select

    table: Table = database[name]
    query = select(*(table.c[column] for column in columns)) if columns else select(table.c[_any_column(table)])
    if name == EVENTS:
        actions = database["instance_actions"]
        query = query.join(actions, actions.c.id == table.c.action_id).where(actions.c.instance_uuid == server_id)
    else:
        query = query.where(table.c[records.KEYS[name]] == server_id)
    if not with_deleted and "deleted" in table.c:
        query = query.where(table.c.deleted == 0)
    return query


def _any_column(table: Table) -> str:
    return str(next(iter(table.primary_key.columns.keys()), table.c.keys()[0]))
