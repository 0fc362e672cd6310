"""What a database user may not write: asked in few statements that can have no effect."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, exc
from sqlalchemy.dialects import mysql

from cellmove.db import rights
from cellmove.db.rights import DELETE, INSERT, UPDATE, Rights

TABLES = ("instances", "migrations", "tags", "instance_faults", "consoles", "services")
ALL = {INSERT, UPDATE, DELETE}


class DriverError(Exception):
    """What PyMySQL raises."""


class Server:
    """A connection to a MySQL server that judges statements by what it grants."""

    dialect = mysql.dialect()

    def __init__(self, without: dict[str, set[str]], *, read_only: bool = False) -> None:
        self.without = without
        self.read_only = read_only
        self.statements: list[str] = []

    def exec_driver_sql(self, statement: str) -> Any:
        self.statements.append(statement)
        if statement == "SELECT CURRENT_USER()":
            return self
        assert statement.endswith("WHERE 1 = 0")
        right = statement.split()[0]
        named = [name for name in TABLES if re.search(rf"\b{name}\b", statement)]
        assert named
        if any(right in self.without.get(name, ()) for name in named):
            raise exc.OperationalError(statement, {}, DriverError(1142, f"{right} command denied to user"))
        if self.read_only:
            raise exc.OperationalError(statement, {}, DriverError(1290, "running with the --read-only option"))
        return None

    def scalar(self) -> str:
        return "nova@10.0.0.%"


def found(server: Server) -> Rights | None:
    made = MetaData()
    tables = {name: Table(name, made, Column("id", Integer), Column("key", Integer)) for name in TABLES}
    return rights._lacking(server, rights.cell_writes(TABLES), tables, "nova_cell2")  # type: ignore[arg-type]


def test_where_nothing_lacks_few_statements_say_so() -> None:
    server = Server({})
    assert found(server) is None
    copied = {"instances", "migrations", "tags", "instance_faults"}
    assert len(server.statements) == 2 + len(copied)
    assert "services" not in " ".join(server.statements), "a move writes nothing there"
    assert "INSERT INTO tags (id, `key`) SELECT NULL, NULL FROM DUAL WHERE 1 = 0" in server.statements


def test_what_lacks_is_named_with_the_grant_to_type() -> None:
    lacking = found(Server({"tags": {DELETE}, "instances": ALL}))
    assert lacking is not None
    assert lacking.lacking == {"instances": (INSERT, UPDATE, DELETE), "tags": (DELETE,)}
    assert lacking.in_words == "INSERT, UPDATE, DELETE on instances; DELETE on tags"
    assert lacking.grants == (
        "GRANT INSERT, UPDATE, DELETE ON nova_cell2.instances TO 'nova'@'10.0.0.%'; "
        "GRANT DELETE ON nova_cell2.tags TO 'nova'@'10.0.0.%';"
    )


def test_a_user_who_may_only_read() -> None:
    lacking = found(Server(dict.fromkeys(TABLES, ALL)))
    assert lacking is not None
    assert set(lacking.lacking) == set(TABLES) - {"services"}
    assert lacking.grants == "GRANT INSERT, UPDATE, DELETE ON nova_cell2.* TO 'nova'@'10.0.0.%';"


def test_many_tables_are_not_all_named() -> None:
    assert (
        rights.Rights("d", "a", dict.fromkeys("abcdefg", (DELETE,))).in_words == "DELETE on a, b, c and 4 other tables"
    )
    assert rights.Rights("d", "a", dict.fromkeys("abcd", (DELETE,))).in_words == "DELETE on a, b, c, d"


def test_a_replica_takes_no_writes() -> None:
    lacking = found(Server({}, read_only=True))
    assert lacking is not None
    assert lacking.lacking == {}
    assert "read only" in lacking.read_only


@pytest.mark.parametrize("table", ["consoles", "console_auth_tokens", "security_group_instance_association"])
def test_rows_that_are_not_copied_are_only_deleted(table: str) -> None:
    assert rights.cell_writes([table]) == {table: (DELETE,)}


def test_sqlite_knows_no_rights() -> None:
    assert rights.lacking_rights(create_engine("sqlite://"), rights.API_WRITES, {}) is None
