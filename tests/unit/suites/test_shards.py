"""Shards: together they are everything, no two share a unit, and none is longer than it may be."""

from __future__ import annotations

import random

import pytest

from tests.suites.shards import START_SECONDS, Unit, chosen_by, divide
from tests.suites.suite import Run, Suite, all_units, estimate, record, recorded

LAB = frozenset({"lab"})
NOTHING = frozenset[str]()


def units(count: int, *, seed: int = 1, needs: frozenset[str] = NOTHING, suite: str = "a") -> list[Unit]:
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    return [Unit(suite, str(number), needs, chance.uniform(0.1, 20)) for number in range(count)]


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("budget", [30.0, 400.0])
def test_together_they_are_everything_and_no_two_share_a_unit(count: int, budget: float) -> None:
    given = [*units(count), *units(count, suite="b", needs=LAB), *units(count, suite="c")]
    shards = divide(given, budget + START_SECONDS["lab"])
    assert sorted((unit for shard in shards for unit in shard.units), key=repr) == sorted(given, key=repr)
    assert [shard.number for shard in shards] == list(range(1, len(shards) + 1))


def test_none_is_longer_than_it_may_be_and_all_of_a_kind_are_about_as_long() -> None:
    shards = divide(units(300), 200.0)
    assert max(shard.seconds for shard in shards) <= 200.0
    assert min(shard.seconds for shard in shards) > 0.7 * max(shard.seconds for shard in shards)


def test_a_unit_that_is_too_long_has_a_shard_of_its_own() -> None:
    short, long = units(10), Unit("b", "long", NOTHING, 1000.0)
    shards = divide([*short, long], 300.0)
    assert [shard.units for shard in shards if long in shard.units] == [(long,)]


def test_what_needs_the_lab_is_never_with_what_does_not() -> None:
    shards = divide([*units(50, needs=LAB), *units(50)], 250.0)
    assert {frozenset(unit.needs for unit in shard.units) for shard in shards} == {
        frozenset({LAB}),
        frozenset({NOTHING}),
    }
    assert all(shard.seconds >= START_SECONDS["lab"] for shard in shards if shard.needs)


def test_the_same_units_give_the_same_shards_and_neighbours_stay_together() -> None:
    given = units(100)
    assert divide(given, 100.0) == divide(list(given), 100.0)
    for shard in divide(given, 100.0):
        numbers = [int(unit.name) for unit in shard.units]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_commit_always_has_the_same_shard_and_each_shard_some_commit() -> None:
    assert chosen_by("ff", 10) == 6
    assert {chosen_by(f"{number:040x}", 7) for number in range(50)} == set(range(1, 8))


def test_seconds_are_those_of_the_longest_beginning_of_the_name() -> None:
    seconds = {"": 3.0, "call": 0.5, "tests/lab/test_kills.py": 20.0, "tests/lab/test_kills.py::test_one": 7.0}
    assert estimate("call:image:1", seconds) == 0.5
    assert estimate("tests/lab/test_kills.py::test_one", seconds) == 7.0
    assert estimate("tests/lab/test_kills.py::test_two", seconds) == 20.0
    assert estimate("seed:1", seconds) == 3.0


def test_what_a_run_took_is_recorded_by_groups(tmp_path) -> None:
    suite = Suite("proof", "", lambda: ["call:1", "call:2", "kill:1"], Run, group=lambda unit: unit.partition(":")[0])
    path = tmp_path / "seconds.json"
    record(suite, Run(0, {"call:1": 1.0, "call:2": 3.0}), path)
    record(suite, Run(0, {"kill:1": 4.0}), path)
    assert recorded(path) == {"proof": {"call": 2.0, "kill": 4.0}}
    assert [unit.seconds for unit in all_units([suite], recorded(path))] == [2.0, 2.0, 4.0]
