"""SQL statements, built once for each table: building a statement costs more than sending it.

Each bound parameter has the name of its column, so that a statement is sent with a plain mapping of values. Statements of other
forms are built in the modules that send them, with ``functools.cache``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cellmove.db.types import Query, Record

if TYPE_CHECKING:
    from sqlalchemy import Delete, Insert, TableClause, Update
    from sqlalchemy.sql.elements import ColumnElement

KEY = "key_"
"""The prefix of the parameters of a key in a statement that also sets values."""


@functools.cache
def rows(table: TableClause, *key: str, columns: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> Query:
    """Return a SELECT of the rows with a key.

    :param key: names of columns, also of the parameters for their values. No value may be NULL
    :param columns: to read; empty: all
    """
    from sqlalchemy import select

    query = select(*(table.c[name] for name in columns)) if columns else select(table)
    return query.where(*_having(table, key)).order_by(*(table.c[name] for name in order))


@functools.cache
def insertion(table: TableClause) -> Insert:
    """Return an INSERT of one or several rows. The values that are sent name the columns."""
    from sqlalchemy import insert

    return insert(table)


@functools.cache
def change(table: TableClause, *key: str) -> Update:
    """Return an UPDATE of the rows with a key. It is sent with the new values and :func:`keyed`."""
    from sqlalchemy import update

    return update(table).where(*_having(table, key, KEY))


def keyed(**key: Any) -> Record:
    """Return the values of a key as parameters of :func:`change`, distinct from new values of the same columns."""
    return {KEY + name: value for name, value in key.items()}


@functools.cache
def removal(table: TableClause, *key: str) -> Delete:
    """Return a DELETE of the rows with a key."""
    from sqlalchemy import delete

    return delete(table).where(*_having(table, key))


def _having(table: TableClause, key: tuple[str, ...], prefix: str = "") -> list[ColumnElement[bool]]:
    from sqlalchemy import bindparam

    return [table.c[name] == bindparam(prefix + name) for name in key]
