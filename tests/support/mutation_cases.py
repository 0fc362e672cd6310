"""A few of the proof's cases in one process, for mutation testing: each action of a move killed and resumed once.

The proof plays all of them; these are the ones that tests/support/mutation.py holds against mutants of steps and SQL.
"""

from __future__ import annotations

import functools

import pytest

from cellmove import steps
from cellmove.core.move import Step
from tests.proof import cases, streamed_cases
from tests.scenarios import failures, moves
from tests.scenarios.environment import Album
from tests.support.sandbox.fixtures import STEPS, Fixtures
from tests.support.sandbox.inside import Inside

ACTIONS = {
    step: [action.name for action in steps.ACTIONS[Step(step)] if action.name not in streamed_cases.OWN]
    for step in STEPS
}


CALLS = (
    ("prep-dest", "prep_snapshot_based_resize_at_dest"),
    ("prep-source", "prep_snapshot_based_resize_at_source"),
    ("finish", "finish_snapshot_based_resize_at_dest"),
    ("confirm", "confirm_snapshot_based_resize_at_source"),
    ("revert", "revert_snapshot_based_resize_at_dest"),
    ("revert", "finish_revert_snapshot_based_resize_at_source"),
)


@functools.cache
def fixtures() -> Fixtures:
    """One for all cases, so that a fork for a mutant has it already."""
    return Fixtures()


def names() -> list[str]:
    """Each action killed once and resumed; each step rolled back from its end; a rollback that is killed; others kept."""
    resumed = [f"kill:{cases.MAIN_SHAPE}:{step}:{name}:after-effect:on" for step in STEPS for name in ACTIONS[step]]
    others = [f"kill:volume-stopped-full:{step}:{ACTIONS[step][-1]}:after-effect:on" for step in STEPS]
    back = [f"kill:{cases.MAIN_SHAPE}:{step}:{ACTIONS[step][-1]}:after-intent:back" for step in STEPS]
    undone = [
        f"undo:{cases.MAIN_SHAPE}:{step}:{name}:after-undo:on"
        for step, name in (("prep-source", "copy_records"), ("finish", "stop_source"))
    ]
    begun = [f"kill:{cases.MAIN_SHAPE}:{step}:{ACTIONS[step][0]}:after-effect:back" for step in STEPS]
    restarted = [f"restart:{cases.MAIN_SHAPE}:{step}:{method}:1:on" for step, method in CALLS]
    return [*resumed, *others, *back, *begun, *undone, *restarted, *cases.KEPT]


@pytest.mark.parametrize("name", names())
def test_a_case_leaves_everything_as_it_has_to_be(name: str) -> None:
    problems, story = cases.run(fixtures(), name)
    assert problems == [], story


MOVES = (
    ("image", "active", "resize", "revert"), ("image", "stopped", "migrate", "confirm"),
    ("volume", "stopped", "resize", "confirm"), ("volume", "active", "migrate", "revert"),
)  # fmt: skip
FAILURES = (("the-claim-fails", "image"), ("the-guest-does-not-start", "volume"), ("the-snapshot-fails", "image"))


@pytest.fixture
def inside() -> Inside:
    """An empty cloud for scenarios."""
    fixtures().harness.restore(fixtures().empty)
    return Inside(fixtures().harness)


@pytest.mark.parametrize(("backing", "state", "kind", "ending"), MOVES)
def test_a_move_leaves_what_nova_leaves(inside: Inside, backing: str, state: str, kind: str, ending: str) -> None:
    """Every row, binding and allocation, compared with the snapshots that the lab recorded."""
    moves.there_and_back(inside, Album().agrees, backing, state, kind, ending)


@pytest.mark.parametrize(("name", "backing"), FAILURES)
def test_a_failure_leaves_what_was_there(inside: Inside, name: str, backing: str) -> None:
    failures.a_failure_is_taken_back(inside, Album().agrees, name, backing)
