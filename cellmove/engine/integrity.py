"""The journal's tables, and the checksums that detect a damaged journal.

SQLite's pages have no checksum: one changed bit can change a row, hide it or restore an old one without an error. Every
row therefore has a checksum of its content. The row of a move also has the digest of its lines, which is the exclusive-or
of their checksums. The table ``about`` has the digest of all moves and that of the open moves. A row that was changed,
removed or restored fails the check.

A command checks what it reads: the open moves when the journal is opened (:func:`verify_open`), a move's lines when
they are read (:func:`verified_lines`). ``cellmove journal check`` checks the rest, which takes seconds for a long
history (:func:`verify`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellmove.db import statements

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData, Select, Table

VERSION = 4
"""The version of the tables. :mod:`cellmove.engine.journal_upgrade` lists the differences of earlier versions."""

EMPTY = "0" * 32
"""The digest of no rows."""

PAGE_ROWS = 1000
"""The number of rows that a check of the whole journal fetches at a time."""


class Damaged(Exception):
    """The content of the journal differs from what was written. The text says where."""


@functools.cache
def make_metadata() -> MetaData:
    """Return the tables of this version."""
    from sqlalchemy import Column, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    Table(
        "about",
        metadata,
        Column("schema_version", Integer, primary_key=True),
        Column("digest", String(32), nullable=False, server_default=""),
        Column("open_digest", String(32), nullable=False, server_default=""),
        Column("seal", String(32), nullable=False, server_default=""),
    )
    Table(
        "moves",
        metadata,
        Column("id", String(32), primary_key=True),
        Column("server_id", String(36), nullable=False, index=True),
        Column("server_name", String(255), nullable=False, index=True),
        Column("kind", String(16), nullable=False),
        Column("state", String(32), nullable=False),
        # The id of the server while the move is open, then NULL: a server has at most one open move.
        Column("open_server", String(36), unique=True),
        Column("created_at", String(32), nullable=False),
        Column("updated_at", String(32), nullable=False),
        Column("plan", Text(16_000_000), nullable=False),
        Column("aim", String(32), nullable=False, server_default=""),
        Column("generations", String(1000), nullable=False, server_default=""),
        Column("digest", String(32), nullable=False, server_default=""),
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
    """Return the checksum of a row: of every column but the checksum itself."""
    content = [table, sorted((name, value) for name, value in row.items() if name != "checksum")]
    return _hash(content)


def verified(table: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row without its checksum.

    :raises Damaged: it differs from what was written
    """
    values = dict(row)
    if values.pop("checksum") != checksum(table, values):
        raise Damaged(f"a row of {table} differs from what was written")
    return values


def combined(digest: str, *checksums: str) -> str:
    """Return a digest after checksums were added or removed, which is the same operation."""
    number = int(digest, 16)
    for one in checksums:
        number ^= int(one, 16)
    return f"{number:032x}"


def insert_move(connection: Connection, moves: Table, values: Mapping[str, Any]) -> None:
    """Insert a move that has no lines yet. The caller holds the digest (:func:`lock_digest`).

    :param values: every column but the digest and the checksum
    """
    row = {**values, "digest": EMPTY}
    row["checksum"] = checksum(moves.name, row)
    connection.execute(statements.insertion(moves), row)
    _update_digests(connection, moves, _Change(after=row))


def change_move(connection: Connection, moves: Table, move_id: str, values: Mapping[str, Any]) -> bool:
    """Change a move's row, its checksum with it. The caller holds the digest.

    :returns: whether there is such a move
    :raises Damaged: the row differs from what was written
    """
    row = connection.execute(statements.rows(moves, "id"), {"id": move_id}).one_or_none()
    if row is None:
        return False
    before = verified(moves.name, row._mapping)
    after = before | dict(values)
    after["checksum"] = checksum(moves.name, after)
    written = {**values, "checksum": after["checksum"], **statements.keyed(id=move_id)}
    connection.execute(statements.change(moves, "id"), written)
    _update_digests(connection, moves, _Change(dict(row._mapping), after))
    return True


def remove_move(connection: Connection, moves: Table, move_id: str) -> None:
    """Remove a move and its lines. The caller holds the digest.

    :raises Damaged: a row differs from what was written
    """
    entries = moves.metadata.tables["entries"]
    lines(connection, moves.metadata, move_id)  # verifies them, and the move's row
    row = connection.execute(statements.rows(moves, "id"), {"id": move_id}).one_or_none()
    connection.execute(statements.removal(entries, "move_id"), {"move_id": move_id})
    if row is not None:
        connection.execute(statements.removal(moves, "id"), {"id": move_id})
        _update_digests(connection, moves, _Change(before=dict(row._mapping)))


def insert_lines(
    connection: Connection, entries: Table, move_id: str, rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> bool:
    """Insert lines of a move. The caller holds the digest.

    :param rows: every column but the checksum
    :param more: new values for the move's row, written with its digest
    :returns: whether there is such a move; if not, the caller gives the transaction up
    :raises Damaged: the move's row differs from what was written
    """
    summed = [{**row, "checksum": checksum(entries.name, row)} for row in rows]
    for row in summed:
        connection.execute(statements.insertion(entries), row)
    return _update_line_digest(connection, entries, move_id, [row["checksum"] for row in summed], more)


def change_line(
    connection: Connection, entries: Table, key: Mapping[str, Any], values: Mapping[str, Any], more: Mapping[str, Any]
) -> bool:
    """Change a line, its checksum with it. The caller holds the digest.

    :param key: move_id and sequence
    :param more: new values for the move's row, written with its digest
    :returns: whether there is such a line, and its move
    :raises Damaged: the line or the move's row differs from what was written
    """
    row = connection.execute(statements.rows(entries, *key), key).one_or_none()
    if row is None:
        return False
    before = verified(entries.name, row._mapping)
    sum_ = checksum(entries.name, before | dict(values))
    connection.execute(statements.change(entries, *key), {**values, "checksum": sum_, **statements.keyed(**key)})
    return _update_line_digest(connection, entries, key["move_id"], [row._mapping["checksum"], sum_], more)


def lines(connection: Connection, metadata: MetaData, move_id: str) -> list[dict[str, Any]]:
    """Return the lines of a move in the order of their start, without checksums, from one consistent view.

    :raises Damaged: they differ from what was written, or the move's row is not
    """
    moves, entries = metadata.tables["moves"], metadata.tables["entries"]
    move = connection.execute(statements.rows(moves, "id"), {"id": move_id}).one_or_none()
    rows = connection.execute(statements.rows(entries, "move_id", order=("sequence",)), {"move_id": move_id}).all()
    digest = verified(moves.name, move._mapping)["digest"] if move is not None else EMPTY
    return verified_lines(move_id, digest, [row._mapping for row in rows])


def lines_of_moves(
    connection: Connection, metadata: MetaData, move_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of some moves, by move, from one consistent view; moves without lines are omitted.

    :raises Damaged: see :func:`lines`
    """
    from sqlalchemy import select

    moves, entries = metadata.tables["moves"], metadata.tables["entries"]
    digests = {
        row.id: verified(moves.name, row._mapping)["digest"]
        for row in connection.execute(select(moves).where(moves.c.id.in_(move_ids)))
    }
    query = select(entries).where(entries.c.move_id.in_(move_ids)).order_by(entries.c.move_id, entries.c.sequence)
    rows: dict[str, list[Mapping[Any, Any]]] = {move_id: [] for move_id in digests}
    for row in connection.execute(query):
        rows.setdefault(row.move_id, []).append(row._mapping)
    found = {move_id: verified_lines(move_id, digests.get(move_id, EMPTY), each) for move_id, each in rows.items()}
    return {move_id: each for move_id, each in found.items() if each}


def verified_lines(move_id: str, digest: str, rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Return the lines of a move without their checksums.

    :param digest: the digest in the move's row
    :raises Damaged: they differ from what was written
    """
    try:
        values = [verified("entries", row) for row in rows]
    except Damaged as error:
        raise Damaged(f"{error}, a line of {move_id}") from None
    if combined(EMPTY, *(row["checksum"] for row in rows)) != digest:
        raise Damaged(f"lines of {move_id} are missing, or old ones were restored")
    return values


def lock_digest(connection: Connection, about: Table) -> None:
    """Keep other transactions from changing the digest. In SQLite a transaction that writes excludes all others."""
    if connection.dialect.name != "sqlite":
        connection.execute(_locking(about))


@functools.cache
def _locking(about: Table) -> Select[Any]:
    from sqlalchemy import select

    return select(about.c.digest).with_for_update()


def make_about(connection: Connection, about: Table, digest: str, open_digest: str) -> None:
    """Replace the row of ``about``."""
    from sqlalchemy import delete
    from sqlalchemy import insert as insert_row

    connection.execute(delete(about))
    written = about_checksum(VERSION, digest, open_digest)
    values = {"schema_version": VERSION, "digest": digest, "open_digest": open_digest, "seal": written}
    connection.execute(insert_row(about).values(**values))


def about_checksum(version: int, *digests: str) -> str:
    """Return the checksum of the row of ``about``. Versions before 4 had one digest, of all rows."""
    return _hash(["about", version, *digests])


def verify_open(connection: Connection, metadata: MetaData) -> None:
    """Check the rows of the open moves, and that none is missing. The caller gives one consistent view.

    :raises Damaged: something differs from what was written
    """
    about, moves = metadata.tables["about"], metadata.tables["moves"]
    digests = _digests(connection, about)
    found = EMPTY
    for row in connection.execute(_open_rows(moves)):
        verified(moves.name, row._mapping)
        found = combined(found, row._mapping["checksum"])
    if found != digests.open:
        raise Damaged("open moves are missing, or old ones were restored")


def verify_moves(connection: Connection, metadata: MetaData, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Check that these are all the moves that were written, in the same view.

    :param rows: with their checksums, each of which was verified
    :raises Damaged: they are not
    """
    if combined(EMPTY, *(row["checksum"] for row in rows)) != _digests(connection, metadata.tables["about"]).all:
        raise Damaged("moves are missing, or old ones were restored")


def verify(connection: Connection, metadata: MetaData) -> tuple[int, int]:
    """Check everything: pages, rows, and that no row is missing. The caller gives one consistent view.

    :returns: how many moves and how many lines there are
    :raises Damaged: something differs from what was written
    """
    require_sound_pages(connection)
    verify_open(connection, metadata)
    moves = metadata.tables["moves"]
    rows = [row._mapping for row in connection.execute(statements.rows(moves))]
    digests = {row["id"]: verified(moves.name, row)["digest"] for row in rows}
    verify_moves(connection, metadata, rows)
    count = 0
    for move_id, of_move in _by_move(connection, metadata.tables["entries"]):
        count += len(verified_lines(move_id, digests.pop(move_id, EMPTY), of_move))
    for move_id, digest in digests.items():
        verified_lines(move_id, digest, ())
    return len(rows), count


def require_sound_pages(connection: Connection) -> None:
    """Let SQLite check its pages.

    :raises Damaged: they are damaged
    """
    if connection.dialect.name == "sqlite":
        said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if said != "ok":
            raise Damaged(f"its pages are damaged: {str(said).splitlines()[-1]}")


def _by_move(connection: Connection, entries: Table) -> Iterator[tuple[str, list[Mapping[Any, Any]]]]:
    """Yield the lines of all moves, one move at a time, because a long history does not fit into memory."""
    import itertools

    query = statements.rows(entries, order=("move_id", "sequence"))
    rows = (row._mapping for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query))
    for move_id, of_move in itertools.groupby(rows, lambda row: row["move_id"]):
        yield move_id, list(of_move)


@functools.cache
def _open_rows(moves: Table) -> Select[Any]:
    return statements.rows(moves).where(moves.c.open_server > "")  # uses the index, which IS NOT NULL does not


@dataclass(frozen=True)
class _Digests:
    """The digests of ``about``: of all moves, and of the open moves."""

    all: str
    open: str


@dataclass(frozen=True)
class _Change:
    """The row of a move before and after a change, with its checksum; empty: there is no row."""

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


def _digests(connection: Connection, about: Table) -> _Digests:
    rows = connection.execute(statements.rows(about)).all()
    (row,) = rows if len(rows) == 1 else (None,)
    if row is None or row.seal != about_checksum(row.schema_version, row.digest, row.open_digest):
        raise Damaged("the row of about differs from what was written")
    return _Digests(row.digest, row.open_digest)


def _update_line_digest(
    connection: Connection, entries: Table, move_id: str, sums: Sequence[str], more: Mapping[str, Any]
) -> bool:
    moves = entries.metadata.tables["moves"]
    digest = connection.execute(_digest_of(moves), {"id": move_id}).scalar()
    if digest is None:
        return False
    return change_move(connection, moves, move_id, {**more, "digest": combined(digest, *sums)})


@functools.cache
def _digest_of(moves: Table) -> Select[Any]:
    return statements.rows(moves, "id", columns=("digest",))


def _update_digests(connection: Connection, moves: Table, change: _Change) -> None:
    about = moves.metadata.tables["about"]
    digests = _digests(connection, about)
    rows = [row for row in (change.before, change.after) if row]
    digest = combined(digests.all, *(row["checksum"] for row in rows))
    open_digest = combined(digests.open, *(row["checksum"] for row in rows if row["open_server"]))
    written = about_checksum(VERSION, digest, open_digest)
    connection.execute(statements.change(about), {"digest": digest, "open_digest": open_digest, "seal": written})


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=repr).encode  # a torn value may be bytes


def _hash(content: Any) -> str:
    return hashlib.blake2b(_encode(content).encode(), digest_size=16).hexdigest()
