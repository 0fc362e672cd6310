"""What our database user may not do: found by writes that can have no effect, in a transaction that is rolled back.

``SHOW GRANTS`` is not parsed. Roles, wildcards, revoked parts and proxies that log in as another user are for the server to
judge: it checks the rights of a statement before it looks for rows, and here there are none to find. ``WHERE 1 = 0``
locks no row and reads none; the tables' definitions are held until the rollback, as by any write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.core.errors import CallFailed
from cellmove.db.engines import translate_errors
from cellmove.db.look import EVENTS
from cellmove.db.records import DELETED_FIRST, KEYS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

INSERT, UPDATE, DELETE = "INSERT", "UPDATE", "DELETE"

UPDATED = frozenset(
    {
        "instances",
        "instance_extra",
        "instance_system_metadata",
        "block_device_mapping",
        "migrations",
        "instance_actions",
        EVENTS,
    }
)
"""The tables of a cell of which a move changes rows."""

API_WRITES: Mapping[str, tuple[str, ...]] = {"instance_mappings": (UPDATE,), "request_specs": (UPDATE,)}

DENIED = frozenset({"denied", "1143"})  # 1142 of a table, 1143 of a column
READ_ONLY = frozenset({"read-only", "1792"})

Wants = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Rights:
    """What a database does not let us do.

    :param database: the schema's name
    :param account: who we are there, as GRANT takes it
    :param lacking: the rights by table
    :param read_only: what the server said when it takes no writes at all
    """

    database: str
    account: str = ""
    lacking: Wants = field(default_factory=dict)
    read_only: str = ""

    @property
    def in_words(self) -> str:
        """The tables by what lacks on them."""
        tables: dict[tuple[str, ...], list[str]] = {}
        for table, rights in self.lacking.items():
            tables.setdefault(rights, []).append(table)
        return "; ".join(f"{', '.join(rights)} on {_shortened(named)}" for rights, named in tables.items())

    @property
    def grants(self) -> str:
        """The statements that give what lacks."""
        if len(self.lacking) > FEW:
            every = {right for rights in self.lacking.values() for right in rights}
            rights = ", ".join(right for right in (INSERT, UPDATE, DELETE) if right in every)
            return f"GRANT {rights} ON {self.database}.* TO {self.account};"
        return " ".join(
            f"GRANT {', '.join(rights)} ON {self.database}.{table} TO {self.account};"
            for table, rights in self.lacking.items()
        )


FEW = 3
"""Tables that are named and granted one by one; for more the whole database is granted."""


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} other tables" if len(names) > FEW + 1 else ""
    return ", ".join(names[:FEW] if more else names) + more


def cell_writes(tables: Iterable[str]) -> Wants:
    """What a move writes to the tables that a cell has: rows are copied, changed and removed in both cells."""
    present = set(tables)
    wanted = {
        name: (*((INSERT,) if name in KEYS or name == EVENTS else ()), *((UPDATE,) if name in UPDATED else ()), DELETE)
        for name in (*KEYS, EVENTS, *DELETED_FIRST)
    }
    return {name: rights for name, rights in wanted.items() if name in present}


def lacking_rights(engine: Engine, wants: Wants, tables: Mapping[str, Table]) -> Rights | None:
    """Find out what we may not write.

    A statement for all updates, one for all deletes, one a table for inserts; only where one is denied, one for each table.

    :param wants: the rights by table
    :param tables: reflected, of those that rows are inserted into
    :returns: None when nothing lacks. SQLite knows no rights, and is not asked
    :raises CannotConnect: the database cannot be reached
    """
    if engine.dialect.name == "sqlite":
        return None
    with translate_errors(engine), engine.connect() as connection:
        try:
            return _lacking(connection, wants, tables, engine.url.database or "")
        finally:
            connection.rollback()


def _lacking(connection: Connection, wants: Wants, tables: Mapping[str, Table], schema: str) -> Rights | None:
    denied: dict[str, set[str]] = {}
    for right in (UPDATE, DELETE, INSERT):
        names = [name for name, rights in wants.items() if right in rights]
        if right != INSERT and names:
            answer = _ask(connection, _statement(connection, right, names, tables))
            if answer in READ_ONLY:
                return Rights(schema, read_only="it takes no writes: it is read only, a replica perhaps")
            if answer not in DENIED:
                continue
        for name in names:
            if _ask(connection, _statement(connection, right, [name], tables)) in DENIED:
                denied.setdefault(name, set()).add(right)
    if not denied:
        return None
    user, _, host = str(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar()).rpartition("@")
    lacking = {name: tuple(sorted(denied[name], key=wants[name].index)) for name in wants if name in denied}
    return Rights(schema, f"'{user}'@'{host}'", lacking)


def _statement(connection: Connection, right: str, names: Sequence[str], tables: Mapping[str, Table]) -> str:
    """A write of no row of any of these tables; an insertion names one table and all of its columns, so that none lacks a value."""
    quote = connection.dialect.identifier_preparer.quote
    quoted = [quote(name) for name in names]
    if right == UPDATE:
        return f"UPDATE {', '.join(quoted)} SET {', '.join(f'{name}.id = 0' for name in quoted)} WHERE 1 = 0"  # noqa: S608
    if right == DELETE:
        return f"DELETE {', '.join(quoted)} FROM {', '.join(quoted)} WHERE 1 = 0"
    columns = [quote(column.name) for column in tables[names[0]].c]
    nothing = ", ".join("NULL" for _ in columns)
    return f"INSERT INTO {quoted[0]} ({', '.join(columns)}) SELECT {nothing} FROM DUAL WHERE 1 = 0"  # noqa: S608


def _ask(connection: Connection, statement: str) -> str:
    """Execute a statement; how it failed, empty when it did not."""
    try:
        with translate_errors("the database"):  # which one an error of the driver knows
            connection.exec_driver_sql(statement)
    except CallFailed as error:
        return error.kind or "error"
    return ""
