"""The tables of a drain's queue, and its statements, each built once. What is bound is named after its column."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cellmove.db import statements
from cellmove.drain.item import TROUBLED, UNDER_WAY, Stage, Task

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Select, Table, Update


@functools.cache
def metadata() -> MetaData:
    from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    Table(
        "drains",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        Column("control", String(16), nullable=False),
        Column("wish", Text(1_000_000), nullable=False),
    )
    Table(
        "drain_workers",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        Column("worker", String(128), primary_key=True),
        Column("began", Float(53), nullable=False),
        Column("seen_until", Float(53), nullable=False),
    )
    lengths = {"server_id": 36, "stage": 16, "move_id": 32, "worker": 128, "project_id": 255, "code": 64}
    columns = []
    for each in fields(Task):
        kind: Any = {"int": Integer, "float": Float(53)}.get(str(each.type), String(lengths.get(each.name, 255)))
        if each.name in ("reason", "next_command"):
            kind = Text(1_000_000)
        columns.append(Column(each.name, kind, nullable=False, primary_key=each.name == "server_id"))
    Table(
        "drain_servers",
        metadata,
        Column("drain_id", String(32), primary_key=True),
        *columns,
        Index("drain_servers_order", "drain_id", "stage", "position"),
    )
    return metadata


@functools.cache
def turn(drains: Table) -> Select[Any]:
    return statements.rows(drains, "drain_id", columns=("drain_id",)).with_for_update()


@functools.cache
def renewal(servers: Table) -> Update:
    return statements.change(servers, "drain_id", "worker").where(servers.c.stage.in_(UNDER_WAY))


@functools.cache
def in_order(servers: Table, *stages: Stage) -> Select[Any]:
    query = statements.rows(servers, "drain_id", columns=tuple(each.name for each in fields(Task)), order=("position",))
    return query.where(servers.c.stage.in_(stages)) if stages else query


@functools.cache
def orphans(servers: Table) -> Select[Any]:
    """The first server under way whose run is not alive, and which nobody else has locked."""
    from sqlalchemy import bindparam

    ended = servers.c.lease_until <= bindparam("now"), servers.c.worker != bindparam("worker")
    return in_order(servers, *UNDER_WAY).where(*ended).limit(1).with_for_update(skip_locked=True)


@functools.cache
def due(servers: Table, stage: Stage) -> Select[Any]:
    """The first server of a stage that is due, from none of ``hosts`` or ``projects``, and which nobody else has locked."""
    from sqlalchemy import bindparam

    free = (
        servers.c.host.not_in(bindparam("hosts", expanding=True)),
        servers.c.project_id.not_in(bindparam("projects", expanding=True)),
    )
    query = in_order(servers, stage).where(servers.c.due <= bindparam("now"), *free)
    return query.limit(1).with_for_update(skip_locked=True)


@functools.cache
def failures(servers: Table) -> Select[Any]:
    from sqlalchemy import bindparam, func, select

    troubled = servers.c.stage.in_(TROUBLED), servers.c.ended >= bindparam("moment")
    new = servers.c.server_id.not_in(bindparam("but", expanding=True))
    return select(func.count()).where(servers.c.drain_id == bindparam("drain_id"), *troubled, new)


@functools.cache
def targets(servers: Table) -> Select[Any]:
    """How many other servers are under way to each target host."""
    from sqlalchemy import bindparam, func, select

    query = select(servers.c.target_host, func.count().label("number")).where(
        servers.c.drain_id == bindparam("drain_id"), servers.c.stage == Stage.MOVING.value,
        servers.c.target_host != "", servers.c.server_id != bindparam("server_id"),
    )  # fmt: skip
    return query.group_by(servers.c.target_host)
