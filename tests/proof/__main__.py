"""Every crash, every failed call, every meddler: plays cases, judges each, and prints a table.

    python -m tests.proof                    every case but the long ones
    python -m tests.proof --smoke            the few hundred that `make test` plays; with --disks those of streamed disks
    python -m tests.proof --long             the long ones, too; `make test-long` plays all of them in shards
    python -m tests.proof 'CASE' ['CASE'…]   replay cases by their names, and tell what happened

A case is a name. It says the shape of the server, the step, what goes wrong where, and what the operator
does then; nothing else goes into it, so a name replays exactly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.proof import cases, inventory, runner
from tests.proof.rehearsal import expand
from tests.support.sandbox.fixtures import Fixtures


def replay(names: list[str]) -> int:
    """Play cases one by one and tell what happened; 0 when nothing was violated."""
    fixtures, bad = Fixtures(), 0
    for name in [case for given in names for case in expand(fixtures, given)]:
        problems, story = cases.run(fixtures, name)
        print(f"{name}\n  " + "\n  ".join(story), *(f"\n  WRONG {problem}" for problem in problems))
        bad += bool(problems)
    return 1 if bad else 0


def main() -> int:
    """0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof")
    parser.add_argument("case", nargs="*")
    parser.add_argument("--smoke", action="store_true", help="a choice of cases without streamed disks")
    parser.add_argument("--disks", action="store_true", help="with --smoke: a choice of those with streamed disks")
    parser.add_argument("--long", action="store_true", help="double kills and many more seeds, too")
    parser.add_argument("--only", default="", help="only cases whose names begin so")
    parser.add_argument("--sample", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=runner.JOBS)
    parser.add_argument("--table", type=Path, help="also write the table there")
    chosen = parser.parse_args()
    if chosen.case:
        return replay(chosen.case)
    if chosen.smoke:
        names = inventory.smoke_names(Fixtures(), disks=chosen.disks)
    else:
        names = list(inventory.names(Fixtures(), long=chosen.long))
    names = [name for name in names if name.startswith(chosen.only)][:: chosen.sample]
    result = runner.run_all(names, chosen.jobs)
    if chosen.table:
        chosen.table.write_text(result.table + "\n")
    return runner.report(result)


if __name__ == "__main__":
    sys.exit(main())
