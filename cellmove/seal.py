"""The journal's tables, and the checksums by which a damaged journal is known.

SQLite's pages carry no checksum, and one bit turned in them can change a row, hide one or bring an old
one back, all without an error. So every row carries the checksum of its own content, and the table
``about`` the exclusive-or of them all: a row that changed, vanished or came back does not pass.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellmove import statements

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Select, Table

VERSION = 3
"""Version of the journal's tables. 1 had neither checksums nor the columns of ``about`` but its version; 2 had no generations."""

ADDED = "generations"
"""The column of ``moves`` that version 3 added."""

EMPTY = "0" * 32
"""The digest of a journal without rows."""


class Damaged(Exception):
    """The journal's content is not what was written. Its text says how that was seen."""


@functools.cache
def make_metadata() -> MetaData:
    """The tables, as this version has them."""
    from sqlalchemy import Column, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    Table(
        "about",
        metadata,
        Column("schema_version", Integer, primary_key=True),
        Column("digest", String(32), nullable=False, server_default=""),
        Column("seal", String(32), nullable=False, server_default=""),
    )
    Table(
        "moves",
        metadata,
        Column("id", String(32), primary_key=True),
        Column("server_id", String(36), nullable=False, index=True),
        Column("server_name", String(255), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("state", String(32), nullable=False),
        # Holds the server's id while the move is open and NULL afterwards: at most one open move a server.
        Column("open_server", String(36), unique=True),
        Column("created_at", String(32), nullable=False),
        Column("updated_at", String(32), nullable=False),
        Column("plan", Text(16_000_000), nullable=False),
        Column("aim", String(32), nullable=False, server_default=""),
        Column(ADDED, String(1000), nullable=False, server_default=""),
        Column("checksum", String(32), nullable=False, server_default=""),
    )
    Table(
        "entries",
        metadata,
        Column("move_id", String(32), primary_key=True),
        Column("sequence", Integer, primary_key=True, autoincrement=False),
        Column("step", String(32), nullable=False),
        Column("action", String(64), nullable=False),
        Column("phase", String(16), nullable=False),
        Column("intent", Text(16_000_000), nullable=False),
        Column("result", Text(16_000_000), nullable=False),
        Column("error", Text, nullable=False),
        Column("started_at", String(32), nullable=False),
        Column("finished_at", String(32), nullable=False),
        Column("checksum", String(32), nullable=False, server_default=""),
    )
    return metadata


def checksum(table: str, row: Mapping[Any, Any]) -> str:
    """The checksum of a row's content: every column but the checksum itself."""
    content = [table, sorted((name, value) for name, value in row.items() if name != "checksum")]
    return _hash(content)


def verified(table: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as it was read, without its checksum.

    :raises Damaged: it is not what was written
    """
    values = dict(row)
    if values.pop("checksum") != checksum(table, values):
        raise Damaged(f"a row of {table} is not what was written")
    return values


def combined(digest: str, *checksums: str) -> str:
    """A digest with checksums put in, or taken out again: that is the same."""
    number = int(digest, 16)
    for one in checksums:
        number ^= int(one, 16)
    return f"{number:032x}"


def insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row with its checksum. The caller holds the digest (:func:`lock_digest`)."""
    sum_ = checksum(table.name, values)
    connection.execute(statements.insertion(table), {**values, "checksum": sum_})
    _turn(connection, table, sum_)


def change(connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Change the row with this key, its checksum with it. The caller holds the digest.

    :returns: whether there is such a row
    :raises Damaged: the row is not what was written
    """
    row = connection.execute(statements.rows(table, *key), key).one_or_none()
    if row is None:
        return False
    before = verified(table.name, row._mapping)
    sum_ = checksum(table.name, before | dict(values))
    connection.execute(statements.change(table, *key), {**values, "checksum": sum_, **statements.keyed(**key)})
    _turn(connection, table, row._mapping["checksum"], sum_)
    return True


def remove(connection: Connection, table: Table, key: Mapping[str, Any]) -> None:
    """Remove the rows with this key, their checksums with them. The caller holds the digest."""
    found = connection.execute(statements.rows(table, *key), key).all()
    for row in found:
        verified(table.name, row._mapping)
    connection.execute(statements.removal(table, *key), key)
    _turn(connection, table, *(row._mapping["checksum"] for row in found))


def lock_digest(connection: Connection, about: Table) -> None:
    """From here to the transaction's end nobody else changes the digest. In SQLite nobody else writes at all, anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(_locking(about))


@functools.cache
def _locking(about: Table) -> Select[Any]:
    from sqlalchemy import select

    return select(about.c.digest).with_for_update()


def make_about(connection: Connection, about: Table, digest: str) -> None:
    """Write the row of ``about`` anew."""
    from sqlalchemy import delete
    from sqlalchemy import insert as insert_row

    connection.execute(delete(about))
    values = {"schema_version": VERSION, "digest": digest, "seal": seal_of(VERSION, digest)}
    connection.execute(insert_row(about).values(**values))


def seal_of(version: int, digest: str) -> str:
    """The checksum of the row of ``about``."""
    return _hash(["about", version, digest])


def verify(connection: Connection, metadata: MetaData, *, without: str = "") -> None:
    """Check everything: pages, rows, and that no row is missing. The caller gives one consistent view.

    :param without: a column that the version which wrote the rows did not have
    :raises Damaged: something is not what was written
    """
    from sqlalchemy import select

    if connection.dialect.name == "sqlite":
        said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if said != "ok":
            raise Damaged(f"its pages are damaged: {str(said).splitlines()[-1]}")
    rows = connection.execute(select(*metadata.tables["about"].c)).all()
    if len(rows) != 1 or rows[0].seal != seal_of(rows[0].schema_version, rows[0].digest):
        raise Damaged("the row of about is not what was written")
    digest = EMPTY
    for name in ("moves", "entries"):
        table = metadata.tables[name]
        for row in connection.execute(select(*(column for column in table.c if column.name != without))):
            verified(name, row._mapping)
            digest = combined(digest, row._mapping["checksum"])
    if digest != rows[0].digest:
        raise Damaged("rows are missing, or old ones came back")


def upgrade(engine: Engine, metadata: MetaData) -> None:
    """Bring a journal of an earlier version up to date: columns that it lacks, and checksums over all of them.

    :raises Damaged: it is damaged; nothing is changed then
    """
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if sqlite and connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
            raise Damaged("the pages of this journal of an earlier version are damaged")
    with engine.begin() as connection:
        if sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # two runs at once: one upgrades, one finds it done
        else:
            connection.exec_driver_sql("SELECT GET_LOCK('cellmove-tables', 30)")
        try:
            _upgrade(connection, metadata)
        finally:
            if not sqlite:
                connection.exec_driver_sql("SELECT RELEASE_LOCK('cellmove-tables')")
    if sqlite:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=TRUNCATE")  # the first version kept it in WAL mode


def _upgrade(connection: Connection, metadata: MetaData) -> None:
    """Repeatable at any point: MySQL commits each ``ALTER TABLE`` by itself."""
    from sqlalchemy import inspect, select, update

    about = metadata.tables["about"]
    if connection.execute(select(about.c.schema_version)).scalar() == VERSION:
        return
    known = {name: {column["name"] for column in inspect(connection).get_columns(name)} for name in metadata.tables}
    if "seal" in known["about"]:
        verify(connection, metadata, without=ADDED)
    for where, column, kind in (
        ("moves", "checksum", "VARCHAR(32)"), ("entries", "checksum", "VARCHAR(32)"), ("about", "digest", "VARCHAR(32)"),
        ("about", "seal", "VARCHAR(32)"), ("moves", ADDED, "VARCHAR(1000)"),
    ):  # fmt: skip
        if column not in known[where]:
            connection.exec_driver_sql(f"ALTER TABLE {where} ADD COLUMN {column} {kind} NOT NULL DEFAULT ''")
    digest = EMPTY
    for name in ("moves", "entries"):
        table = metadata.tables[name]
        for row in connection.execute(select(table)).all():
            sum_ = checksum(name, row._mapping)
            same = [key == row._mapping[key.name] for key in table.primary_key.columns]
            connection.execute(update(table).where(*same).values(checksum=sum_))
            digest = combined(digest, sum_)
    make_about(connection, about, digest)


def _turn(connection: Connection, table: Table, *checksums: str) -> None:
    about = table.metadata.tables["about"]
    row = connection.execute(statements.rows(about)).one()
    if row.seal != seal_of(row.schema_version, row.digest):
        raise Damaged("the row of about is not what was written")
    digest = combined(row.digest, *checksums)
    connection.execute(statements.change(about), {"digest": digest, "seal": seal_of(row.schema_version, digest)})


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=repr).encode  # a torn value may be bytes


def _hash(content: Any) -> str:
    return hashlib.blake2b(_encode(content).encode(), digest_size=16).hexdigest()
