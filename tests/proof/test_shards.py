"""The proof's suite: with the smoke proof it is every case, and no case is in both. With streamed disks: tests/ssh."""

from __future__ import annotations

from tests.proof import inventory
from tests.suites.catalogue import SUITES
from tests.support.sandbox.fixtures import Fixtures


def test_smoke_and_shards_are_every_case() -> None:
    (suite,) = (each for each in SUITES if each.name == "proof")
    units = list(suite.units())
    fixtures = Fixtures()
    smoke = inventory.smoke_names(fixtures, disks=False)
    assert len(units) == len(set(units))
    assert set(units).isdisjoint(smoke)
    assert {*units, *smoke} == set(inventory.names(fixtures, long=True, disks=False))
