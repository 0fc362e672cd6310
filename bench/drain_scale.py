"""How much of a drain's time is its own: many servers in the sandbox, whose computes take their time, by threads.

First a few servers with one thread and with eight (wanted: 7 times as fast), then many with 32 (wanted: 95 % of the
moves' time spent in calls of the cloud, less than 200 MB). Exits 1 when something is not as wanted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cellmove.clock import Clock
from cellmove.journal import open_journal
from cellmove.move import State
from cellmove.sandbox.process import Process, start

TIMES, WAITING, MEGABYTES = 7.0, 0.95, 200
MEMORY = Path("/dev/shm")  # noqa: S108 - the disk's own speed is not measured here
TRIAL = 0.1
"""Seconds between two writes of a compute, by which it is found out how many there are in a move."""


@dataclass(frozen=True)
class Run:
    """What one drain took.

    :param wall: seconds from start to end of the command
    :param moves: seconds that its moves took, all together
    :param waiting: of these, seconds in calls of the cloud
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


def drain(servers: int, parallel: int, pace: float) -> Run:
    """Empty a cell with so many servers.

    :param pace: seconds that a compute waits between two of its writes
    """
    with cloud() as (process, folder):
        for number in range(servers):
            process.control("boot", name=f"s{number:04}", host=f"c1-host{1 + number % 2}", volume_backed=True)
        process.control("pace", seconds=pace)
        config = folder / "cellmove.toml"
        config.write_text("[policy]\nunattended = true\n")
        journal, measured = folder / "journal.db", folder / "measured.json"
        environment = process.environment | {"CELLMOVE_JOURNAL": str(journal), "CELLMOVE_CONFIG": str(config)}
        command = [sys.executable, __file__, "--inside", str(measured), "drain-cell", "cell1", "--to", "cell2"]
        began = time.monotonic()
        subprocess.run(
            [*command, "--parallel", str(parallel)], check=True, env=environment, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wall = time.monotonic() - began
        spans = spans_of(journal)
        if len(spans) != servers:
            raise SystemExit(f"{len(spans)} of {servers} servers were moved")
        return Run(wall, sum(spans), **json.loads(measured.read_text()))


def spans_of(where: Path) -> list[float]:
    """Seconds from the first line to the end of the last, of every move that is confirmed."""
    journal = open_journal(str(where), Clock().text)
    moved = [move.id for move in journal.all_moves() if move.state is State.CONFIRMED]
    spans = []
    for entries in journal.entries_of_moves(moved).values():
        began, ended = min(entry.started_at for entry in entries), max(entry.finished_at for entry in entries)
        spans.append((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())
    return spans


def inside(measured: Path, arguments: list[str]) -> None:
    """The command itself, with a watch on its calls; those of the main thread belong to no move."""
    import requests

    send, turn = requests.Session.send, threading.Lock()
    waiting = [0.0]

    def watched(self: requests.Session, *given: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return send(self, *given, **named)
        finally:
            if threading.current_thread() is not threading.main_thread():
                with turn:
                    waiting[0] += time.monotonic() - began

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
    parser.add_argument("--seconds", type=float, default=5.0, help="that the computes take for a move")
    parser.add_argument("--few", type=int, default=24)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=32)
    chosen = parser.parse_args()
    quick, slow = drain(1, 1, 0.0), drain(1, 1, TRIAL)
    pace = TRIAL * chosen.seconds / (slow.moves - quick.moves)
    print(f"a move: {quick.moves:.2f} s of its own, and {chosen.seconds:.1f} s for the computes", flush=True)
    alone, eight = drain(chosen.few, 1, pace), drain(chosen.few, 8, pace)
    times = alone.wall / eight.wall
    print(
        f"{chosen.few} servers: --parallel 1 {alone.wall:.1f} s, --parallel 8 {eight.wall:.1f} s: {times:.1f} times as fast"
    )
    many = drain(chosen.many, chosen.parallel, pace)
    share = many.waiting / many.moves
    print(
        f"{chosen.many} servers, --parallel {chosen.parallel}: {many.wall:.1f} s, {share:.1%} of the moves' time in calls "
        f"of the cloud, {many.processor / chosen.many:.2f} s of CPU a move, {many.megabytes:.0f} MB"
    )
    print(f"wanted: {TIMES:.0f} times, {WAITING:.0%}, {MEGABYTES} MB")
    return int(times < TIMES or share < WAITING or many.megabytes > MEGABYTES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main())
