"""The engine dies before or after any of its writes, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.errors import CallFailed, RolledBack
from cellmove.core.move import Phase, State, Step, next_commands
from cellmove.engine.action import Action, Pivot
from cellmove.engine.executor import past_pivot
from cellmove.engine.journal import Journal
from tests.support.pipeline_harness import Bench, Crash, World, a_bench, make_bench


@pytest.fixture
def world() -> World:
    return World()


# the crash matrix: die anywhere, then resume or roll back


WRITES = ("intend", "done", "failed", "undoing", "undone", "set_state")


class Dying(Journal):
    """A journal whose process dies before or after its n-th write."""

    def __init__(self, journal: Journal, at: int, before: bool) -> None:
        super().__init__(journal.engine, journal.now, journal.location)
        self.left = at
        self.before = before
        self.written = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in WRITES:
            return found

        def write(*arguments: Any, **more: Any) -> Any:
            self.written += 1
            self.left -= 1
            if self.left == 0 and self.before:
                raise Crash
            result = found(*arguments, **more)
            if self.left == 0:
                raise Crash
            return result

        return write


def matrix_actions(world: World) -> dict[Step, list[Action]]:
    return {
        Step.PREP_DEST: [world.action("a"), world.action("b", probed=True), world.action("u", can_undo=False)],
        Step.PREP_SOURCE: [world.action("c", probed=True, rolls_back_move=True), world.action("d")],
        Step.FINISH: [
            world.action("e", probed=True, rolls_back_move=True),
            world.action("f", uninterruptible_with_next=True),
            world.action("p", pivot=Pivot.WHEN_DONE, uninterruptible_with_next=True),
            world.action("g", probed=True),
            world.action("h"),
        ],
    }


STEPS = (Step.PREP_DEST, Step.PREP_SOURCE, Step.FINISH)
EVERYTHING = set("abucdefpgh")


def go_to_finish(bench: Bench) -> None:
    for step in STEPS:
        move = bench.fresh()
        if TRANSITIONS_FROM[step] is move.state:
            bench.run(step)


TRANSITIONS_FROM = {
    Step.PREP_DEST: State.PLANNED,
    Step.PREP_SOURCE: State.DEST_PREPARED,
    Step.FINISH: State.SOURCE_PREPARED,
}


def count_writes(tmp_path: Path, run: Callable[[Bench], None], prepare: Callable[[Bench], None]) -> int:
    path = tmp_path / "counting"
    path.mkdir()
    world = World()
    bench = make_bench(path, matrix_actions(world), world)
    prepare(bench)
    counting = make_bench(path, matrix_actions(world), world, lambda journal: Dying(journal, 0, False))
    run(counting)
    journal = counting.runner.journal
    assert isinstance(journal, Dying)
    return journal.written


def die_and_come_back(
    path: Path, run: Callable[[Bench], None], prepare: Callable[[Bench], None], at: int, before: bool
) -> Bench:
    path.mkdir()
    world = World()
    prepare(make_bench(path, matrix_actions(world), world))
    doomed = make_bench(path, matrix_actions(world), world, lambda journal: Dying(journal, at, before))
    with pytest.raises(Crash):
        run(doomed)
    world.faults.clear()
    return make_bench(path, matrix_actions(world), world)


def nothing(_bench: Bench) -> None:
    return


def settle_forward(bench: Bench) -> None:
    """What ``resume`` does, over and over."""
    if bench.fresh().state is State.ROLLING_BACK:
        bench.undo()
    else:
        go_to_finish(bench)


@pytest.mark.parametrize("before", [True, False])
def test_after_a_crash_anywhere_a_resume_finishes(tmp_path: Path, before: bool) -> None:
    total = count_writes(tmp_path, go_to_finish, nothing)
    assert total == 2 * len(EVERYTHING) + 3
    for at in range(1, total + 1):
        bench = die_and_come_back(tmp_path / str(at), go_to_finish, nothing, at, before)
        go_to_finish(bench)
        assert bench.fresh().state is State.FINISHED
        assert bench.world.effects == EVERYTHING
        assert set(bench.phases().values()) == {"done"}
        for probed in ("b", "c", "e", "g"):
            assert bench.world.calls.count(f"do {probed}") == 1


@pytest.mark.parametrize("before", [True, False])
def test_after_a_crash_anywhere_before_the_pivot_a_rollback_takes_all_back(tmp_path: Path, before: bool) -> None:
    total = count_writes(tmp_path, go_to_finish, nothing)
    passed = 0
    for at in range(1, total + 1):
        bench = die_and_come_back(tmp_path / str(at), go_to_finish, nothing, at, before)
        move = bench.fresh()
        if past_pivot(bench.runner, bench.entries, Step.FINISH):
            passed += 1
            continue
        bench.undo()
        assert bench.fresh().state is State.ROLLED_BACK
        assert bench.world.effects <= {"u"}  # the one that needs no rolling back
        assert next_commands(bench.fresh(), None) == ()
        assert move.is_open
    assert 0 < passed < total / 2


@pytest.mark.parametrize("before", [True, False])
def test_after_a_crash_anywhere_in_a_rollback_it_goes_on(tmp_path: Path, before: bool) -> None:
    def prepare(bench: Bench) -> None:
        bench.run(Step.PREP_DEST)
        bench.run(Step.PREP_SOURCE)

    def roll_back(bench: Bench) -> None:
        bench.undo()

    total = count_writes(tmp_path, roll_back, prepare)
    for at in range(1, total + 1):
        bench = die_and_come_back(tmp_path / str(at), roll_back, prepare, at, before)
        bench.undo()
        assert bench.fresh().state is State.ROLLED_BACK
        assert bench.world.effects <= {"u"}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_after_a_crash_anywhere_in_a_failing_step_it_converges(tmp_path: Path, before: bool, whole: bool) -> None:
    def fail(bench: Bench) -> None:
        bench.world.faults["do u"] = [CallFailed("no")]
        with pytest.raises(RolledBack):
            bench.run(Step.PREP_DEST, whole=whole)

    total = count_writes(tmp_path, fail, nothing)
    for at in range(1, total + 1):
        bench = die_and_come_back(tmp_path / str(at), fail, nothing, at, before)
        for _again in range(3):
            try:
                settle_forward(bench)
            except RolledBack:
                continue
        move = bench.fresh()
        assert move.state in (State.FINISHED, State.ROLLED_BACK)
        assert bench.world.effects == (EVERYTHING if move.state is State.FINISHED else bench.world.effects & {"u"})


def test_a_dead_call_is_never_sent_twice(tmp_path: Path, world: World) -> None:
    """Died between the effect and its line: looking is enough."""
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [Crash()]
    with pytest.raises(Crash):
        bench.run()
    world.effects.add("b")
    bench.run()
    assert world.calls.count("do b") == 1


# nothing left to do


def test_a_step_that_was_only_not_ticked_off_is_ticked_off(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.run()
    bench.journal.set_state("m1", State.PLANNED)
    world.calls.clear()
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls == []


def test_taking_back_twice_writes_nothing_more(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.run()
    bench.undo()
    world.calls.clear()
    lines = bench.entries
    bench.undo()
    assert world.calls == []
    assert bench.entries == lines
    assert all(entry.phase is Phase.UNDONE for entry in lines)
