"""A cell drained in bad weather: calls fail at random, the run is killed every few seconds and started again.

python -m tests.proof.faulty_drain [SEED…]    replay seeds, and tell what happened; --long: many seeds
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cellmove.sandbox.process import Process
from lab import oracle
from tests.support import fork_server
from tests.support.commands import run_command
from tests.support.folders import shared_memory
from tests.support.sandbox.cloud_oracle import history_of
from tests.support.sandbox.cloud_process import start
from tests.support.sandbox.snapshot import snapshot

SERVERS, RATE, PARALLEL = 100, 0.02, 8
MANY_SEEDS = 10
LIFE = (3.0, 6.0)
"""Seconds after which a run is killed: drawn from here, and a little longer each time, so that there is an end."""
RUNS = 40
"""How many runs it may take."""
ROOM = {"VCPU": 10_000, "MEMORY_MB": 10_000_000, "DISK_GB": 100_000}
FLAVOR = "m1.tiny"


@dataclass(frozen=True)
class Shape:
    """What is known of a server before."""

    name: str
    volume_backed: bool
    active: bool
    host: str

    @property
    def status(self) -> str:
        """What nova's API says when it is settled."""
        return "ACTIVE" if self.active else "SHUTOFF"


@dataclass
class Told:
    """What became of a seed.

    :param runs: exit codes, -9 for one that was killed
    """

    seed: int
    problems: list[str] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    hits: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """One line, and one for each problem."""
        ended = ", ".join(f"{number} x {code}" for code, number in sorted(Counter(self.runs).items()))
        hits = ", ".join(f"{number} {way}" for way, number in sorted(self.hits.items()))
        lines = [f"seed {self.seed}: {len(self.runs)} runs ({ended}), calls: {hits}, {self.seconds:.0f} s"]
        return "\n  ".join([*lines, *(f"WRONG {problem}" for problem in self.problems)])


def shapes(number: int) -> Iterator[Shape]:
    """Servers of each kind, on both hosts."""
    for at in range(number):
        yield Shape(f"s{at:03}", bool(at & 1), not at & 2, f"c1-host{1 + (at >> 2 & 1)}")


def boot(process: Process, number: int) -> dict[str, Shape]:
    """Fill cell1 of a fresh cloud: the shape of each server by its id."""
    process.control("world", capacity=ROOM)
    return {
        process.control(
            "boot", name=each.name, host=each.host, volume_backed=each.volume_backed, active=each.active,
            volumes=int(each.volume_backed),
        ): each
        for each in shapes(number)
    }  # fmt: skip


def play(seed: int, *, servers: int = SERVERS, rate: float = RATE) -> Told:
    """Drain a cell of a fresh cloud, and judge what came of it."""
    told, begun = Told(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cellmove-faults-", dir=shared_memory()) as folder:
        process = start(Path(folder) / "cloud")
        try:
            made = boot(process, servers)
            process.control("fault_injection", rate=rate, seed=seed)
            process.control("pace", seconds=0.01)
            _drain(process, Path(folder), told)
            told.hits = process.control("fault_injection", rate=0.0)
            told.problems += [*judged(process, made), *_too_calm(told, servers)]
        finally:
            process.end()
    told.seconds = time.monotonic() - begun
    return told


def _too_calm(told: Told, servers: int) -> Iterator[str]:
    """Whether so little went wrong that nothing was proved."""
    if servers >= SERVERS and told.runs.count(-signal.SIGKILL) < 3:
        yield f"the run was killed {told.runs.count(-signal.SIGKILL)} times, fewer than 3"
    if servers >= SERVERS and min(told.hits.values()) <= 5:
        yield f"calls failed too seldom: {told.hits}"


def _drain(process: Process, folder: Path, told: Told) -> None:
    """Start the command until it is through, and kill it again and again."""
    draw = random.Random(told.seed)  # noqa: S311
    environment = {**process.environment, "CELLMOVE_JOURNAL": str(folder / "journal.db")}
    arguments = ["drain-cell", "cell1", "--parallel", str(PARALLEL), "--max-failures", "0"]
    while len(told.runs) < RUNS:
        out, err = (folder / f"{len(told.runs)}.{name}" for name in ("out", "err"))
        child = fork_server.start(run_command, arguments, environment, out, err)
        child.join(draw.uniform(*LIFE) + len(told.runs) / 2)
        if child.exitcode is None:
            child.kill()
            child.join()
        told.runs.append(child.exitcode if child.exitcode is not None else -signal.SIGKILL)
        said = err.read_text() if err.exists() else ""
        if "Traceback" in said or "fault in cellmove" in said:
            told.problems.append(said[-1500:])
        if told.runs[-1] == 0:
            return
    told.problems.append(f"it does not converge: the last run said\n{said[-1500:]}")


def disk_of(server: str) -> str:
    """What a server's disk holds from the beginning on: see cellmove/sandbox/seed.py."""
    return hashlib.sha256(server.encode()).hexdigest()


def judged(process: Process, made: dict[str, Shape]) -> list[str]:
    """What is wrong: every server whole, in the other cell, there alone, and at no instant on two hosts."""
    cloud, found = process.cloud(), []
    for server, shape in made.items():
        there = [host for host, guests in cloud.world.guests.items() if server in guests]
        shot = snapshot(cloud, server)
        host = next((host for host in there if host.startswith("c2-")), "c2-host1")
        wrong = oracle.problems(shot, cell="cell2", host=host, flavor=FLAVOR, status=shape.status)
        wrong += history_of(cloud, server)
        disk = cloud.world.disks[host].get(server, {}).get("disk")
        if not shape.volume_backed and disk != disk_of(server):
            wrong.append(f"the disk on {host} is {disk}")
        for cell in ("cell1", "cell2"):
            if cloud.rows(cell, "instance_system_metadata", instance_uuid=server, key="cellmove"):
                wrong.append(f"{cell}: our mark is left")
        found += [f"{shape.name} {server}: {words}" for words in wrong]
    for consumer in cloud.world.allocations.keys() - made.keys():
        found.append(f"{consumer} holds allocations, and is no server")
    if len(cloud.world.images):
        found.append(f"images are left: {sorted(cloud.world.images)}")
    return found


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.faulty_drain")
    parser.add_argument("seed", nargs="*", type=int)
    parser.add_argument("--long", action="store_true", help="many seeds")
    parser.add_argument("--servers", type=int, default=SERVERS)
    chosen = parser.parse_args()
    bad = []
    for seed in chosen.seed or range(MANY_SEEDS if chosen.long else 1):
        told = play(seed, servers=chosen.servers)
        print(told.text, flush=True)
        bad += [seed] if told.problems else []
    for seed in bad:
        print(f"replay: python -m tests.proof.faulty_drain {seed} --servers {chosen.servers}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
