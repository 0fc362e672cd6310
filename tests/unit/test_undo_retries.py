"""An undo is tried again after an answer that may pass: its effect, and the generation that is raised for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cellmove.action import Action, Context
from cellmove.errors import CallFailed, RollbackFailed
from cellmove.move import Entry, State, Step
from tests.support.pipeline_harness import World, a_bench

DUPLICATE = CallFailed("database of cell1: Duplicate entry (error 1062)", kind="duplicate")


class DuplicateFence:
    """Raises nothing in its own name, and is refused so often."""

    wanted = "2 token"

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.raised = 0

    def begin(self) -> None:
        """Begin a run."""

    def announce(
        self, _context: Context, _entries: Sequence[Entry], _step: Step, _action: Action, *, undoing: bool = False
    ) -> tuple[str, ...] | None:
        """Announce a generation for each undo."""
        return ("1 token", "2 token") if undoing else None

    def raise_(self, _context: Context, _step: Step) -> None:
        """Raise it, unless it is refused."""
        if self.refusals:
            self.refusals -= 1
            raise DUPLICATE
        self.raised += 1

    def settled(self, _action: Action, *, undoing: bool = False) -> None:
        """Take note of an effect."""


def test_a_row_that_another_session_wrote_first_does_not_fail_a_rollback(tmp_path: Path) -> None:
    world = World()
    bench = a_bench(tmp_path, world)
    bench.run()
    world.faults["undo c"] = [DUPLICATE, DUPLICATE]
    assert bench.undo().state is State.ROLLED_BACK
    assert world.effects == set()
    assert world.calls.count("undo c") == 3


def test_nor_does_one_while_the_generation_is_raised(tmp_path: Path) -> None:
    world, fence = World(), DuplicateFence(refusals=2)
    bench = a_bench(tmp_path, world)
    bench.run()
    bench.runner = replace(bench.runner, fence=fence)
    assert bench.undo().state is State.ROLLED_BACK
    assert world.effects == set()
    assert (fence.refusals, fence.raised) == (0, 3)


def test_one_that_stays_ends_the_rollback(tmp_path: Path) -> None:
    world = World()
    bench = a_bench(tmp_path, world)
    bench.run()
    bench.runner = replace(bench.runner, fence=DuplicateFence(refusals=1000))
    with pytest.raises(RollbackFailed, match="Duplicate entry"):
        bench.undo()
    assert world.effects == {"a", "b", "c"}
