"""An undo is tried again after an answer that may pass; what it calls is reached before the first undo of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cellmove.core.errors import CallFailed, CannotConnect, RollbackFailed, RolledBack, Stopped
from cellmove.core.move import Entry, State, Step
from cellmove.engine.action import Action, Context
from tests.support.pipeline_harness import World, a_bench, make_bench

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


# what undos call


def unreachable(_context: Context) -> None:
    """Refuse as a bus does that cannot be used."""
    raise CannotConnect("message bus of cell2 cannot be reached")


def test_nothing_is_undone_before_what_the_undos_call_is_reached(tmp_path: Path) -> None:
    world = World()
    bench = a_bench(tmp_path, world, reach_for_undo=unreachable)
    bench.run()
    with pytest.raises(CannotConnect, match="cell2"):
        bench.undo()
    assert world.effects == {"a", "b", "c"}
    assert bench.phases() == {"a": "done", "b": "done", "c": "done"}
    assert bench.fresh().state is not State.ROLLING_BACK


def test_a_failure_that_cannot_be_undone_now_stops_and_undoes_nothing(tmp_path: Path) -> None:
    world = World(faults={"do c": [CallFailed("no")]})
    bench = a_bench(tmp_path, world, reach_for_undo=unreachable)
    with pytest.raises(Stopped) as caught:
        bench.run(whole=True)
    assert "failed at c: no" in caught.value.message
    assert "message bus of cell2 cannot be reached" in caught.value.message
    assert (caught.value.state, caught.value.next_command) == ("nothing was rolled back", "cellmove resume m1")
    assert world.effects == {"a", "b"}


def test_what_did_not_happen_needs_no_call(tmp_path: Path) -> None:
    world = World(faults={"do b": [CallFailed("no")]})
    bench = a_bench(tmp_path, world, reach_for_undo=unreachable)
    with pytest.raises(RolledBack):
        bench.run(whole=True)
    assert world.effects == set()


def test_a_guest_is_restored_before_what_later_undos_call_is_reached(tmp_path: Path) -> None:
    world = World()
    actions = [
        world.action("a"), world.action("b", reach_for_undo=unreachable), world.action("c"),
        world.action("d", undo_restores_guest=True), world.action("e"),
    ]  # fmt: skip
    bench = make_bench(tmp_path, {Step.PREP_DEST: actions}, world)
    bench.run()
    with pytest.raises(Stopped) as caught:
        bench.undo()
    assert world.effects == {"a", "b", "c"}
    assert caught.value.state == "its guest was started at the source again"
    assert caught.value.next_command == "cellmove rollback m1"
