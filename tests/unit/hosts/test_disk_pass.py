"""Disks brought from one directory to another as if they were on two hosts: what is sent, what is there in the end, what can break."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cellmove.core.clock import Clock
from cellmove.core.errors import CallFailed, CallUncertain, NotFound
from cellmove.hosts import disk_archive, disks
from cellmove.hosts.disk_agent import protocol
from cellmove.hosts.disk_comparison import compare
from cellmove.hosts.disk_pass import run_pass
from cellmove.hosts.disk_transfer import FileResult, PassResult, Progress, Transfer, another_pass
from tests.support.disk_harness import FLIP, LOCAL, MIB, MOVE, Ends, dirty, ends, host, sparse

DISK = Transfer("server/disk")
BLOCK = 65536
SIZE = 40 * MIB
PIECES = ((0, 3 * MIB), (10 * MIB + 5, 5 * MIB), (SIZE - 100, 100))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Ends]:
    """A disk with holes at the source, nothing at the target."""
    with ends(tmp_path) as made:
        sparse(made.disk, SIZE, PIECES)
        yield made


@dataclass
class HandClock:
    """Time that passes only when somebody sleeps."""

    now: float = 0.0

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def content(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_first_pass_brings_everything_but_the_holes_and_the_next_ones_only_what_differs(both: Ends) -> None:
    first = run_pass(both.source, both.target, [DISK])
    assert content(both.copy) == content(both.disk)
    assert both.copy.stat().st_blocks * 512 < 9 * MIB
    assert 8 * MIB <= first.sent <= 8 * MIB + 6 * BLOCK
    assert not first.files[0].rescanned

    nothing = run_pass(both.source, both.target, [DISK])
    assert (nothing.sent, nothing.blocks, nothing.files[0].digest) == (0, 0, first.files[0].digest)
    assert not nothing.files[0].rescanned

    dirty(both.disk, b"x", 12 * MIB)
    dirty(both.disk, b"new", 30 * MIB)  # in what was a hole
    dirty(both.disk, bytes(MIB), MIB)
    changed = run_pass(both.source, both.target, [DISK])
    assert (changed.blocks, changed.sent, changed.files[0].emptied) == (2, 2 * BLOCK, MIB)
    assert changed.files[0].digest != first.files[0].digest
    assert content(both.copy) == content(both.disk)
    assert both.copy.stat().st_blocks * 512 < 8 * MIB  # the zeros are a hole


@pytest.mark.parametrize("cache", ["keep", "drop", "direct"])
def test_what_a_pass_left_is_what_a_comparison_reads_from_the_disks(both: Ends, cache: str) -> None:
    result = run_pass(both.source, both.target, [DISK], cache=cache, still=True)  # type: ignore[arg-type]
    both_ends = compare(both.source, both.target, DISK, cache=cache)  # type: ignore[arg-type]
    assert both_ends.same
    assert both_ends.differs_at is None
    assert both_ends.source_digest == both_ends.target_digest == result.files[0].digest
    assert (result.files[0].made.mode, result.files[0].made.size) == (0o644, SIZE)


def test_a_disk_that_grows_and_shrinks_is_followed(both: Ends) -> None:
    for size in (SIZE, SIZE + 7, 100, 0, 3 * MIB, BLOCK + 1, 2 * BLOCK):
        os.truncate(both.disk, size)
        if size:
            dirty(both.disk, b"end", size - 3)
        run_pass(both.source, both.target, [DISK])
        assert content(both.copy) == content(both.disk), size
    assert compare(both.source, both.target, DISK).same


def test_whatever_a_guest_writes_the_copy_is_the_same_after_each_pass(tmp_path: Path) -> None:
    draw = random.Random(20)  # noqa: S311 - to be repeated, not secret
    with ends(tmp_path, block=4096) as both:
        size = 1 * MIB + 123
        sparse(both.disk, size, [(0, 300_000)])
        for number in range(25):
            for _write in range(draw.randrange(6)):
                offset, length = draw.randrange(size), draw.randrange(1, 20_000)
                dirty(both.disk, draw.choice((bytes(length), draw.randbytes(length))), offset)
            size = both.disk.stat().st_size
            if draw.random() < 0.2:
                size = draw.randrange(1, 2 * MIB)
                os.truncate(both.disk, size)
            if draw.random() < 0.2:  # somebody works on the target's file: nothing is believed of it any more
                disks.prepare(both.target, DISK.unfinished(MOVE), draw.randrange(2 * MIB))
                with pytest.raises(CallFailed):
                    disks.flatten(both.target, DISK.unfinished(MOVE))
            run_pass(both.source, both.target, [DISK], cache=draw.choice(("keep", "drop", "direct")))
            assert content(both.copy) == content(both.disk), number


def test_several_files_travel_in_one_pass_each_under_its_mark(both: Ends) -> None:
    sparse(both.here / "_base" / "abc", 5 * MIB, [(MIB, MIB)], seed=2)
    (both.there / "_base").mkdir()
    (both.here / "server" / "disk.config").write_bytes(b"")
    wanted = [DISK, Transfer("_base/abc", "_base/def", mode=0o600), Transfer("server/disk.config")]
    result = run_pass(both.source, both.target, wanted)
    assert [file.path for file in result.files] == ["server/disk", "_base/abc", "server/disk.config"]
    assert content(both.there / "_base" / f".def.cellmove-{MOVE}") == content(both.here / "_base" / "abc")
    assert result.files[1].made.mode == 0o600
    assert result.files[2].made.size == 0
    made = disks.rename(both.target, wanted[1].unfinished(MOVE), "def", file=result.files[1].made.identity)
    assert made.identity == result.files[1].made.identity
    assert compare(both.source, both.target, wanted[1], path="_base/def").same


def test_an_observer_hears_how_far_it_is_and_how_long_it_takes(both: Ends) -> None:
    time, heard = HandClock(), []
    run_pass(both.source, both.target, [DISK], clock=time.clock(), bwlimit=2 * MIB, observer=heard.append)
    assert [each.done for each in heard] == sorted(each.done for each in heard)
    last = heard[-1]
    assert (last.done, last.eta) == (last.total, 0.0)
    assert 8 * MIB <= last.total <= 8 * MIB + 6 * BLOCK
    assert len(heard) > 5
    assert heard[0].eta is None
    middle = heard[len(heard) // 2]
    assert middle.eta == pytest.approx((middle.total - middle.done) / 2 / MIB, rel=0.3)
    assert Progress("", 50, 200, 50, 10.0).eta == 30.0


@pytest.mark.parametrize("limit", [1 * MIB, 16 * MIB])
def test_no_more_bytes_a_second_are_sent_than_is_allowed(both: Ends, limit: int) -> None:
    time = HandClock()
    result = run_pass(both.source, both.target, [DISK], clock=time.clock(), bwlimit=limit)
    # The last portion is paid for by nobody; one is a quarter of a second's worth and a piece that a thread reads.
    assert (result.sent - limit / 4 - 2 * MIB) / limit <= time.now <= result.sent / limit
    assert result.seconds == time.now


@pytest.mark.parametrize("place", [protocol.BLOCK + 200_000, 3 * MIB])
def test_a_byte_that_is_flipped_on_the_way_is_not_written(tmp_path: Path, place: int) -> None:
    wire = (sys.executable, "-c", FLIP, str(place), *LOCAL)
    with ends(tmp_path, target=wire) as both:
        sparse(both.disk, SIZE, PIECES)
        with pytest.raises(
            CallFailed, match=r"target: the block at .* did not arrive as it was sent; the next pass sends it again"
        ):
            run_pass(both.source, both.target, [DISK])
        os.truncate(both.copy, BLOCK)  # what was sent of the rest must not be believed to be there
        result = run_pass(both.source, both.target, [DISK])  # over the same links
        assert result.files[0].rescanned
        assert content(both.copy) == content(both.disk)


def test_a_byte_that_is_flipped_in_a_request_ends_the_connection(tmp_path: Path) -> None:
    text = disk_archive.archive()
    wire = (sys.executable, "-c", FLIP, str(len(text) + len(f"cellmove-disks 1 {len(text)}\n") + 30), *LOCAL)
    with pytest.raises(CallUncertain, match="a request arrived damaged"), host(tmp_path, command=wire):
        pass


def test_a_byte_that_is_flipped_at_rest_is_found_by_the_comparison(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    for place in (SIZE - 50, 20 * MIB + 1, 0):  # in data, in a hole, at the beginning
        dirty(both.copy, b"\x01", place)
        found = compare(both.source, both.target, DISK)
        assert (found.same, found.differs_at) == (False, place // BLOCK * BLOCK)
    os.truncate(both.copy, SIZE - BLOCK * 3)
    assert not compare(both.source, both.target, DISK).same


def test_only_the_size_may_differ(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    os.truncate(both.copy, SIZE + 10 * BLOCK)
    found = compare(both.source, both.target, DISK)
    assert (found.same, found.differs_at is not None) == (False, True)


def test_a_full_target_is_told_and_goes_on_from_what_is_there_when_there_is_room(tmp_path: Path) -> None:
    little = ("sh", "-c", 'ulimit -f 12288; exec "$@"', "sh", *LOCAL)  # 6 MiB a file
    with ends(tmp_path, target=little) as both:
        sparse(both.disk, 5 * MIB, [(0, 5 * MIB)])
        run_pass(both.source, both.target, [DISK])
        sparse(both.disk, SIZE, [(0, 5 * MIB), (20 * MIB, 10 * MIB)])
        with pytest.raises(
            CallFailed, match=r"target: server/\.disk.*: File too large; make room there.*what was copied stays"
        ) as full:
            run_pass(both.source, both.target, [DISK])
        assert full.value.kind == "no-space"
        assert disks.facts(both.source)  # both links still work
        assert disks.facts(both.target)
    with ends(tmp_path) as both:
        result = run_pass(both.source, both.target, [DISK])
        assert result.files[0].rescanned
        assert 10 * MIB <= result.sent < 11 * MIB
        assert content(both.copy) == content(both.disk)


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_connection_that_breaks_in_the_middle_costs_only_what_was_on_the_way(tmp_path: Path, end: str) -> None:
    with ends(tmp_path) as both:
        sparse(both.disk, 64 * MIB, [(0, 48 * MIB)])
        link = getattr(both, end)

        def kill(progress: Progress) -> None:
            if progress.done > 16 * MIB and link._process.poll() is None:
                os.kill(link._process.pid, signal.SIGKILL)

        with pytest.raises(
            CallUncertain, match=f"the connection to {end} broke during .*continues with what was copied"
        ):
            run_pass(both.source, both.target, [DISK], observer=kill, clock=Clock(monotonic=HandTicks()))
        assert not link.usable
        other = both.target if end == "source" else both.source
        assert disks.facts(other)
        with host(Path(link.destination.instances_path), end, block=BLOCK) as again:
            pair = replace(both, **{end: again})
            result = run_pass(pair.source, pair.target, [DISK])
            assert result.files[0].rescanned
            assert result.sent <= 40 * MIB
            assert content(both.copy) == content(both.disk)


class HandTicks:
    """A clock that goes on by a second at each look, so that an observer hears of everything."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_pass_to_a_target_that_was_broken_off_before_is_not_fooled_by_what_the_source_remembers(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    os.unlink(both.copy)  # somebody tidied up behind our back: another file will be made
    result = run_pass(both.source, both.target, [DISK])
    assert result.sent >= 8 * MIB
    assert content(both.copy) == content(both.disk)


def test_what_somebody_writes_into_the_copy_between_two_passes_is_mended_by_the_next(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    dirty(both.copy, b"not ours", 20 * MIB)
    result = run_pass(both.source, both.target, [DISK])
    assert (result.files[0].rescanned, result.sent, result.files[0].emptied) == (True, 0, BLOCK)
    assert content(both.copy) == content(both.disk)


def test_a_copy_that_was_made_anew_is_not_taken_for_the_old_one_though_the_inode_may_be_the_same(both: Ends) -> None:
    path = DISK.unfinished(MOVE)
    tokens = set()
    for _time in range(5):
        tokens.add(disks.prepare(both.target, path, SIZE)[1])
        both.copy.unlink()
    assert len(tokens) == 5


def meddle(both: Ends, how: str) -> None:
    if how == "vanishes":
        both.disk.unlink()
    elif how == "is replaced":
        sparse(both.disk.with_name("new"), SIZE, PIECES, seed=3).rename(both.disk)
    elif how == "is cut off":
        os.truncate(both.disk, MIB)
    else:
        dirty(both.disk, b"still alive", 50)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("vanishes", "was removed or replaced while it was read"),
        ("is replaced", "was removed or replaced while it was read"),
        ("is cut off", "became shorter while it was read"),
        ("is written to", "was written to while it was read, although its guest"),
    ],
)
def test_a_file_that_changes_under_the_last_pass_is_told(both: Ends, how: str, words: str) -> None:
    done: list[str] = []

    def meanwhile(_progress: Progress) -> None:
        if not done:
            done.append(how)
            meddle(both, how)

    # Small portions: most is still to be read when the first one was sent.
    sparse(both.disk, SIZE, [(0, SIZE)])
    with pytest.raises(CallFailed, match=f"source: server/disk.*{words}.*; make sure that nothing else works") as told:
        run_pass(
            both.source, both.target, [DISK], observer=meanwhile, still=True, cache="direct", bwlimit=1 << 40,
            clock=HandClock().clock(),
        )  # fmt: skip
    assert told.value.kind == "changed"
    assert done
    if how == "is written to":
        run_pass(both.source, both.target, [DISK], still=True)
        assert content(both.copy) == content(both.disk)


def test_a_file_that_is_not_there_or_none_is_told(both: Ends) -> None:
    with pytest.raises(NotFound, match="source: server/nothing: No such file"):
        run_pass(both.source, both.target, [Transfer("server/nothing")])
    with pytest.raises(CallFailed, match="server is no regular file"):
        run_pass(both.source, both.target, [Transfer("server")])
    with pytest.raises(NotFound, match="target: nowhere"):
        run_pass(both.source, both.target, [Transfer("server/disk", "nowhere/disk")])
    with pytest.raises(NotFound):
        compare(both.source, both.target, DISK)
    assert run_pass(both.source, both.target, [DISK]).sent


def test_ends_with_different_blocks_cannot_work_together(tmp_path: Path) -> None:
    with host(tmp_path / "a", block=4096) as one, host(tmp_path / "b", block=8192) as other:
        sparse(tmp_path / "a" / "disk", 5, [])
        with pytest.raises(CallFailed, match="blocks of the same size"):
            run_pass(one, other, [Transfer("disk")])
        with pytest.raises(CallFailed, match="a connection of their own"):
            run_pass(one, one, [Transfer("disk", "copy")])


def test_the_operators_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name / "server").mkdir(parents=True)
    noise = random.Random(1).randbytes(MIB)  # noqa: S311
    with open(tmp_path / "source" / "server" / "disk", "wb") as file:
        file.truncate(1 << 40)
        for number in range(200):
            os.pwrite(file.fileno(), noise, number * (5 << 30))
    script = (
        "import sys; from pathlib import Path; from tests.support.disk_harness import ends; from cellmove.hosts.disk_pass import *\n"
        "with ends(Path(sys.argv[1]), block=1 << 20) as both:\n"
        "    result = run_pass(both.source, both.target, [Transfer('server/disk')])\n"
        "    print(result.sent)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=root, check=True
    )
    sent, peak = map(int, ended.stdout.split())
    assert sent == 200 * MIB
    assert peak < 150 * 1024, "KiB"


def a_pass(sent: int) -> PassResult:
    made = disks.File("file", 0, 0, 0, 0, 0, 0, 0, 0)
    return PassResult((FileResult("disk", 0, 0, 0, sent, 0, False, "", made),), 1.0)


@pytest.mark.parametrize(
    ("sent", "again", "why"),
    [
        ([], True, "nothing is there"),
        ([4096], True, "less"),
        ([4096, 300], True, "less"),
        ([4096, 3500], False, "writes as fast"),
        ([4096, 60], False, "few enough"),
        ([50], False, "few enough"),
        ([4096, 2000, 1000, 500, 250, 125], False, "6 passes"),
        ([4096, 2000, 1000, 1000], False, "writes as fast"),
    ],
)
def test_another_pass_is_made_while_it_pays(sent: list[int], again: bool, why: str) -> None:
    verdict = another_pass([a_pass(each * MIB) for each in sent])
    assert verdict.again == again
    assert why in verdict.why
