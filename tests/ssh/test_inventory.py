"""The whole proof, streamed disks included: no action is left out, and the documentation has the numbers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from cellmove import steps
from cellmove.core.move import Step
from tests.proof import cases, inventory, streamed_cases
from tests.proof.cases import POINTS, RECOVERIES
from tests.support.sandbox.fixtures import SHAPES, STEPS, STREAMED, Fixtures

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(inventory.names(Fixtures(), long=False))


def test_every_action_is_killed_at_every_point(names):
    wanted = {
        f"{step}:{action.name}:{point}:{recovery}"
        for step in STEPS
        for action in steps.ACTIONS[Step(step)]
        for point in POINTS
        for recovery in RECOVERIES
    }
    assert {name.removeprefix("real:") for name in names if name.startswith("real:")} == wanted


def test_every_shape_is_there_and_no_case_twice(names):
    shapes = {name.split(":")[1] for name in names if name.startswith("kill:")}
    assert shapes == {*SHAPES, *STREAMED} - {cases.MAIN_SHAPE}
    assert len(names) == len(set(names))


def test_every_undo_of_the_way_there_is_killed(names):
    taken_back = {
        action.name
        for step in (Step.PREP_DEST, Step.PREP_SOURCE)
        for action in steps.ACTIONS[step]
        if action.undo is not None
    }
    assert taken_back <= {name.split(":")[3] for name in names if name.startswith("undo:")}


def test_which_cases_need_disks_is_known_by_their_names(names):
    without = set(inventory.names(Fixtures(), long=False, disks=False))
    assert without == {name for name in names if not inventory.needs_disks(name)}


def test_the_smoke_proof_kills_every_action_that_streams(names):
    chosen = inventory.smoke(name for name in names if inventory.needs_disks(name))
    assert {name.split(":")[3] for name in chosen if name.startswith("kill:")} >= streamed_cases.OWN


def test_the_page_about_reliability_has_the_numbers_of_the_code(names):
    rows = re.findall(r"^\| `?(\w+)`? \| ([\d,]+) \| (\d+) \|$", RELIABILITY.read_text(), re.MULTILINE)
    told = {family: int(number.replace(",", "")) for family, number, _violations in rows}
    counted = {**Counter(name.split(":")[0] for name in names), "all": len(names)}
    assert told.keys() == counted.keys()
    wrong = {
        family: counted[family] for family, number in told.items() if abs(number - counted[family]) > 0.1 * number + 2
    }
    assert wrong == {}, "docs/reliability.md is more than a tenth off"
    assert {violations for _family, _number, violations in rows} == {"0"}
