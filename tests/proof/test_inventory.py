"""The proofs themselves: that no action is left out of them, and that they would notice."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from cellmove import steps
from cellmove.move import Step
from tests.proof import cases
from tests.proof.cases import POINTS, RECOVERIES
from tests.support.sandbox.cloud_oracle import violations
from tests.support.sandbox.fixtures import SHAPES, STEPS, STREAMED, Fixtures

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@pytest.fixture(scope="module")
def names(fixtures: Fixtures) -> list[str]:
    return list(cases.names(fixtures, long=False))


def test_every_action_of_the_code_is_killed_at_every_point(names):
    """The inventory is counted from the code: a new action that no case kills fails here."""
    wanted = {
        f"{step}:{action.name}:{point}:{recovery}"
        for step in STEPS
        for action in steps.ACTIONS[Step(step)]
        for point in POINTS
        for recovery in RECOVERIES
    }
    # Of the other shapes the long proofs kill at every point, these at those that differ from their neighbours.
    real = {name.removeprefix("real:") for name in names if name.startswith("real:")}
    assert real == wanted
    assert {Step(step) for step in STEPS} == set(steps.ACTIONS) - {Step.SWEEP}


def test_the_page_about_reliability_has_the_numbers_of_the_code(names):
    rows = re.findall(r"^\| `?(\w+)`? \| ([\d,]+) \| (\d+) \|$", RELIABILITY.read_text(), re.MULTILINE)
    told = {family: int(number.replace(",", "")) for family, number, _violations in rows}
    assert told == {**Counter(name.split(":")[0] for name in names), "all": len(names)}
    assert {violations for _family, _number, violations in rows} == {"0"}


def test_every_shape_is_there_and_no_case_twice(names):
    shapes = {name.split(":")[1] for name in names if name.startswith("kill:")}
    assert shapes == {*SHAPES, *STREAMED} - {cases.MAIN_SHAPE}
    assert len(names) == len(set(names))
    assert len(names) >= 3000


def test_every_undo_of_the_way_there_is_killed(names):
    taken_back = {
        action.name
        for step in (Step.PREP_DEST, Step.PREP_SOURCE)
        for action in steps.ACTIONS[step]
        if action.undo is not None
    }
    assert taken_back <= {name.split(":")[3] for name in names if name.startswith("undo:")}


def test_the_next_host_is_tried_and_killed(names):
    tried = {name for name in names if name.startswith("again:")}
    chosen_again = ("bind_ports", "reserve_volumes", "claim", "copy_records", "schedule")
    # Each of them done anew, at four points, and all but the choice taken back before, at four points.
    assert len(tried) >= len(RECOVERIES) * (4 * len(chosen_again) + 4 * (len(chosen_again) - 1))


@pytest.mark.parametrize("name", cases.KEPT)
def test_a_case_that_once_failed(fixtures, name):
    """Kept for ever, whatever the draw of the day is."""
    problems, story = cases.run(fixtures, name)
    assert problems == [], story


def test_the_judge_sees_a_guest_that_ran_twice(fixtures):
    scene = fixtures.set(cases.MAIN_SHAPE, "confirm").scene
    history = fixtures.harness.cloud.world.history
    assert not [words for words in violations(fixtures.harness, scene, []) if "while it ran" in words]
    history.append({"what": "guest started", "host": "c1-host1", "server": scene.server})
    assert any("while it ran on" in words for words in violations(fixtures.harness, scene, []))


def test_the_judge_sees_what_is_left_over(fixtures):
    scene = fixtures.set(cases.MAIN_SHAPE, "confirm").scene
    world = fixtures.harness.cloud.world
    assert violations(fixtures.harness, scene, []) == []
    world.images["x"] = {"name": "web-resize-temp", "status": "active", "instance_uuid": scene.server}
    world.usage["c2-host2"][scene.server] = 1
    world.disks["c2-host1"][scene.server] = {"disk": "another"}
    found = "\n".join(violations(fixtures.harness, scene, []))
    for words in ("web-resize-temp", "count its resources", "the disk on c2-host1"):
        assert words in found
