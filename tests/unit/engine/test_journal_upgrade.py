"""Journals of earlier versions are brought up to date, and damaged ones stay as they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from cellmove.core.errors import Stopped
from cellmove.engine import integrity
from cellmove.engine.journal_open import open_journal
from cellmove.engine.journal_upgrade import LACKED_COLUMNS, upgrade
from tests.unit.engine.test_integrity import CLOSED, MOVE, ROW, miscount
from tests.unit.engine.test_journal import OLD, a_move


def test_a_journal_of_an_earlier_version_with_damaged_pages_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD)
    before = miscount(path)
    with pytest.raises(integrity.Damaged, match=r"its pages are damaged.*an earlier version wrote it"):
        upgrade(create_engine(f"sqlite:///{path}"), integrity.make_metadata())
    assert path.read_bytes() == before


def test_rows_of_the_first_version_get_their_own_checksums_once(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(OLD)
    engine = create_engine(f"sqlite:///{path}")
    for _ in range(2):
        upgrade(engine, integrity.make_metadata())
    with engine.connect() as connection:
        assert integrity.verify(connection, integrity.make_metadata()) == (1, 1)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"
        sums = connection.exec_driver_sql("SELECT checksum FROM moves UNION SELECT checksum FROM entries").all()
    assert len(sums) == 2
    engine.dispose()


def earlier(path: Path, version: int, *, checksum: str = "") -> Engine:
    """A journal as version 2 or 3 wrote it, with an open move of two lines and a closed one of one.

    :param checksum: another checksum of the row of about than the right one
    """
    engine = create_engine(f"sqlite:///{path}")
    lacked = LACKED_COLUMNS[version]
    digest = integrity.EMPTY
    with engine.begin() as connection:
        integrity.make_metadata().create_all(connection)
        connection.exec_driver_sql("DROP INDEX ix_moves_server_name")
        connection.exec_driver_sql("ALTER TABLE about DROP COLUMN open_digest")
        for column in lacked:
            connection.exec_driver_sql(f"ALTER TABLE moves DROP COLUMN {column}")
        lines = [ROW, ROW | {"sequence": 2}, ROW | {"move_id": "m2"}]
        for table, row in (*(("moves", move) for move in (MOVE, CLOSED)), *(("entries", line) for line in lines)):
            values = {name: value for name, value in row.items() if name not in lacked}
            values["checksum"] = integrity.checksum(table, values)
            digest = integrity.combined(digest, values["checksum"])
            columns, marks = ", ".join(values), ", ".join("?" * len(values))
            statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608
            connection.exec_driver_sql(statement, tuple(values.values()))
        about = (version, digest, checksum or integrity.about_checksum(version, digest))
        connection.exec_driver_sql("INSERT INTO about VALUES (?, ?, ?)", about)
    return engine


@pytest.mark.parametrize("version", [2, 3])
def test_an_earlier_journal_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "earlier.db"
    engine = earlier(path, version)
    upgrade(engine, integrity.make_metadata())
    with engine.connect() as connection:
        assert integrity.verify(connection, integrity.make_metadata()) == (2, 3)
        names = "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix_%'"
        assert set(connection.exec_driver_sql(names).scalars()) == {"ix_moves_server_id", "ix_moves_server_name"}
    engine.dispose()
    journal = open_journal(str(path), str)
    assert [move.id for move in journal.open_moves()] == ["m1"]
    assert [len(journal.entries_of(move.id)) for move in journal.all_moves()] == [2, 1]
    journal.intend("m1", "finish", "later", {})
    assert open_journal(str(path), str).check().lines == 4


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE about SET seal = 'wrong'", "the row of about"),
        ("UPDATE entries SET phase = 'done'", "a row of entries"),
        ("UPDATE moves SET aim = 'confirmed'", "a row of moves"),
        ("DELETE FROM entries WHERE sequence = 2", "rows are missing"),
    ],
)
def test_a_damaged_earlier_journal_stays_as_it_is(tmp_path: Path, version: int, statement: str, words: str) -> None:
    engine = earlier(tmp_path / "earlier.db", version)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(integrity.Damaged, match=words):
        upgrade(engine, integrity.make_metadata())
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM about").scalar() == version


def test_an_upgrade_that_was_interrupted_between_two_columns_is_repeated(tmp_path: Path) -> None:
    engine = earlier(tmp_path / "earlier.db", 3)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE moves ADD COLUMN digest VARCHAR(32) NOT NULL DEFAULT ''")
    upgrade(engine, integrity.make_metadata())
    with engine.connect() as connection:
        assert integrity.verify(connection, integrity.make_metadata()) == (2, 3)


def test_nobody_else_writes_while_a_journal_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "earlier.db"
    engine, refused = earlier(path, 2), []

    def write(*everything: Any) -> None:
        if everything[2].startswith("SELECT about.schema_version"):
            with closing(sqlite3.connect(path, timeout=0)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    refused.append(str(error))

    event.listen(engine, "before_cursor_execute", write)
    upgrade(engine, integrity.make_metadata())
    assert refused[:1] == ["database is locked"]


def shared_earlier(path: Path, log: list[tuple[str, ...]], *, is_locked: bool) -> Engine:
    """A journal of version 2 with the locks of MySQL.

    :param log: filled with what is locked, released, executed and committed
    :param is_locked: another machine holds the lock
    """
    engine = earlier(path, 2)
    engine.dispose()

    def add_locks(connection: Any, _record: Any) -> None:
        def get_lock(name: str, seconds: int) -> int:
            log.append(("get", name, str(seconds)))
            return 0 if is_locked else 1

        connection.create_function("GET_LOCK", 2, get_lock)
        connection.create_function("RELEASE_LOCK", 1, lambda name: log.append(("release", name)) or 1)

    event.listen(engine, "connect", add_locks)
    event.listen(engine, "before_cursor_execute", lambda *all_: log.append(("sql", all_[2])))
    event.listen(engine, "commit", lambda _connection: log.append(("commit",)))
    engine.dialect.name = "mysql"
    return engine


def test_a_shared_journal_is_upgraded_by_one_machine_at_a_time(tmp_path: Path) -> None:
    log: list[tuple[str, ...]] = []
    engine = shared_earlier(tmp_path / "earlier.db", log, is_locked=False)
    upgrade(engine, integrity.make_metadata())
    locks = [entry for entry in log if entry[0] in ("get", "release")]
    assert locks == [("get", "cellmove-tables", "300"), ("release", "cellmove-tables")]
    assert not [entry for entry in log if "quick_check" in entry[-1] or "journal_mode" in entry[-1]]
    start, end = (log.index(lock) for lock in locks)
    changes = [at for at, entry in enumerate(log) if entry[0] == "sql" and not entry[1].startswith("SELECT")]
    assert changes
    assert all(start < at < end for at in changes)
    assert ("commit",) in log[max(changes) : end], "another machine that waits must not read what was there before"


def test_a_shared_journal_that_another_machine_is_upgrading_stays_as_it_is(tmp_path: Path) -> None:
    log: list[tuple[str, ...]] = []
    engine = shared_earlier(tmp_path / "earlier.db", log, is_locked=True)
    with pytest.raises(Stopped, match="another run is making or upgrading the tables of the journal") as stopped:
        upgrade(engine, integrity.make_metadata())
    assert stopped.value.next_command.startswith("cellmove list")
    statements = [entry[1] for entry in log if entry[0] == "sql"]
    assert statements == ["SELECT GET_LOCK('cellmove-tables', 300)"]
    assert ("release", "cellmove-tables") not in log


def test_a_first_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD)
    assert open_journal(str(path), str).all_moves() == [a_move("m1")]
