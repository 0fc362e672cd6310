"""Two cells' schemas compared: what rows need at the target and do not have, and what does not fit in there.

Values are measured in the database and never read, since they may be secrets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellmove.db import queries, records
from cellmove.db.engines import translate_errors
from cellmove.db.look import EVENTS, MADE_ANEW
from cellmove.db.types import AnyColumn, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement

    from cellmove.db.tables import CellDatabase

BITS = {"TINYINT": 8, "SMALLINT": 16, "MEDIUMINT": 24, "INTEGER": 32, "BIGINT": 64}
OCTETS = {"TINYTEXT": 2**8 - 1, "TEXT": 2**16 - 1, "MEDIUMTEXT": 2**24 - 1, "LONGTEXT": 2**32 - 1}
OCTETS_OF_CHARACTER = 4


@dataclass(frozen=True)
class Limit:
    """What a column of the target takes and the source's does not keep to.

    :param required: it takes no NULL
    :param characters: the longest text, in characters; ``octets``: in bytes
    :param numbers: the smallest and the largest
    :param choices: the words of an ENUM
    """

    name: str
    required: bool = False
    characters: int | None = None
    octets: int | None = None
    numbers: tuple[int, int] | None = None
    choices: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_any(self) -> bool:
        """Whether it limits anything."""
        return self != Limit(self.name)


def needed_columns(source: CellDatabase, target: CellDatabase) -> tuple[str, ...]:
    """The columns that take no NULL at the target, have no default there, and are not in the source's schema.

    :returns: ``table.column``
    :raises CallError: the database cannot be asked
    """
    found = tuple(
        (name, column.name)
        for name, columns in _tables(source, target)
        for column in columns
        if column.name not in source[name].c and _wants_a_value(column)
    )
    if found and target.engine.dialect.name != "sqlite":
        without = _without_default(target)
        found = tuple(each for each in found if each in without)
    return tuple(f"{table}.{column}" for table, column in found)


def _without_default(database: CellDatabase) -> set[tuple[str, str]]:
    """Ask the server which columns have no default, by table.

    SQLAlchemy does not reflect a default that is an expression. An ENUM that takes no NULL has one: its first value.
    """
    from sqlalchemy import text

    query = text(
        "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
        " AND COLUMN_DEFAULT IS NULL AND DATA_TYPE <> 'enum'"
    )
    with translate_errors(database.engine), database.engine.connect() as connection:
        return {(str(table), str(column)) for table, column in connection.execute(query)}


def _tables(source: CellDatabase, target: CellDatabase) -> Iterator[tuple[str, list[AnyColumn]]]:
    for name in (*records.KEYS, EVENTS):
        if name in source.tables and name in target.tables:
            yield name, list(target[name].c)


def _wants_a_value(column: AnyColumn) -> bool:
    given = column.server_default is not None or column.computed is not None or column.autoincrement is True
    return not column.nullable and not given


def narrower_columns(source: CellDatabase, target: CellDatabase) -> dict[str, list[Limit]]:
    """The columns of the target that take less than the source's, by table."""
    found: dict[str, list[Limit]] = {}
    for name, columns in _tables(source, target):
        for column in columns:
            if column.name in source[name].c and column.name != "id" and f"{name}.{column.name}" not in MADE_ANEW:
                limit = limit_of(source[name].c[column.name], column)
                if limit.is_any:
                    found.setdefault(name, []).append(limit)
    return found


def limit_of(here: AnyColumn, there: AnyColumn) -> Limit:
    """What the target's column takes and the source's does not keep to."""
    required = bool(here.nullable) and not there.nullable
    limit: Record = {}
    mine, theirs = _size(here), _size(there)
    if "numbers" in mine and "numbers" in theirs:
        (low, high), (lowest, highest) = theirs["numbers"], mine["numbers"]
        limit = theirs if low > lowest or high < highest else {}
    elif "choices" in theirs:
        limit = {} if mine.get("choices", {None}) <= theirs["choices"] else theirs
    elif "characters" in theirs and mine.keys() & {"characters", "octets"}:
        limit = theirs if mine.get("characters", float("inf")) > theirs["characters"] else {}
    elif "octets" in theirs and mine.keys() & {"characters", "octets"}:
        most = mine.get("octets", OCTETS_OF_CHARACTER * mine.get("characters", 0))
        limit = theirs if most > theirs["octets"] else {}
    return Limit(there.name, required, **limit)


def _size(column: AnyColumn) -> Record:
    """How much a column takes, by what that is counted in; empty when it is not counted."""
    kind = type(column.type).__name__.upper()
    if choices := getattr(column.type, "enums", None):
        return {"choices": frozenset(choices)}
    if kind in BITS:
        top = 2 ** BITS[kind]
        return {"numbers": (0, top - 1) if getattr(column.type, "unsigned", False) else (-top // 2, top // 2 - 1)}
    if kind in OCTETS:
        return {"octets": OCTETS[kind]}
    length = getattr(column.type, "length", None) if kind in ("VARCHAR", "CHAR", "STRING") else None
    return {"characters": int(length)} if length else {}


def unfit_columns(source: CellDatabase, target: CellDatabase, server_id: str) -> tuple[str, ...]:
    """The columns of the target that the server's live rows do not fit in. A query for each table with narrower columns.

    :returns: ``table.column``
    """
    found: list[str] = []
    for name, limits in narrower_columns(source, target).items():
        query = _measuring(source, name, limits)
        with translate_errors(source.engine), source.engine.connect() as connection:
            row = connection.execute(query, {"server_id": server_id}).one()
        found += [f"{name}.{limit.name}" for at, limit in enumerate(limits) if row[at]]
    return tuple(found)


def _measuring(source: CellDatabase, name: str, limits: list[Limit]) -> Any:
    from sqlalchemy import case, func, select

    columns = tuple(limit.name for limit in limits)
    rows = queries.rows_of(
        source[name], records.KEYS.get(name, ""), source["instance_actions"], with_deleted=False, columns=columns
    ).subquery()
    is_sqlite = source.engine.dialect.name == "sqlite"
    too_much = (
        func.sum(case((_exceeds(rows.c[limit.name], limit, is_sqlite=is_sqlite), 1), else_=0)) for limit in limits
    )
    return select(*too_much)


def _exceeds(column: Any, limit: Limit, *, is_sqlite: bool) -> ColumnElement[bool]:
    """Whether a value does not fit."""
    from sqlalchemy import LargeBinary, cast, false, func, or_

    clauses: list[Any] = [false()]
    if limit.required:
        clauses.append(column.is_(None))
    if limit.characters is not None:
        clauses.append((func.length(column) if is_sqlite else func.char_length(column)) > limit.characters)
    if limit.octets is not None:
        clauses.append(func.length(cast(column, LargeBinary) if is_sqlite else column) > limit.octets)
    if limit.numbers is not None:
        clauses += [column < limit.numbers[0], column > limit.numbers[1]]
    if limit.choices:
        clauses.append(column.notin_(sorted(limit.choices)))
    return or_(*clauses)
