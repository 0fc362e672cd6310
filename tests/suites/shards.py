"""Divides what is too long for every run into shards of about the same time.

A unit is the smallest thing that is run by itself: a test, a case of the proof, a mutant. A shard is a stretch of neighbouring
units, because neighbours share what has to be set up. Units with different needs are never in one shard, so that a shard
without tests against the lab starts no lab. The same units and times always give the same shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

BUDGET_SECONDS = 540.0
"""The estimate of a shard is at most this; it has 12 minutes, and machines differ."""

START_SECONDS = {"lab": 120.0, "kvm": 60.0}
"""What it takes to start what a shard needs, where it is installed."""


@dataclass(frozen=True)
class Unit:
    """Something that is run by itself.

    :param suite: the name of its suite
    :param needs: what has to be running: ``lab``, ``kvm``
    :param seconds: the estimated share of a shard's time, on two idle cores
    """

    suite: str
    name: str
    needs: frozenset[str]
    seconds: float


@dataclass(frozen=True)
class Shard:
    """Units that are run together.

    :param number: from 1
    """

    number: int
    units: tuple[Unit, ...]

    @property
    def needs(self) -> frozenset[str]:
        """What has to be running for it."""
        return self.units[0].needs

    @property
    def seconds(self) -> float:
        """The estimated time, with what has to be started."""
        return start_seconds(self.needs) + sum(unit.seconds for unit in self.units)

    def of_suite(self) -> dict[str, list[str]]:
        """The names of its units by their suites, in their order."""
        found: dict[str, list[str]] = {}
        for unit in self.units:
            found.setdefault(unit.suite, []).append(unit.name)
        return found


def start_seconds(needs: Iterable[str]) -> float:
    """How long what is needed takes to start."""
    return sum(START_SECONDS.get(need, 0.0) for need in needs)


def divide(units: Iterable[Unit], budget: float = BUDGET_SECONDS) -> list[Shard]:
    """All units in shards whose estimates are at most the budget, as far as single units allow it."""
    parts: list[Sequence[Unit]] = []
    ordered = sorted(units, key=lambda unit: sorted(unit.needs))  # stable: the order of the units is kept
    for needs, same in groupby(ordered, key=lambda unit: unit.needs):
        parts += _stretches(list(same), budget - start_seconds(needs))
    return [Shard(number, tuple(part)) for number, part in enumerate(parts, 1)]


def _stretches(units: Sequence[Unit], budget: float) -> list[Sequence[Unit]]:
    """As few stretches of about the same length as keep within the budget; one for each unit if none do."""
    total = sum(unit.seconds for unit in units)
    count = max(1, math.ceil(total / budget))
    while True:
        parts = _cut(units, total / count if total else 1.0)
        if count >= len(units) or max(sum(unit.seconds for unit in part) for part in parts) <= budget:
            return parts
        count += 1


def _cut(units: Sequence[Unit], length: float) -> list[Sequence[Unit]]:
    """Stretches of about a length: a unit belongs to the one in which its middle lies."""
    found: dict[int, list[Unit]] = {}
    passed = 0.0
    for unit in units:
        found.setdefault(int((passed + unit.seconds / 2) / length), []).append(unit)
        passed += unit.seconds
    return [found[number] for number in sorted(found)]


def chosen_by(commit: str, count: int) -> int:
    """The number of the shard that belongs to a commit, so that CI runs another one for each and a run can be repeated.

    :param commit: its hash, in hexadecimal digits
    """
    return int(commit, 16) % count + 1
