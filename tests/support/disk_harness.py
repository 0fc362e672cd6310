"""Two hosts without ssh: the program of the disks as a child process, each with an instances_path of its own."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellmove.hosts import disk_archive, disk_link
from cellmove.hosts.disk_link import Link
from cellmove.hosts.disk_ssh import Destination

MOVE = "move-c0ffee"
MIB = 1 << 20
LOCAL = (sys.executable, "-I", "-c", disk_archive.BOOTSTRAP)
"""What ssh would start on a host."""

FLIP = """
import os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE)
threading.Thread(target=lambda: os._exit(child.wait()), daemon=True).start()
place, seen = int(sys.argv[1]), 0
while data := os.read(0, 65536):
    if seen <= place < seen + len(data):
        data = bytearray(data)
        data[place - seen] ^= 1
    seen += len(data)
    child.stdin.write(data)
    child.stdin.flush()
child.stdin.close()
"""
"""A wire that flips one bit of what is sent to a host."""


@dataclass(frozen=True)
class Ends:
    """Both ends of a move and where their files are."""

    source: Link
    target: Link
    here: Path
    there: Path

    @property
    def disk(self) -> Path:
        """The server's disk at the source."""
        return self.here / "server" / "disk"

    @property
    def copy(self) -> Path:
        """The unfinished one at the target."""
        return self.there / "server" / f".disk.cellmove-{MOVE}"


@contextmanager
def host(path: Path, name: str = "host", *, command: Sequence[str] = LOCAL, **more: int) -> Iterator[Link]:
    """The program, working in a directory."""
    path.mkdir(parents=True, exist_ok=True)
    destination = Destination(name, str(path), **more)  # type: ignore[arg-type]
    with disk_link.connect(destination, MOVE, command=command, silence=30) as link:
        yield link


@contextmanager
def ends(folder: Path, *, source: Sequence[str] = LOCAL, target: Sequence[str] = LOCAL, block: int = 65536) -> Iterator[Ends]:  # fmt: skip
    """Two hosts; what lies in the folder from an earlier time is still there."""
    here, there = folder / "source", folder / "target"
    for each in (here, there):
        (each / "server").mkdir(parents=True, exist_ok=True)
    with (
        host(here, "source", command=source, block=block) as one,
        host(there, "target", command=target, block=block) as other,
    ):
        yield Ends(one, other, here, there)


def sparse(path: Path, size: int, pieces: Sequence[tuple[int, int]], seed: int = 1) -> Path:
    """A file of `size` bytes with noise at some places (offset, length), and holes elsewhere."""
    noise = random.Random(seed)  # noqa: S311 - to be repeated, not secret
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length in pieces:
            os.pwrite(file.fileno(), noise.randbytes(length), offset)
    return path


def dirty(path: Path, content: bytes, offset: int) -> None:
    """Write into a file as a guest does."""
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), content, offset)
