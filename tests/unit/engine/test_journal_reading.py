"""A command that only reads needs no journal, and none that it may write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.core.clock import Clock
from cellmove.core.errors import Unreachable, Usage
from cellmove.core.move import Move, State
from cellmove.engine import journal_file
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal

NOW = Clock().text


def read(path: Path) -> Journal:
    return open_journal(str(path), NOW, only_reads=True)


def a_move(move_id: str = "move-ab12cd") -> Move:
    return Move(move_id, "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11", "web-1", "resize", State.PLANNED, "t", "t", {"a": 1})


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that this user may only read. Root may write everything, so the question is answered here."""
    path = tmp_path / "folder" / "journal.db"
    written = open_journal(str(path), NOW)
    written.open_move(a_move())
    written.intend("move-ab12cd", "prep-dest", "claim", {})
    written.engine.dispose()
    monkeypatch.setattr(journal_file, "can_be_written", lambda _path: False)
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    path.chmod(0o444)
    path.parent.chmod(0o555)
    yield path
    path.parent.chmod(0o755)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == files


def test_a_journal_that_may_not_be_written_is_read(journal: Path) -> None:
    found = read(journal)
    assert found.is_read_only
    assert found.open_moves() == [a_move()]
    assert found.find("web-1") == found.find(a_move().server_id) == [a_move()]
    assert [entry.action for entry in found.entries_of("move-ab12cd")] == ["claim"]
    with pytest.raises(Unreachable, match="opened for reading only"):
        found.set_state("move-ab12cd", State.ROLLED_BACK)
    with pytest.raises(Unreachable, match="opened for reading only"):
        found.open_move(a_move("move-000001"))


def test_without_a_journal_there_are_no_moves_and_none_is_made(tmp_path: Path) -> None:
    for path in (tmp_path / "journal.db", tmp_path / "no" / "such" / "journal.db"):
        found = read(path)
        assert found.is_read_only
        assert found.all_moves() == found.open_moves() == found.drains() == found.find("web-1") == []
        assert found.begun_since("2026") == 0
    assert list(tmp_path.iterdir()) == []


def test_one_that_may_be_written_is_opened_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    open_journal(str(path), NOW).open_move(a_move())
    found = read(path)
    assert not found.is_read_only
    found.set_state("move-ab12cd", State.ROLLED_BACK)
    assert read(path).open_moves() == []


def to_first_version(path: Path, *, wal: bool) -> None:
    """What the first version wrote: no checksums, a write-ahead log."""
    with sqlite3.connect(path) as connection:
        for column in ("moves DROP COLUMN checksum", "entries DROP COLUMN checksum", "about DROP COLUMN digest"):
            connection.execute(f"ALTER TABLE {column}")
        for column in ("about DROP COLUMN seal", "about DROP COLUMN open_digest", "moves DROP COLUMN digest"):
            connection.execute(f"ALTER TABLE {column}")
        connection.execute("UPDATE about SET schema_version = 1")
    connection.close()
    if wal:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


@pytest.mark.parametrize("wal", [False, True])
def test_an_older_journal_is_brought_up_to_date_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wal: bool
) -> None:
    path = tmp_path / "journal.db"
    open_journal(str(path), NOW).open_move(a_move())
    to_first_version(path, wal=wal)
    monkeypatch.setattr(journal_file, "can_be_written", lambda _path: False)
    before = path.read_bytes()
    found = read(path)
    assert found.is_read_only
    assert found.open_moves() == [a_move()]
    assert path.read_bytes() == before


def test_a_damaged_one_is_refused(journal: Path) -> None:
    copy = journal.parent.parent / "copy.db"
    content = bytearray(journal.read_bytes())
    at = content.index(b"web-1")
    content[at : at + 5] = b"web-2"
    copy.write_bytes(content)
    with pytest.raises(Unreachable, match="is damaged"):
        read(copy)
    copy.write_text("this is no database, and longer than a hundred bytes" * 10)
    with pytest.raises(Unreachable, match="is damaged"):
        read(copy)
    copy.write_bytes(b"")
    with pytest.raises(Unreachable, match="it is empty"):
        read(copy)


def test_one_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    open_journal(str(path), NOW)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET schema_version = 99")
        connection.execute("UPDATE about SET seal = ''")
    connection.close()
    monkeypatch.setattr(journal_file, "can_be_written", lambda _path: False)
    with pytest.raises(Usage, match="newer cellmove"):
        read(path)


def test_one_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    open_journal(str(path), NOW)

    def refuse(*_arguments: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(journal_file, "can_be_written", refuse)
    with pytest.raises(Unreachable, match="cannot be read: Permission denied"):
        read(path)
