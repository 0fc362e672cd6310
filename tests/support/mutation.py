"""Mutation testing of what writes, deletes or locks: list the units, run some, name the mutants that survive.

    python -m tests.support.mutation                    all units, one after the other
    python -m tests.support.mutation UNIT …             some; a unit is a path, or PATH#K/N
    python -m tests.support.mutation --since main       only mutants of lines that differ from main
    python -m tests.support.mutation --list             the units

A mutant that no test kills fails the run, unless tests/support/tolerated_mutants.py names it, with the reason.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.support import mutants as making
from tests.support.mutants import Mutant
from tests.support.mutation_runner import BROKEN, KILLED, NOT_REACHED, ROOT, SURVIVED, TIMED_OUT, run_mutants
from tests.support.tolerated_mutants import TOLERATED

CASES = "tests/support/mutation_cases.py"
JOURNAL = (
    "tests/unit/engine/test_journal.py",
    "tests/unit/engine/test_journal_writes.py",
    "tests/unit/engine/test_journal_reading.py",
)
TESTS: Mapping[str, tuple[str, ...]] = {
    "cellmove/db/statements.py": ("tests/unit/db/test_state.py",),
    "cellmove/db/state.py": ("tests/unit/db/test_state.py",),
    "cellmove/db/records.py": ("tests/unit/db/test_records.py",),
    "cellmove/db/history.py": ("tests/unit/db/test_history.py",),
    "cellmove/db/mappings.py": ("tests/unit/db/test_mappings.py",),
    "cellmove/db/generation.py": ("tests/unit/db/test_generation.py",),
    "cellmove/engine/integrity.py": (
        *JOURNAL,
        "tests/unit/engine/test_integrity.py",
        "tests/unit/engine/test_journal_check.py",
    ),
    "cellmove/engine/locks.py": ("tests/unit/engine/test_locks.py",),
    "cellmove/engine/retry.py": ("tests/unit/engine/test_retry.py",),
}
"""The modules whose mutants all die or are tolerated, and the fast tests that see to that. The shards run these."""

OPEN: Mapping[str, tuple[str, ...]] = {
    "cellmove/engine/journal.py": (*JOURNAL, "tests/unit/engine/test_journal_check.py"),
    "cellmove/engine/journal_open.py": (*JOURNAL, "tests/unit/engine/test_journal_check.py"),
    "cellmove/engine/journal_rows.py": (*JOURNAL, "tests/unit/engine/test_journal_check.py"),
    "cellmove/engine/journal_store.py": (*JOURNAL, "tests/unit/engine/test_journal_check.py"),
    "cellmove/engine/executor.py": ("tests/unit/engine/test_executor.py", "tests/unit/engine/test_executor_more.py"),
    "cellmove/engine/journal_file.py": (*JOURNAL, "tests/unit/engine/test_journal_damage.py"),
    "cellmove/db/*.py": ("tests/unit/db", CASES),
    "cellmove/steps/*.py": ("tests/unit/steps", "tests/sandbox/test_conflicts.py", CASES),
    "cellmove/checks/*.py": (
        "tests/unit/checks",
        "tests/unit/checks/test_preflight.py",
        "tests/unit/checks/test_find_leftovers.py",
    ),
}
"""Modules of which survivors are not looked through yet (docs/mutation.md). They are run when they are named."""

LINES_A_UNIT = 300
"""So that a unit takes at most about three minutes of processor time."""


@dataclass(frozen=True)
class Result:
    """What became of the mutants of some units.

    :param survivors: those that are not tolerated
    :param needless: keys of tolerated mutants that were killed
    """

    counts: Mapping[str, int]
    survivors: Sequence[Mutant]
    needless: Sequence[str]


def units(patterns: Iterable[str] = TESTS) -> list[str]:
    """The units of some modules, those of :data:`TESTS` as a rule."""
    names = []
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            name, lines = path.relative_to(ROOT).as_posix(), len(path.read_text().splitlines())
            parts = -(-lines // LINES_A_UNIT)
            if lines > 1:
                names += [name] if parts == 1 else [f"{name}#{part}/{parts}" for part in range(1, parts + 1)]
    return names


def run(
    names: Iterable[str],
    *,
    since: str = "",
    tests: Sequence[str] = (),
    module_level: bool = True,
    verbose: bool = False,
) -> Result:
    """Run the mutants of some units.

    :param since: a revision of git; only mutants of lines that differ from it are run
    :param tests: run these tests instead of those of :data:`TESTS`
    :param module_level: also mutants outside of functions, which take a few seconds each
    :raises ValueError: there is no such unit
    :raises RuntimeError: the tests fail without any mutant
    """
    counts: collections.Counter[str] = collections.Counter()
    survivors, needless = [], []
    changed = _changed_lines(since) if since else None

    def report(mutant: Mutant, result: str) -> None:
        tolerated = mutant.key in TOLERATED
        lives = result in (SURVIVED, NOT_REACHED, BROKEN)
        counts["tolerated" if lives and tolerated else result] += 1
        if lives and not tolerated:
            survivors.append(mutant)
        if tolerated and not lives:
            needless.append(mutant.key)
        if verbose and ((lives and not tolerated) or result == TIMED_OUT):
            print(f"{result}: {mutant.path}:{mutant.line} {mutant.operator}\n    {mutant.key}", flush=True)  # noqa: T201

    for name in names:
        chosen = _mutants_of(name, changed)
        if chosen:
            run_mutants(chosen, tests or _tests_of(chosen[0].path), report, module_level=module_level)
    return Result(counts, survivors, needless)


def _mutants_of(name: str, changed: Mapping[str, set[int]] | None) -> list[Mutant]:
    path, _, part = name.partition("#")
    number, of = (int(word) for word in part.split("/")) if part else (1, 1)
    if changed is not None and path not in changed:
        return []
    source = (ROOT / path).read_text()
    lines = source.count("\n") + 1
    first, last = lines * (number - 1) // of, lines * number // of
    found = []
    for place in making.places(source):
        if first < place.line <= last:
            if changed is not None and not _touches(source, place.line, changed[path]):
                continue
            mutant = making.make(path, source, place)
            if mutant is not None:
                found.append(mutant)
    return found


def _touches(source: str, line: int, changed: set[int]) -> bool:
    first, last, _function = making.statement_at(source, line)
    return not changed.isdisjoint(range(first, last + 1))


def _tests_of(path: str) -> list[str]:
    for pattern, tests in (*TESTS.items(), *OPEN.items()):
        if fnmatch.fnmatch(path, pattern):
            return [name for name in tests if (ROOT / name).exists()]
    raise ValueError(f"{path} is not mutated")


def _changed_lines(since: str) -> dict[str, set[int]]:
    """Lines of the package that differ from a revision, by path."""
    command = ["git", "diff", "--unified=0", "--no-color", since, "--", "cellmove"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    changed: dict[str, set[int]] = {}
    path = ""
    for line in said.splitlines():
        if line.startswith("+++ "):
            path = line.removeprefix("+++ b/")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            changed.setdefault(path, set()).update(range(first, first + max(count, 1)))
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every mutant was killed or is tolerated."""
    parser = argparse.ArgumentParser(description="Mutation testing of what writes, deletes or locks.")
    parser.add_argument(
        "units", nargs="*", metavar="UNIT", help="a path, or PATH#K/N; those of the shards when none is given"
    )
    parser.add_argument("--since", default="", help="only mutants of lines that differ from this revision")
    parser.add_argument("--tests", action="append", default=[], help="a file of tests to run instead of the usual ones")
    parser.add_argument("--inside", action="store_true", help="only mutants inside of functions, which are quick")
    parser.add_argument("--list", action="store_true", help="list the units")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        open_ones = [unit for unit in units(OPEN) if unit.partition("#")[0] not in TESTS]
        print(*units(), *(f"{unit}  (open)" for unit in open_ones), sep="\n")  # noqa: T201
        return 0
    started = time.monotonic()
    result = run(
        chosen.units or units(), since=chosen.since, tests=chosen.tests, module_level=not chosen.inside, verbose=True
    )
    total = sum(result.counts.values())
    dead = result.counts[KILLED] + result.counts[TIMED_OUT]
    for key in result.needless:
        print(f"tolerated but killed: {key}")  # noqa: T201
    words = ", ".join(f"{number} {name}" for name, number in sorted(result.counts.items()))
    print(f"{total} mutants: {words}; {100 * dead // max(total, 1)} % killed; {time.monotonic() - started:.0f} s")  # noqa: T201
    return 1 if result.survivors else 0


if __name__ == "__main__":
    sys.exit(main())
