"""Runs suites and says how long each took.

    python -m tests.suites make TARGET…        targets of the Makefile, one after the other; ONE+ANOTHER at once
    python -m tests.suites shards              which shards there are, and what is in each
    python -m tests.suites shard K/N           one of them
    python -m tests.suites shard               the one that belongs to the commit
    python -m tests.suites all-shards          all of them, one after the other

With --record, a shard writes down what its units took; the next division into shards goes by that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.suites.pytest_units import ROOT
from tests.suites.shards import Shard, chosen_by, divide
from tests.suites.suite import all_units, record, recorded, timed

STARTS = {"lab": "lab-up", "kvm": "lab-kvm-up", "qemu-img": "ssh-server"}
"""The target of the Makefile that starts or installs what a suite needs."""


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def make(target: str) -> int:
    """Run a target of the Makefile, or several at once that ``+`` joins: then each one's output is shown when it has ended."""
    command = ["make", "--no-print-directory"]
    targets = target.split("+")
    if len(targets) == 1:
        return subprocess.run([*command, target], cwd=ROOT, check=False).returncode

    def run(one: str) -> int:
        ended = subprocess.run(
            [*command, one], cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        say(ended.stdout.rstrip())
        return ended.returncode

    with ThreadPoolExecutor(len(targets)) as threads:
        return max(threads.map(run, targets))


def table(times: Sequence[tuple[str, float, int]]) -> str:
    """What ran, how long it took, and what failed."""
    lines = ["| part | minutes | |", "|---|---:|---|"]
    lines += [f"| {name} | {seconds / 60:.1f} | {'failed' if code else ''} |" for name, seconds, code in times]
    lines.append(f"| all | {sum(seconds for _name, seconds, _code in times) / 60:.1f} | |")
    return "\n".join(lines)


def run_in_order(parts: Sequence[tuple[str, Callable[[], int]]], *, keep_going: bool = False) -> int:
    """Run parts and print a table of their times; the first failure ends it unless it is to be gone on."""
    times: list[tuple[str, float, int]] = []
    for name, work in parts:
        say(f"== {name}")
        code, seconds = timed(work)
        times.append((name, seconds, code))
        if code and not keep_going:
            break
    say(table(times))
    failed = [name for name, _seconds, code in times if code]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def the_shards() -> list[Shard]:
    """All shards of the suites as they are now."""
    from tests.suites.catalogue import SUITES

    return divide(all_units(SUITES, recorded()))


def describe(shard: Shard, count: int) -> str:
    """One line about a shard."""
    what = ", ".join(f"{len(units)} of {suite}" for suite, units in shard.of_suite().items())
    needs = f" (needs {', '.join(sorted(shard.needs))})" if shard.needs else ""
    return f"SHARD={shard.number}/{count}: {what}; about {shard.seconds / 60:.0f} minutes{needs}"


def run_shard(shard: Shard, *, recording: bool = False) -> int:
    """Start what a shard needs, and run its units, suite by suite; 0 when nothing was wrong."""
    from tests.suites.catalogue import SUITES

    suites = {suite.name: suite for suite in SUITES}
    chosen = shard.of_suite()
    wanted = shard.needs.union(*(suites[name].tools for name in chosen))
    for need, target in STARTS.items():
        if need in wanted and make(target):
            return 1
    worst = 0
    for name, units in chosen.items():
        say(f"-- {suites[name].name}: {suites[name].words}; {len(units)} units")
        run = suites[name].run(units)
        worst = worst or run.code
        if recording:
            record(suites[name], run)
    return worst


def find(shards: Sequence[Shard], text: str) -> Shard:
    """The shard that K/N names."""
    number, _, count = text.partition("/")
    if not number.isdigit() or not 1 <= int(number) <= len(shards):
        raise SystemExit(
            f"SHARD={text}: there are {len(shards)} shards, SHARD=1/{len(shards)} to {len(shards)}/{len(shards)}"
        )
    if count and count != str(len(shards)):
        raise SystemExit(
            f"SHARD={text}: there are {len(shards)} shards, not {count}; their number follows from the recorded times"
        )
    return shards[int(number) - 1]


def commit() -> str:
    """The hash of what is checked out."""
    answer = subprocess.run(
        ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", choices=("make", "shards", "shard", "all-shards"))
    parser.add_argument("which", nargs="*")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    if chosen.what == "make":
        return run_in_order([(target, partial(make, target)) for target in chosen.which])
    if "qemu-img" in STARTS and chosen.what != "shards" and make(STARTS["qemu-img"]):
        return 1  # the cases of streamed disks are counted by rehearsing them
    shards = the_shards()
    if chosen.what == "shards":
        say("\n".join(describe(shard, len(shards)) for shard in shards))
        return 0
    if chosen.what == "shard":
        number = chosen_by(commit(), len(shards)) if not chosen.which else 0
        one = find(shards, str(number) if number else chosen.which[0])
        say(describe(one, len(shards)) + (f", chosen by the commit {commit()[:12]}" if number else ""))
        return run_shard(one, recording=chosen.record)
    parts = [(describe(one, len(shards)), partial(run_shard, one, recording=chosen.record)) for one in shards]
    return run_in_order(parts, keep_going=True)


if __name__ == "__main__":
    sys.exit(main())
