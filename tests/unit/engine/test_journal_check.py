"""``cellmove journal check`` finds damage anywhere; other commands find it in what they read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from cellmove.core.move import Move, State
from cellmove.engine.journal_open import open_journal
from tests.support.commands import typed

OPEN, CLOSED = "move-aaaaaa", "move-bbbbbb"


def a_move(move_id: str, server: str, state: State) -> Move:
    return Move(move_id, f"id-{server}", server, "resize", state, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with an open move of one line, and a closed one of two."""
    path = tmp_path / "journal.db"
    journal = open_journal(str(path), lambda: "2026-01-01T00:00:00Z")
    journal.open_move(a_move(OPEN, "web-1", State.PLANNED))
    journal.intend(OPEN, "prep-dest", "take_server", {})
    journal.open_move(a_move(CLOSED, "web-2", State.PLANNED))
    for action in ("take_server", "record_migration"):
        journal.done(journal.intend(CLOSED, "prep-dest", action, {}), {})
    journal.set_state(CLOSED, State.CONFIRMED)
    journal.engine.dispose()
    return path


def run(path: Path, *words: str) -> Result:
    return typed("--journal", str(path), *words)


def change(path: Path, statement: str) -> None:
    """Change the file behind cellmove's back; OPEN and CLOSED stand for the ids of the two moves."""
    statement = statement.replace("OPEN", f"'{OPEN}'").replace("CLOSED", f"'{CLOSED}'")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_sound_journal_passes_and_says_what_was_checked(path: Path) -> None:
    before = path.read_bytes()
    result = run(path, "journal", "check")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"journal  {path}", "sound    2 moves, 3 lines"]
    assert run(path, "journal", "check", "-f", "value").stdout == "moves\t2\nlines\t3\n"
    document = json.loads(run(path, "journal", "check", "-f", "json").stdout)
    assert document == {"schema_version": 1, "journal": str(path), "checked": {"moves": 2, "lines": 3}}
    assert path.read_bytes() == before


def test_a_changed_line_of_a_closed_move_is_found_when_that_move_is_read(path: Path) -> None:
    change(path, "UPDATE entries SET error = 'x' WHERE move_id = CLOSED AND sequence = 2")
    assert run(path, "list").exit_code == 0
    assert len(open_journal(str(path), str).entries_of(OPEN)) == 1
    for words in (("show", CLOSED), ("list", "--all"), ("journal", "check")):
        result = run(path, *words)
        assert result.exit_code == 4, words
        assert f"is damaged: a row of entries differs from what was written, a line of {CLOSED}" in result.stderr


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM entries WHERE move_id = CLOSED", f"lines of {CLOSED} are missing"),
        ("DELETE FROM entries WHERE move_id = CLOSED AND sequence = 2", f"lines of {CLOSED} are missing"),
        ("DELETE FROM moves WHERE id = CLOSED", "moves are missing"),
        ("UPDATE moves SET state = 'reverted' WHERE id = CLOSED", "a row of moves"),
    ],
)
def test_whatever_changed_of_a_closed_move_is_found_by_the_check(path: Path, statement: str, words: str) -> None:
    change(path, statement)
    assert run(path, "list").exit_code == 0
    result = run(path, "journal", "check")
    assert result.exit_code == 4
    assert words in result.stderr


def test_an_open_move_that_vanished_is_found_by_every_command(path: Path) -> None:
    change(path, "DELETE FROM moves WHERE id = OPEN")
    for words in (("list",), ("show", "web-2"), ("journal", "check")):
        result = run(path, *words)
        assert result.exit_code == 4, words
        assert "open moves are missing, or old ones were restored" in result.stderr


def test_a_closed_move_that_vanished_is_found_when_all_are_listed(path: Path) -> None:
    change(path, "DELETE FROM moves WHERE id = CLOSED")
    assert run(path, "list").exit_code == 0
    result = run(path, "list", "--all")
    assert result.exit_code == 4
    assert "moves are missing, or old ones were restored" in result.stderr
