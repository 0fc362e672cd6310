"""The local disks of image-backed servers as files, where the sandbox is started with them: what libvirt's driver does to them.

Below each host's directory lies what nova lays out in ``instances_path`` (nova/virt/libvirt/driver.py,
``_create_images``; imagebackend.py): ``_base`` with images, and a directory a server. A disk is a qcow2 overlay; behind
its tables stands what the guest wrote, in the order in which the guest counts: a token of its own and noise.
Without a place for files the disks are words in the world's memory, as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from cellmove.sandbox.store import HOSTS, Cloud, Record

BASE_SIZE = 96 << 10
CLUSTER = 1 << 16
TABLES = 5 * CLUSTER
"""Bytes that belong to qemu-img: header, refcounts and two levels of tables, a cluster each. The guest's come after them."""

SIZE = (5 << 18) + 4096
TOKEN = 64
NOISE = ((TABLES + TOKEN, 12 << 10), (4 << 18, 12 << 10), (5 << 18, 4096))
"""Where the guest wrote, and how much. Between the pieces are holes."""


@dataclass(frozen=True)
class Content:
    """What a root disk holds.

    :param backing: the file that its header names
    :param token: what the guest wrote last; empty on a disk that was just made from its image
    :param whole: whether everything else is what this server's guest wrote
    """

    backing: str
    token: str
    whole: bool


def base_of(image: str) -> str:
    """The name of an image's file in ``_base``."""
    return hashlib.sha1(image.encode(), usedforsecurity=False).hexdigest()


def base_content(image: str) -> bytes:
    """Its bytes, the same on every host."""
    return random.Random(image).randbytes(BASE_SIZE)  # noqa: S311 - to be repeated, not secret


def add_base(cloud: Cloud, host: str, image: str) -> Path | None:
    """What a host fetches when it first boots an image."""
    if cloud.instances is None:
        return None
    path = cloud.instances.path(host) / "_base" / base_of(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(base_content(image))
    return path


def make(cloud: Cloud, host: str, server: str, image: str, token: str, *, ephemeral: bool = False) -> None:
    """A server's files.

    :param token: what its guest wrote last; empty: a guest that never ran
    :param ephemeral: with an ephemeral disk, whose base each host makes for itself
    """
    base = add_base(cloud, host, image)
    if cloud.instances is None or base is None:
        return
    folder, seen = cloud.instances.path(host) / server, cloud.instances.seen(host)
    folder.mkdir(exist_ok=True)
    formats = {f"{seen}/{server}/disk": "qcow2"}
    _write_overlay(folder / "disk", f"{seen}/_base/{base.name}", server, token)
    if ephemeral:
        own = base.with_name("ephemeral_1_40d1d2c")
        own.write_bytes(random.Random(host).randbytes(BASE_SIZE))  # noqa: S311
        _write_overlay(folder / "disk.eph0", f"{seen}/_base/{own.name}", f"{server} ephemeral", token)
        formats[f"{seen}/{server}/disk.eph0"] = "qcow2"
    (folder / "disk.info").write_text(json.dumps(formats))


def _write_overlay(path: Path, backing: str, server: str, token: str) -> None:
    name = backing.encode()
    extensions = struct.pack(">II8sII", 0xE2792ACA, 3, b"raw", 0, 0)
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        104 + len(extensions),
        len(name),
        16,
        1 << 30,
        0,
        2,
        3 << 16,
        1 << 16,
        1,
        0,
        0,
        0,
        0,
        0,
        4,
        104,
    )
    pieces = _pieces(server, token) if token else []
    used = sorted({at // CLUSTER for place, part in pieces for at in range(place, place + len(part))})
    first = TABLES // CLUSTER
    # Each is used once, which the highest bit of an entry says as well.
    counts = struct.pack(
        f">{SIZE // CLUSTER + 1}H", *(each < first or each in used for each in range(SIZE // CLUSTER + 1))
    )
    entries = {each - first: each * CLUSTER | 1 << 63 for each in used}
    table = struct.pack(
        f">{max(entries, default=0) + 1}Q", *(entries.get(each, 0) for each in range(max(entries, default=0) + 1))
    )
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for place, part in (
            (0, head + extensions + name),
            (1 << 16, struct.pack(">Q", 2 << 16)),
            (2 << 16, counts),
            (3 << 16, struct.pack(">Q", 4 << 16 | 1 << 63)),
            (4 << 16, table),
            *pieces,
        ):
            os.pwrite(file.fileno(), part, place)


def _pieces(server: str, token: str) -> list[tuple[int, bytes]]:
    """What the guest wrote, and where."""
    noise = random.Random(server)  # noqa: S311
    return [(TABLES, token.encode().ljust(TOKEN)), *((place, noise.randbytes(size)) for place, size in NOISE)]


def write(cloud: Cloud, host: str, server: str) -> None:
    """The guest writes something that it never wrote before."""
    tokens = cloud.world.tokens[host]
    if cloud.instances is None or server not in tokens or not is_there(cloud, host, server):
        return
    cloud.world.counter += 1
    tokens[server] = f"{server} {cloud.world.counter}"
    with open(cloud.instances.disk(host, server), "r+b") as file:
        os.pwrite(file.fileno(), tokens[server].encode().ljust(TOKEN), TABLES)


def read(cloud: Cloud, host: str, server: str) -> Content | None:
    """What is on a server's root disk; None without a file."""
    if cloud.instances is None or not (path := cloud.instances.disk(host, server)).exists():
        return None
    data = path.read_bytes()
    offset, length = struct.unpack_from(">QI", data, 8)
    token = data[TABLES : TABLES + TOKEN].decode(errors="replace").strip("\0 ")
    wanted = bytearray(SIZE - TABLES)
    for place, part in _pieces(server, token):
        wanted[place - TABLES : place - TABLES + len(part)] = part
    return Content(data[offset : offset + length].decode(errors="replace"), token, data[TABLES:] == wanted)


def owned(server: str) -> str:
    """What the world says of a disk that holds what its own guest wrote."""
    return hashlib.sha256(server.encode()).hexdigest()


def fresh(image: str) -> str:
    """What the world says of a disk that was just made from an image."""
    return f"fresh from {image}"


def boot(cloud: Cloud, host: str, server: str, image: str, *, ephemeral: bool = False) -> None:
    """The disk of a new server, and what its guest writes first."""
    cloud.world.disks[host][server] = {"disk": owned(server)}
    if cloud.instances is not None:
        cloud.world.tokens[host][server] = f"{server} first"
        make(cloud, host, server, image, cloud.world.tokens[host][server], ephemeral=ephemeral)
        if ephemeral:
            cloud.world.disks[host][server]["disk.eph0"] = owned(f"{server} ephemeral")


def snapshot(cloud: Cloud, host: str, server: str) -> Record:
    """What an image of a root disk holds."""
    content = read(cloud, host, server)
    return {"data": cloud.world.disks[host][server]["disk"], "token": content.token if content else ""}


def spawn(cloud: Cloud, host: str, server: str, image: str, source: str, taken: Record | None) -> None:
    """The disk of a guest that is about to start where it never ran. One that is there is kept, whatever it is.

    :param image: that the server was first built from
    :param source: the host that it comes from
    :param taken: a snapshot of its disk; None: whatever is not there is made from the image, empty
    """
    if cloud.instances is None:
        if taken:
            cloud.world.disks[host][server] = {"disk": taken["data"]}
        return
    if not image:
        return
    present = read(cloud, host, server)
    if present is None:
        make(cloud, host, server, image, taken["token"] if taken else "")
        present = read(cloud, host, server)
    last = cloud.world.tokens[source].get(server, "")
    cloud.world.tokens[host][server] = last
    good = present is not None and present.whole and present.token == last
    cloud.world.disks[host][server] = {"disk": owned(server) if good else f"not what {source} had: {present}"}


def is_there(cloud: Cloud, host: str, server: str) -> bool:
    """Whether a guest could start from its root disk."""
    known = "disk" in cloud.world.disks[host].get(server, {})
    return known and (cloud.instances is None or cloud.instances.disk(host, server).exists())


def destroy(cloud: Cloud, host: str, server: str) -> bool:
    """Remove the server's directory with all that is in it.

    :returns: whether there was anything
    """
    there = cloud.world.disks[host].pop(server, None) is not None
    cloud.world.tokens[host].pop(server, None)
    if cloud.instances is not None and (folder := cloud.instances.path(host) / server).exists():
        shutil.rmtree(folder)
        there = True
    return there


def make_hosts(cloud: Cloud) -> None:
    """The hosts' directories, with nothing in them yet."""
    if cloud.instances is not None:
        for host in HOSTS:
            cloud.instances.path(host).mkdir(parents=True, exist_ok=True)
