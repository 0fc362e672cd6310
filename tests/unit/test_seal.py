"""The journal's tables and checksums: a row that changed, vanished or came back does not pass."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, create_engine, event
from sqlalchemy.dialects import mysql
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateTable

from cellmove import seal

TABLES = """
CREATE TABLE about (schema_version INTEGER NOT NULL AUTO_INCREMENT, digest VARCHAR(32) NOT NULL DEFAULT '',
    seal VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (schema_version))
CREATE TABLE entries (move_id VARCHAR(32) NOT NULL, sequence INTEGER NOT NULL, step VARCHAR(32) NOT NULL,
    action VARCHAR(64) NOT NULL, phase VARCHAR(16) NOT NULL, intent TEXT(16000000) NOT NULL,
    result TEXT(16000000) NOT NULL, error TEXT NOT NULL, started_at VARCHAR(32) NOT NULL,
    finished_at VARCHAR(32) NOT NULL, checksum VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (move_id, sequence))
CREATE TABLE moves (id VARCHAR(32) NOT NULL, server_id VARCHAR(36) NOT NULL, server_name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL, state VARCHAR(32) NOT NULL, open_server VARCHAR(36), created_at VARCHAR(32) NOT NULL,
    updated_at VARCHAR(32) NOT NULL, plan TEXT(16000000) NOT NULL, aim VARCHAR(32) NOT NULL DEFAULT '',
    generations VARCHAR(1000) NOT NULL DEFAULT '', checksum VARCHAR(32) NOT NULL DEFAULT '', PRIMARY KEY (id), UNIQUE (open_server))
"""
"""The tables as this version makes them in MariaDB. Other tables need another version."""

ROW: dict[str, Any] = {
    "move_id": "m1", "sequence": 1, "step": "s", "action": "a", "phase": "intent", "intent": "{}", "result": "{}",
    "error": "", "started_at": "t", "finished_at": "",
}  # fmt: skip


def test_the_tables_of_this_version_stay_as_they_are() -> None:
    made = "".join(
        str(CreateTable(table).compile(dialect=mysql.dialect())) for table in seal.make_metadata().sorted_tables
    )
    assert "".join(made.split()) == "".join(TABLES.split())
    indexes = [index.name for table in seal.make_metadata().sorted_tables for index in table.indexes]
    assert indexes == ["ix_moves_server_id"]
    assert seal.VERSION == 3


def test_a_digest_takes_checksums_in_and_out_again() -> None:
    one, two = seal.checksum("entries", ROW), seal.checksum("moves", ROW)
    assert one != two
    digest = seal.combined(seal.EMPTY, one, two)
    assert len(digest) == len(one) == 32
    assert digest == seal.combined(seal.EMPTY, two, one)
    assert seal.combined(digest, one) == two
    assert seal.combined(digest, one, two) == seal.EMPTY


def test_a_checksum_is_of_every_column_but_itself() -> None:
    row = ROW | {"checksum": "x"}
    assert seal.checksum("entries", row) == seal.checksum("entries", ROW)
    sums = {seal.checksum("entries", ROW | {name: "other"}) for name in ROW}
    assert len(sums | {seal.checksum("entries", ROW)}) == len(ROW) + 1
    assert seal.checksum("entries", dict(reversed(ROW.items()))) == seal.checksum("entries", ROW)
    good = ROW | {"checksum": seal.checksum("entries", ROW)}
    assert seal.verified("entries", good) == ROW
    with pytest.raises(seal.Damaged, match="a row of entries"):
        seal.verified("entries", good | {"error": "x"})


def test_a_checksum_is_taken_of_any_text_and_of_what_a_torn_row_gives() -> None:
    assert seal.checksum("entries", ROW | {"error": "Tür – ü"}) == TEXT_CHECKSUM
    assert seal.checksum("entries", ROW | {"error": b"\xff"}) == seal.checksum("entries", ROW | {"error": "b'\\xff'"})


def test_checksums_and_seals_are_those_that_stand_in_journals() -> None:
    """Other values would make every journal that there is a damaged one."""
    assert seal.checksum("entries", ROW) == CHECKSUM
    assert seal.seal_of(2, seal.EMPTY) == SEAL
    assert seal.seal_of(3, seal.EMPTY) != SEAL


TEXT_CHECKSUM = "42dcdb7d0daa31a4f801785f205a62b3"
CHECKSUM, SEAL = "a55c331123646855ee335c41397a4eb1", "5202fa4670ce4cc3a4241734dc8988b7"


@pytest.fixture
def engine() -> Engine:
    """An empty journal, in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata = seal.make_metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        seal.make_about(connection, metadata.tables["about"], seal.EMPTY)
    return engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A transaction in which three lines were written, and one changed."""
    entries = seal.make_metadata().tables["entries"]
    with engine.begin() as connection:
        for number in (1, 2, 3):
            seal.insert(connection, entries, ROW | {"sequence": number})
        assert seal.change(connection, entries, {"move_id": "m1", "sequence": 2}, {"phase": "done"})
        assert not seal.change(connection, entries, {"move_id": "m1", "sequence": 9}, {"phase": "done"})
        yield connection


def check(connection: Connection) -> None:
    seal.verify(connection, seal.make_metadata())


def test_what_was_written_passes(connection: Connection) -> None:
    check(connection)
    phases = connection.exec_driver_sql("SELECT phase FROM entries ORDER BY sequence").scalars().all()
    assert phases == ["intent", "done", "intent"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE entries SET phase = 'done' WHERE sequence = 1", "a row of entries"),
        ("DELETE FROM entries WHERE sequence = 1", "rows are missing"),
        ("DELETE FROM about", "the row of about"),
        ("UPDATE about SET digest = '00000000000000000000000000000000'", "the row of about"),
        ("UPDATE about SET seal = 'other'", "the row of about"),
        ("UPDATE about SET schema_version = 1", "the row of about"),
        ("INSERT INTO about SELECT 99, digest, seal FROM about", "the row of about"),
    ],
)
def test_what_was_not_written_so_does_not_pass(connection: Connection, statement: str, words: str) -> None:
    connection.exec_driver_sql(statement)
    with pytest.raises(seal.Damaged, match=words):
        check(connection)


def test_an_old_row_that_came_back_does_not_pass(connection: Connection) -> None:
    columns = "move_id, sequence, step, action, phase, intent, result, error, started_at, finished_at, checksum"
    connection.exec_driver_sql("CREATE TEMP TABLE old AS SELECT * FROM entries WHERE sequence = 3")
    entries = seal.make_metadata().tables["entries"]
    seal.change(connection, entries, {"move_id": "m1", "sequence": 3}, {"phase": "done"})
    check(connection)
    connection.exec_driver_sql("DELETE FROM entries WHERE sequence = 3")
    connection.exec_driver_sql(f"INSERT INTO entries ({columns}) SELECT {columns} FROM old")  # noqa: S608
    with pytest.raises(seal.Damaged, match="rows are missing"):
        check(connection)


def test_a_move_counts_like_a_line(connection: Connection) -> None:
    move = {
        "id": "m1", "server_id": "s", "server_name": "n", "kind": "resize", "state": "planned", "open_server": "s",
        "created_at": "t", "updated_at": "t", "plan": "{}", "aim": "", "generations": "",
    }  # fmt: skip
    seal.insert(connection, seal.make_metadata().tables["moves"], move)
    check(connection)
    connection.exec_driver_sql("DELETE FROM moves")
    with pytest.raises(seal.Damaged, match="rows are missing"):
        check(connection)


def test_nothing_is_written_onto_a_digest_that_changed(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE about SET digest = '00000000000000000000000000000000'")
    with pytest.raises(seal.Damaged, match="the row of about"):
        seal.insert(connection, seal.make_metadata().tables["entries"], ROW | {"sequence": 4})


def test_a_row_that_changed_is_not_changed_again(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE entries SET error = 'x' WHERE sequence = 1")
    key = {"move_id": "m1", "sequence": 1}
    with pytest.raises(seal.Damaged, match="a row of entries"):
        seal.change(connection, seal.make_metadata().tables["entries"], key, {"phase": "done"})


def test_removed_rows_are_gone_and_the_others_pass(connection: Connection) -> None:
    entries = seal.make_metadata().tables["entries"]
    seal.insert(connection, entries, ROW | {"move_id": "m2"})
    seal.remove(connection, entries, {"move_id": "m1"})
    assert connection.exec_driver_sql("SELECT move_id, sequence FROM entries").all() == [("m2", 1)]
    check(connection)
    seal.remove(connection, entries, {"move_id": "m9"})
    check(connection)


def test_a_row_that_changed_is_not_removed(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE entries SET error = 'x' WHERE sequence = 1")
    with pytest.raises(seal.Damaged, match="a row of entries"):
        seal.remove(connection, seal.make_metadata().tables["entries"], {"move_id": "m1"})
    assert connection.exec_driver_sql("SELECT count(*) FROM entries").scalar() == 3


def test_the_row_of_about_is_written_anew(connection: Connection) -> None:
    about = seal.make_metadata().tables["about"]
    seal.make_about(connection, about, seal.EMPTY)
    assert connection.exec_driver_sql("SELECT * FROM about").all() == [
        (seal.VERSION, seal.EMPTY, seal.seal_of(seal.VERSION, seal.EMPTY))
    ]


OLD = """
CREATE TABLE about (schema_version INTEGER NOT NULL, PRIMARY KEY (schema_version));
CREATE TABLE moves (id VARCHAR(32), "plan" TEXT, PRIMARY KEY (id));
CREATE TABLE entries (move_id VARCHAR(32), sequence INTEGER, intent TEXT, PRIMARY KEY (move_id, sequence));
INSERT INTO about VALUES (1);
INSERT INTO moves VALUES ('m1', '{}'), ('m2', '{}');
INSERT INTO entries VALUES ('m1', 1, 'a'), ('m1', 2, 'b'), ('m2', 1, 'c');
"""


def miscount(path: Path) -> bytes:
    """Let the file's header count free pages that there are not: all rows can be read, and the file is damaged."""
    content = bytearray(path.read_bytes())
    content[36:40] = (5).to_bytes(4, "big")
    path.write_bytes(content)
    return bytes(content)


def test_damaged_pages_do_not_pass_although_every_row_does(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    engine = create_engine(f"sqlite:///{path}")
    metadata = seal.make_metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        seal.make_about(connection, metadata.tables["about"], seal.EMPTY)
        seal.verify(connection, metadata)
    engine.dispose()
    miscount(path)
    with engine.connect() as connection, pytest.raises(seal.Damaged, match="its pages are damaged"):
        seal.verify(connection, metadata)


def test_a_journal_of_an_earlier_version_with_damaged_pages_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD)
    before = miscount(path)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(seal.Damaged, match="the pages of this journal of an earlier version are damaged"):
        seal.upgrade(engine, seal.make_metadata())
    assert path.read_bytes() == before


def test_rows_of_the_first_version_get_their_own_checksums_once(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(OLD)
    engine = create_engine(f"sqlite:///{path}")
    metadata = MetaData()
    Table("about", metadata, Column("schema_version", Integer), Column("digest", Text), Column("seal", Text))
    Table("moves", metadata, Column("id", Text, primary_key=True), Column("plan", Text), Column("checksum", Text))
    key = Column("move_id", Text, primary_key=True), Column("sequence", Integer, primary_key=True)
    Table("entries", metadata, *key, Column("intent", Text), Column("checksum", Text))
    for _ in range(2):
        seal.upgrade(engine, metadata)
    with engine.connect() as connection:
        seal.verify(connection, metadata)
        sums = connection.exec_driver_sql("SELECT checksum FROM moves UNION SELECT checksum FROM entries").all()
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"
    assert len(sums) == 5
    engine.dispose()


SECOND = {
    "id": "m1", "server_id": "s", "server_name": "n", "kind": "resize", "state": "planned", "open_server": "s",
    "created_at": "t", "updated_at": "t", "plan": "{}", "aim": "",
}  # fmt: skip


def second(path: Path, *, sealed: str = "") -> Engine:
    """A journal of the second version with one move.

    :param sealed: another seal than the right one
    """
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        seal.make_metadata().create_all(connection)
        connection.exec_driver_sql(f"ALTER TABLE moves DROP COLUMN {seal.ADDED}")
        sum_ = seal.checksum("moves", SECOND)
        columns = ", ".join([*SECOND, "checksum"])
        marks = ", ".join("?" * (len(SECOND) + 1))
        connection.exec_driver_sql(
            f"INSERT INTO moves ({columns}) VALUES ({marks})",  # noqa: S608
            (*SECOND.values(), sum_),
        )
        about = (2, sum_, sealed or seal.seal_of(2, sum_))
        connection.exec_driver_sql("INSERT INTO about VALUES (?, ?, ?)", about)
    return engine


def test_a_journal_of_the_second_version_is_brought_up_to_date(tmp_path: Path) -> None:
    engine, metadata = second(tmp_path / "second.db"), seal.make_metadata()
    seal.upgrade(engine, metadata)
    with engine.connect() as connection:
        seal.verify(connection, metadata)
        assert connection.exec_driver_sql("SELECT id, generations FROM moves").all() == [("m1", "")]


def test_a_damaged_journal_of_the_second_version_stays_as_it_is(tmp_path: Path) -> None:
    engine = second(tmp_path / "second.db", sealed="wrong")
    with pytest.raises(seal.Damaged, match="the row of about"):
        seal.upgrade(engine, seal.make_metadata())
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM about").scalar() == 2


def test_nobody_else_writes_while_a_journal_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "second.db"
    engine, refused = second(path), []

    def write(*everything: Any) -> None:
        if everything[2].startswith("SELECT about.schema_version"):
            with closing(sqlite3.connect(path, timeout=0)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    refused.append(str(error))

    event.listen(engine, "before_cursor_execute", write)
    seal.upgrade(engine, seal.make_metadata())
    assert refused[:1] == ["database is locked"]


def test_a_shared_journal_is_upgraded_by_one_machine_at_a_time(tmp_path: Path) -> None:
    engine, log = second(tmp_path / "second.db"), []
    engine.dispose()

    def add_locks(connection: Any, _record: Any) -> None:
        connection.create_function("GET_LOCK", 2, lambda name, seconds: log.append(("get", name, seconds)) or 1)
        connection.create_function("RELEASE_LOCK", 1, lambda name: log.append(("release", name)) or 1)

    event.listen(engine, "connect", add_locks)
    event.listen(engine, "before_cursor_execute", lambda *all_: log.append(("sql", all_[2][:6])))
    engine.dialect.name = "mysql"
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *all_: statements.append(all_[2]))
    seal.upgrade(engine, seal.make_metadata())
    locks = [entry for entry in log if entry[0] != "sql"]
    assert locks == [("get", "cellmove-tables", 30), ("release", "cellmove-tables")]
    assert not [words for words in statements if "quick_check" in words or "journal_mode" in words]
    assert log.index(locks[0]) < log.index(("sql", "UPDATE")) < log.index(locks[1])
