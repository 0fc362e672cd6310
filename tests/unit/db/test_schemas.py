"""Two cells' schemas compared, and a server's rows held against what the target's takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Computed, Integer, MetaData, String, Table, create_engine, insert
from sqlalchemy.dialects import mysql

from cellmove.db.schemas import Limit, limit_of, narrower_columns, needed_columns, unfit_columns
from cellmove.db.tables import CellDatabase

SERVER = "server-1"


def database(name: str, **more: Any) -> CellDatabase:
    """A cell with tables of one column more each: the type of ``tags.tag``, or further columns."""
    made = MetaData()
    tags = more.pop("tags", String(60))
    Table(
        "instances", made, Column("id", Integer, primary_key=True), Column("uuid", String(36)), *more.pop("columns", ())
    )
    Table("instance_actions", made, Column("id", Integer, primary_key=True), Column("instance_uuid", String(36)))
    tag = Column("tag", tags, nullable=more.pop("nullable", True))
    Table("tags", made, Column("resource_id", String(36), primary_key=True), tag)
    engine = create_engine("sqlite://")
    if name == "cell1":
        made.create_all(engine)  # nothing is asked of a target
    return CellDatabase(name, engine, dict(made.tables))


def column(kind: Any, **options: Any) -> Column[Any]:
    return Column("c", kind, **options)


def test_a_column_that_wants_a_value_and_gets_none() -> None:
    there = database(
        "cell2",
        columns=(
            Column("weight", Integer, nullable=False),
            Column("nullable", Integer),
            Column("defaulted", Integer, nullable=False, server_default="0"),
            Column("computed", Integer, Computed("id + 1"), nullable=False),
        ),
    )
    assert needed_columns(database("cell1"), there) == ("instances.weight",)
    assert needed_columns(there, database("cell1")) == ()
    assert needed_columns(there, there) == ()


@pytest.mark.parametrize(
    ("here", "there", "limit"),
    [
        (String(255), String(60), Limit("c", characters=60)),
        (String(60), String(255), Limit("c")),
        (mysql.MEDIUMTEXT(), mysql.TEXT(), Limit("c", octets=65535)),
        (mysql.TEXT(), mysql.MEDIUMTEXT(), Limit("c")),
        (mysql.TEXT(), String(255), Limit("c", characters=255)),
        (String(255), mysql.TEXT(), Limit("c")),
        (String(255), mysql.TINYTEXT(), Limit("c", octets=255)),
        (mysql.BIGINT(), mysql.INTEGER(), Limit("c", numbers=(-(2**31), 2**31 - 1))),
        (mysql.INTEGER(), mysql.BIGINT(), Limit("c")),
        (mysql.INTEGER(), mysql.INTEGER(unsigned=True), Limit("c", numbers=(0, 2**32 - 1))),
        (mysql.ENUM("a", "b"), mysql.ENUM("a"), Limit("c", choices=frozenset("a"))),
        (mysql.ENUM("a"), mysql.ENUM("a", "b"), Limit("c")),
        (String(9), mysql.ENUM("a"), Limit("c", choices=frozenset("a"))),
        (mysql.ENUM("a"), String(9), Limit("c")),
        (mysql.DATETIME(), mysql.DATETIME(fsp=6), Limit("c")),
    ],
)
def test_what_a_column_takes(here: Any, there: Any, limit: Limit) -> None:
    assert limit_of(column(here), column(there)) == limit


def test_null_where_the_target_takes_none() -> None:
    assert limit_of(column(Integer), column(Integer, nullable=False)) == Limit("c", required=True)
    assert limit_of(column(Integer, nullable=False), column(Integer)) == Limit("c")


@pytest.mark.parametrize(
    ("there", "fits", "does_not"),
    [
        (lambda: database("cell2", tags=String(3)), "abc", "abcd"),
        (lambda: database("cell2", tags=mysql.TINYTEXT()), "x" * 255, "ü" * 128),
        (lambda: database("cell2", tags=mysql.ENUM("abc")), "abc", "abd"),
        (lambda: database("cell2", nullable=False), "abc", None),
    ],
    ids=["characters", "bytes", "words", "null"],
)
def test_only_rows_that_do_not_fit_count(there: Callable[[], CellDatabase], fits: str, does_not: str | None) -> None:
    target = there()
    for value, expected in ((fits, ()), (does_not, ("tags.tag",))):
        source = database("cell1", tags=String(255))
        with source.engine.begin() as connection:
            connection.execute(insert(source["tags"]), {"resource_id": SERVER, "tag": value})
            connection.execute(insert(source["tags"]), {"resource_id": "another", "tag": does_not})
        assert list(narrower_columns(source, target)) == ["tags"]
        assert unfit_columns(source, target, SERVER) == expected


def test_a_server_without_rows_fits() -> None:
    assert unfit_columns(database("cell1"), database("cell2", tags=String(3)), SERVER) == ()
    assert unfit_columns(database("cell1"), database("cell2"), SERVER) == ()
