"""Disks between two hosts, both legs over a real sshd on loopback: how fast a pass is, and what it costs the operator.

A file of 1 GiB, every other 16 MiB of it a hole. The first pass, one in which nothing has changed, one after a guest wrote 4 KiB at many
places, a comparison; then once more, with the target to be read first. Run as a module: python -m bench.disk_transport [BLOCK].
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellmove.hosts.disk_comparison import compare
from cellmove.hosts.disk_link import BLOCK, Destination, connect
from cellmove.hosts.disk_pass import run_pass
from cellmove.hosts.disk_transfer import Transfer
from tests.support.ssh_server import running

MIB = 1 << 20
SIZE, PIECE = 1024 * MIB, 16 * MIB
WRITES = 500  # of 4 KiB, anywhere in the data
LIMIT = 150  # MiB that the operator's process may take


def make(path: Path) -> None:
    """The disk."""
    noise = random.Random(1)  # noqa: S311 - to be repeated, not secret
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for place in range(0, SIZE, 2 * PIECE):
            os.pwrite(file.fileno(), noise.randbytes(PIECE), place)
        os.fsync(file.fileno())


def scatter(path: Path) -> None:
    """What a guest may write."""
    noise = random.Random(2)  # noqa: S311
    with open(path, "r+b") as file:
        for _number in range(WRITES):
            place = noise.randrange(SIZE // 2 // 4096) * 4096
            os.pwrite(file.fileno(), noise.randbytes(4096), place // PIECE * 2 * PIECE + place % PIECE)


def timed(what: str, function: Callable[[], Any]) -> Any:
    """Say how many MiB of data a second, and how much was sent."""
    began = time.monotonic()
    result = function()
    seconds = time.monotonic() - began
    sent = f", {result.sent / MIB:.1f} MiB sent" if hasattr(result, "sent") else ""
    print(f"{what:<44} {seconds:6.2f} s  {SIZE / 2 / MIB / seconds:6.0f} MiB/s of data{sent}", flush=True)
    return result


def main() -> int:
    """Measure; 1 when the operator's process takes more memory than it should."""
    block = int(sys.argv[1]) if len(sys.argv) > 1 else BLOCK
    disk = Transfer("server/disk")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        make(folder / "source" / "server" / "disk")
        (folder / "target" / "server").mkdir(parents=True)
        server = stack.enter_context(running(folder))

        def ends() -> list[Any]:
            return [
                stack.enter_context(
                    connect(
                        Destination(
                            each, str(folder / each), ssh_config=server.client(), python=sys.executable, block=block
                        ),
                        "move-1",
                    )
                )
                for each in ("source", "target")
            ]

        source, target = ends()
        print(f"blocks of {block // 1024} KiB, {SIZE // MIB} MiB, half of it holes")
        timed("first pass", lambda: run_pass(source, target, [disk]))
        timed("nothing has changed", lambda: run_pass(source, target, [disk]))
        timed("nothing has changed, read past the cache", lambda: run_pass(source, target, [disk], cache="direct"))
        scatter(folder / "source" / "server" / "disk")
        timed(f"{WRITES} writes of 4 KiB", lambda: run_pass(source, target, [disk], cache="direct", still=True))
        timed("comparison, from both disks", lambda: compare(source, target, disk))
        source, target = ends()
        timed("connected anew: the target is read first", lambda: run_pass(source, target, [disk]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"the operator's process took {peak:.0f} MiB at most (limit {LIMIT})")
    return int(peak > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
