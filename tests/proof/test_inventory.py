"""The proof itself: that no action is left out of it, and that its oracle would notice. Streamed disks: tests/ssh."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from cellmove import steps
from cellmove.core.move import Step
from tests.proof import cases, inventory, streamed_cases
from tests.proof.cases import POINTS, RECOVERIES
from tests.proof.rehearsal import is_as_before
from tests.support.sandbox.cloud_oracle import violations
from tests.support.sandbox.fixtures import SHAPES, STEPS, Fixtures
from tests.support.sandbox.harness import Harness, copy_databases


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@pytest.fixture(scope="module")
def names(fixtures: Fixtures) -> list[str]:
    return list(inventory.names(fixtures, long=False, disks=False))


def test_every_action_of_the_code_is_killed_at_every_point(names):
    """The inventory is counted from the code: a new action that no case kills fails here."""
    wanted = {
        f"{step}:{action.name}:{point}:{recovery}"
        for step in STEPS
        for action in steps.ACTIONS[Step(step)]
        if action.name not in streamed_cases.OWN
        for point in POINTS
        for recovery in RECOVERIES
    }
    # Of the other shapes the long proofs kill at every point, these at those that differ from their neighbours.
    real = {name.removeprefix("real:") for name in names if name.startswith("real:")}
    assert real == wanted
    assert {Step(step) for step in STEPS} == set(steps.ACTIONS) - {Step.SWEEP}


def test_every_shape_is_there_and_no_case_twice(names):
    shapes = {name.split(":")[1] for name in names if name.startswith("kill:")}
    assert shapes == {*SHAPES} - {cases.MAIN_SHAPE}
    assert len(names) == len(set(names))
    assert len(names) >= 3000


def test_every_undo_of_the_way_there_is_killed(names):
    taken_back = {
        action.name
        for step in (Step.PREP_DEST, Step.PREP_SOURCE)
        for action in steps.ACTIONS[step]
        if action.undo is not None and action.name not in streamed_cases.OWN
    }
    assert taken_back <= {name.split(":")[3] for name in names if name.startswith("undo:")}


def test_the_next_host_is_tried_and_killed(names):
    tried = {name for name in names if name.startswith("again:")}
    chosen_again = ("bind_ports", "reserve_volumes", "claim", "copy_records", "schedule")
    # Each of them done anew, at four points, and all but the choice rolled back before, at four points.
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


@pytest.mark.parametrize(
    ("step", "verb"), [*((step, step) for step in STEPS), ("prep-source", "rollback"), ("finish", "rollback")]
)
def test_nothing_is_written_between_one_line_of_the_journal_and_the_next(fixtures, step, verb):
    """So a kill before a line is the same case as one after the line before it, and one of them is enough."""
    checkpoint, harness = fixtures.set(cases.MAIN_SHAPE, step), fixtures.harness
    states, compared = list[object](), list[str]()

    def on_journal(point: str, action: str) -> None:
        if is_as_before(point) and states:
            assert state_of(harness) == states[-1], f"{point} {action}"
            compared.append(action)
        states.append(state_of(harness))

    harness.taps.on_journal = on_journal
    assert harness.run(verb, checkpoint.move).code == 0
    assert len(compared) >= 2


def state_of(harness: Harness) -> object:
    """All of the cloud, and the journal."""
    return asdict(harness.cloud.world), copy_databases(harness.folder.glob("*.db"))


def test_the_smoke_proof_stands_for_every_family(names):
    chosen = inventory.smoke(names)
    assert set(chosen) <= set(names)
    assert {name.split(":")[0] for name in chosen} == {name.split(":")[0] for name in names}
    killed = {(*name.split(":")[2:4], name.split(":")[-1]) for name in chosen if name.startswith("kill:")}
    wanted = {
        (step, action.name, recovery)
        for step in STEPS
        for action in steps.ACTIONS[Step(step)]
        if action.name not in streamed_cases.OWN
        for recovery in RECOVERIES
    }
    assert killed == wanted
    meddled = {name.split(":")[4] for name in chosen if name.startswith("meddle:")}
    assert meddled == set(cases.MEDDLING)
    assert set(cases.KEPT) <= set(chosen)
