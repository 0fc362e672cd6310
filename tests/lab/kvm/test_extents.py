"""On a file system that tells what was written since a moment, only that is read: however it was written, and it is all found."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.hosts.disk_agent.extents import file_system
from cellmove.hosts.disk_comparison import compare
from cellmove.hosts.disk_pass import read_back, run_pass
from cellmove.hosts.disk_transfer import Transfer
from lab import kvm, kvm_store
from tests.support.disk_harness import MIB, Ends, dirty, ends, sparse

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests")]

DISK = Transfer("server/disk")
BLOCK = 65536
SIZE = 64 * MIB
KEEP_SIZE, PUNCH_HOLE = 1, 2


@pytest.fixture
def both(real_hosts: None) -> Iterator[Ends]:
    """A disk on the host's own XFS, and an end beside it."""
    folder = kvm.instance_folder(kvm_store.XFS_HOSTS[0], "x").parent / f"test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        assert file_system(folder.stat().st_dev) == "xfs"
        with ends(folder, block=BLOCK) as made:
            sparse(made.disk, SIZE, ((0, 8 * MIB), (20 * MIB, 9 * MIB)))
            yield made
    finally:
        shutil.rmtree(folder)


def past_the_cache(path: Path, content: bytes, offset: int) -> None:
    """Write as a hypervisor does; whole pages only."""
    buffer = mmap.mmap(-1, len(content))
    buffer.write(content)
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.pwrite(file, buffer, offset)
    finally:
        os.close(file)


def reserve(path: Path, offset: int, length: int, mode: int = 0) -> None:
    """Give a file room that holds nothing yet; or, with a mode, take some away."""
    file = os.open(path, os.O_RDWR)
    try:
        assert ctypes.CDLL(None).fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0
    finally:
        os.close(file)


def lies_there(both: Ends) -> bool:
    """Whether the copy is the disk, read without cellmove."""
    return both.disk.read_bytes() == both.copy.read_bytes()


def test_only_what_was_written_is_read_and_it_is_all_found(both: Ends) -> None:
    assert run_pass(both.source, both.target, [DISK]).read == 17 * MIB
    past_the_cache(both.disk, b"a" * 4096, 5 * MIB)
    past_the_cache(both.disk, b"b" * 4096, 50 * MIB)
    dirty(both.disk, b"c", 25 * MIB)
    made = run_pass(both.source, both.target, [DISK])
    assert (made.read, made.sent) == (3 * BLOCK, 3 * BLOCK)
    assert lies_there(both)
    assert run_pass(both.source, both.target, [DISK]).read == 0
    past_the_cache(both.disk, b"d" * 4096, 5 * MIB)
    last = run_pass(both.source, both.target, [DISK], cache="direct", still=True)
    assert (last.read, last.sent) == (BLOCK, BLOCK)
    assert lies_there(both)
    assert last.files[0].digest == compare(both.source, both.target, DISK).target_digest


def test_what_was_reserved_before_and_filled_since_is_found(both: Ends) -> None:
    """It is filled where it lies, without being given another place."""
    reserve(both.disk, 40 * MIB, 4 * MIB)
    run_pass(both.source, both.target, [DISK])
    past_the_cache(both.disk, b"e" * 8192, 41 * MIB)
    dirty(both.disk, b"f", 43 * MIB)
    assert run_pass(both.source, both.target, [DISK], cache="direct", still=True).sent == 2 * BLOCK
    assert lies_there(both)


def test_a_copy_that_is_not_what_was_sent_is_mended_though_nothing_was_written(both: Ends) -> None:
    run_pass(both.source, both.target, [DISK])
    dirty(both.copy, b"\x01", 21 * MIB)
    assert read_back(both.source, both.target, [DISK]) == (DISK.path,)
    assert run_pass(both.source, both.target, [DISK], cache="direct", still=True).sent == BLOCK
    assert lies_there(both)


def test_nothing_is_left_and_the_disk_is_read_as_a_whole_by_whoever_comes_next(both: Ends, tmp_path: Path) -> None:
    run_pass(both.source, both.target, [DISK])
    dirty(both.disk, b"g", 3 * MIB)
    with ends(both.here.parent, block=BLOCK) as others:
        made = run_pass(others.source, others.target, [DISK], cache="direct", still=True)
    assert (made.read, made.sent) == (17 * MIB, BLOCK)
    assert os.listdir(both.disk.parent) == ["disk"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_done_to_a_file_is_found(both: Ends, seed: int) -> None:
    noise = random.Random(seed)  # noqa: S311 - to be repeated, not secret
    run_pass(both.source, both.target, [DISK])
    for _round in range(12):
        for _each in range(noise.randrange(6)):
            size = both.disk.stat().st_size
            page = noise.randrange(size // 4096 - 16) * 4096
            match noise.randrange(6):
                case 0 | 1:
                    past_the_cache(both.disk, noise.randbytes(4096 * noise.randint(1, 16)), page)
                case 2:
                    dirty(both.disk, noise.randbytes(noise.randint(1, 5000)), page + 7)
                case 3:
                    reserve(both.disk, page, BLOCK * noise.randint(1, 30), KEEP_SIZE | PUNCH_HOLE)
                case 4:
                    os.truncate(both.disk, noise.randrange(40 * MIB, 80 * MIB))
                case 5:
                    reserve(both.disk, page, 300_000)
        last = noise.random() < 0.2
        run_pass(both.source, both.target, [DISK], cache="direct" if last else "keep", still=last)
        assert lies_there(both)
        if noise.random() < 0.3:
            assert read_back(both.source, both.target, [DISK]) == ()
