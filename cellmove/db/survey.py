"""What a whole cell, or the API database, says about all servers at once: never one query a server.

Big tables are read page by page in the order of a key; servers that are looked at closely come in
batches of ids. No column that may hold a secret is named.
"""

from __future__ import annotations

import datetime
import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellmove.core import ownership
from cellmove.db import statements
from cellmove.db.engines import translate_errors
from cellmove.db.state import transaction
from cellmove.db.types import AnyRow, Query, Record, Values

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cellmove.db.tables import CellDatabase

PAGE = 5000
"""Rows of one page."""

BATCH = 500
"""Ids of one batch."""

SCAN = 200_000
"""Ids of a table without an index for what is looked for, that one statement runs over."""

MOVE_TASKS = (
    "resize_prep",
    "resize_migrating",
    "resize_migrated",
    "resize_finish",
    "resize_reverting",
    "resize_confirming",
)
UNDER_WAY = ("pre-migrating", "migrating", "post-migrating", "confirming", "reverting")
"""Statuses of a running migration. The source's copy of a finished one may have them, too."""

UNSETTLED = (*UNDER_WAY, "finished", "accepted", "queued", "preparing", "running")
"""Statuses of a migration that has not ended, or waits to be confirmed."""

EMPTY_KEYPAIRS = '%"objects": []%'


def batches(ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Ids in batches, each id once."""
    every = sorted(set(ids))
    return (tuple(every[at : at + BATCH]) for at in range(0, len(every), BATCH))


# pages


def mappings(api_engine: Engine) -> Iterator[tuple[str, int, int | None]]:
    """Every instance mapping: UUID, -1, the id of its cell. In the order of the UUIDs."""
    from sqlalchemy import column, select, table

    found = table("instance_mappings", column("instance_uuid"), column("cell_id"))
    query = select(found.c.instance_uuid, found.c.cell_id).order_by(found.c.instance_uuid).limit(PAGE)
    last = ""
    while True:
        with transaction(api_engine, "the API") as connection:
            page = connection.execute(query.where(found.c.instance_uuid > last)).all()
        for row in page:
            yield row.instance_uuid, -1, row.cell_id
        if len(page) < PAGE:
            return
        last = page[-1].instance_uuid


def rows(database: CellDatabase, number: int) -> Iterator[tuple[str, int, str]]:
    """Every instance of a cell: UUID, the cell's number, and "visible", "hidden" or "deleted". In the order of the UUIDs."""
    from sqlalchemy import select

    table = database["instances"]
    query = select(table.c.uuid, table.c.hidden, table.c.deleted).order_by(table.c.uuid).limit(PAGE)
    last = ""
    while True:
        with transaction(database.engine, database.name) as connection:
            page = connection.execute(query.where(table.c.uuid > last)).all()
        for row in page:
            yield row.uuid, number, "deleted" if row.deleted else "hidden" if row.hidden else "visible"
        if len(page) < PAGE:
            return
        last = page[-1].uuid


def misplaced(
    mapped: Iterable[tuple[str, int, int | None]], cells: Mapping[int, Iterable[tuple[str, int, str]]]
) -> Iterator[str]:
    """The servers whose rows and mapping do not fit together, by one merge of sorted streams.

    :param mapped: see :func:`mappings`
    :param cells: id of the cell to its rows, see :func:`rows`
    :returns: UUIDs of those with a hidden row, rows in several cells (but deleted in all), or a visible
        row where the mapping does not point
    """
    merged = heapq.merge(mapped, *cells.values(), key=lambda row: row[:2])
    for server_id, group in itertools.groupby(merged, key=lambda row: row[0]):
        home, found = None, []
        for _uuid, number, value in group:
            if number == -1:
                home = value
            else:
                found.append((number, value))
        live = [(cell, how) for cell, how in found if how != "deleted"]
        if live and (len(found) > 1 or live != [(home, "visible")]):
            yield server_id


def keyless(database: CellDatabase) -> Iterator[str]:
    """The live, visible servers that name a keypair and have none recorded, which is what guests read of it."""
    from sqlalchemy import and_, or_, select

    table, extra = database["instances"], database["instance_extra"]
    joined = table.outerjoin(extra, and_(extra.c.instance_uuid == table.c.uuid, extra.c.deleted == 0))
    query = (
        select(table.c.uuid)
        .select_from(joined)
        .where(
            table.c.deleted == 0,
            table.c.hidden == 0,
            table.c.key_name.is_not(None),
            table.c.key_name != "",
            or_(extra.c.keypairs.is_(None), extra.c.keypairs.like(EMPTY_KEYPAIRS)),
        )
        .order_by(table.c.uuid)
        .limit(PAGE)
    )
    last = ""
    while True:
        with transaction(database.engine, database.name) as connection:
            page = connection.execute(query.where(table.c.uuid > last)).all()
        yield from (row.uuid for row in page)
        if len(page) < PAGE:
            return
        last = page[-1].uuid


def marked(database: CellDatabase) -> Iterator[str]:
    """The servers that carry a mark of ours in this cell.

    The table has no index for its keys: it is run over once, a range of ids at a time.
    """
    from sqlalchemy import func, select

    table = database["instance_system_metadata"]
    with transaction(database.engine, database.name) as connection:
        end = connection.execute(select(func.max(table.c.id))).scalar() or 0
    for low in range(0, end, SCAN):
        query = select(table.c.instance_uuid).where(
            table.c.id > low, table.c.id <= low + SCAN, table.c.key == ownership.KEY, table.c.deleted == 0
        )
        with transaction(database.engine, database.name) as connection:
            yield from connection.execute(query).scalars()


def unsettled(database: CellDatabase) -> list[str]:
    """The live servers of this cell that have the record of a migration which has not ended."""
    from sqlalchemy import select

    table, migrations = database["instances"], database["migrations"]
    query = (
        select(table.c.uuid)
        .distinct()
        .join_from(migrations, table, table.c.uuid == migrations.c.instance_uuid)
        .where(table.c.deleted == 0, migrations.c.deleted == 0, migrations.c.status.in_(UNSETTLED))
    )
    with transaction(database.engine, database.name) as connection:
        return list(connection.execute(query).scalars())


def moving(database: CellDatabase) -> list[str]:
    """The servers of this cell that are being moved: by task state, migration context or cross-cell migration."""
    from sqlalchemy import select, true, union

    table, migrations, extra = database["instances"], database["migrations"], database["instance_extra"]
    query = union(
        select(table.c.uuid).where(table.c.task_state.in_(MOVE_TASKS), table.c.deleted == 0),
        select(table.c.uuid).where(
            table.c.vm_state == "resized", table.c.task_state.is_(None), table.c.deleted == 0, table.c.hidden == 0
        ),
        select(extra.c.instance_uuid).where(extra.c.migration_context.is_not(None), extra.c.deleted == 0),
        select(migrations.c.instance_uuid).where(
            migrations.c.deleted == 0, migrations.c.cross_cell_move == true(), migrations.c.status.in_(UNDER_WAY)
        ),
    )
    with transaction(database.engine, database.name) as connection:
        return list(connection.execute(query).scalars())


# batches: what is known of servers that are looked at closely

INSTANCE = (
    "uuid",
    "display_name",
    "project_id",
    "user_id",
    "host",
    "vm_state",
    "task_state",
    "hidden",
    "deleted",
    "image_ref",
    "key_name",
    "key_data",
    "created_at",
    "updated_at",
)
MIGRATION = (
    "id",
    "uuid",
    "instance_uuid",
    "status",
    "migration_type",
    "cross_cell_move",
    "source_compute",
    "dest_compute",
    "created_at",
    "updated_at",
    "deleted",
)


def in_batches(engine: Engine, whose: str, ids: Iterable[str], query: Query, key: Any) -> Iterator[AnyRow]:
    """The rows of a query whose key is one of many.

    :param whose: the database's name in messages
    """
    for batch in batches(ids):
        with transaction(engine, whose) as connection:
            page = connection.execute(query.where(key.in_(batch))).all()
        yield from page


def _each(database: CellDatabase, ids: Collection[str], query: Query, key: Any) -> Iterator[Record]:
    return (dict(row._mapping) for row in in_batches(database.engine, database.name, ids, query, key))


def instances(database: CellDatabase, ids: Collection[str]) -> Iterator[Record]:
    """The rows of servers in this cell, deleted ones too: :data:`INSTANCE`."""
    from sqlalchemy import select

    table = database["instances"]
    return _each(database, ids, select(*(table.c[name] for name in INSTANCE)), table.c.uuid)


def migrations_of(database: CellDatabase, ids: Collection[str]) -> Iterator[Record]:
    """The migrations of servers in this cell, but deleted ones: :data:`MIGRATION`."""
    from sqlalchemy import select

    table = database["migrations"]
    query = select(*(table.c[name] for name in MIGRATION)).where(table.c.deleted == 0).order_by(table.c.id)
    return _each(database, ids, query, table.c.instance_uuid)


def migrations_named(database: CellDatabase, uuids: Collection[str]) -> Iterator[Record]:
    """The migrations of these UUIDs in this cell, deleted ones too: :data:`MIGRATION`."""
    from sqlalchemy import select

    table = database["migrations"]
    return _each(database, uuids, select(*(table.c[name] for name in MIGRATION)), table.c.uuid)


def mark_rows(database: CellDatabase, ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The marks of servers in this cell, as system metadata by server."""
    from sqlalchemy import select

    table = database["instance_system_metadata"]
    query = select(table.c.instance_uuid, table.c.key, table.c.value).where(
        table.c.key.in_(ownership.KEYS), table.c.deleted == 0
    )
    found: dict[str, dict[str, str]] = {}
    for row in _each(database, ids, query, table.c.instance_uuid):
        found.setdefault(row["instance_uuid"], {})[row["key"]] = row["value"]
    return found


def volumes(database: CellDatabase, ids: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """The volumes of servers' live block device mappings in this cell, by server: volume, and attachment or empty."""
    from sqlalchemy import select

    table = database["block_device_mapping"]
    query = select(table.c.instance_uuid, table.c.volume_id, table.c.attachment_id).where(
        table.c.deleted == 0, table.c.destination_type == "volume"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for row in _each(database, ids, query, table.c.instance_uuid):
        found.setdefault(row["instance_uuid"], []).append((row["volume_id"] or "", row["attachment_id"] or ""))
    return found


def all_volumes(database: CellDatabase) -> Iterator[tuple[str, str, str]]:
    """The volumes of all servers of a cell that are on or off and at rest: server, volume, and attachment or empty."""
    from sqlalchemy import and_, select

    table, instances_ = database["block_device_mapping"], database["instances"]
    at_rest = and_(
        instances_.c.uuid == table.c.instance_uuid,
        instances_.c.deleted == 0,
        instances_.c.hidden == 0,
        instances_.c.vm_state.in_(("active", "stopped")),
        instances_.c.task_state.is_(None),
    )
    query = (
        select(table.c.id, table.c.instance_uuid, table.c.volume_id, table.c.attachment_id)
        .select_from(table.join(instances_, at_rest))
        .where(table.c.deleted == 0, table.c.destination_type == "volume", table.c.volume_id.is_not(None))
        .order_by(table.c.id)
        .limit(PAGE)
    )
    last = 0
    while True:
        with transaction(database.engine, database.name) as connection:
            page = connection.execute(query.where(table.c.id > last)).all()
        for row in page:
            yield row.instance_uuid, row.volume_id, row.attachment_id or ""
        if len(page) < PAGE:
            return
        last = page[-1].id


def last_events(database: CellDatabase, ids: Collection[str]) -> Record:
    """When anything last began or ended in servers' histories in this cell, by server."""
    from sqlalchemy import func, select

    actions, events = database["instance_actions"], database["instance_actions_events"]
    moment = func.max(func.coalesce(events.c.finish_time, events.c.start_time)).label("moment")
    query = (
        select(actions.c.instance_uuid, moment)
        .select_from(actions.join(events, events.c.action_id == actions.c.id))
        .group_by(actions.c.instance_uuid)
    )
    return {
        row["instance_uuid"]: row["moment"]
        for row in _each(database, ids, query, actions.c.instance_uuid)
        if row["moment"] is not None
    }


def open_events(database: CellDatabase, ids: Collection[str], since: datetime.datetime) -> dict[str, str]:
    """The parts of servers' actions in this cell that have not ended, one a server.

    :param since: parts that started earlier are left out: the process that started them has ended
    """
    from sqlalchemy import func, select

    actions, events = database["instance_actions"], database["instance_actions_events"]
    query = (
        select(actions.c.instance_uuid, func.max(events.c.event).label("event"))
        .select_from(actions.join(events, events.c.action_id == actions.c.id))
        .where(events.c.finish_time.is_(None), events.c.start_time >= since, events.c.deleted == 0)
        .group_by(actions.c.instance_uuid)
    )
    return {row["instance_uuid"]: row["event"] for row in _each(database, ids, query, actions.c.instance_uuid)}


def keypairs(database: CellDatabase, ids: Collection[str]) -> dict[str, str]:
    """The keypairs recorded with servers in this cell, as nova's JSON; those without any are left out."""
    from sqlalchemy import not_, select

    table = database["instance_extra"]
    query = select(table.c.instance_uuid, table.c.keypairs).where(
        table.c.deleted == 0, table.c.keypairs.is_not(None), not_(table.c.keypairs.like(EMPTY_KEYPAIRS))
    )
    return {row["instance_uuid"]: row["keypairs"] for row in _each(database, ids, query, table.c.instance_uuid)}


def stashed(database: CellDatabase, ids: Collection[str]) -> set[str]:
    """Those of the servers with which a migration context is recorded in this cell."""
    from sqlalchemy import select

    table = database["instance_extra"]
    query = select(table.c.instance_uuid).where(table.c.deleted == 0, table.c.migration_context.is_not(None))
    return {row["instance_uuid"] for row in _each(database, ids, query, table.c.instance_uuid)}


def hosts(database: CellDatabase) -> dict[str, str]:
    """The compute nodes of this cell: UUID (which placement calls its provider) and host."""
    from sqlalchemy import select

    table = database["compute_nodes"]
    with transaction(database.engine, database.name) as connection:
        found = connection.execute(select(table.c.uuid, table.c.host).where(table.c.deleted == 0))
        return {row.uuid: row.host for row in found if row.uuid and row.host}


# the API database


def mapped_cells(api_engine: Engine, ids: Collection[str]) -> dict[str, int | None]:
    """The ids of the cells that the mappings of these servers point at; servers without one are left out."""
    from sqlalchemy import column, select, table

    found = table("instance_mappings", column("instance_uuid"), column("cell_id"))
    known: dict[str, int | None] = {}
    for batch in batches(ids):
        query = select(found.c.instance_uuid, found.c.cell_id).where(found.c.instance_uuid.in_(batch))
        with transaction(api_engine, "the API") as connection:
            known |= {row.instance_uuid: row.cell_id for row in connection.execute(query)}
    return known


KEYPAIR = ("id", "name", "user_id", "fingerprint", "public_key", "type", "created_at", "updated_at")


def api_keypairs(api_engine: Engine, owners: Collection[tuple[str, str]]) -> dict[tuple[str, str], Record]:
    """Keypairs by user and name: :data:`KEYPAIR`."""
    from sqlalchemy import column, select, table

    found = table("key_pairs", *map(column, KEYPAIR))
    wanted = set(owners)
    known: dict[tuple[str, str], Record] = {}
    for batch in batches(user for user, _name in wanted):
        with translate_errors("database of the API"), api_engine.connect() as connection:
            for row in connection.execute(select(found).where(found.c.user_id.in_(batch))):
                if (row.user_id, row.name) in wanted:
                    known[row.user_id, row.name] = dict(row._mapping)
    return known


def set_keypairs(database: CellDatabase, server_id: str, keypairs: str, now: Any) -> bool:
    """Record a server's keypairs where none are recorded.

    :returns: False when there are some by now, or the server is gone
    """
    from sqlalchemy import or_, update

    table = database["instance_extra"]
    with transaction(database.engine, database.name) as connection:
        changed = connection.execute(
            update(table)
            .where(
                table.c.instance_uuid == server_id,
                table.c.deleted == 0,
                or_(table.c.keypairs.is_(None), table.c.keypairs.like(EMPTY_KEYPAIRS)),
            )
            .values(keypairs=keypairs, updated_at=now)
        )
        return bool(changed.rowcount == 1)


def settle_migration(database: CellDatabase, server_id: str, at_rest: Values, number: int, status: str) -> bool:
    """Set the status of a migration's record to error, while its server stays as it was seen.

    The record's times stay: they tell when nova touched it last.

    :param at_rest: columns of the server's row, which is locked meanwhile, and their values
    :param number: the record's id
    :param status: that it has to have now
    :returns: False when the server or the record has changed
    """
    instances, migrations = database["instances"], database["migrations"]
    query = statements.rows(instances, "uuid", "deleted", columns=tuple(at_rest)).with_for_update()
    mine = {"id": number, "instance_uuid": server_id, "status": status, "deleted": 0}
    with transaction(database.engine, database.name) as connection:
        row = connection.execute(query, {"uuid": server_id, "deleted": 0}).one_or_none()
        if row is None or dict(row._mapping) != dict(at_rest):
            return False
        changed = connection.execute(
            statements.change(migrations, *mine), {"status": "error", **statements.keyed(**mine)}
        )
        return bool(changed.rowcount == 1)


def drop_mark(database: CellDatabase, server_id: str, move_id: str) -> bool:
    """Remove a move's mark from a server in this cell.

    :returns: False when there is none, or it is another move's by now
    """
    from sqlalchemy import delete, select

    table = database["instance_system_metadata"]
    mine = table.c.instance_uuid == server_id
    with transaction(database.engine, database.name) as connection:
        value = connection.execute(
            select(table.c.value).where(mine, table.c.key == ownership.KEY, table.c.deleted == 0).with_for_update()
        ).scalar()
        if ownership.move_id_of(value) != move_id:
            return False
        connection.execute(delete(table).where(mine, table.c.key.in_(list(ownership.KEYS))))
        return True
