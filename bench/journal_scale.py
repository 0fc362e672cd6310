"""What a long history costs: ``list``, ``show`` and ``resume`` with 10,000 closed moves in the journal, and with none.

The journal is made here: 28 lines a move, as many bytes as a real move writes. Each command is run in turns on both
journals; the medians are printed, and what the history adds. The seconds are CPU time, own and system, so that other
work on the machine does not count; the file is in memory, so that little else would.
With --before DIRECTORY, a checkout of an earlier cellmove, the same commands of that version are measured in the
same run. Exits 1 when the history adds more than is wanted.

    git worktree add /tmp/before 7e64a58
    python bench/journal_scale.py --before /tmp/before
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")  # noqa: S108 - the disk's own speed is not measured here
WANTED_SECONDS = 0.15
"""What 10,000 closed moves may add to a command."""

RUNS = 5
LINES = 28
SHOWN = "move-000000"
"""The closed move that ``show`` and ``resume`` name; it is in both journals."""

BEFORE = {"list": 4.37, "show": 4.35, "resume": 4.27}
"""What 10,000 closed moves added at commit dd7b10c, measured in one run with the digests of moves: 0.00, 0.04, 0.04."""

COMMANDS = (("list",), ("show", SHOWN), ("resume", SHOWN))

FILL = """
import sys
from cellmove.engine.journal_open import open_journal
from cellmove.core.move import Entry, Move, Phase, State
where, count, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
when = "2026-01-01T00:00:00.000Z"
journal = open_journal(where, lambda: when)
plan = {"source_cell": "cell1", "source_host": "c1-host1", "wanted_cell": "cell2", "snapshot": "x" * 4000}
for number in range(count):
    name = f"move-{number:06x}"
    server = f"00000000-0000-4000-8000-{number:012x}"
    move = Move(name, server, f"web-{number}", "resize", State.CONFIRMED, when, when, plan)
    journal.adopt(move, [
        Entry(name, line + 1, "prep-dest", f"action_{line}", Phase.DONE, {"before": "y" * 400}, {"id": "z" * 200}, "",
              when, when)
        for line in range(lines)
    ])
"""


@dataclass(frozen=True)
class Version:
    """A cellmove that is measured.

    :param name: as it is printed
    :param directory: its checkout
    """

    name: str
    directory: Path

    def run(self, *arguments: str, code: str = "") -> float:
        """Run a command of this version, or a program that imports it.

        :returns: seconds of CPU time
        """
        environment = os.environ | {"PYTHONPATH": str(self.directory)}
        words = ["-c", code] if code else ["-m", "cellmove"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *words, *arguments],
            check=True,
            env=environment,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(version: Version, short: str, long: str) -> list[tuple[str, float, float]]:
    """Run each command on both journals, in turns.

    :returns: of each command its name, and its median seconds with the short and with the long journal
    """
    found = []
    for command in COMMANDS:
        seconds: dict[str, list[float]] = {short: [], long: []}
        version.run("--journal", short, *command)
        for _run in range(RUNS):
            for journal, times in seconds.items():
                times.append(version.run("--journal", journal, *command))
        found.append((command[0], statistics.median(seconds[short]), statistics.median(seconds[long])))
    return found


def main() -> int:
    """Make the journals, measure, and print; 1 when the history adds too much."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=10_000, help="closed moves in the long journal")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier cellmove")
    parser.add_argument("--keep", type=Path, help="keep the long journal here")
    chosen = parser.parse_args()
    versions = [Version("now", ROOT), *([Version("before", chosen.before)] if chosen.before else [])]
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        short, long = str(Path(name) / "short.db"), str(Path(name) / "long.db")
        # The earlier version makes them, and is measured first: the later one opens its journals, and not the reverse.
        versions[-1].run(short, "1", str(LINES), code=FILL)
        versions[-1].run(long, str(chosen.moves), str(LINES), code=FILL)
        print(f"{chosen.moves:,} closed moves, {chosen.moves * LINES:,} lines, {Path(long).stat().st_size >> 20} MiB")
        for version in reversed(versions):
            if len(versions) > 1 and version is versions[0]:
                print(f"opened once by this version: {version.run('--journal', long, 'list'):.1f} s")
            for command, without, with_history in measure(version, short, long):
                added = with_history - without
                worst = max(worst, added) if version is versions[0] else worst
                print(
                    f"{version.name:7} {command:7} {without:.2f} s with one move, {with_history:.2f} s with the history,"
                    f" which adds {added:.2f} s",
                    flush=True,
                )
        for command, seconds in BEFORE.items():
            print(f"recorded of dd7b10c: {command} took {seconds:.2f} s more with 10,000 closed moves")
        print(f"now     journal check {versions[0].run('--journal', long, 'journal', 'check'):.1f} s")
        if chosen.keep:
            shutil.copy(long, chosen.keep)
    print(f"wanted: at most {WANTED_SECONDS} s more")
    return int(worst > WANTED_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
