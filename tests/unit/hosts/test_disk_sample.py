"""Disks are compared as their guests see them, at some places. Images that qemu-img made: tests/ssh/test_transport.py."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from cellmove.core.errors import CallFailed, NotFound
from cellmove.hosts.disks import sample
from cellmove.sandbox import disks as sandbox
from tests.support.disk_harness import host, sparse

CLUSTER = sandbox.CLUSTER
IMAGE = "image"


def overlay(folder: Path, token: str = "what the guest wrote", name: str = "server") -> Path:  # noqa: S107 - no password
    """A disk of the sandbox and the image that it stands on, as nova lays them out."""
    base = folder / "_base" / sandbox.base_of(IMAGE)
    base.parent.mkdir(parents=True, exist_ok=True)
    base.write_bytes(sandbox.base_content(IMAGE))
    (folder / name).mkdir(exist_ok=True)
    sandbox._write_overlay(folder / name / "disk", str(base), "server", token)
    return folder / name / "disk"


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_the_places_are_those_where_the_guest_wrote(tmp_path: Path) -> None:
    disk = overlay(tmp_path).read_bytes()
    with host(tmp_path) as link:
        found = sample(link, "server/disk", "qcow2")
    first = sandbox.TABLES // CLUSTER
    written = [at for place, part in sandbox._pieces("server", "x") for at in range(place, place + len(part), 4096)]
    assert set(found.places) >= {at // 4096 * 4096 - first * CLUSTER for at in written}
    assert len(found.places) == 8
    assert found.virtual_size == 1 << 30
    for place, seen in zip(found.places, found.digests, strict=True):
        at = place + sandbox.TABLES
        assert seen == digest(disk[at : at + 4096].ljust(4096, b"\0"))


def test_through_a_hole_the_image_below_is_seen(tmp_path: Path) -> None:
    overlay(tmp_path)
    base = sandbox.base_content(IMAGE)
    places = [CLUSTER, CLUSTER + 4096, len(base), 5 * CLUSTER, 1 << 30, (1 << 30) + 4096]
    with host(tmp_path) as link:
        found = sample(link, "server/disk", "qcow2", places=places)
    zeros = digest(bytes(4096))
    assert found.digests == (
        digest(base[CLUSTER : CLUSTER + 4096]), digest(base[CLUSTER + 4096 : CLUSTER + 8192]), zeros, zeros, zeros, zeros,
    )  # fmt: skip


def test_a_fresh_disk_shares_nothing_with_the_one_that_was_lost(tmp_path: Path) -> None:
    overlay(tmp_path)
    overlay(tmp_path, token="", name="fresh")
    overlay(tmp_path, token="something else", name="running")
    with host(tmp_path) as link:
        before = sample(link, "server/disk", "qcow2")
        fresh, running, itself = (
            sample(link, f"{name}/disk", "qcow2", places=before.places) for name in ("fresh", "running", "server")
        )
        assert sample(link, "fresh/disk", "qcow2").places == ()
    assert not set(before.digests) & set(fresh.digests)
    assert [one == other for one, other in zip(before.digests, running.digests, strict=True)].count(False) == 1
    assert itself.digests == before.digests


@pytest.mark.parametrize("most", [1, 3, 5])
def test_no_more_than_are_wanted(tmp_path: Path, most: int) -> None:
    overlay(tmp_path)
    with host(tmp_path) as link:
        assert len(sample(link, "server/disk", "qcow2", most=most).places) == most


def test_a_raw_disk(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "server" / "disk", 64 << 20, [(1 << 20, 8192), (40 << 20, 4096)])
    with host(tmp_path) as link:
        found = sample(link, "server/disk", "raw")
        beyond = sample(link, "server/disk", "raw", places=[64 << 20])
    assert found.places == (1 << 20, (1 << 20) + 4096, 40 << 20)
    content = disk.read_bytes()
    assert found.digests == tuple(digest(content[place : place + 4096]) for place in found.places)
    assert (found.virtual_size, beyond.digests) == (64 << 20, (digest(bytes(4096)),))


def test_what_a_guest_wrote_into_a_raw_disk_is_no_table(tmp_path: Path) -> None:
    """It may look like an overlay that stands on somebody else's disk."""
    disk = overlay(tmp_path)
    secret = tmp_path / "other" / "disk"
    secret.parent.mkdir()
    secret.write_bytes(b"secret" * 4096)
    with host(tmp_path) as link:
        found = sample(link, "server/disk", "raw", places=[0])
    assert found.digests == (digest(disk.read_bytes()[:4096]),)


def edited(path: Path, at: int, form: str, *values: int | bytes) -> None:
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), struct.pack(form, *values), at)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (32, ">I", 2),  # encrypted
        (72, ">Q", 4),  # its data is in another file
        (72, ">Q", 16),  # tables of another kind
        (20, ">I", 9),  # clusters smaller than what is compared
        (0, ">I", 0),  # no qcow2 at all
    ],
)
def test_images_that_are_not_known_here(tmp_path: Path, at: int, form: str, value: int) -> None:
    edited(overlay(tmp_path), at, form, value)
    with host(tmp_path) as link, pytest.raises(CallFailed) as raised:
        sample(link, "server/disk", "qcow2")
    assert raised.value.kind == "image"


def test_it_never_leaves_instances_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(CLUSTER))
    here = tmp_path / "instances"
    (here / "server").mkdir(parents=True)
    sandbox._write_overlay(here / "server" / "disk", str(tmp_path / "secret"), "server", "x")
    with host(here) as link, pytest.raises(CallFailed) as raised:
        sample(link, "server/disk", "qcow2", places=[CLUSTER])
    assert raised.value.kind == "path"


def test_an_image_that_is_gone(tmp_path: Path) -> None:
    overlay(tmp_path)
    (tmp_path / "_base" / sandbox.base_of(IMAGE)).unlink()
    with host(tmp_path) as link, pytest.raises(NotFound):
        sample(link, "server/disk", "qcow2")


def test_images_that_stand_on_themselves(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    disk = tmp_path / "server" / "disk"
    sandbox._write_overlay(disk, str(disk), "server", "x")
    edited(disk, 108, ">I5s", 5, b"qcow2")  # the format of what it stands on
    with host(tmp_path) as link, pytest.raises(CallFailed, match="too many backing files"):
        sample(link, "server/disk", "qcow2", places=[CLUSTER])
