"""All shards as they are: together they are every unit of every suite, and no two share one."""

from __future__ import annotations

from collections import Counter

from tests.proof import inventory
from tests.suites.catalogue import SUITES
from tests.suites.shards import divide
from tests.suites.suite import all_units, recorded
from tests.support.sandbox.fixtures import Fixtures


def test_the_shards_are_everything_and_no_two_share_a_unit() -> None:
    units = list(all_units(SUITES, recorded()))
    counted = Counter((unit.suite, unit.name) for shard in divide(units) for unit in shard.units)
    assert set(counted.values()) == {1}
    assert counted.keys() == {(unit.suite, unit.name) for unit in units}
    assert {suite for suite, _name in counted} == {suite.name for suite in SUITES if suite.units()}
    cases = {name for suite, name in counted if suite in ("proof", "proof of disks")}
    # As the catalogue does it, with fixtures of their own: calls are numbered, and one that was cached before is not made again.
    for disks in (False, True):
        fixtures = Fixtures()
        smoke = set(inventory.smoke_names(fixtures, disks=disks))
        mine = {name for name in cases if inventory.needs_disks(name) == disks}
        assert mine.isdisjoint(smoke)
        everything = inventory.names(fixtures, long=True, disks=disks)
        assert mine | smoke == {name for name in everything if inventory.needs_disks(name) == disks}
