"""Looks at what the databases say about one server and the cells around it. Only reads.

Two rules: every column is named, and columns that may hold secrets (``connection_info``,
``user_data``, passwords in system metadata) are never read.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CannotConnect
from cellmove.db import queries, records, statements
from cellmove.db.engines import translate_errors
from cellmove.db.shapes import (
    Aggregate,
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
    make_node,
    parse_json,
)
from cellmove.db.types import AnyRow, Values

if TYPE_CHECKING:
    from sqlalchemy import Engine, Executable

    from cellmove.db.tables import CellDatabase, Databases

EVENTS = "instance_actions_events"
"""Belongs to a server by way of instance_actions."""

HARMLESS = ("instance_id_mappings",)
"""Rows of a server that do no harm in the target cell: they have no unique key and are not read by it."""

UNIQUE = (("block_device_mapping", "uuid"), ("migrations", "uuid"), ("virtual_interfaces", "address"))
"""Columns by which a server's rows can meet another server's."""

MADE_ANEW = frozenset({"instances.compute_id", "migrations.dest_compute_id"})
"""Columns (of 2023.2 and later) whose values mean nothing in another cell and are not copied."""

COMPUTE = "nova-compute"
CONDUCTOR = "nova-conductor"


# --- the API database ---


def _rows(engine: Engine, query: Executable, **bound: Any) -> list[AnyRow]:
    with translate_errors(engine), engine.connect() as connection:
        return list(connection.execute(query, bound))


def mapping_of(api_engine: Engine, server_id: str) -> InstanceMapping | None:
    """The server's instance mapping, None when there is none."""
    rows = _rows(api_engine, queries.mapping(), server_id=server_id)
    return InstanceMapping(rows[0].uuid or "", bool(rows[0].queued_for_delete)) if rows else None


def has_build_request(api_engine: Engine, server_id: str) -> bool:
    """Whether the server is still being scheduled for the first time."""
    return bool(_rows(api_engine, queries.build_request(), server_id=server_id))


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
    return {row.host: row.value for row in _rows(api_engine, queries.zones(), hosts=list(hosts))}


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


def aggregates(api_engine: Engine) -> list[Aggregate]:
    """All host aggregates, by name."""
    from sqlalchemy import column, select, table

    aggregates = table("aggregates", column("id"), column("name"))
    members = table("aggregate_hosts", column("host"), column("aggregate_id"))
    metadata = table("aggregate_metadata", column("aggregate_id"), column("key"), column("value"))
    hosts: dict[int, set[str]] = {}
    for row in _rows(api_engine, select(members)):
        hosts.setdefault(row.aggregate_id, set()).add(row.host)
    values: dict[int, dict[str, str]] = {}
    for row in _rows(api_engine, select(metadata)):
        values.setdefault(row.aggregate_id, {})[row.key] = row.value or ""
    return [
        Aggregate(row.name or "", frozenset(hosts.get(row.id, ())), values.get(row.id, {}))
        for row in _rows(api_engine, select(aggregates).order_by(aggregates.c.name))
    ]


def availability_zone_of(api_engine: Engine, host: str, default: str) -> str:
    """The availability zone of a compute host.

    nova/availability_zones.py, get_host_availability_zone: the zone of an aggregate with the host
    in it, or else ``[DEFAULT]default_availability_zone``.
    """
    return availability_zones(api_engine, [host]).get(host, default)


def group_of(api_engine: Engine, server_id: str) -> Group | None:
    """The server group that the server is a member of, if any."""
    from sqlalchemy import column, select, table

    rows = _rows(api_engine, queries.group(), server_id=server_id)
    if not rows:
        return None
    group, members = rows[0], table("instance_group_member", column("group_id"), column("instance_uuid"))
    others = _rows(api_engine, select(members.c.instance_uuid).where(members.c.group_id == group.id))
    return Group(group.uuid, group.name or "", group.policy or "", tuple(sorted(row.instance_uuid for row in others)))


def group_hosts(gateway: Databases, member_uuids: Collection[str], excluding: Collection[str]) -> list[str]:
    """The hosts of a server group's members in all cells, sorted.

    nova computes the same, but from one cell only (nova/objects/instance_group.py, get_hosts). Cells whose
    databases cannot be reached are left out.

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
            try:
                database = gateway.database(cell)
            except CannotConnect:
                continue  # its hosts are none that the server may go to
            instances = database["instances"]
            live = select(instances.c.host).where(
                instances.c.uuid.in_(by_cell[cell.uuid]),
                instances.c.deleted == 0,
                instances.c.hidden == false(),
                instances.c.host.is_not(None),
            )
            hosts.update(row.host for row in _rows(database.engine, live))
    return sorted(hosts)


# --- a cell's database ---


def instance_of(database: CellDatabase, server_id: str) -> Instance | None:
    """The server's row (not a deleted one) with its extra and what is known of its image."""
    query = queries.instance(database["instances"], database["instance_extra"])
    rows = _rows(database.engine, query, server_id=server_id)
    if not rows:
        return None
    telling = queries.telling_metadata(database["instance_system_metadata"])
    found = _rows(database.engine, telling, server_id=server_id)
    return make_instance(rows[0], {item.key: item.value or "" for item in found})


def flavors_of(database: CellDatabase, server_id: str) -> tuple[Flavor | None, Flavor | None]:
    """The flavor that a resized server had and the one that it has now; None for what its row does not hold."""
    query = statements.rows(database["instance_extra"], "instance_uuid", "deleted", columns=("flavor",))
    rows = _rows(database.engine, query, instance_uuid=server_id, deleted=0)
    stored = rows[0].flavor if rows else None
    return current_flavor(stored, "old"), current_flavor(stored)


def block_devices_of(database: CellDatabase, server_id: str) -> list[BlockDevice]:
    """The server's block device mappings, the boot disk first."""
    query = queries.devices_of(database["block_device_mapping"])
    return in_order(_rows(database.engine, query, server_id=server_id))


def attachment_users(database: CellDatabase, attachment_id: str, volume_id: str) -> list[str]:
    """The servers, hidden ones too, whose records name an attachment or were connected by it."""
    query = queries.attachment_users(database["block_device_mapping"])
    rows = _rows(database.engine, query, attachment_id=attachment_id, volume_id=volume_id, pattern=f"%{attachment_id}%")
    return [row.instance_uuid for row in rows]


def in_order(rows: Iterable[AnyRow]) -> list[BlockDevice]:
    """The devices of one server, the boot disk first."""
    return [make_device(row) for row in sorted(rows, key=lambda row: (row.boot_index != 0, row.id))]


def interfaces_of(database: CellDatabase, server_id: str) -> frozenset[str]:
    """The ports that nova knows as the server's network interfaces: its info cache, by which a move goes.

    nova/network/neutron.py, ``bind_ports_to_host``, and nova/objects/instance.py, ``get_network_info``: without a cache there are none.
    """
    rows = _rows(database.engine, queries.network_info(database["instance_info_caches"]), server_id=server_id)
    listed = parse_json(rows[0].network_info) if rows else None
    return frozenset(str(vif["id"]) for vif in listed or () if isinstance(vif, dict) and vif.get("id"))


def services_of(database: CellDatabase, now: datetime.datetime, service_down_time: float) -> list[Service]:
    """The computes and conductors of a cell, by host."""
    query = queries.services(database["services"], COMPUTE, CONDUCTOR)
    return [
        Service(
            host=row.host or "",
            binary=row.binary,
            version=row.version or 0,
            disabled=bool(row.disabled),
            up=is_up(dict(row._mapping), now, service_down_time),
        )
        for row in _rows(database.engine, query)
    ]


def is_up(service_row: Values, now: datetime.datetime, service_down_time: float) -> bool:
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
    return [make_node(row) for row in _rows(database.engine, queries.nodes(database["compute_nodes"]))]


def migrations_of(database: CellDatabase, server_id: str) -> list[MigrationRow]:
    """The server's migration records, oldest first."""
    query = queries.migrations_of(database["migrations"])
    return [make_migration(row) for row in _rows(database.engine, query, server_id=server_id)]


def row_counts(database: CellDatabase, server_id: str, *, with_deleted: bool) -> dict[str, int]:
    """How many rows each table has of this server; tables without any are left out."""
    names = [name for name in (*records.KEYS, EVENTS) if name in database.tables]
    tables = tuple((database[name], records.KEYS.get(name, "")) for name in names)
    query = queries.counts(tables, database["instance_actions"], with_deleted=with_deleted)
    return {row.name: row.rows for row in _rows(database.engine, query, server_id=server_id) if row.rows}


def tags_of(database: CellDatabase, server_id: str) -> tuple[str, ...]:
    """The server's tags, sorted."""
    query = statements.rows(database["tags"], "resource_id", columns=("tag",))
    return tuple(sorted(row.tag for row in _rows(database.engine, query, resource_id=server_id)))


def share_count(database: CellDatabase, server_id: str) -> int:
    """How many manila shares the server has mapped (0 as well when the release knows none)."""
    if "share_mapping" not in database.tables:
        return 0
    query = queries.count_with(database["share_mapping"], "instance_uuid", with_deleted=True)
    return int(_rows(database.engine, query, values=[server_id])[0].rows)


def leftovers(source: CellDatabase, target: CellDatabase, server_id: str) -> dict[str, int]:
    """Rows in the target cell that the server's own would meet there.

    Soft-deleted ones count: the unique keys on ``instances.uuid``, ``instance_info_caches
    .instance_uuid``, ``block_device_mapping.uuid`` and ``migrations.uuid`` ignore ``deleted``.

    :returns: table name to number of rows
    """
    found = row_counts(target, server_id, with_deleted=True)
    for name in HARMLESS:
        found.pop(name, None)
    for name, key in UNIQUE:
        keys = _values(source, name, key, server_id)
        if not keys:
            continue
        # Of virtual interfaces the address is unique together with ``deleted``.
        query = queries.count_with(target[name], key, with_deleted=name != "virtual_interfaces")
        count = int(_rows(target.engine, query, values=keys)[0].rows)
        if count > found.get(name, 0):
            found[name] = count
    return found


def _values(database: CellDatabase, name: str, key: str, server_id: str) -> list[str]:
    query = statements.rows(database[name], "instance_uuid", "deleted", columns=(key,))
    return [row[0] for row in _rows(database.engine, query, instance_uuid=server_id, deleted=0) if row[0]]


def missing_columns(source: CellDatabase, target: CellDatabase, server_id: str) -> list[str]:
    """What the target cell's schema has no place for although the server has data there.

    :returns: ``table.column``, or ``table`` when the whole table is missing
    """
    missing: list[str] = []
    for name, columns in unknown_columns(source, target).items():
        query = queries.rows_of(
            source[name],
            records.KEYS.get(name, ""),
            source["instance_actions"],
            with_deleted=False,
            columns=tuple(columns),
        )
        rows = _rows(source.engine, query, server_id=server_id)
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
