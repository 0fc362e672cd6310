"""The durable record, on a real SQLite file."""

from __future__ import annotations

import itertools
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cellmove.core.errors import CellmoveError, Refused, Stopped, Unreachable, Usage
from cellmove.core.move import CLOSED, DRAIN, Move, Phase, State
from cellmove.engine import integrity
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal


def ticking() -> Callable[[], str]:
    seconds = itertools.count()
    return lambda: f"2026-01-01T00:00:{next(seconds):02}.000Z"


def a_move(move_id: str, server_id: str = "uuid-1", name: str = "web-1") -> Move:
    return Move(
        move_id, server_id, name, "resize", State.PLANNED, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z",
        {"source_cell": "cell1", "numbers": [1, 2]},
    )  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return open_journal(str(tmp_path / "journal.db"), ticking())


def test_a_move_comes_back_as_it_was_recorded(journal: Journal) -> None:
    journal.open_move(a_move("m1"))
    assert journal.move("m1") == a_move("m1")
    assert journal.move("m2") is None
    assert journal.all_moves() == [a_move("m1")]


def test_the_three_lines_of_an_action(journal: Journal, tmp_path: Path) -> None:
    journal.open_move(a_move("m1"))
    first = journal.intend("m1", "prep-dest", "claim", {"image_id": "i1"})
    second = journal.intend("m1", "prep-dest", "copy", {})
    assert [first.sequence, second.sequence] == [1, 2]
    journal.done(first, {"host": "compute-11"})
    journal.failed(second, "no")
    again = open_journal(str(tmp_path / "journal.db"), ticking())
    one, two = again.entries_of("m1")
    assert (one.phase, one.intent, one.result) == (Phase.DONE, {"image_id": "i1"}, {"host": "compute-11"})
    assert (two.phase, two.error, two.result) == (Phase.FAILED, "no", {})
    assert one.started_at < one.finished_at
    again.undoing(one)
    assert again.entries_of("m1")[0].phase is Phase.UNDOING
    assert again.entries_of("m1")[0].result == {"host": "compute-11"}
    again.undone(one)
    assert again.entries_of("m1")[0].phase is Phase.UNDONE


def test_a_server_has_one_open_move(journal: Journal) -> None:
    journal.open_move(a_move("m1"))
    journal.open_move(a_move("m2", "uuid-2", "web-2"))
    with pytest.raises(Refused) as caught:
        journal.open_move(a_move("m3"))
    assert "m1" in caught.value.message
    assert caught.value.next_command == "cellmove show m1"
    journal.set_state("m1", State.ROLLED_BACK)
    journal.open_move(a_move("m3"))
    found = journal.open_move_of("uuid-1")
    assert found is not None
    assert found.id == "m3"


def test_open_moves_are_those_that_are_not_over_and_no_drains(journal: Journal) -> None:
    for number, state in enumerate(State):
        journal.open_move(a_move(f"m{number}", f"uuid-{number}"))
        journal.set_state(f"m{number}", state)
    journal.open_move(replace(a_move("d1", "cell"), kind=DRAIN))
    assert {move.state for move in journal.open_moves()} == set(State) - CLOSED
    assert journal.open_moves() == [move for move in journal.all_moves() if move.is_open]


ONE, TWO = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11", "0b8e6a52-1b7e-4d0e-9a53-0e8f5f0f6a22"


def test_a_move_is_found_by_id_name_and_uuid(journal: Journal) -> None:
    journal.open_move(a_move("m1", ONE))
    journal.set_state("m1", State.CONFIRMED)
    journal.open_move(a_move("m2", ONE))
    journal.open_move(a_move("m3", TWO, "web-1"))
    assert [move.id for move in journal.find("m1")] == ["m1"]
    assert [move.id for move in journal.find(ONE)] == [move.id for move in journal.find(ONE.upper())] == ["m2"]
    assert [move.id for move in journal.find("web-1")] == ["m2", "m3"]
    assert journal.find("nobody") == []
    journal.set_state("m2", State.CONFIRMED)
    assert [move.id for move in journal.find(ONE)] == ["m1", "m2"]


@pytest.mark.parametrize("name", [ONE, ONE.upper(), "move-ab12cd", "audit-ab12cd", "drain-ab12cd"])
def test_a_name_in_the_form_of_an_id_finds_nothing(journal: Journal, name: str) -> None:
    journal.open_move(a_move("move-000001", TWO, name))
    assert journal.find(name) == []
    assert [move.id for move in journal.moves_named(name)] == ["move-000001"]
    assert [move.id for move in journal.find("move-000001")] == ["move-000001"]


def test_the_id_of_a_move_goes_before_the_name_of_a_server(journal: Journal) -> None:
    journal.open_move(a_move("move-ab12cd", ONE, "web-1"))
    journal.open_move(a_move("move-000002", TWO, "move-ab12cd"))
    assert [move.server_id for move in journal.find("move-ab12cd")] == [ONE]
    with pytest.raises(Usage, match="move-ab12cd is a move of web-1"):
        journal.require_no_move_id("move-ab12cd")
    journal.require_no_move_id("move-ffffff")
    journal.require_no_move_id("web-1")


def test_what_was_never_there_is_a_stop(journal: Journal) -> None:
    journal.open_move(a_move("m1"))
    entry = journal.intend("m1", "prep-dest", "claim", {})
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM entries")
    with pytest.raises(Stopped):
        journal.done(entry, {})
    with pytest.raises(Stopped):
        journal.set_state("m9", State.FINISHED)
    with pytest.raises(Unreachable, match="lines of m1 are missing"):
        open_journal(journal.location, ticking()).entries_of("m1")


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = open_journal(str(tmp_path / "deep" / "journal.db"), ticking())
        journal.open_move(a_move("m1"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep").iterdir()}
    finally:
        os.umask(before)
    assert modes.pop("journal.db") == 0o600
    assert set(modes.values()) <= {0o600}
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_commit_is_on_the_disk(journal: Journal) -> None:
    with journal.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_opening_and_reading_writes_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.open_move(a_move("m1"))

    watcher = sqlite3.connect(tmp_path / "journal.db")
    before = watcher.execute("PRAGMA data_version").fetchone()
    again = open_journal(str(tmp_path / "journal.db"), ticking())
    again.all_moves()
    again.entries_of("m1")
    again.find("web-1")
    assert watcher.execute("PRAGMA data_version").fetchone() == before
    watcher.close()


def opening(where: str) -> CellmoveError:
    with pytest.raises(CellmoveError) as caught:
        open_journal(where, ticking())
    return caught.value


def test_a_place_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "journal.db", Path("/proc/nowhere/journal.db"), tmp_path):
        error = opening(str(where))
        assert isinstance(error, Unreachable)
        assert error.exit_code == 4
        assert error.next_command


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_newer_journal_is_left_alone(journal: Journal, tmp_path: Path, mode: str) -> None:
    journal.open_move(a_move("m1"))
    journal.engine.dispose()
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("UPDATE about SET schema_version = ?, seal = 'of another kind'", (integrity.VERSION + 1,))
        connection.commit()
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())
    error = opening(str(path))
    assert isinstance(error, Usage)
    assert "newer" in error.message
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before


OLD = """
CREATE TABLE about (schema_version INTEGER NOT NULL, PRIMARY KEY (schema_version));
CREATE TABLE moves (id VARCHAR(32) NOT NULL, server_id VARCHAR(36) NOT NULL, server_name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL, state VARCHAR(32) NOT NULL, open_server VARCHAR(36), created_at VARCHAR(32) NOT NULL,
    updated_at VARCHAR(32) NOT NULL, "plan" TEXT(16000000) NOT NULL, aim VARCHAR(32) DEFAULT '' NOT NULL,
    PRIMARY KEY (id), UNIQUE (open_server));
CREATE INDEX ix_moves_server_id ON moves (server_id);
CREATE TABLE entries (move_id VARCHAR(32) NOT NULL, sequence INTEGER NOT NULL, step VARCHAR(32) NOT NULL,
    action VARCHAR(64) NOT NULL, phase VARCHAR(16) NOT NULL, intent TEXT(16000000) NOT NULL,
    result TEXT(16000000) NOT NULL, error TEXT NOT NULL, started_at VARCHAR(32) NOT NULL,
    finished_at VARCHAR(32) NOT NULL, PRIMARY KEY (move_id, sequence));
INSERT INTO about VALUES (1);
INSERT INTO moves VALUES ('m1', 'uuid-1', 'web-1', 'resize', 'planned', 'uuid-1', '2026-01-01T00:00:00Z',
    '2026-01-01T00:00:00Z', '{"source_cell": "cell1", "numbers": [1, 2]}', '');
INSERT INTO entries VALUES ('m1', 1, 'prep-dest', 'claim', 'done', '{"a": 1}', '{"b": 2}', '', 't1', 't2');
"""
"""A journal as the first version made it."""


def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(OLD)
    journal = open_journal(str(path), ticking())
    assert journal.all_moves() == [a_move("m1")]
    (entry,) = journal.entries_of("m1")
    assert (entry.phase, entry.intent, entry.result) == (Phase.DONE, {"a": 1}, {"b": 2})
    journal.intend("m1", "prep-dest", "mirror", {})
    journal.engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT schema_version FROM about").fetchall() == [(integrity.VERSION,)]
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
    again = open_journal(str(path), ticking())
    assert [each.action for each in again.entries_of("m1")] == ["claim", "mirror"]
    assert again.open_move_of("uuid-1") == a_move("m1")


def test_a_torn_journal_of_the_first_version_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD)
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    path.write_bytes(bytes(content))
    assert opening(str(path)).exit_code == 4
    assert path.read_bytes() == bytes(content)


def test_a_file_that_is_no_journal_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is not a database, it only looks like a file" * 100)
    error = opening(str(tmp_path / "journal.db"))
    assert isinstance(error, Unreachable)
    assert (tmp_path / "journal.db").read_bytes().startswith(b"this is not")


def test_a_journal_torn_while_open_is_no_traceback(journal: Journal, tmp_path: Path) -> None:
    for number in range(50):
        journal.open_move(a_move(f"m{number}", f"uuid-{number}"))
    journal.engine.dispose()
    path = tmp_path / "journal.db"
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = b"\xff" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    with pytest.raises(Unreachable):
        open_journal(str(path), ticking()).all_moves()


def test_a_wrong_url_is_a_usage_error_that_shows_no_password() -> None:
    for where in ("nosuchdriver://user:secret@host/name", "://", "mysql+pymysql://user:secret@host:port/name"):
        error = opening(where)
        assert isinstance(error, Usage)
        assert "secret" not in error.message


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@h/d", "mssql+pyodbc://u:s3cret@h/d"])
def test_a_database_without_the_locks_that_machines_need_is_refused(url: str) -> None:
    with pytest.raises(Usage, match="MySQL or MariaDB") as error:
        open_journal(url, str)
    assert "s3cret" not in error.value.message


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    where = tmp_path / "a ?%20#.db"
    open_journal(str(where), ticking()).open_move(a_move("m1"))
    assert where.exists()
    assert open_journal(str(where), ticking()).move("m1") is not None


def test_two_first_runs_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        try:
            open_journal(str(tmp_path / "journal.db"), ticking()).open_move(a_move(f"m{number}", f"uuid-{number}"))
        except CellmoveError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(open_journal(str(tmp_path / "journal.db"), ticking()).all_moves()) == 8


def test_done_gives_the_line_as_it_stands_in_the_journal(journal: Journal) -> None:
    journal.open_move(a_move("move-1"))
    entry = journal.intend("move-1", "prep-dest", "schedule", {"limits": (1, 2)})
    done = journal.done(entry, {"hosts": ("one", "two"), 3: None})
    assert done == journal.entries_of("move-1")[-1]
    assert done.result == {"hosts": ["one", "two"], "3": None}
