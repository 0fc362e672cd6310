"""A journal that was torn, cut or bit-flipped is refused, or still says exactly what was written."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cellmove.core.errors import CellmoveError, Refused, Stopped, Unreachable
from cellmove.core.move import Entry, Move, Phase, State
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal

Content = tuple[list[Move], list[list[Entry]]]

STEPS = ("prep-dest", "prep-source", "finish")


def now() -> str:
    return "2026-01-01T00:00:00.000Z"


def fill(journal: Journal, moves: int = 6, lines: int = 12) -> None:
    """Moves in every stage, with lines as long as real ones."""
    for number in range(moves):
        name = f"m{number}"
        plan = {"source_cell": "cell1", "ports": [f"port-{number}-{each}" for each in range(9)], "words": "x" * 900}
        journal.open_move(Move(name, f"uuid-{number}", f"web-{number}", "resize", State.PLANNED, now(), now(), plan))
        for line in range(lines):
            entry = journal.intend(name, STEPS[line % 3], f"action-{line}", {"id": f"{number}-{line}", "w": "y" * 200})
            if line % 4 == 3 and line < lines - 1:
                journal.failed(entry, "no " * 30)
            elif line < lines - 1:
                journal.done(entry, {"made": f"{number}/{line}"})
        if number % 2:
            journal.set_state(name, State.ROLLED_BACK)


def content(path: Path) -> Content:
    """All that a journal says."""
    journal = open_journal(str(path), now)
    try:
        moves = journal.all_moves()
        return moves, [journal.entries_of(move.id) for move in moves]
    finally:
        journal.engine.dispose()


def read(path: Path) -> Content | CellmoveError:
    """All that a journal says, or why it is refused."""
    try:
        return content(path)
    except CellmoveError as error:
        return error


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a history."""
    path = tmp_path_factory.mktemp("sound") / "journal.db"
    journal = open_journal(str(path), now)
    fill(journal)
    journal.engine.dispose()
    return path


@pytest.fixture(scope="module")
def hot(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a run that was killed while SQLite wrote a commit into the file."""
    folder = tmp_path_factory.mktemp("hot")
    shutil.copy(sound, folder / "live.db")
    with closing(sqlite3.connect(folder / "live.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA cache_size=5")  # too small for the change: pages go to the file before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute('UPDATE entries SET result = \'{"made": "half"}\'')
        for name in ("", "-journal"):
            shutil.copy(folder / f"live.db{name}", folder / f"journal.db{name}")
        connection.execute("ROLLBACK")
    assert (folder / "journal.db-journal").stat().st_size > 512
    assert (folder / "journal.db").read_bytes() != sound.read_bytes()
    return folder / "journal.db"


def copies(of: Path, folder: Path) -> Iterator[Path]:
    """A fresh copy of a journal and what lies beside it, again and again."""
    for _ in itertools.count():
        for name in ("", "-journal"):
            (folder / f"journal.db{name}").unlink(missing_ok=True)
            if of.with_name(f"{of.name}{name}").exists():
                shutil.copy(of.with_name(f"{of.name}{name}"), folder / f"journal.db{name}")
        yield folder / "journal.db"


def judge(found: Content | CellmoveError, right: Content, what: str) -> bool:
    """Whether it was refused; anything but a refusal has to be right."""
    if isinstance(found, CellmoveError):
        assert found.exit_code in (2, 4), what
        if found.exit_code == 4:
            assert "cellmove adopt SERVER" in found.next_command, f"{what}: {found.message}"
        return True
    assert found == right, what
    return False


def test_a_commit_that_was_cut_short_never_happened(hot: Path, sound: Path, tmp_path: Path) -> None:
    assert content(next(copies(hot, tmp_path))) == content(sound)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_in_the_file(sound: Path, tmp_path: Path, seed: int) -> None:
    right, draw = content(sound), random.Random(seed)  # noqa: S311 - to be repeated, not secret
    refused = 0
    for path in itertools.islice(copies(sound, tmp_path), 60):
        data = bytearray(path.read_bytes())
        flips = [draw.randrange(len(data) * 8) for _ in range(draw.choice((1, 1, 1, 2, 8, 64)))]
        if draw.random() < 0.2:
            flips = [draw.randrange(512 * 8) for _ in flips]  # the schema and the header
        for bit in flips:
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(data))
        refused += judge(read(path), right, f"seed {seed}, bits {flips}")
    assert refused > 10


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_in_the_rollback_journal(hot: Path, sound: Path, tmp_path: Path, seed: int) -> None:
    right, draw = content(sound), random.Random(seed)  # noqa: S311 - to be repeated, not secret
    refused = 0
    for path in itertools.islice(copies(hot, tmp_path), 50):
        beside = path.with_name("journal.db-journal")
        data = bytearray(beside.read_bytes())
        flips = [draw.randrange(len(data) * 8) for _ in range(draw.choice((1, 2, 16)))]
        flips = [draw.randrange(28 * 8) for _ in flips] if draw.random() < 0.3 else flips
        for bit in flips:
            data[bit // 8] ^= 1 << bit % 8
        beside.write_bytes(bytes(data))
        refused += judge(read(path), right, f"seed {seed}, bits {flips}")
    assert refused > 5


def test_cut_off_at_every_half_kilobyte(sound: Path, tmp_path: Path) -> None:
    right, size = content(sound), sound.stat().st_size
    for path, length in zip(copies(sound, tmp_path), range(0, size, 512), strict=False):
        with path.open("r+b") as file:
            file.truncate(length)
        assert judge(read(path), right, f"cut at {length}"), f"cut at {length} of {size} it was taken for whole"


def test_the_rollback_journal_cut_off_at_every_half_kilobyte(hot: Path, sound: Path, tmp_path: Path) -> None:
    right, size = content(sound), hot.with_name("journal.db-journal").stat().st_size
    for path, length in zip(copies(hot, tmp_path), range(0, size, 512), strict=False):
        with path.with_name("journal.db-journal").open("r+b") as file:
            file.truncate(length)
        judge(read(path), right, f"cut at {length}")


def test_pages_of_an_older_journal_are_not_taken(sound: Path, tmp_path: Path) -> None:
    """A disk that lost writes gives old pages back: each of them is whole and well."""
    path = next(copies(sound, tmp_path))
    old = path.read_bytes()
    journal = open_journal(str(path), now)
    (entry,) = [each for each in journal.entries_of("m0") if each.phase is Phase.INTENT]
    journal.done(entry, {"made": "late"})
    journal.engine.dispose()
    fresh, right = path.read_bytes(), content(path)
    changed = [at for at in range(0, len(fresh), 4096) if fresh[at : at + 4096] != old[at : at + 4096] and at]
    assert changed
    for at in changed:
        path.write_bytes(fresh[:at] + old[at : at + 4096] + fresh[at + 4096 :])
        assert judge(read(path), right, f"old page at {at}")


def test_damage_that_comes_while_it_is_open_is_seen(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    journal = open_journal(str(path), now)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE entries SET result = '{\"made\": \"up\"}' WHERE move_id = 'm0' AND sequence = 1")
        other.execute("UPDATE moves SET state = 'finished' WHERE id = 'm2'")
        other.commit()
    with pytest.raises(Unreachable) as caught:
        journal.entries_of("m0")
    assert "cellmove adopt SERVER" in caught.value.next_command
    with pytest.raises(Unreachable):
        journal.set_state("m2", State.CONFIRMED)
    assert journal.move("m4") is not None


# no bytes_free, no right to write


def test_a_full_disk_stops_before_the_effect(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    journal = open_journal(str(path), now)
    right = content(path)
    with journal.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")  # of the one pooled connection
    said = ""
    for _ in range(50):
        try:
            journal.intend("m0", "finish", "late", {"much": "z" * 3000})
        except Unreachable as error:
            said = error.message
            break
        right = content(path)
    assert "full" in said
    assert content(path) == right


WRITE = """
import resource, signal, sys
from cellmove.engine.journal_open import open_journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = open_journal(sys.argv[1], lambda: "now")
size = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
journal.intend("m0", "finish", "late", {"much": "z" * 90000})
"""


def test_no_room_for_a_byte_more_is_no_traceback_of_sqlite(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    right = content(path)
    for bytes_free in (0, 600, path.stat().st_size - 512):
        ended = subprocess.run(
            [sys.executable, "-c", WRITE, str(path), str(bytes_free)], capture_output=True, text=True, check=False
        )
        assert "cellmove.core.errors.JournalUnreachable" in ended.stderr, ended.stderr
        assert content(path) == right


def test_a_journal_that_turns_read_only_stops_before_the_effect(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    journal = open_journal(str(path), now)
    right = content(path)
    with journal.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")  # of the one pooled connection
    with pytest.raises(Unreachable):
        journal.intend("m0", "finish", "late", {})
    assert content(path) == right


def test_opening_and_looking_leaves_every_byte_and_time(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    content(path)
    before = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.iterdir()}
    content(path)
    assert {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.iterdir()} == before


def test_a_whole_move_is_recorded_in_one_stroke(sound: Path, tmp_path: Path) -> None:
    path = next(copies(sound, tmp_path))
    journal = open_journal(str(path), now)
    right = content(path)
    move = Move("m99", "uuid-99", "web-99", "resize", State.PLANNED, now(), now(), {})
    lines = [Entry("m99", number, "finish", "one", Phase.DONE, {}, {"a": 1}, "", now(), now()) for number in (1, 1)]
    with pytest.raises(Refused):
        journal.adopt(move, lines)
    assert content(path) == right
    assert journal.adopt(move, lines[:1]) == move
    assert journal.entries_of("m99") == lines[:1]
    with pytest.raises(Stopped):
        journal.done(lines[0].__class__("m99", 7, "finish", "x", Phase.INTENT, {}, {}, "", "", ""), {})
