"""Whether the target's disk has what was sent to it: what is read for that, and what is found."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.core.errors import CallFailed
from cellmove.hosts.disk_comparison import compare
from cellmove.hosts.disk_pass import read_back, run_pass
from cellmove.hosts.disk_transfer import Progress, Transfer
from tests.support.disk_harness import MIB, Ends, dirty, ends, host, sparse

DISK = Transfer("server/disk")
OTHER = Transfer("server/disk.swap")
BLOCK = 65536
SIZE = 40 * MIB


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Ends]:
    """A disk with holes at the source, nothing at the target."""
    with ends(tmp_path) as made:
        sparse(made.disk, SIZE, ((0, 3 * MIB), (10 * MIB, 5 * MIB)))
        yield made


def looked(both: Ends, *files: Transfer) -> tuple[tuple[str, ...] | None, int]:
    """What differs, and how many bytes were read at the target for that."""
    seen: list[Progress] = []
    wrong = read_back(both.source, both.target, files or (DISK,), observer=seen.append)
    return wrong, seen[-1].done if seen else 0


def is_found_and_mended(both: Ends) -> None:
    """Somebody has written to the copy."""
    assert looked(both)[0] == (DISK.path,)
    run_pass(both.source, both.target, [DISK])
    assert looked(both)[0] == ()


def test_only_what_was_written_since_the_last_time_is_read(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    assert looked(both) == ((), 8 * MIB)
    assert looked(both) == ((), 0)
    dirty(both.disk, b"new", 5)
    dirty(both.disk, bytes(BLOCK), 10 * MIB)  # becomes a hole: nothing to read, and yet looked at
    run_pass(both.source, both.target, [DISK])
    assert looked(both) == ((), BLOCK)


@pytest.mark.parametrize("place", [5, 20 * MIB, SIZE - 1], ids=["data", "hole", "end"])
def test_what_differs_is_found_and_sent_again(both: Ends, place: int) -> None:
    run_pass(both.source, both.target, [DISK])
    for before in (False, True):  # the first time nothing was read yet, then all of it was
        assert looked(both)[0] == () or not before
        dirty(both.copy, b"\x01", place)
        is_found_and_mended(both)
    assert compare(both.source, both.target, DISK).same


def test_a_block_that_is_lost_on_the_way_to_the_platter_is_sent_again(both: Ends) -> None:
    """Nothing but the content tells: the file's times are what they were when the program looked last."""
    run_pass(both.source, both.target, [DISK])
    with host(both.there, "target", block=BLOCK) as again:
        dirty(both.copy, b"\x01", 7)
        fresh = Ends(both.source, again, both.here, both.there)
        assert looked(fresh) == ((DISK.path,), 8 * MIB)
        result = run_pass(fresh.source, fresh.target, [DISK])
        assert result.blocks == 1
        assert looked(fresh)[0] == ()


@pytest.mark.parametrize("size", [0, SIZE - BLOCK, SIZE - 1, SIZE + 1, SIZE + 4 * BLOCK])
def test_a_copy_of_another_length_is_found_and_mended(both: Ends, size: int) -> None:
    run_pass(both.source, both.target, [DISK])
    assert looked(both)[0] == ()
    os.truncate(both.copy, size)
    is_found_and_mended(both)
    assert compare(both.source, both.target, DISK).same


def test_a_copy_that_was_replaced_by_an_empty_one_is_found(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    both.copy.unlink()
    both.copy.touch()
    assert looked(both)[0] == (DISK.path,)


def test_a_pass_that_breaks_off_because_the_file_changed_need_not_be_made_again_from_the_beginning(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    changes = iter([True])

    def write(_progress: Progress) -> None:
        if next(changes, False):
            dirty(both.disk, b"still alive", 50)

    with pytest.raises(CallFailed, match="was written to while it was read"):
        run_pass(both.source, both.target, [DISK], still=True, observer=write)
    assert not run_pass(both.source, both.target, [DISK], still=True).files[0].rescanned
    assert compare(both.source, both.target, DISK).same


def test_a_source_that_made_no_pass_knows_nothing(both: Ends) -> None:
    assert looked(both) == (None, 0)
    run_pass(both.source, both.target, [DISK])
    sparse(both.here / "server" / "disk.swap", MIB, [(0, MIB)])
    assert looked(both, DISK, OTHER) == (None, 0)
    run_pass(both.source, both.target, [OTHER])
    assert looked(both, DISK, OTHER) == ((), 9 * MIB)


def test_whatever_happens_to_the_copy_is_seen(tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 - to be repeated, not secret
    with ends(tmp_path, block=4096) as both:
        sparse(both.disk, MIB, [(0, 300_000)])
        for number in range(40):
            size = draw.randrange(1, MIB)
            if draw.random() < 0.3:
                os.truncate(both.disk, size)
            for _write in range(draw.randrange(5)):
                start, length = draw.randrange(size), draw.randrange(1, 20_000)
                dirty(both.disk, draw.choice((bytes(length), draw.randbytes(length))), start)
            run_pass(both.source, both.target, [DISK], cache=draw.choice(("keep", "drop", "direct")))
            if draw.random() < 0.5:
                assert looked(both)[0] == (), number
            if draw.random() < 0.5:
                place = draw.randrange(both.copy.stat().st_size)
                with open(both.copy, "rb") as file:
                    byte = os.pread(file.fileno(), 1, place)[0]
                dirty(both.copy, bytes([byte ^ 1]), place)
                assert looked(both)[0] == (DISK.path,), number
