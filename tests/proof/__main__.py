"""Every crash, every failed call, every meddler: runs the cases, judges each, and prints a table.

    python -m tests.proof                    what `make test` runs
    python -m tests.proof --long             what `make test-long` runs
    python -m tests.proof 'CASE' ['CASE'…]   replay cases by their names, and tell what happened

A case is a name. It says the shape of the server, the step, what goes wrong where, and what the operator
does then; nothing else goes into it, so a name replays exactly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.proof import cases
from tests.support.sandbox.fixtures import Fixtures

CHUNK = 8


def work(names: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """Run some cases; in a worker process, which keeps its fixtures."""
    global _fixtures
    if _fixtures is None:
        _fixtures = Fixtures()
    return [(name, *cases.run(_fixtures, name)) for name in names]


_fixtures: Fixtures | None = None


def chunks(names: list[str]) -> Iterator[list[str]]:
    """Neighbours share a checkpoint."""
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]


def run_all(names: list[str], jobs: int) -> tuple[Counter[str], dict[str, list[str]], float]:
    """All cases: how many of each family, what was wrong with which, and how many seconds it took."""
    begun = time.monotonic()
    counted: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {}
    # Not a Pool: its workers may not have children, and some proofs need them.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for results in pool.map(work, chunks(names)):
            for name, problems, _story in results:
                counted[name.partition(":")[0]] += 1
                if problems:
                    wrong[name] = problems
                    print(f"FAILED {name}\n  " + "\n  ".join(problems), flush=True)
            if counted.total() % 500 < CHUNK:
                spent = time.monotonic() - begun
                print(f"{counted.total()} of {len(names)} cases, {spent:.0f} s", file=sys.stderr, flush=True)
    return counted, wrong, time.monotonic() - begun


def table(counted: Counter[str], wrong: dict[str, list[str]], seconds: float) -> str:
    """What ran, for people."""
    lines = ["| family | cases | violations |", "|---|---:|---:|"]
    for family, words in cases.FAMILIES.items():
        if counted[family]:
            bad = sum(1 for name in wrong if name.startswith(f"{family}:"))
            lines.append(f"| {words} | {counted[family]} | {bad} |")
    lines.append(f"| all, in {seconds:.0f} s | {counted.total()} | {len(wrong)} |")
    return "\n".join(lines)


def main() -> int:
    """0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof")
    parser.add_argument("case", nargs="*")
    parser.add_argument("--long", action="store_true", help="double kills and many more seeds")
    parser.add_argument("--only", default="", help="only families that begin so")
    parser.add_argument("--sample", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 2) + 1)  # one of them waits now and then
    parser.add_argument("--table", type=Path, help="also write the table there")
    chosen = parser.parse_args()
    if chosen.case:
        fixtures, bad = Fixtures(), 0
        for name in chosen.case:
            problems, story = cases.run(fixtures, name)
            print(f"{name}\n  " + "\n  ".join(story), *(f"\n  WRONG {problem}" for problem in problems))
            bad += bool(problems)
        return 1 if bad else 0
    names = [name for name in cases.names(Fixtures(), long=chosen.long) if name.startswith(chosen.only)]
    counted, wrong, seconds = run_all(names[:: chosen.sample], chosen.jobs)
    text = table(counted, wrong, seconds)
    print(text)
    if chosen.table:
        chosen.table.write_text(text + "\n")
    for name in sorted(wrong):
        print(f"replay: python -m tests.proof '{name}'")
    return 1 if wrong or not counted else 0


if __name__ == "__main__":
    sys.exit(main())
