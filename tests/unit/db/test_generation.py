"""The generation of a server's mark: how it is read, raised, and compared."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from cellmove.core import ownership
from cellmove.core.errors import CallFailed
from cellmove.core.move import Entry, Move, Phase, State
from cellmove.db import state
from cellmove.db.generation import raise_generation
from cellmove.db.tables import CellDatabase
from cellmove.engine import integrity, journal_open
from cellmove.engine.journal import Journal
from cellmove.sandbox.store import metadata
from cellmove.steps import fence

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).replace(tzinfo=None)
SERVER, MOVE = "11111111-2222-4333-8444-555555555555", "move-1"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[CellDatabase]:
    engine = create_engine(f"sqlite:///{tmp_path / 'cell.db'}")
    tables = metadata("cell")
    tables.create_all(engine)
    yield CellDatabase("cell1", engine, dict(tables.tables))
    engine.dispose()


def put_mark(database: CellDatabase, generation: str = "") -> None:
    with state.transaction(database.engine, database.name) as connection:
        for key, value in ownership.rows_of(ownership.OwnershipMark(MOVE, "me@here:/j", generation=generation)).items():
            state.set_system_metadata(connection, database, SERVER, key, value, NOW)


def generation_of(database: CellDatabase) -> str:
    return ownership.generation_of(state.read_system_metadata(database, SERVER), MOVE)


def test_a_generation_comes_after_all_known_ones_and_is_short() -> None:
    assert ownership.next_generation((), "ab12cd") == "1 ab12cd"
    assert ownership.next_generation((ownership.ABSENT, ownership.UNNUMBERED), "ab12cd") == "1 ab12cd"
    assert ownership.next_generation(("7 x", "9 y", "8 z"), "ab12cd") == "10 ab12cd"
    assert ownership.number_of("10 ab12cd") == 10
    assert ownership.number_of(ownership.ABSENT) == -1
    assert ownership.number_of("nonsense") == -1


def test_a_mark_of_an_earlier_version_is_read_as_unnumbered(database: CellDatabase) -> None:
    assert generation_of(database) == ownership.ABSENT
    put_mark(database)
    assert generation_of(database) == ownership.UNNUMBERED
    assert (
        ownership.generation_of({ownership.KEY: "move-2 me@here:/j", ownership.GENERATION: "3 x"}, MOVE)
        == ownership.ABSENT
    )


def test_it_is_raised_from_what_is_expected_alone(database: CellDatabase) -> None:
    put_mark(database, "1 a")
    raise_generation(database, SERVER, "1 a", "2 b", NOW)
    raise_generation(database, SERVER, "1 a", "2 b", NOW)  # its answer was lost
    assert generation_of(database) == "2 b"
    with pytest.raises(CallFailed) as caught:
        raise_generation(database, SERVER, "1 a", "2 another", NOW)
    assert caught.value.kind == "conflict"
    assert generation_of(database) == "2 b"


def test_a_mark_without_a_generation_gets_one(database: CellDatabase) -> None:
    put_mark(database)
    raise_generation(database, SERVER, ownership.UNNUMBERED, "1 a", NOW)
    assert generation_of(database) == "1 a"
    with pytest.raises(CallFailed):
        raise_generation(database, SERVER, ownership.UNNUMBERED, "1 b", NOW)
    assert generation_of(database) == "1 a"


def test_a_mark_that_is_gone_gets_none(database: CellDatabase) -> None:
    with pytest.raises(CallFailed) as caught:
        raise_generation(database, SERVER, "1 a", "2 b", NOW)
    assert caught.value.kind == "conflict"
    assert state.read_system_metadata(database, SERVER) == {}


def test_the_owner_is_corrected_with_it(database: CellDatabase) -> None:
    put_mark(database, "1 a")
    raise_generation(database, SERVER, "1 a", "2 b", NOW, owner=f"{MOVE} me@there:/k")
    found = ownership.mark_of(state.read_system_metadata(database, SERVER))
    assert found is not None
    assert (found.owner, found.generation) == ("me@there:/k", "2 b")


OTHER = "99999999-2222-4333-8444-555555555555"
LATER = NOW + datetime.timedelta(hours=1)


def insert(database: CellDatabase, key: str, value: str, *, server: str = SERVER, deleted: int = 0) -> None:
    """Add a row of system metadata as it is."""
    row = {"instance_uuid": server, "key": key, "value": value, "deleted": deleted, "updated_at": NOW}
    with database.engine.begin() as connection:
        connection.execute(database["instance_system_metadata"].insert(), row)


def rows(database: CellDatabase) -> list[tuple[str, str, str, int, datetime.datetime]]:
    """Every row of system metadata, deleted ones too."""
    columns = ("instance_uuid", "key", "value", "deleted", "updated_at")
    with database.engine.connect() as connection:
        found = connection.execute(database["instance_system_metadata"].select()).mappings().all()
    return [tuple(row[column] for column in columns) for row in found]  # type: ignore[misc]


def test_only_the_live_generation_of_the_server_is_raised(database: CellDatabase) -> None:
    insert(database, ownership.GENERATION, "1 a", server=OTHER)
    insert(database, ownership.GENERATION, "1 a", deleted=9)
    insert(database, "another", "1 a")
    others = rows(database)
    put_mark(database, "1 a")
    raise_generation(database, SERVER, "1 a", "2 b", LATER)
    *untouched, mark, generation = rows(database)
    assert untouched == others
    assert mark[4] is None
    assert generation == (SERVER, ownership.GENERATION, "2 b", 0, LATER)


def test_only_the_live_generation_of_the_server_is_read(database: CellDatabase) -> None:
    insert(database, ownership.GENERATION, "9 z", server=OTHER)
    insert(database, ownership.GENERATION, "9 z", deleted=9)
    put_mark(database)
    raise_generation(database, SERVER, ownership.UNNUMBERED, "1 a", NOW)
    assert generation_of(database) == "1 a"
    with pytest.raises(CallFailed, match="the mark in cell1 has generation 1 a"):
        raise_generation(database, SERVER, "9 z", "10 b", NOW)


def test_a_mark_of_another_server_or_a_deleted_one_is_none(database: CellDatabase) -> None:
    insert(database, ownership.KEY, f"{MOVE} me@here:/j", server=OTHER)
    insert(database, ownership.KEY, f"{MOVE} me@here:/j", deleted=9)
    insert(database, "another", "value")
    before = rows(database)
    with pytest.raises(CallFailed, match="the mark in cell1 has generation none"):
        raise_generation(database, SERVER, ownership.UNNUMBERED, "1 a", LATER)
    assert rows(database) == before


def entry(phase: Phase, step: str = "prep-dest", action: str = "take_server") -> Entry:
    return Entry(MOVE, 1, step, action, phase, {}, {}, "", "", "")


def move(state_: State = State.PLANNED) -> Move:
    return Move(MOVE, SERVER, "web", "resize", state_, "", "")


@pytest.mark.parametrize(
    ("entries", "state_", "wanted"),
    [
        ([], State.PLANNED, (ownership.ABSENT,)),
        ([entry(Phase.INTENT)], State.PLANNED, (ownership.UNNUMBERED, ownership.ABSENT)),
        ([entry(Phase.DONE)], State.DEST_PREPARED, (ownership.UNNUMBERED,)),
        ([entry(Phase.UNDOING)], State.ROLLING_BACK, (ownership.UNNUMBERED, ownership.ABSENT)),
        ([entry(Phase.UNDONE)], State.ROLLING_BACK, (ownership.ABSENT,)),
        ([entry(Phase.DONE), entry(Phase.INTENT, "finish", "close")], State.SOURCE_PREPARED, (ownership.UNNUMBERED, ownership.ABSENT)),
        ([entry(Phase.DONE)], State.FINISHED, (ownership.UNNUMBERED, ownership.ABSENT)),
    ],
)  # fmt: skip
def test_what_a_journal_of_an_earlier_version_knows(
    entries: list[Entry], state_: State, wanted: tuple[str, ...]
) -> None:
    assert fence._known(move(state_), entries, ()) == wanted


def test_that_there_was_no_mark_is_over_once_it_was_set() -> None:
    known = (ownership.ABSENT, "1 a")
    assert fence._known(move(), [entry(Phase.INTENT)], known) == known
    assert fence._known(move(), [entry(Phase.DONE)], known) == ("1 a",)
    assert fence._known(move(), [entry(Phase.DONE)], ("1 a", "2 b", ownership.ABSENT)) == (
        "1 a",
        "2 b",
        ownership.ABSENT,
    )


# the journal


def open_journal(path: Path) -> Journal:
    return journal_open.open_journal(str(path), lambda: "2026-06-01T00:00:00Z")


def test_the_journal_keeps_generations_with_the_line_that_announces_them(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.db")
    journal.open_move(move())
    assert journal.entries_of(MOVE) == []
    line = journal.intend(MOVE, "prep-dest", "take_server", {}, ("", "1 a"))
    assert open_journal(tmp_path / "journal.db").move(MOVE).generations == ("", "1 a")  # type: ignore[union-attr]
    journal.done(line, {})
    journal.announce(MOVE, ("1 a", "2 b"))
    journal.intend(MOVE, "prep-dest", "schedule", {})
    journal.undoing(line, ("2 b", "3 c", ""))
    found = open_journal(tmp_path / "journal.db").move(MOVE)
    assert found is not None
    assert found.generations == ("2 b", "3 c", "")


def test_a_journal_of_the_second_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path)
    journal.open_move(move())
    journal.intend(MOVE, "prep-dest", "take_server", {})
    journal.engine.dispose()
    as_second_version(path)
    found = open_journal(path).move(MOVE)
    assert found is not None
    assert (found.state, found.generations) == (State.PLANNED, ())
    assert [each.action for each in open_journal(path).entries_of(MOVE)] == ["take_server"]


def test_a_damaged_journal_of_the_second_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = open_journal(path)
    journal.open_move(move())
    journal.engine.dispose()
    as_second_version(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE moves SET state = 'finished'")
    engine.dispose()
    with pytest.raises(Exception, match="is damaged"):
        open_journal(path)
    with create_engine(f"sqlite:///{path}").connect() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM about").scalar() == 2


def as_second_version(path: Path) -> None:
    """As cellmove wrote journals before there were generations."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for column in ("moves DROP COLUMN generations", "moves DROP COLUMN digest", "about DROP COLUMN open_digest"):
            connection.exec_driver_sql(f"ALTER TABLE {column}")
        digest = integrity.EMPTY
        for name, key in (("moves", ("id",)), ("entries", ("move_id", "sequence"))):
            for row in connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().all():  # noqa: S608
                sum_ = integrity.checksum(name, row)
                where = " AND ".join(f"{column} = ?" for column in key)
                values = (sum_, *(row[column] for column in key))
                connection.exec_driver_sql(f"UPDATE {name} SET checksum = ? WHERE {where}", values)  # noqa: S608
                digest = integrity.combined(digest, sum_)
        values = (2, digest, integrity.about_checksum(2, digest))
        connection.exec_driver_sql("UPDATE about SET schema_version = ?, digest = ?, seal = ?", values)
    engine.dispose()


def test_a_move_is_replaced_with_its_lines(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.db")
    journal.open_move(move())
    for action in ("take_server", "record_migration"):
        journal.intend(MOVE, "prep-dest", action, {})
    journal.replace(move(), move(State.DEST_PREPARED), [entry(Phase.DONE)])
    again = open_journal(tmp_path / "journal.db")  # its checksums are whole
    assert [each.state for each in again.all_moves()] == [State.DEST_PREPARED]
    assert [each.phase for each in again.entries_of(MOVE)] == [Phase.DONE]
    other = Move("move-2", SERVER, "web", "resize", State.FINISHED, "", "")
    again.replace(again.all_moves()[0], other, [])
    assert [(each.id, each.state) for each in open_journal(tmp_path / "journal.db").all_moves()] == [
        (MOVE, State.SUPERSEDED), ("move-2", State.FINISHED),
    ]  # fmt: skip
    assert json.dumps([each.id for each in again.open_moves()]) == '["move-2"]'
