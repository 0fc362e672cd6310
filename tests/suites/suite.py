"""What a suite in the shards is: a name, its units, how long they take, and how some of them are run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.suites.shards import Unit

RECORD = Path(__file__).with_name("seconds.json")
"""The recorded seconds: for each suite those of a unit, by the beginning of its name."""

DEFAULT_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """How a run of some units ended.

    :param code: 0 when nothing was wrong
    :param spent: the share of the time that each unit took, of those of which it is known
    """

    code: int
    spent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """One kind of test that `make test` and `make test-lab` leave out, or run a part of.

    :param units: lists the names of all units, in an order in which neighbours share what is set up
    :param run: runs some units, and prints what was wrong
    :param needs: what has to be running: ``lab``, ``kvm``
    :param tools: what has to be installed: ``qemu-img``
    :param group: the beginning of a unit's name by which its seconds are recorded
    """

    name: str
    words: str
    units: Callable[[], Sequence[str]]
    run: Callable[[Sequence[str]], Run]
    needs: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    group: Callable[[str], str] = lambda unit: unit


def recorded(path: Path = RECORD) -> dict[str, dict[str, float]]:
    """The recorded seconds of each suite."""
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def estimate(unit: str, seconds: Mapping[str, float]) -> float:
    """The recorded seconds of a unit: those of the longest beginning of its name."""
    for end in range(len(unit), -1, -1):
        if unit[:end] in seconds:
            return seconds[unit[:end]]
    return DEFAULT_SECONDS


def all_units(suites: Sequence[Suite], seconds: Mapping[str, Mapping[str, float]]) -> Iterator[Unit]:
    """The units of all suites with their estimates."""
    for suite in suites:
        known = seconds.get(suite.name, {})
        for unit in suite.units():
            yield Unit(suite.name, unit, suite.needs, estimate(unit, known))


def record(suite: Suite, run: Run, path: Path = RECORD) -> None:
    """Keep what the units of a run took: the mean of each group."""
    groups: dict[str, list[float]] = {}
    for unit, spent in run.spent.items():
        groups.setdefault(suite.group(unit), []).append(spent)
    everything = recorded(path)
    mine = everything.setdefault(suite.name, {})
    mine |= {group: round(sum(spent) / len(spent), 3) for group, spent in groups.items()}
    everything[suite.name] = dict(sorted(mine.items()))
    path.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n")


def timed(work: Callable[[], int]) -> tuple[int, float]:
    """Do something: its exit code, and how many seconds it took."""
    begun = time.monotonic()
    code = work()
    return code, time.monotonic() - begun
