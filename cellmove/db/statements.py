"""SQL statements, built once for each table and sent with other values every time: building one costs more than sending it.

What is bound is named after its column, so that a statement is sent with a plain mapping of values. Statements of
other shapes are built by functions of their own, with ``functools.cache``, beside whoever sends them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cellmove.db.types import Query, Record

if TYPE_CHECKING:
    from sqlalchemy import Delete, Insert, TableClause, Update
    from sqlalchemy.sql.elements import ColumnElement

KEY = "key_"
"""What the names of a key begin with where new values are sent beside it."""


@functools.cache
def rows(table: TableClause, *key: str, columns: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> Query:
    """The rows with a key.

    :param key: names of columns; the values that they have to have are sent under these names, none of them NULL
    :param columns: which to read; all of them when none are named
    """
    from sqlalchemy import select

    query = select(*(table.c[name] for name in columns)) if columns else select(table)
    return query.where(*_having(table, key)).order_by(*(table.c[name] for name in order))


@functools.cache
def insertion(table: TableClause) -> Insert:
    """A new row, or several; the columns are those of the values that it is sent with."""
    from sqlalchemy import insert

    return insert(table)


@functools.cache
def change(table: TableClause, *key: str) -> Update:
    """New values for the rows with a key, sent together with :func:`keyed`."""
    from sqlalchemy import update

    return update(table).where(*_having(table, key, KEY))


def keyed(**key: Any) -> Record:
    """The values of a key for :func:`change`, which new values of the same columns do not hide."""
    return {KEY + name: value for name, value in key.items()}


@functools.cache
def removal(table: TableClause, *key: str) -> Delete:
    """The end of the rows with a key."""
    from sqlalchemy import delete

    return delete(table).where(*_having(table, key))


def _having(table: TableClause, key: tuple[str, ...], prefix: str = "") -> list[ColumnElement[bool]]:
    from sqlalchemy import bindparam

    return [table.c[name] == bindparam(prefix + name) for name in key]
