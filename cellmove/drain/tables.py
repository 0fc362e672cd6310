"""The tables of a drain's queue and their SQL statements, each built once. Bound parameters have the names of columns."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import TYPE_CHECKING

from cellmove.db import statements
from cellmove.drain.item import IN_PROGRESS, TROUBLED, Stage, Task

if TYPE_CHECKING:
    from sqlalchemy import Float, Integer, MetaData, Select, String, Table, Update

    from cellmove.engine.journal import Journal

TEXT_LENGTH = 1_000_000
STRING_LENGTHS = {"server_id": 36, "stage": 16, "move_id": 32, "worker": 128, "project_id": 255, "code": 64}
DEFAULT_STRING_LENGTH = 255
TEXT_COLUMNS = ("reason", "next_command")

KEPT_COLUMNS = frozenset({"server_id", "tries", "move_id", "began", "worker", "lease_until"})
"""Columns of a server that a new census does not change."""


@functools.cache
def metadata() -> MetaData:
    """Return the tables ``drains``, ``drain_workers`` and ``drain_servers``."""
    from sqlalchemy import Column, Float, Index, MetaData, String, Table, Text

    metadata = MetaData()
    Table(
        "drains",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        Column("control", String(16), nullable=False),
        Column("wish", Text(TEXT_LENGTH), nullable=False),
    )
    Table(
        "drain_workers",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        Column("worker", String(128), primary_key=True),
        Column("began", Float(53), nullable=False),
        Column("seen_until", Float(53), nullable=False),
    )
    Table(
        "drain_servers",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        *(
            Column(
                column.name,
                _column_type(column.name, str(column.type)),
                nullable=False,
                primary_key=column.name == "server_id",
            )
            for column in fields(Task)
        ),
        Index("drain_servers_order", "drain_id", "stage", "position"),
    )
    return metadata


def _column_type(name: str, annotation: str) -> Integer | Float[float] | String:
    from sqlalchemy import Float, Integer, String, Text

    if annotation == "int":
        return Integer()
    if annotation == "float":
        return Float(53)
    return Text(TEXT_LENGTH) if name in TEXT_COLUMNS else String(STRING_LENGTHS.get(name, DEFAULT_STRING_LENGTH))


def create_tables(journal: Journal) -> None:
    """Create the queue's tables if they do not exist."""
    if not has_tables(journal):
        with journal.named_lock("cellmove-tables"), journal.exclusive() as connection:
            metadata().create_all(connection)


def has_tables(journal: Journal) -> bool:
    """Return whether this journal has ever held a drain."""
    from sqlalchemy import inspect

    with journal.transaction() as connection:
        return inspect(connection).has_table("drain_servers")


@functools.cache
def drain_lock(drains: Table) -> Select[tuple[object, ...]]:
    """Lock the row of a drain."""
    return statements.rows(drains, "drain_id", columns=("drain_id",)).with_for_update()


@functools.cache
def lease_renewal(servers: Table) -> Update:
    """Set new values for the servers in progress of one worker."""
    return statements.change(servers, "drain_id", "worker").where(servers.c.stage.in_(IN_PROGRESS))


@functools.cache
def in_order(servers: Table, *stages: Stage) -> Select[tuple[object, ...]]:
    """Read the servers of these stages by position; of all stages if none is given."""
    columns = tuple(column.name for column in fields(Task))
    query = statements.rows(servers, "drain_id", columns=columns, order=("position",))
    return query.where(servers.c.stage.in_(stages)) if stages else query


@functools.cache
def expired_leases(servers: Table) -> Select[tuple[object, ...]]:
    """Lock the first server in progress whose worker died, unless another transaction has locked it."""
    from sqlalchemy import bindparam

    expired = servers.c.lease_until <= bindparam("now"), servers.c.worker != bindparam("worker")
    return in_order(servers, *IN_PROGRESS).where(*expired).limit(1).with_for_update(skip_locked=True)


@functools.cache
def due_servers(servers: Table, stage: Stage) -> Select[tuple[object, ...]]:
    """Lock the first server of a stage that is due and is of none of ``hosts`` and ``projects``."""
    from sqlalchemy import bindparam

    allowed = (
        servers.c.host.not_in(bindparam("hosts", expanding=True)),
        servers.c.project_id.not_in(bindparam("projects", expanding=True)),
    )
    query = in_order(servers, stage).where(servers.c.due <= bindparam("now"), *allowed)
    return query.limit(1).with_for_update(skip_locked=True)


@functools.cache
def failure_count(servers: Table) -> Select[int]:
    """Count the failures since ``moment``, without the servers ``ignored``."""
    from sqlalchemy import bindparam, func, select

    troubled = servers.c.stage.in_(TROUBLED), servers.c.ended >= bindparam("moment")
    new = servers.c.server_id.not_in(bindparam("ignored", expanding=True))
    return select(func.count()).where(servers.c.drain_id == bindparam("drain_id"), *troubled, new)


@functools.cache
def target_host_counts(servers: Table) -> Select[tuple[str, int]]:
    """Count the other servers that move to each target host."""
    from sqlalchemy import bindparam, func, select

    query = select(servers.c.target_host, func.count().label("number")).where(
        servers.c.drain_id == bindparam("drain_id"),
        servers.c.stage == Stage.MOVING.value,
        servers.c.target_host != "",
        servers.c.server_id != bindparam("server_id"),
    )
    return query.group_by(servers.c.target_host)
