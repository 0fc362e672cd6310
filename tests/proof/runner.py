"""Plays cases in several processes, and says what became of them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.proof import cases
from tests.proof.rehearsal import expand
from tests.support.sandbox.fixtures import Fixtures

CHUNK = 8
JOBS = (os.cpu_count() or 2) + 1
"""One of them waits now and then."""


@dataclass
class Result:
    """What became of the cases.

    :param counted: cases of each family
    :param wrong: violations of each case that has any
    :param seconds: wall time of all
    :param spent: seconds of the processes for each name that was asked for
    """

    counted: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """What ran, for people."""
        lines = ["| family | cases | violations |", "|---|---:|---:|"]
        for family, words in cases.FAMILIES.items():
            if self.counted[family]:
                bad = sum(1 for name in self.wrong if name.startswith(f"{family}:"))
                lines.append(f"| {words} | {self.counted[family]} | {bad} |")
        lines.append(f"| all, in {self.seconds:.0f} s | {self.counted.total()} | {len(self.wrong)} |")
        return "\n".join(lines)


Played = tuple[str, float, list[tuple[str, list[str]]]]
"""A name, the seconds that it took, and its cases with their violations."""


def work(names: list[str]) -> list[Played]:
    """Play some cases; in a worker process, which keeps its fixtures."""
    global _fixtures
    if _fixtures is None:
        _fixtures = Fixtures()
    played = []
    for name in names:
        begun = time.monotonic()
        results = [(case, cases.run(_fixtures, case)[0]) for case in expand(_fixtures, name)]
        played.append((name, time.monotonic() - begun, results))
    return played


_fixtures: Fixtures | None = None


def chunks(names: Sequence[str]) -> Iterator[list[str]]:
    """Neighbours share a checkpoint."""
    for start in range(0, len(names), CHUNK):
        yield list(names[start : start + CHUNK])


def run_all(names: Sequence[str], jobs: int = JOBS) -> Result:
    """Play all cases; violations are printed as they are found."""
    begun, result, told = time.monotonic(), Result(), 0
    # Not a Pool: its workers may not have children, and some cases need them.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for played in pool.map(work, chunks(names)):
            for name, seconds, results in played:
                result.spent[name] = seconds
                for case, problems in results:
                    result.counted[case.partition(":")[0]] += 1
                    if problems:
                        result.wrong[case] = problems
                        print(f"FAILED {case}\n  " + "\n  ".join(problems), flush=True)
            if len(result.spent) >= told + 500:
                told = len(result.spent)
                spent = time.monotonic() - begun
                print(f"{told} of {len(names)} names, {spent:.0f} s", file=sys.stderr, flush=True)
    result.seconds = time.monotonic() - begun
    return result


def report(result: Result) -> int:
    """Print the table and how to replay what failed; 0 when nothing was violated."""
    print(result.table)
    for name in sorted(result.wrong):
        print(f"replay: python -m tests.proof '{name}'")
    return 1 if result.wrong or not result.counted else 0
