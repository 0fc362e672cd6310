"""The journal's tables and checksums: a row that changed, vanished or came back does not pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateTable

from cellmove.engine import integrity

TABLES = """
CREATE TABLE about (schema_version INTEGER NOT NULL AUTO_INCREMENT, digest VARCHAR(32) NOT NULL DEFAULT '',
    open_digest VARCHAR(32) NOT NULL DEFAULT '', seal VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (schema_version))
CREATE TABLE entries (move_id VARCHAR(32) NOT NULL, sequence INTEGER NOT NULL, step VARCHAR(32) NOT NULL,
    action VARCHAR(64) NOT NULL, phase VARCHAR(16) NOT NULL, intent TEXT(16000000) NOT NULL,
    result TEXT(16000000) NOT NULL, error TEXT NOT NULL, started_at VARCHAR(32) NOT NULL,
    finished_at VARCHAR(32) NOT NULL, checksum VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (move_id, sequence))
CREATE TABLE moves (id VARCHAR(32) NOT NULL, server_id VARCHAR(36) NOT NULL, server_name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL, state VARCHAR(32) NOT NULL, open_server VARCHAR(36), created_at VARCHAR(32) NOT NULL,
    updated_at VARCHAR(32) NOT NULL, plan TEXT(16000000) NOT NULL, aim VARCHAR(32) NOT NULL DEFAULT '',
    generations VARCHAR(1000) NOT NULL DEFAULT '', digest VARCHAR(32) NOT NULL DEFAULT '',
    checksum VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (id), UNIQUE (open_server))
"""
"""The tables as this version makes them in MariaDB. Other tables need another version."""

ROW: dict[str, Any] = {
    "move_id": "m1", "sequence": 1, "step": "s", "action": "a", "phase": "intent", "intent": "{}", "result": "{}",
    "error": "", "started_at": "t", "finished_at": "",
}  # fmt: skip

MOVE: dict[str, Any] = {
    "id": "m1", "server_id": "s1", "server_name": "n", "kind": "resize", "state": "planned", "open_server": "s1",
    "created_at": "t", "updated_at": "t", "plan": "{}", "aim": "", "generations": "",
}  # fmt: skip
CLOSED = MOVE | {"id": "m2", "server_id": "s2", "state": "confirmed", "open_server": None}
MOVES, ENTRIES = integrity.make_metadata().tables["moves"], integrity.make_metadata().tables["entries"]


def test_the_tables_of_this_version_stay_as_they_are() -> None:
    made = "".join(
        str(CreateTable(table).compile(dialect=mysql.dialect())) for table in integrity.make_metadata().sorted_tables
    )
    assert "".join(made.split()) == "".join(TABLES.split())
    indexes = [index.name for table in integrity.make_metadata().sorted_tables for index in table.indexes]
    assert sorted(indexes) == ["ix_moves_server_id", "ix_moves_server_name"]
    assert integrity.VERSION == 4


def test_a_digest_takes_checksums_in_and_out_again() -> None:
    one, two = integrity.checksum("entries", ROW), integrity.checksum("moves", ROW)
    assert one != two
    digest = integrity.combined(integrity.EMPTY, one, two)
    assert len(digest) == len(one) == 32
    assert digest == integrity.combined(integrity.EMPTY, two, one)
    assert integrity.combined(digest, one) == two
    assert integrity.combined(digest, one, two) == integrity.EMPTY


def test_a_checksum_is_of_every_column_but_itself() -> None:
    row = ROW | {"checksum": "x"}
    assert integrity.checksum("entries", row) == integrity.checksum("entries", ROW)
    sums = {integrity.checksum("entries", ROW | {name: "other"}) for name in ROW}
    assert len(sums | {integrity.checksum("entries", ROW)}) == len(ROW) + 1
    assert integrity.checksum("entries", dict(reversed(ROW.items()))) == integrity.checksum("entries", ROW)
    good = ROW | {"checksum": integrity.checksum("entries", ROW)}
    assert integrity.verified("entries", good) == ROW
    with pytest.raises(integrity.Damaged, match="a row of entries"):
        integrity.verified("entries", good | {"error": "x"})


def test_a_checksum_is_taken_of_any_text_and_of_what_a_torn_row_gives() -> None:
    assert integrity.checksum("entries", ROW | {"error": "Tür – ü"}) == TEXT_CHECKSUM
    assert integrity.checksum("entries", ROW | {"error": b"\xff"}) == integrity.checksum(
        "entries", ROW | {"error": "b'\\xff'"}
    )


def test_checksums_and_seals_are_those_that_stand_in_journals() -> None:
    """Other values would make every journal that there is a damaged one."""
    assert integrity.checksum("entries", ROW) == CHECKSUM
    assert integrity.about_checksum(2, integrity.EMPTY) == SEAL
    assert integrity.about_checksum(4, integrity.EMPTY, integrity.EMPTY) == SEAL_OF_TWO


TEXT_CHECKSUM = "42dcdb7d0daa31a4f801785f205a62b3"
CHECKSUM, SEAL = "a55c331123646855ee335c41397a4eb1", "5202fa4670ce4cc3a4241734dc8988b7"
SEAL_OF_TWO = "7def3486ef288cbaf01c87a97e691caa"


@pytest.fixture
def engine() -> Engine:
    """An empty journal, in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata = integrity.make_metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        integrity.make_about(connection, metadata.tables["about"], integrity.EMPTY, integrity.EMPTY)
    return engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A transaction in which an open move got three lines, of which one was changed, and a closed move got one."""
    with engine.begin() as connection:
        for move in (MOVE, CLOSED):
            integrity.insert_move(connection, MOVES, move)
        for number in (1, 2, 3):
            assert integrity.insert_lines(connection, ENTRIES, "m1", [ROW | {"sequence": number}], {})
        assert integrity.insert_lines(connection, ENTRIES, "m2", [ROW | {"move_id": "m2"}], {})
        assert integrity.change_line(connection, ENTRIES, {"move_id": "m1", "sequence": 2}, {"phase": "done"}, {})
        assert not integrity.change_line(connection, ENTRIES, {"move_id": "m1", "sequence": 9}, {"phase": "done"}, {})
        yield connection


def check(connection: Connection) -> tuple[int, int]:
    return integrity.verify(connection, integrity.make_metadata())


def check_open(connection: Connection) -> None:
    integrity.verify_open(connection, integrity.make_metadata())


def lines(connection: Connection, move_id: str = "m1") -> list[Any]:
    return [line["phase"] for line in integrity.lines(connection, integrity.make_metadata(), move_id)]


def test_what_was_written_passes(connection: Connection) -> None:
    assert check(connection) == (2, 4)
    assert lines(connection) == ["intent", "done", "intent"]
    assert lines(connection, "m2") == ["intent"]
    assert lines(connection, "m9") == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE entries SET phase = 'done' WHERE sequence = 1",
            "a row of entries differs from what was written, a line of m1",
        ),
        ("DELETE FROM entries WHERE sequence = 1", "lines of m1 are missing"),
        ("DELETE FROM entries WHERE move_id = 'm2'", "lines of m2 are missing"),
        ("UPDATE entries SET move_id = 'm3' WHERE move_id = 'm2'", "a row of entries"),
        ("UPDATE moves SET digest = '' WHERE id = 'm1'", "a row of moves"),
        ("UPDATE moves SET state = 'finished' WHERE id = 'm2'", "a row of moves"),
        ("DELETE FROM moves WHERE id = 'm1'", "open moves are missing"),
        ("DELETE FROM moves WHERE id = 'm2'", "moves are missing"),
        ("DELETE FROM about", "the row of about"),
        ("UPDATE about SET digest = '00000000000000000000000000000000'", "the row of about"),
        ("UPDATE about SET open_digest = '00000000000000000000000000000000'", "the row of about"),
        ("UPDATE about SET seal = 'other'", "the row of about"),
        ("UPDATE about SET schema_version = 1", "the row of about"),
        ("INSERT INTO about SELECT 99, digest, open_digest, seal FROM about", "the row of about"),
    ],
)
def test_what_was_not_written_so_does_not_pass(connection: Connection, statement: str, words: str) -> None:
    connection.exec_driver_sql(statement)
    with pytest.raises(integrity.Damaged, match=words):
        check(connection)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM moves WHERE id = 'm1'",
        "UPDATE moves SET plan = '{\"a\": 1}' WHERE id = 'm1'",
        "UPDATE moves SET open_server = NULL WHERE id = 'm1'",
        "UPDATE moves SET open_server = 's2' WHERE id = 'm2'",
        "DELETE FROM about",
    ],
)
def test_an_open_move_that_changed_is_seen_when_the_journal_is_opened(connection: Connection, statement: str) -> None:
    check_open(connection)
    connection.exec_driver_sql(statement)
    with pytest.raises(integrity.Damaged):
        check_open(connection)


def test_a_damaged_closed_move_is_seen_when_it_is_read_and_only_then(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE entries SET error = 'x' WHERE move_id = 'm2'")
    check_open(connection)
    assert lines(connection) == ["intent", "done", "intent"]
    with pytest.raises(integrity.Damaged, match="a line of m2"):
        lines(connection, "m2")
    with pytest.raises(integrity.Damaged, match="a line of m2"):
        integrity.lines_of_moves(connection, integrity.make_metadata(), ["m1", "m2"])
    with pytest.raises(integrity.Damaged, match="a line of m2"):
        check(connection)


def test_an_old_line_that_came_back_does_not_pass(connection: Connection) -> None:
    columns = "move_id, sequence, step, action, phase, intent, result, error, started_at, finished_at, checksum"
    connection.exec_driver_sql("CREATE TEMP TABLE old AS SELECT * FROM entries WHERE sequence = 3")
    integrity.change_line(connection, ENTRIES, {"move_id": "m1", "sequence": 3}, {"phase": "done"}, {})
    check(connection)
    connection.exec_driver_sql("DELETE FROM entries WHERE sequence = 3")
    connection.exec_driver_sql(f"INSERT INTO entries ({columns}) SELECT {columns} FROM old")  # noqa: S608
    for read in (check, lines):
        with pytest.raises(integrity.Damaged, match="lines of m1 are missing, or old ones were restored"):
            read(connection)


def test_a_move_that_is_closed_is_no_longer_among_the_open_ones(connection: Connection) -> None:
    assert integrity.change_move(connection, MOVES, "m1", {"state": "confirmed", "open_server": None})
    check_open(connection)
    assert check(connection) == (2, 4)
    assert not integrity.change_move(connection, MOVES, "m9", {"state": "confirmed"})


def test_a_line_and_a_new_value_of_its_move_are_written_at_once(connection: Connection) -> None:
    assert integrity.insert_lines(connection, ENTRIES, "m1", [ROW | {"sequence": 4}], {"generations": "[1]"})
    key = {"move_id": "m1", "sequence": 4}
    assert integrity.change_line(connection, ENTRIES, key, {"phase": "done"}, {"generations": "[1, 2]"})
    assert connection.exec_driver_sql("SELECT generations FROM moves WHERE id = 'm1'").scalar() == "[1, 2]"
    assert not integrity.insert_lines(connection, ENTRIES, "m9", [ROW | {"move_id": "m9"}], {})


def test_nothing_is_written_onto_a_digest_that_changed(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE about SET digest = '00000000000000000000000000000000'")
    with pytest.raises(integrity.Damaged, match="the row of about"):
        integrity.insert_lines(connection, ENTRIES, "m1", [ROW | {"sequence": 4}], {})


def test_a_line_that_changed_is_not_changed_again(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE entries SET error = 'x' WHERE sequence = 1")
    with pytest.raises(integrity.Damaged, match="a row of entries"):
        integrity.change_line(connection, ENTRIES, {"move_id": "m1", "sequence": 1}, {"phase": "done"}, {})


def test_a_move_that_changed_gets_no_line(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE moves SET aim = 'x' WHERE id = 'm1'")
    with pytest.raises(integrity.Damaged, match="a row of moves"):
        integrity.insert_lines(connection, ENTRIES, "m1", [ROW | {"sequence": 4}], {})


def test_a_move_that_is_removed_is_gone_with_its_lines_and_the_others_pass(connection: Connection) -> None:
    integrity.remove_move(connection, MOVES, "m1")
    assert connection.exec_driver_sql("SELECT move_id, sequence FROM entries").all() == [("m2", 1)]
    assert check(connection) == (1, 1)
    integrity.remove_move(connection, MOVES, "m9")
    assert check(connection) == (1, 1)


@pytest.mark.parametrize("statement", ["UPDATE entries SET error = 'x'", "UPDATE moves SET aim = 'x'"])
def test_a_move_that_changed_is_not_removed(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)
    with pytest.raises(integrity.Damaged, match="differs from what was written"):
        integrity.remove_move(connection, MOVES, "m1")
    assert connection.exec_driver_sql("SELECT count(*) FROM entries").scalar() == 4


def test_the_row_of_about_is_written_anew(connection: Connection) -> None:
    about = integrity.make_metadata().tables["about"]
    integrity.make_about(connection, about, integrity.EMPTY, CHECKSUM)
    written = integrity.about_checksum(integrity.VERSION, integrity.EMPTY, CHECKSUM)
    assert connection.exec_driver_sql("SELECT * FROM about").all() == [
        (integrity.VERSION, integrity.EMPTY, CHECKSUM, written)
    ]


def miscount(path: Path) -> bytes:
    """Let the file's header count free pages that there are not: all rows can be read, and the file is damaged."""
    content = bytearray(path.read_bytes())
    content[36:40] = (5).to_bytes(4, "big")
    path.write_bytes(content)
    return bytes(content)


def test_damaged_pages_do_not_pass_although_every_row_does(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    engine = create_engine(f"sqlite:///{path}")
    metadata = integrity.make_metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        integrity.make_about(connection, metadata.tables["about"], integrity.EMPTY, integrity.EMPTY)
        integrity.verify(connection, metadata)
    engine.dispose()
    miscount(path)
    with engine.connect() as connection, pytest.raises(integrity.Damaged, match="its pages are damaged"):
        integrity.verify(connection, metadata)
