"""The statements of :mod:`cellmove.db.look`, each built once: of the API database, and of a cell's tables.

Every column is named, see there. What is bound is called ``server_id``, if nothing else is said.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.db.shapes import IMAGE, VTPM_SECRET
from cellmove.db.types import CompoundQuery, Query

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, Table


# --- the API database ---


@functools.cache
def mapping() -> Query:
    """A server's instance mapping and its cell."""
    from sqlalchemy import column, select, table

    mappings = table("instance_mappings", column("instance_uuid"), column("cell_id"), column("queued_for_delete"))
    cells = table("cell_mappings", column("id"), column("uuid"))
    return (
        select(cells.c.uuid, mappings.c.queued_for_delete)
        .select_from(mappings.outerjoin(cells, cells.c.id == mappings.c.cell_id))
        .where(mappings.c.instance_uuid == _server_id())
    )


@functools.cache
def build_request() -> Query:
    """A server's build request."""
    from sqlalchemy import column, select, table

    requests = table("build_requests", column("id"), column("instance_uuid"))
    return select(requests.c.id).where(requests.c.instance_uuid == _server_id())


@functools.cache
def zones() -> Query:
    """The availability zones of ``hosts`` (several), the aggregate's that counts last."""
    from sqlalchemy import bindparam, column, select, table

    members = table("aggregate_hosts", column("host"), column("aggregate_id"))
    metadata = table("aggregate_metadata", column("aggregate_id"), column("key"), column("value"), column("id"))
    return (
        select(members.c.host, metadata.c.value)
        .select_from(members.join(metadata, metadata.c.aggregate_id == members.c.aggregate_id))
        .where(metadata.c.key == "availability_zone", members.c.host.in_(bindparam("hosts", expanding=True)))
        .order_by(metadata.c.id.desc())
    )


@functools.cache
def group() -> Query:
    """The server group that a server is in, and its policy."""
    from sqlalchemy import column, select, table

    groups = table("instance_groups", column("id"), column("uuid"), column("name"))
    members = table("instance_group_member", column("group_id"), column("instance_uuid"))
    policies = table("instance_group_policy", column("group_id"), column("policy"))
    return (
        select(groups.c.id, groups.c.uuid, groups.c.name, policies.c.policy)
        .select_from(
            groups.join(members, members.c.group_id == groups.c.id).outerjoin(
                policies, policies.c.group_id == groups.c.id
            )
        )
        .where(members.c.instance_uuid == _server_id())
    )


# --- a cell's database ---


@functools.cache
def instances(table: Table, extra: Table) -> Query:
    """What :func:`cellmove.db.shapes.make_instance` needs of the live instances and their extras."""
    from sqlalchemy import select

    return (
        select(
            table.c.uuid,
            table.c.display_name,
            table.c.project_id,
            table.c.user_id,
            table.c.vm_state,
            table.c.task_state,
            table.c.host,
            table.c.node,
            table.c.availability_zone,
            table.c.image_ref,
            table.c.root_gb,
            table.c.locked,
            table.c.locked_by,
            table.c.hidden,
            table.c.config_drive,
            table.c.ephemeral_key_uuid,
            table.c.created_at,
            extra.c.flavor,
            extra.c.numa_topology,
            extra.c.pci_requests,
        )
        .select_from(table.outerjoin(extra, extra.c.instance_uuid == table.c.uuid))
        .where(table.c.deleted == 0)
    )


@functools.cache
def instance(table: Table, extra: Table) -> Query:
    """The same of one server."""
    return instances(table, extra).where(table.c.uuid == _server_id())


@functools.cache
def telling_metadata(table: Table) -> Query:
    """What a server's system metadata says of its image, of a virtual TPM and of a move of ours."""
    from sqlalchemy import or_, select

    telling = or_(table.c.key.startswith(IMAGE, autoescape=True), table.c.key.in_([VTPM_SECRET, ownership.KEY]))
    mine = table.c.instance_uuid == _server_id(), table.c.deleted == 0
    return select(table.c.key, table.c.value).where(*mine, telling)


@functools.cache
def network_info(table: Table) -> Query:
    """What nova keeps of a server's network interfaces."""
    from sqlalchemy import select

    return select(table.c.network_info).where(table.c.instance_uuid == _server_id(), table.c.deleted == 0)


@functools.cache
def devices(table: Table) -> Query:
    """What :func:`cellmove.db.shapes.make_device` needs of the live block device mappings."""
    from sqlalchemy import false, literal, select

    encrypted = table.c.encrypted if "encrypted" in table.c else literal(value=False).label("encrypted")
    query = select(
        table.c.id,
        table.c.instance_uuid,
        table.c.uuid,
        table.c.source_type,
        table.c.destination_type,
        table.c.boot_index,
        table.c.guest_format,
        table.c.device_name,
        table.c.volume_id,
        table.c.attachment_id,
        encrypted,
    ).where(table.c.deleted == 0)
    if "no_device" in table.c:
        query = query.where((table.c.no_device == false()) | table.c.no_device.is_(None))
    return query


@functools.cache
def attachment_users(table: Table) -> Query:
    """The servers whose live records of a volume (``volume_id``) name an attachment (``attachment_id``).

    The connection is only searched for the id (``pattern``): it may hold a secret, and is not read.
    """
    from sqlalchemy import bindparam, or_, select

    named = or_(table.c.attachment_id == bindparam("attachment_id"), table.c.connection_info.like(bindparam("pattern")))
    return (
        select(table.c.instance_uuid)
        .where(table.c.volume_id == bindparam("volume_id"), table.c.deleted == 0, named)
        .order_by(table.c.instance_uuid)
    )


@functools.cache
def devices_of(table: Table) -> Query:
    """The same of one server."""
    return devices(table).where(table.c.instance_uuid == _server_id())


@functools.cache
def services(table: Table, *binaries: str) -> Query:
    """The live services of these kinds, by host; nothing is bound."""
    from sqlalchemy import select

    return (
        select(
            table.c.host,
            table.c.binary,
            table.c.version,
            table.c.disabled,
            table.c.forced_down,
            table.c.last_seen_up,
            table.c.created_at,
        )
        .where(table.c.deleted == 0, table.c.binary.in_(binaries))
        .order_by(table.c.host)
    )


@functools.cache
def nodes(table: Table) -> Query:
    """The live compute nodes, by host; nothing is bound."""
    from sqlalchemy import select

    return (
        select(
            table.c.uuid,
            table.c.host,
            table.c.hypervisor_hostname,
            table.c.vcpus,
            table.c.vcpus_used,
            table.c.memory_mb,
            table.c.memory_mb_used,
            table.c.hypervisor_type,
            table.c.cpu_info,
            table.c.supported_instances,
        )
        .where(table.c.deleted == 0)
        .order_by(table.c.host, table.c.hypervisor_hostname)
    )


@functools.cache
def migrations(table: Table) -> Query:
    """What :func:`cellmove.db.shapes.make_migration` needs of the migration records, oldest first."""
    from sqlalchemy import select

    return (
        select(
            table.c.instance_uuid,
            table.c.uuid,
            table.c.status,
            table.c.migration_type,
            table.c.source_compute,
            table.c.dest_compute,
        )
        .where(table.c.deleted == 0)
        .order_by(table.c.id)
    )


@functools.cache
def migrations_of(table: Table) -> Query:
    """The same of one server."""
    return migrations(table).where(table.c.instance_uuid == _server_id())


@functools.cache
def counts(tables: tuple[tuple[Table, str], ...], actions: Table, *, with_deleted: bool) -> CompoundQuery:
    """How many rows each of these tables has of a server.

    :param tables: each with the column that names the server, see :func:`rows_of`
    """
    from sqlalchemy import func, literal, select, union_all

    counted = []
    for table, key in tables:
        found = rows_of(table, key, actions, with_deleted=with_deleted).subquery()
        counted.append(select(literal(table.name).label("name"), func.count().label("rows")).select_from(found))
    return union_all(*counted)


@functools.cache
def rows_of(table: Table, key: str, actions: Table, *, with_deleted: bool, columns: tuple[str, ...] = ()) -> Query:
    """The rows of a table that belong to a server.

    :param key: the column that names the server; empty: the rows belong to its actions
    :param columns: which to read; none: any one
    """
    from sqlalchemy import select

    query = select(*(table.c[column] for column in columns or (_any_column(table),)))
    if key:
        query = query.where(table.c[key] == _server_id())
    else:
        query = query.join(actions, actions.c.id == table.c.action_id).where(actions.c.instance_uuid == _server_id())
    return query if with_deleted or "deleted" not in table.c else query.where(table.c.deleted == 0)


@functools.cache
def count_with(table: Table, key: str, *, with_deleted: bool) -> Query:
    """How many rows of a table have one of ``values`` (several) in a column."""
    from sqlalchemy import bindparam, func, select

    query = select(func.count().label("rows")).where(table.c[key].in_(bindparam("values", expanding=True)))
    return query if with_deleted else query.where(table.c.deleted == 0)


def _any_column(table: Table) -> str:
    return str(next(iter(table.primary_key.columns.keys()), table.c.keys()[0]))


def _server_id() -> BindParameter[str]:
    from sqlalchemy import bindparam

    return bindparam("server_id")
