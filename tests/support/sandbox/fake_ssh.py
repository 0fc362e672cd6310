"""Compute hosts as `ssh` reaches them: a stand-in for it that runs on this machine, in the host's own directory.

What cellmove gives to ssh, and what comes back, is as ever: the remote command is run by a shell, and greets, answers
and ends by itself. An order lets the next connections to a host go wrong.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
orders="{folder}/orders/$host"
order=
[ -e "$orders" ] && read -r order < "$orders"
case $order in *once) rm -f "$orders" ;; esac
cd "{disks}/$host" || exit 255
set -- "$*" $order
case $2 in
    refuse) echo "ssh: connect to host $host port 22: Connection refused" >&2; exit 255 ;;
    deny) echo "nova@$host: Permission denied (publickey)." >&2; exit 255 ;;
    cut) exec {python} -I {folder}/cut "$3" "$1" ;;
    limit) ulimit -f "$3" ;;
esac
exec sh -c "$1"
"""

CUT = """
import os, subprocess, sys, threading
child = subprocess.Popen(["sh", "-c", sys.argv[2]], stdin=subprocess.PIPE)
threading.Thread(target=lambda: os._exit(child.wait()), daemon=True).start()
left = int(sys.argv[1])
while left > 0 and (data := os.read(0, min(65536, left))):
    left -= len(data)
    child.stdin.write(data)
    child.stdin.flush()
child.stdin.close()
print("Connection closed by remote host.", file=sys.stderr, flush=True)
child.wait()
"""


@dataclass(frozen=True)
class Ssh:
    """The stand-in.

    :param folder: of the script and its orders
    :param disks: the folder of the hosts' directories
    """

    folder: Path
    disks: Path

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process find it before any other ssh."""
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    def order(self, host: str, *words: object, once: bool = False) -> None:
        """What happens to connections to a host from now on (without words: nothing).

        ``refuse``, ``deny``; ``cut N``: the connection breaks after so many bytes to the host; ``limit N``: no file
        there can be longer than so many times 512 bytes, as if its disk was full.

        :param once: it concerns the next connection only
        """
        path = self.folder / "orders" / host
        path.unlink(missing_ok=True)
        if words:
            path.write_text(" ".join(map(str, (*words, "once") if once else words)) + "\n")


def make_ssh(folder: Path, disks: Path) -> Ssh:
    """Write the stand-in."""
    for name in ("bin", "orders"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "cut").write_text(CUT)
    script = folder / "bin" / "ssh"
    script.write_text(SCRIPT.format(folder=folder, disks=disks, python=sys.executable))
    script.chmod(0o755)
    return Ssh(folder, disks)


Pieces = tuple[int, int, tuple[tuple[int, bytes], ...]]
"""A file: its size, when it was written to, and what is not a hole."""


def copy_files(folder: Path) -> dict[str, Pieces]:
    """All files below a folder, by their paths in it; directories without files are left out."""
    return {str(path.relative_to(folder)): _pieces(path) for path in folder.rglob("*") if path.is_file()}


def _pieces(path: Path) -> Pieces:
    found, place = [], 0
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        while place < size:
            try:
                begin = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # nothing but holes from here on
                break
            place = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, os.pread(file.fileno(), place - begin, begin)))
    return size, status.st_mtime_ns, tuple(found)


def put_files_back(folder: Path, files: Mapping[str, Pieces]) -> None:
    """What :func:`copy_files` copied, and nothing else; directories that every host has stay."""
    for host in folder.iterdir():
        for path in host.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, (size, written, pieces) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)
            for place, part in pieces:
                os.pwrite(file.fileno(), part, place)
        os.utime(path, ns=(written, written))
