"""Steps run with nothing going wrong, to learn where something could: their calls, points and writes."""

from __future__ import annotations

from typing import Any

from cellmove.core.move import State
from cellmove.sandbox import seed
from cellmove.sandbox.compute_call import Call, Work
from tests.proof.cases import FIRST_HOST_FAILS, MAIN_SHAPE, MEDDLING, run_killed
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.harness import Seen


def rehearse(
    fixtures: Fixtures, shape: str, step: str, verb: str = ""
) -> tuple[list[Seen], list[tuple[str, str]], dict[str, int]]:
    """Run a step (or another verb) with nothing going wrong: its calls, its points, and the writes of each call."""
    checkpoint = fixtures.set(shape, step)
    points: list[tuple[str, str]] = []
    writes: dict[str, int] = {}

    def hold(call: Call, work: Work) -> Any:
        writes[call.method] = 0
        try:
            while True:
                next(work)
                writes[call.method] += 1
        except StopIteration as end:
            return end.value

    fixtures.harness.hold = hold
    fixtures.harness.taps.on_journal = lambda point, action: points.append((point, action))
    outcome = fixtures.harness.run(verb or step, checkpoint.move)
    if outcome.code:
        raise AssertionError(outcome.text)
    return list(fixtures.harness.taps.calls), points, writes


def deeds(fixtures: Fixtures, step: str, shape: str = MAIN_SHAPE) -> dict[str, list[str]]:
    """What nova would let the owner do before each action of a step."""
    checkpoint = fixtures.set(shape, step)
    harness = fixtures.harness
    possible: dict[str, list[str]] = {}

    def on_journal(point: str, action: str) -> None:
        if point == "before-intent":
            row = seed._instance(harness.cloud, checkpoint.scene.server)[1]
            free = row["task_state"] is None
            possible[action] = [what for what in MEDDLING if free or what in ("delete", "rename", "lock")]

    harness.taps.on_journal = on_journal
    harness.run(step, checkpoint.move)
    return possible


def points_of_another_try(fixtures: Fixtures, shape: str) -> range:
    """The numbers of the points from the first host's failure to the end of prep-dest."""
    checkpoint = fixtures.set(shape, "prep-dest")
    fixtures.harness.cloud.world.faults |= FIRST_HOST_FAILS
    points: list[str] = []
    fixtures.harness.taps.on_journal = lambda point, _action: points.append(point)
    outcome = fixtures.harness.run("prep-dest", checkpoint.move)
    if outcome.code or fixtures.harness.state() is not State.DEST_PREPARED:
        raise AssertionError(outcome.text)
    return range(points.index("before-failed"), len(points))


def expand(fixtures: Fixtures, name: str) -> list[str]:
    """The cases that a name stands for: itself, or with ``*`` as the second point of ``double`` each of the telling ones."""
    if not name.startswith("double:") or ":*:" not in name:
        return [name]
    _family, shape, step, first, _star, recovery = name.split(":")
    point, action = first.split("@")
    checkpoint, seen = fixtures.set(shape, step), list[str]()
    harness = fixtures.harness
    run_killed(harness, [], action, point, step, checkpoint.move)
    harness.taps.on_journal = lambda here, _action: seen.append(here)
    harness.run("resume" if recovery == "on" else "rollback", checkpoint.move)
    harness.taps.on_journal = lambda _point, _action: None
    return [name.replace("*", str(number)) for number, here in enumerate(seen) if not (number and is_as_before(here))]


def is_as_before(point: str) -> bool:
    """Whether nothing was written since the point that went before, as the proof's own tests show.

    Behind a line of the journal and in front of the next one all is the same: an intent is only read for.
    """
    return point in ("before-intent", "before-undoing")
