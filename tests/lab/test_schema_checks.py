"""Columns that take no NULL and have no default, on a real MariaDB: what the plan refuses is what the server refuses."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy

from cellmove.db import schemas
from cellmove.db.engines import open_database
from cellmove.db.tables import CELL_TABLES, CellDatabase, open_cell_database
from lab import oracle
from lab.rows import connect_database
from tests.lab.test_plan_checks import Copy, api, refusals  # noqa: F401 - a fixture

pytestmark = pytest.mark.lab

COLUMNS = {
    "lab_number": "INT NOT NULL",
    "lab_text": "VARCHAR(20) NOT NULL",
    "lab_long": "MEDIUMTEXT NOT NULL",
    "lab_date": "DATETIME NOT NULL",
    "lab_choice": "ENUM('one', 'two') NOT NULL",
    "lab_moment": "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP",
    "lab_default": "INT NOT NULL DEFAULT 3",
    "lab_empty": "VARCHAR(20) NOT NULL DEFAULT ''",
    "lab_spoken": "VARCHAR(20) NOT NULL DEFAULT (concat('a', 'b'))",
    "lab_null": "INT",
    "lab_made": "INT GENERATED ALWAYS AS (1) VIRTUAL",
    "lab_kept": "INT GENERATED ALWAYS AS (2) PERSISTENT",
}
"""Columns that the target's table of tags has, and the source's has not."""

NOT_GIVEN = 1364
"""MariaDB: the field has no default value."""


class Target:
    """A cell database of a test's own, with the tables of cell2 and what is in them about hosts."""

    def __init__(self, cursor: Any, url: str) -> None:
        self.cursor = cursor
        self.name = f"nova_cell2_{uuid.uuid4().hex[:8]}"
        self.url = (
            sqlalchemy.make_url(url).set(username="lab", database=self.name).render_as_string(hide_password=False)
        )

    def make(self) -> None:
        """Create it."""
        self.cursor.execute(f"CREATE DATABASE {self.name}")
        self.cursor.execute("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'nova_cell2'")
        for table in [row["t"] for row in self.cursor.fetchall()]:
            kind = f"TABLE {self.name}.{table} LIKE nova_cell2.{table}"
            view = f"VIEW {self.name}.{table} AS SELECT * FROM nova_cell2.{table}"  # noqa: S608 - our own
            self.cursor.execute(f"CREATE {kind if table in CELL_TABLES else view}")

    def refresh(self) -> None:
        """Fill in the hosts of cell2 and their services as they are now: a heartbeat is soon too old."""
        for table in ("services", "compute_nodes"):
            self.cursor.execute(f"DELETE FROM {self.name}.{table}")  # noqa: S608 - our own
            self.cursor.execute(f"INSERT INTO {self.name}.{table} SELECT * FROM nova_cell2.{table}")  # noqa: S608

    def database(self) -> CellDatabase:
        """The database as cellmove opens it."""
        return open_cell_database(open_database(self.url, connect_timeout=5), "cell2")

    def refuses_without(self, column: str) -> bool:
        """Whether the server refuses a row that gives this column, alone of the table, no value."""
        self.cursor.execute("SET SESSION sql_mode = 'TRADITIONAL'")
        table = f"{self.name}.only_{column}"
        self.cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, {column} {COLUMNS[column]})")
        try:
            self.cursor.execute(f"INSERT INTO {table} (id) VALUES (1)")  # noqa: S608
        except pymysql.MySQLError as error:
            return bool(error.args[0] == NOT_GIVEN)
        return False


@pytest.fixture
def target(lab_environment: dict[str, str]) -> Iterator[Target]:
    connection = connect_database()
    with contextlib.closing(connection), connection.cursor() as cursor:
        made = Target(cursor, lab_environment["CELLMOVE_LAB_CELL2_DB"])
        try:
            made.make()
            yield made
        finally:
            cursor.execute(f"DROP DATABASE IF EXISTS {made.name}")


def test_columns_without_a_default_are_those_that_mariadb_refuses_to_leave_out(
    target: Target, lab_environment: dict[str, str]
) -> None:
    refused = {column for column in COLUMNS if target.refuses_without(column)}
    assert {"lab_number", "lab_text", "lab_long", "lab_date"} <= refused
    for column, kind in COLUMNS.items():
        target.cursor.execute(f"ALTER TABLE {target.name}.tags ADD COLUMN {column} {kind}")
    source = open_cell_database(open_database(lab_environment["CELLMOVE_LAB_CELL1_DB"], connect_timeout=5), "cell1")
    assert set(schemas.needed_columns(source, target.database())) == {f"tags.{column}" for column in refused}


def test_a_plan_names_a_column_that_wants_a_value(cellmove: Any, boot: Any, api: Copy, target: Target) -> None:  # noqa: F811
    server = boot("needed")
    before = oracle.snapshot(server.id)
    api.change_cell(database_connection=target.url)

    def planned(expect: int) -> list[dict[str, str]]:
        target.refresh()
        words = ("plan", server.id, "--cell", "cell2", "--dry-run", "-f", "json")
        return refusals(cellmove(*words, expect=expect, env=api.environment))

    assert planned(0) == []
    target.cursor.execute(f"ALTER TABLE {target.name}.instances ADD COLUMN lab_number INT NOT NULL")
    (found,) = planned(5)
    assert found["code"] == "schema-needs"
    assert "has no default for them: instances.lab_number" in found["text"]
    target.cursor.execute(f"ALTER TABLE {target.name}.instances ALTER COLUMN lab_number SET DEFAULT 0")  # as it says
    assert planned(0) == []
    assert oracle.snapshot(server.id) == before
