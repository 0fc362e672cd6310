"""Bring a journal of an earlier version up to date.

Version 1 had neither checksums nor the columns of ``about`` but its version. Version 2 had no generations, version 3
no digest of each move: ``about`` had one digest, of all moves and lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import Stopped
from cellmove.db import statements
from cellmove.engine import integrity
from cellmove.engine.integrity import EMPTY, VERSION, Damaged

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Row, Table

TABLES_LOCK = "cellmove-tables"
TABLES_LOCK_SECONDS = 300

WITHOUT_CHECKSUMS = 1
LACKED_COLUMNS = {1: ("checksum", "generations", "digest"), 2: ("generations", "digest"), 3: ("digest",)}
"""The columns of ``moves`` that earlier versions did not have."""

ADDED_COLUMNS = (
    ("moves", "checksum", "VARCHAR(32)"),
    ("entries", "checksum", "VARCHAR(32)"),
    ("about", "digest", "VARCHAR(32)"),
    ("about", "seal", "VARCHAR(32)"),
    ("moves", "generations", "VARCHAR(1000)"),
    ("moves", "digest", "VARCHAR(32)"),
    ("about", "open_digest", "VARCHAR(32)"),
)


def upgrade(engine: Engine, metadata: MetaData) -> None:
    """Add what an earlier version lacked: columns, indexes, checksums and digests.

    :raises Damaged: the journal is damaged; nothing is changed then
    :raises Stopped: another run is upgrading it
    """
    is_file = engine.dialect.name == "sqlite"
    if is_file:
        with engine.connect() as connection:
            try:
                integrity.require_sound_pages(connection)
            except Damaged as error:
                raise Damaged(f"{error}; an earlier version wrote it") from None
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # two runs at once: one upgrades, one finds it done
            _upgrade(connection, metadata)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=TRUNCATE")  # the first version kept it in WAL mode
        return
    with engine.connect() as connection, tables_lock(connection), connection.begin():
        _upgrade(connection, metadata)


@contextmanager
def tables_lock(connection: Connection) -> Iterator[None]:
    """Hold the lock under which the tables of a shared journal are made and upgraded.

    It is released after the transactions of its body: a run that waits reads what was committed.

    :param connection: of MySQL, without a transaction; it may begin some within the lock, and ends them there
    :raises Stopped: another run has held the lock for :data:`TABLES_LOCK_SECONDS`
    """
    statement = f"SELECT GET_LOCK('{TABLES_LOCK}', {TABLES_LOCK_SECONDS})"
    is_held = connection.exec_driver_sql(statement).scalar() == 1
    connection.commit()
    if not is_held:
        raise Stopped(
            "another run is making or upgrading the tables of the journal",
            state="this run touched nothing",
            next_command="cellmove list  # when the other run has ended",
        )
    try:
        yield
    finally:
        connection.exec_driver_sql(f"SELECT RELEASE_LOCK('{TABLES_LOCK}')")
        connection.commit()


def _upgrade(connection: Connection, metadata: MetaData) -> None:
    """Repeatable at any point: MySQL commits each ``ALTER TABLE`` by itself."""
    from sqlalchemy import inspect, select

    version = connection.execute(select(metadata.tables["about"].c.schema_version)).scalar() or 0
    if version == VERSION:
        return
    inspector = inspect(connection)
    known = {name: {column["name"] for column in inspector.get_columns(name)} for name in metadata.tables}
    if version != WITHOUT_CHECKSUMS:
        _verify(connection, metadata, version)
    for table, column, kind in ADDED_COLUMNS:
        if column not in known[table]:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column} {kind} NOT NULL DEFAULT ''")
    for index in metadata.tables["moves"].indexes:
        index.create(connection, checkfirst=True)
    if version == WITHOUT_CHECKSUMS:
        _add_checksums(connection, metadata.tables["entries"])
    _add_digests(connection, metadata)


def _verify(connection: Connection, metadata: MetaData, version: int) -> None:
    """Check every row as the earlier version did.

    :raises Damaged: something differs from what was written
    """
    from sqlalchemy import select

    about = metadata.tables["about"]
    rows = connection.execute(select(about.c.schema_version, about.c.digest, about.c.seal)).all()
    if len(rows) != 1 or rows[0].seal != integrity.about_checksum(version, rows[0].digest):
        raise Damaged("the row of about differs from what was written")
    digest = EMPTY
    for name, lacked in (("moves", LACKED_COLUMNS.get(version, ())), ("entries", ())):
        columns = [column for column in metadata.tables[name].c if column.name not in lacked]
        for row in connection.execution_options(yield_per=integrity.PAGE_ROWS).execute(select(*columns)):
            integrity.verified(name, row._mapping)
            digest = integrity.combined(digest, row._mapping["checksum"])
    if digest != rows[0].digest:
        raise Damaged("rows are missing, or old ones were restored")


def _add_checksums(connection: Connection, entries: Table) -> None:
    for row in connection.execute(statements.rows(entries)).all():
        key = {column.name: row._mapping[column.name] for column in entries.primary_key.columns}
        written = {"checksum": integrity.checksum(entries.name, row._mapping), **statements.keyed(**key)}
        connection.execute(statements.change(entries, *key), written)


def _add_digests(connection: Connection, metadata: MetaData) -> None:
    moves, entries = metadata.tables["moves"], metadata.tables["entries"]
    digests: dict[str, str] = {}
    columns = statements.rows(entries, columns=("move_id", "checksum"))
    for move_id, sum_ in connection.execution_options(yield_per=integrity.PAGE_ROWS).execute(columns):
        digests[move_id] = integrity.combined(digests.get(move_id, EMPTY), sum_)
    digest = open_digest = EMPTY
    for (move_id,) in connection.execute(statements.rows(moves, columns=("id",))).all():
        row = connection.execute(statements.rows(moves, "id"), {"id": move_id}).one()
        sum_ = _add_digest(connection, moves, row, digests.get(move_id, EMPTY))
        digest = integrity.combined(digest, sum_)
        open_digest = integrity.combined(open_digest, sum_) if row.open_server else open_digest
    integrity.make_about(connection, metadata.tables["about"], digest, open_digest)


def _add_digest(connection: Connection, moves: Table, row: Row[Any], digest: str) -> str:
    """Write the digest of a move's lines into its row.

    :returns: the row's new checksum
    """
    sum_ = integrity.checksum(moves.name, {**row._mapping, "digest": digest})
    written = {"digest": digest, "checksum": sum_, **statements.keyed(id=row.id)}
    connection.execute(statements.change(moves, "id"), written)
    return sum_
