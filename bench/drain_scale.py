"""How much of a drain's time is its own: many servers in the sandbox, whose computes take their time, by threads.

Each call to a compute takes 5 s, whatever else the sandbox does; a move with its confirm makes four of them (claim at
the target, stop at the source, start at the target, clean up at the source), one after the other.

First a few servers with one thread and with eight (wanted: 7 times as fast; from start to end of the command, so that
its start, the census and the end count as well), then many with 32. Of these is wanted that 95 % of the moves' time was
spent waiting for the cloud, and less than 200 MB. A move's time is all for which a thread was at work on a server: the look
before it, the move, its verification and confirm. Waiting is what of it was spent in HTTP calls to the sandbox, for REST
as for the bus, less the CPU time that was used in them. Statements to the cells' databases do not count as waiting: they are
files here. Exits 1 when something is not as wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmove.sandbox.process import Process, start

TIMES, WAITING, MEGABYTES = 7.0, 0.95, 200
MEMORY = Path("/dev/shm")  # noqa: S108 - the disk's own speed is not measured here


@dataclass(frozen=True)
class Run:
    """What one drain took.

    :param wall: seconds from start to end of the command
    :param moves: seconds that its threads were at work on servers, all together
    :param waiting: of these, seconds in which they waited for calls of the cloud
    :param processor: seconds of CPU
    :param megabytes: the most memory it had
    """

    wall: float
    moves: float
    waiting: float
    processor: float
    megabytes: float


@contextmanager
def cloud() -> Iterator[tuple[Process, Path]]:
    """A sandbox of its own, and its folder."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        process = start(Path(name))
        try:
            yield process, Path(name)
        finally:
            process.end()


def drain(servers: int, parallel: int, seconds: float) -> Run:
    """Empty a cell with so many servers.

    :param seconds: that each call to a compute takes
    """
    with cloud() as (process, folder):
        process.control(
            "world", capacity={"VCPU": servers + 8, "MEMORY_MB": 64 * servers + 1024, "DISK_GB": servers + 8}
        )
        for number in range(servers):
            process.control("boot", name=f"s{number:04}", host=f"c1-host{1 + number % 2}", volume_backed=True)
        process.control("pace", call=seconds)
        config = folder / "cellmove.toml"
        config.write_text("[policy]\nunattended = true\n")
        measured = folder / "measured.json"
        environment = process.environment | {
            "CELLMOVE_JOURNAL": str(folder / "journal.db"), "CELLMOVE_CONFIG": str(config),
        }  # fmt: skip
        command = [sys.executable, __file__, "--inside", str(measured), "drain-cell", "cell1", "--to", "cell2"]
        began = time.monotonic()
        said = subprocess.run(
            [*command, "--parallel", str(parallel), "-f", "json"], check=True, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout  # fmt: skip
        wall = time.monotonic() - began
        lines = [json.loads(line) for line in said.splitlines()]
        moved = [line["seconds"] for line in lines if line["event"] == "server-moved"]
        if len(moved) != servers:
            raise SystemExit(f"{len(moved)} of {servers} servers were moved")
        return Run(wall, sum(moved), **json.loads(measured.read_text()))


def inside(measured: Path, arguments: list[str]) -> None:
    """The command itself, with a watch on its calls; those of the main thread belong to no server."""
    import requests

    send, turn = requests.Session.send, threading.Lock()
    waiting = [0.0]

    def watched(self: requests.Session, *given: Any, **named: Any) -> Any:
        began, used = time.monotonic(), time.thread_time()
        try:
            return send(self, *given, **named)
        finally:
            waited = time.monotonic() - began - (time.thread_time() - used)
            if threading.current_thread() is not threading.main_thread():
                with turn:
                    waiting[0] += waited

    requests.Session.send = watched  # type: ignore[method-assign]
    from cellmove.cli import main as command

    sys.argv = ["cellmove", *arguments]
    try:
        command()
    finally:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {"waiting": waiting[0], "processor": time.process_time(), "megabytes": memory}
        measured.write_text(json.dumps(found))


def main() -> int:
    """Measure, tell, and judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="that each call to a compute takes")
    parser.add_argument("--few", type=int, default=24)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=32)
    chosen = parser.parse_args()
    print(
        f"each call to a compute takes {chosen.seconds:g} s; the machine's load is {os.getloadavg()[0]:.1f}", flush=True
    )
    alone, eight = drain(chosen.few, 1, chosen.seconds), drain(chosen.few, 8, chosen.seconds)
    times = alone.wall / eight.wall
    print(
        f"{chosen.few} servers: --parallel 1 {alone.wall:.1f} s, --parallel 8 {eight.wall:.1f} s: {times:.1f} times as "
        f"fast; the load is {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    many = drain(chosen.many, chosen.parallel, chosen.seconds)
    share = many.waiting / many.moves
    print(
        f"{chosen.many} servers, --parallel {chosen.parallel}: {many.wall:.1f} s, {share:.1%} of the moves' time spent "
        f"waiting for the cloud, {many.processor / chosen.many:.3f} s of CPU a move, {many.megabytes:.0f} MB; "
        f"the load is {os.getloadavg()[0]:.1f}"
    )
    print(f"wanted: {TIMES:.0f} times, {WAITING:.0%}, {MEGABYTES} MB")
    return int(times < TIMES or share < WAITING or many.megabytes > MEGABYTES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main())
