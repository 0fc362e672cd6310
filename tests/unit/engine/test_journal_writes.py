"""What the journal writes, line by line; its locks; and what it says when it cannot."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from cellmove.core.errors import JournalUnreachable, Locked, Stopped, Unreachable, Usage
from cellmove.core.move import AUDIT, DRAIN, Move, Phase, State
from cellmove.engine import integrity, journal_open
from cellmove.engine import journal as journal_module
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal


def ticking() -> Callable[[], str]:
    seconds = itertools.count()
    return lambda: f"2026-01-01T00:00:{next(seconds):02}.000Z"


def a_move(move_id: str, server_id: str = "uuid-1", name: str = "web-1", **more: Any) -> Move:
    values = {"kind": "resize", "state": State.PLANNED, "created_at": "t0", "updated_at": "t0", "plan": {"a": 1}} | more
    return Move(id=move_id, server_id=server_id, server_name=name, **values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Journal:
    """A journal with two open moves, of which each change has to leave the other alone."""
    journal = open_journal(str(path), ticking())
    journal.open_move(a_move("m1"))
    journal.open_move(a_move("m2", "uuid-2", "web-2"))
    return journal


# moves


def test_each_change_of_a_move_is_written_with_its_time_and_for_it_alone(journal: Journal) -> None:
    assert journal.set_state("m1", State.DEST_PREPARED) == a_move(
        "m1", state=State.DEST_PREPARED, updated_at="2026-01-01T00:00:00.000Z"
    )
    assert journal.set_plan("m1", {"b": 2}, State.FINISHED) == a_move(
        "m1", state=State.FINISHED, plan={"b": 2}, updated_at="2026-01-01T00:00:01.000Z"
    )
    assert journal.set_goal("m1", "confirmed").goal_state == "confirmed"
    assert journal.set_goal("m1", "confirmed").state is State.FINISHED
    assert journal.move("m2") == a_move("m2", "uuid-2", "web-2")
    assert journal.open_move_of("uuid-1") == journal.move("m1")


def test_a_closed_move_frees_its_server(journal: Journal) -> None:
    journal.set_state("m1", State.CONFIRMED)
    assert journal.open_move_of("uuid-1") is None
    assert journal.open_moves() == [journal.move("m2")]
    journal.open_move(a_move("m3"))
    assert journal.open_move_of("uuid-1") == a_move("m3")


def test_a_move_that_is_adopted_comes_with_its_lines(journal: Journal) -> None:
    journal.open_move(a_move("m0", "uuid-9"))
    lines = [journal.intend("m0", "finish", name, {"x": 1}) for name in ("one", "two")]
    taken = [replace(line, move_id="m3") for line in lines]
    closed = a_move("m3", "uuid-1", state=State.CONFIRMED)
    assert journal.adopt(closed, taken) == closed
    assert journal.entries_of("m3") == taken
    assert journal.entries_of("m1") == []


def test_a_move_that_is_refused_leaves_no_lines(journal: Journal) -> None:
    line = journal.intend("m1", "finish", "one", {})
    with pytest.raises(Exception, match="already has an open move, m1"):
        journal.adopt(a_move("m3"), [replace(line, move_id="m3")])
    assert journal.move("m3") is None
    assert journal.entries_of("m3") == []
    open_journal(journal.location, ticking())


def test_a_record_is_written_anew_in_the_place_of_the_same_one(journal: Journal) -> None:
    kept = journal.intend("m2", "finish", "other", {})
    for name in ("one", "two"):
        journal.intend("m1", "finish", name, {})
    found = [replace(kept, move_id="m1", sequence=number, action=f"found {number}") for number in (1, 2)]
    anew = a_move("m1", state=State.FINISHED)
    assert journal.replace(a_move("m1"), anew, found) == anew
    assert journal.entries_of("m1") == found
    assert journal.entries_of("m2") == [kept]
    assert journal.all_moves() == [anew, a_move("m2", "uuid-2", "web-2")]
    assert journal.open_move_of("uuid-1") == anew
    open_journal(journal.location, ticking())


def test_an_older_record_stays_beside_the_one_that_takes_its_place(journal: Journal) -> None:
    line = journal.intend("m1", "finish", "one", {})
    anew = a_move("m3")
    assert journal.replace(a_move("m1"), anew, [replace(line, move_id="m3")]) == anew
    superseded = journal.move("m1")
    assert superseded == a_move("m1", state=State.SUPERSEDED, updated_at="2026-01-01T00:00:01.000Z")
    assert journal.entries_of("m1") == [line]
    assert journal.entries_of("m3") == [replace(line, move_id="m3")]
    assert journal.open_move_of("uuid-1") == anew
    assert journal.open_move_of("uuid-2") == a_move("m2", "uuid-2", "web-2")


def test_a_closed_record_that_is_written_anew_frees_the_server(journal: Journal) -> None:
    journal.replace(a_move("m1"), a_move("m1", state=State.CONFIRMED), ())
    assert journal.open_move_of("uuid-1") is None
    journal.open_move(a_move("m4"))


def test_the_generations_that_a_mark_may_have_are_written_with_the_line(journal: Journal) -> None:
    line = journal.intend("m1", "finish", "one", {}, (1, 2))
    assert journal.move("m1") == a_move("m1", generations=(1, 2))
    journal.undoing(line, (3,))
    assert journal.move("m1") == a_move("m1", generations=(3,))
    journal.undoing(line)
    journal.intend("m1", "finish", "two", {})
    assert journal.move("m1") == a_move("m1", generations=(3,))
    journal.announce("m1", (4, 5))
    assert journal.move("m1") == a_move("m1", generations=(4, 5))
    assert journal.move("m2") == a_move("m2", "uuid-2", "web-2")
    with pytest.raises(Stopped):
        journal.announce("m9", (1,))


def test_the_id_of_a_move_is_no_name(journal: Journal) -> None:
    journal.open_move(a_move("m3", "uuid-3", "move-abcdef"))
    assert journal.find("move-abcdef") == []


def test_moves_are_listed_by_age_and_then_id(path: Path) -> None:
    journal = open_journal(str(path), ticking())
    for number, (name, created) in enumerate((("m3", "t2"), ("m2", "t1"), ("m1", "t2"), ("m0", "t3"))):
        journal.open_move(a_move(name, f"uuid-{number}", created_at=created))
    journal.open_move(a_move("d0", "cell-2", kind=DRAIN, created_at="t4"))
    journal.open_move(a_move("d1", "cell", kind=DRAIN, created_at="t2"))
    assert [move.id for move in journal.all_moves()] == ["m2", "m1", "m3", "m0"]
    assert [move.id for move in journal.open_moves()] == ["m2", "m1", "m3", "m0"]
    assert [move.id for move in journal.find("web-1")] == ["m2", "m1", "m3", "m0"]
    assert [move.id for move in journal.drains()] == ["d1", "d0"]


def test_closed_moves_are_found_before_closed_repairs(path: Path) -> None:
    journal = open_journal(str(path), ticking())
    server, closed = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11", {"state": State.CONFIRMED}
    journal.open_move(a_move("a1", server, kind=AUDIT, **closed))
    assert [move.id for move in journal.find(server)] == ["a1"]
    journal.open_move(a_move("m1", server, **closed))
    assert [move.id for move in journal.find(server)] == ["m1"]
    journal.open_move(a_move("a2", server, kind=AUDIT))
    assert [move.id for move in journal.find(server)] == ["a2"]


def test_how_many_moves_began_since(path: Path) -> None:
    """The first line counts, not the newest; repairs and drains are no moves."""
    journal = open_journal(str(path), ticking())
    assert journal.begun_since("2026") == 0
    for number, kind in enumerate(("resize", "resize", AUDIT, DRAIN, "resize")):
        journal.open_move(a_move(f"m{number}", f"uuid-{number}", kind=kind))
    for name in ("m0", "m1", "m2", "m3", "m0"):
        journal.intend(name, "prep-dest", "one", {})
    assert [journal.begun_since(f"2026-01-01T00:00:0{second}.000Z") for second in (0, 1, 2)] == [2, 1, 0]


# lines


def test_lines_are_numbered_for_each_move_and_read_in_their_order(journal: Journal) -> None:
    for name in ("b", "a", "c"):
        journal.intend("m1", "prep-dest", name, {})
    journal.intend("m2", "prep-dest", "other", {})
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX by_action ON entries (move_id, action, sequence, step)")
    assert [(line.sequence, line.action) for line in journal.entries_of("m1")] == [(1, "b"), (2, "a"), (3, "c")]
    assert [(line.sequence, line.action) for line in journal.entries_of("m2")] == [(1, "other")]


def test_each_mark_of_a_line_is_written_for_it_alone(journal: Journal) -> None:
    first, second = (journal.intend("m1", "prep-dest", name, {"n": 1}) for name in ("one", "two"))
    journal.intend("m2", "prep-dest", "other", {})
    others = journal.entries_of("m1")[1:], journal.entries_of("m2")
    journal.failed(first, "no: password=secret")
    failed = journal.entries_of("m1")[0]
    assert (failed.phase, failed.finished_at) == (Phase.FAILED, "2026-01-01T00:00:03.000Z")
    assert "secret" not in failed.error
    done = journal.done(first, {"r": 2})
    assert (done.phase, done.result, done.error) == (Phase.DONE, {"r": 2}, "")
    assert (done.intent, done.started_at, done.finished_at) == (
        {"n": 1}, "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:04.000Z",
    )  # fmt: skip
    assert journal.entries_of("m1")[0] == done
    journal.undoing(done)
    assert journal.entries_of("m1")[0] == replace(done, phase=Phase.UNDOING, finished_at="2026-01-01T00:00:05.000Z")
    journal.undone(done)
    assert journal.entries_of("m1")[0] == replace(done, phase=Phase.UNDONE, finished_at="2026-01-01T00:00:06.000Z")
    assert (journal.entries_of("m1")[1:], journal.entries_of("m2")) == others
    assert second.finished_at == ""


def test_lines_of_many_moves_are_read_a_part_at_a_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MOVES_PER_STATEMENT", 2)
    for number in range(3, 8):
        journal.open_move(a_move(f"m{number}", f"uuid-{number}"))
    for name in ("m7", "m1", "m3", "m5", "m1"):
        journal.intend(name, "prep-dest", "one", {})
    wanted = ["m1", "m2", "m3", "m4", "m5", "m6"]
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX backwards ON entries (move_id DESC, sequence DESC)")
    found = journal.entries_of_moves(wanted)
    assert {name: [line.sequence for line in lines] for name, lines in found.items()} == {
        "m1": [1, 2],
        "m3": [1],
        "m5": [1],
    }
    assert journal.entries_of_moves([]) == {}


# what keeps others out


def test_nobody_else_writes_between_reading_and_writing(journal: Journal, path: Path) -> None:
    with (
        journal.exclusive(),
        closing(sqlite3.connect(path, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


@pytest.fixture
def shared(journal: Journal) -> Journal:
    """The same as if it were in MariaDB: with the functions for locks that it has there."""
    journal.engine.dispose()
    event.listen(journal.engine, "connect", _add_locks)
    journal.engine.dialect.name = "mysql"
    HELD.clear()
    LOG.clear()
    return journal


HELD: set[str] = set()
LOG: list[tuple[str, str, int]] = []
ON_GET: list[Callable[[str], None]] = []


def _add_locks(connection: Any, _record: Any) -> None:
    def get_lock(name: str, seconds: int) -> int:
        LOG.append(("get", name, seconds))
        for call in ON_GET:
            call(name)
        return 0 if name in HELD else 1

    def release_lock(name: str) -> int:
        LOG.append(("release", name, 0))
        return 1

    connection.create_function("GET_LOCK", 2, get_lock)
    connection.create_function("RELEASE_LOCK", 1, release_lock)


def test_a_server_is_locked_in_a_shared_journal_and_released(shared: Journal) -> None:
    with shared.server_lock("uuid-1", "web-1"):
        assert LOG == [("get", "cellmove-uuid-1", 0)]
    assert LOG[1:] == [("release", "cellmove-uuid-1", 0)]


def test_a_server_that_another_machine_holds_is_refused(shared: Journal) -> None:
    HELD.add("cellmove-uuid-1")
    with pytest.raises(Locked) as refused, shared.server_lock("uuid-1", "web-1"):
        LOG.append(("began", "", 0))
    assert "web-1" in refused.value.message
    assert refused.value.next_command == "cellmove show uuid-1"
    assert LOG == [("get", "cellmove-uuid-1", 0)]


def test_a_named_lock_is_waited_for_and_released(shared: Journal) -> None:
    with shared.named_lock("closing"):
        assert LOG == [("get", "closing", 300)]
    assert LOG[1:] == [("release", "closing", 0)]
    HELD.add("closing")
    with pytest.raises(Stopped, match="closing"), shared.named_lock("closing"):
        LOG.append(("began", "", 0))
    assert LOG[2:] == [("get", "closing", 300)]


def test_a_journal_in_a_file_needs_none_of_these_locks(journal: Journal) -> None:
    statements: list[str] = []
    event.listen(journal.engine, "before_cursor_execute", lambda *all_: statements.append(all_[2]))
    with journal.server_lock("uuid-1", "web-1"), journal.named_lock("closing"), journal.server_lock("uuid-1", "web-1"):
        statements.append("body")
    assert statements == ["body"]


def test_a_shared_journal_writes_in_one_transaction_with_the_digest_locked(shared: Journal) -> None:
    statements: list[str] = []
    event.listen(shared.engine, "before_cursor_execute", lambda *all_: statements.append(all_[2]))
    shared.intend("m1", "prep-dest", "one", {})
    assert statements[0].split() == ["SELECT", "about.digest", "FROM", "about"]
    assert not [words for words in statements if words.startswith("BEGIN")]
    assert [line.action for line in shared.entries_of("m1")] == ["one"]


# what it says


def _broken(code: int) -> DatabaseError:
    error = sqlite3.DatabaseError("words of SQLite")
    error.sqlite_errorcode = code
    return OperationalError("SELECT", {}, error)


def test_damage_is_told_from_a_journal_that_cannot_be_reached(journal: Journal) -> None:
    with pytest.raises(JournalUnreachable, match="is damaged: words of SQLite"), journal.transaction():
        raise _broken(sqlite3.SQLITE_CORRUPT)
    with pytest.raises(JournalUnreachable, match="cannot be written or read: words of SQLite"), journal.transaction():
        raise _broken(sqlite3.SQLITE_FULL)
    with pytest.raises(IntegrityError), journal.transaction():
        raise IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE"))


def test_a_changed_row_is_damage_when_it_is_read_or_changed(journal: Journal) -> None:
    line = journal.intend("m1", "prep-dest", "one", {})
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE entries SET action = 'two'")
        connection.exec_driver_sql("UPDATE moves SET plan = '{}' WHERE id = 'm1'")
    for call in (
        lambda: journal.entries_of("m1"), lambda: journal.done(line, {}), lambda: journal.move("m1"),
        lambda: journal.set_goal("m1", "x"), lambda: journal.entries_of_moves(["m1"]),
    ):  # fmt: skip
        with pytest.raises(JournalUnreachable, match="is damaged"):
            call()
    assert journal.move("m2") == a_move("m2", "uuid-2", "web-2")


def test_a_digest_that_changed_is_damage_before_the_next_write(journal: Journal) -> None:
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE about SET digest = '11111111111111111111111111111111'")
    with pytest.raises(JournalUnreachable, match="is damaged"):
        journal.intend("m1", "prep-dest", "one", {})
    assert journal.entries_of("m1") == []


def test_plans_and_intents_are_json_in_the_file(journal: Journal, path: Path) -> None:
    journal.intend("m1", "prep-dest", "one", {"x": [1, None]})
    with closing(sqlite3.connect(path)) as connection:
        (intent,) = connection.execute("SELECT intent FROM entries").fetchone()
        (plan,) = connection.execute("SELECT plan FROM moves WHERE id = 'm1'").fetchone()
    assert (json.loads(intent), json.loads(plan)) == ({"x": [1, None]}, {"a": 1})


# opening


def test_a_shared_journal_is_opened_so_that_every_thread_sees_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    create = sqlalchemy.create_engine

    def create_engine(url: Any, **options: Any) -> Any:
        given.update(options)
        return create(url, **options)

    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    with pytest.raises(Unreachable, match="cannot be opened") as refused:
        open_journal("mysql+pymysql://user:secret@127.0.0.1:1/name", str)
    given.pop("connect_args")
    assert given == {"pool_size": 0, "isolation_level": "REPEATABLE READ", "pool_pre_ping": True}
    assert "mysql+pymysql://user:***@127.0.0.1:1/name" in refused.value.message
    assert refused.value.exit_code == 4


def test_a_journal_in_a_file_keeps_every_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    create = sqlalchemy.create_engine

    def create_engine(url: Any, **options: Any) -> Any:
        given.update(options)
        return create(url, **options)

    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    assert open_journal(str(path), ticking()).location == str(path)
    given.pop("connect_args")
    assert given == {"pool_size": 0}


def test_a_file_without_a_version_is_damaged(path: Path) -> None:
    open_journal(str(path), ticking())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE about")
        connection.commit()
    with pytest.raises(JournalUnreachable, match="does not say its version"):
        open_journal(str(path), ticking())


def test_a_file_whose_content_is_torn_is_damaged(path: Path) -> None:
    open_journal(str(path), ticking())
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(bytes(content))
    with pytest.raises(JournalUnreachable, match="is damaged"):
        open_journal(str(path), ticking())


@pytest.fixture
def empty(path: Path) -> Journal:
    """A database that machines will share, without any table."""
    HELD.clear()
    LOG.clear()
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _add_locks)
    engine.dialect.name = "mysql"
    return Journal(engine, ticking(), "somewhere")


def test_the_tables_of_a_shared_journal_are_made_once_by_one_machine(empty: Journal) -> None:
    assert journal_open._version(empty, only_reads=False) == integrity.VERSION
    assert LOG == [("get", "cellmove-tables", 300), ("release", "cellmove-tables", 0)]
    empty.open_move(a_move("m1"))
    assert journal_open._version(empty, only_reads=False) == integrity.VERSION
    assert len(LOG) == 2
    with empty.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM about").all() == [(integrity.VERSION,)]
        connection.exec_driver_sql("UPDATE about SET schema_version = 1")
    assert journal_open._version(empty, only_reads=False) == 1


def test_tables_that_another_machine_made_meanwhile_are_not_made_again(empty: Journal, path: Path) -> None:
    def make(name: str) -> None:
        other = sqlalchemy.create_engine(f"sqlite:///{path}")
        with other.begin() as connection:
            empty.metadata.create_all(connection)
            connection.exec_driver_sql("INSERT INTO about VALUES (7, 'd', 'o', 's')")
        other.dispose()

    ON_GET.append(make)
    try:
        assert journal_open._version(empty, only_reads=False) == 7
    finally:
        ON_GET.clear()
    with empty.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM about").all() == [(7, "d", "o", "s")]


def test_a_shared_journal_of_a_newer_version_is_left_alone(empty: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_open._version(empty, only_reads=False)
    with empty.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE about SET schema_version = :newer"), {"newer": integrity.VERSION + 1}
        )
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda *_all, **_options: empty.engine)
    with pytest.raises(Usage, match="newer cellmove"):
        open_journal("mysql+pymysql://user@host/name", str)


def test_a_journal_in_a_file_is_checked_in_one_view(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, refused = sqlalchemy.create_engine, []

    def write(*everything: Any) -> None:
        if "FROM moves" in everything[2]:
            with closing(sqlite3.connect(path, timeout=0)) as other:
                try:
                    other.execute("DELETE FROM entries")
                    other.commit()
                except sqlite3.OperationalError as error:
                    refused.append(str(error))

    def create_engine(*everything: Any, **options: Any) -> Any:
        engine = create(*everything, **options)
        event.listen(engine, "before_cursor_execute", write)
        return engine

    journal.intend("m1", "prep-dest", "one", {})
    monkeypatch.setattr(sqlalchemy, "create_engine", create_engine)
    open_journal(str(path), ticking())
    assert refused == ["database is locked"]


def test_a_shared_journal_that_is_only_read_is_not_taken_for_a_file() -> None:
    with pytest.raises(Unreachable, match="cannot be opened"):
        open_journal("mysql+pymysql://user:secret@127.0.0.1:1/name", str, only_reads=True)


def test_a_shared_journal_without_tables_that_is_only_read_stays_without(empty: Journal, path: Path) -> None:
    assert journal_open._version(empty, only_reads=True) == integrity.VERSION
    assert empty.is_read_only
    assert empty.all_moves() == []
    assert LOG == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_an_error_of_the_driver_that_is_none_of_its_own_is_no_traceback(
    empty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_all: Any, **_named: Any) -> Any:
        raise OSError(113, "No route to host")

    empty.engine.dispose()
    monkeypatch.setattr(empty.engine.dialect, "connect", connect)
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda *_all, **_options: empty.engine)
    with pytest.raises(JournalUnreachable, match="the connection failed: No route to host"):
        open_journal("mysql+pymysql://user@host/name", str)


def test_generations_are_recorded_with_a_new_move(journal: Journal) -> None:
    move = a_move("m5", "uuid-5", generations=(1, 2))
    journal.open_move(move)
    assert journal.move("m5") == move
