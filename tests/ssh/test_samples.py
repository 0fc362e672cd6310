"""Samples of disks that qemu-img made, as nova uses it: an overlay, the snapshot of it, and what a target makes of that."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import pytest

from cellmove.core.errors import CallFailed
from cellmove.hosts.disks import sample
from tests.support.disk_harness import MIB, host

SIZE = 64 * MIB
WRITTEN = ((3 * MIB, 200_000), (20 * MIB, 70_000), (60 * MIB, 4096))


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(params=["raw", "qcow2", "compressed"])
def overlay(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes]:
    """A server's disk on an image of some kind, and what its guest reads."""
    noise = random.Random(1)  # noqa: S311 - to be repeated, not secret
    content = bytearray(SIZE)
    content[0 : 8 * MIB] = (noise.randbytes(1024) * 8192)[: 8 * MIB]
    image = tmp_path / "image.raw"
    image.write_bytes(content)
    for at, length in WRITTEN:
        content[at : at + length] = noise.randbytes(length)
    (tmp_path / "now.raw").write_bytes(content)
    (tmp_path / "_base").mkdir()
    (tmp_path / "server").mkdir()
    base, kind = tmp_path / "_base" / "base", "raw" if request.param == "raw" else "qcow2"
    qemu_img("convert", "-O", kind, *(["-c"] if request.param == "compressed" else []), image, base)
    disk = tmp_path / "server" / "disk"
    # Put from one image on another it gets what differs, and nothing else: what a guest would have written.
    qemu_img("create", "-f", "qcow2", "-b", tmp_path / "now.raw", "-F", "raw", disk)
    qemu_img("rebase", "-b", base, "-F", kind, disk)
    return disk, bytes(content)


def test_what_the_guest_reads(overlay: tuple[Path, bytes], tmp_path: Path) -> None:
    """Where the guest wrote, and where the image below is seen, compressed or not."""
    _disk, content = overlay
    with host(tmp_path) as link:
        found = sample(link, "server/disk", "qcow2")
        below = sample(link, "server/disk", "qcow2", places=range(0, SIZE, MIB))
    assert found.virtual_size == SIZE
    assert len(found.places) > 50
    assert all(any(at - 65536 <= place < at + length + 65536 for at, length in WRITTEN) for place in found.places)
    for each in (found, below):
        expected = [hashlib.sha256(content[place : place + 4096]).digest() for place in each.places]
        assert list(each.digests) == expected


@pytest.mark.parametrize("how", ["through an image", "made anew"])
def test_what_a_target_makes_of_it(overlay: tuple[Path, bytes], tmp_path: Path, how: str) -> None:
    """A flat snapshot, an overlay on that, put back on the base (nova/virt/libvirt/driver.py); or the base alone."""
    disk, _content = overlay
    base = tmp_path / "_base" / "base"
    kind = "raw" if base.read_bytes()[:3] != b"QFI" else "qcow2"
    there = tmp_path / "there" / "disk"
    there.parent.mkdir()
    if how == "through an image":
        snapshot = tmp_path / "_base" / "snapshot"
        qemu_img("convert", "-O", "qcow2", disk, snapshot)
        qemu_img("create", "-f", "qcow2", "-b", snapshot, "-F", "qcow2", there)
        qemu_img("rebase", "-b", base, "-F", kind, there)
        snapshot.unlink()
    else:
        qemu_img("create", "-f", "qcow2", "-b", base, "-F", kind, there)
    with host(tmp_path) as link:
        before = sample(link, "server/disk", "qcow2")
        after = sample(link, "there/disk", "qcow2", places=before.places)
    same = [one == other for one, other in zip(before.digests, after.digests, strict=True)]
    # A cluster that the guest wrote to in part keeps some of the image's bytes.
    assert all(same) if how == "through an image" else same.count(True) < len(same) / 4


def test_one_that_is_compressed_in_another_way_is_not_read(overlay: tuple[Path, bytes], tmp_path: Path) -> None:
    _disk, _content = overlay
    packed = tmp_path / "server" / "packed"
    made = subprocess.run(
        ["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", tmp_path / "now.raw", packed],
        check=False, capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with host(tmp_path) as link, pytest.raises(CallFailed) as raised:
        sample(link, "server/packed", "qcow2", places=[0])
    assert raised.value.kind == "image"
