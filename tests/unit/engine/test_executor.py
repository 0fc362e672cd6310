"""The engine's rules, with toy actions on a real journal: no step, no cloud, a clock that does not wait."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.errors import (
    CallFailed,
    CallUncertain,
    CannotConnect,
    Interrupted,
    RollbackFailed,
    RolledBack,
    Stopped,
    Unreachable,
)
from cellmove.core.move import Entry, State, Step
from cellmove.engine.action import AnyAction, Context, Pivot, ProbeOutcome, ProbeResult, describe
from cellmove.engine.events import EventKind
from cellmove.engine.executor import busy_step, is_undoing, past_pivot, run_step, undo
from cellmove.engine.journal import Journal
from cellmove.engine.record import EndpointLabels, record_of
from tests.support.pipeline_harness import LONG, PATIENCE, Bench, World, a_bench, make_bench, three, toy, toy_type


@pytest.fixture
def world() -> World:
    return World()


# going forward


def test_a_step_does_its_actions_in_order_and_moves_on(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls == ["do a", "do b", "do c"]
    assert bench.phases() == {"a": "done", "b": "done", "c": "done"}
    assert record_of(bench.fresh(), bench.entries)[toy_type("c")] == {"c": "its id"}
    kinds = [event.kind for event in bench.events]
    assert kinds[0] is EventKind.STEP_STARTED
    assert kinds[-1] is EventKind.STEP_FINISHED
    assert kinds.count(EventKind.ACTION_FINISHED) == 3


def test_the_intent_is_durable_before_the_effect(tmp_path: Path, world: World) -> None:
    seen: list[str] = []
    bench: Bench

    def do(_context: Context, _intent: Mapping[str, Any]) -> None:
        seen.extend(f"{entry.action} {entry.phase}" for entry in bench.entries)

    bench = make_bench(tmp_path, {Step.PREP_DEST: [toy("a", "a", do)]}, world)
    bench.run()
    assert seen == ["a intent"]


def test_an_action_that_does_not_apply_leaves_no_trace(tmp_path: Path, world: World) -> None:
    actions = [world.action("a"), world.action("b", applies=lambda _context: False)]
    bench = make_bench(tmp_path, {Step.PREP_DEST: actions}, world)
    bench.run()
    assert bench.phases() == {"a": "done"}


def test_what_is_done_is_skipped(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.journal.done(bench.journal.intend("m1", "prep-dest", "a", {"for": "a"}), {})
    assert busy_step(bench.entries, bench.fresh()) is Step.PREP_DEST
    bench.run()
    assert world.calls == ["do b", "do c"]


def test_later_actions_know_what_earlier_ones_found(tmp_path: Path, world: World) -> None:
    known: list[object] = []
    last = toy("z", "z", lambda context, _intent: known.append(context[toy_type("a")]))
    bench = make_bench(tmp_path, {Step.PREP_DEST: [world.action("a"), last]}, world)
    bench.run()
    assert known == [{"a": "its id"}]


def test_a_title_fills_in_what_is_known() -> None:
    action = toy("a", "copy to {target_cell} on {target_host}", lambda _context, _intent: None)
    assert describe(action, EndpointLabels(target_cell="cell2")) == "copy to cell2 on …"


# an intent without done: look first


def intended(bench: Bench) -> None:
    bench.journal.done(bench.journal.intend("m1", "prep-dest", "a", {"for": "a"}), {"a": "its id"})
    bench.world.effects.add("a")
    bench.journal.intend("m1", "prep-dest", "b", {"for": "b"})


def test_seen_to_have_happened_it_is_not_done_again(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    world.effects.add("b")
    bench.run()
    assert world.calls == ["probe b", "do c"]
    assert bench.entries[1].result == {"b": "its id"}


def test_seen_not_to_have_happened_it_is_done(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    bench.run()
    assert world.calls == ["probe b", "do b", "do c"]
    assert len(bench.entries) == 3


def test_seen_to_have_failed_it_is_taken_back(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    world.findings["b"] = [ProbeResult(ProbeOutcome.FAILED, text="the host said no")]
    with pytest.raises(RolledBack) as caught:
        bench.run()
    assert "the host said no" in caught.value.message
    assert world.calls == ["probe b", "undo b", "undo a"]


def test_still_under_way_it_is_watched(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    world.findings["b"] = [ProbeResult(ProbeOutcome.UNDER_WAY, text="at work")] * 5 + [
        ProbeResult(ProbeOutcome.HAPPENED, {"b": "late"})
    ]
    bench.run()
    assert world.calls == ["probe b"] * 6 + ["do c"]
    assert bench.entries[1].result == {"b": "late"}
    assert [event.text for event in bench.events if event.kind is EventKind.WAITING] == ["at work"] * 5


@pytest.mark.parametrize("outcome", [ProbeOutcome.UNKNOWN, ProbeOutcome.UNDER_WAY])
def test_what_cannot_be_told_stops_and_takes_nothing_back(tmp_path: Path, world: World, outcome: ProbeOutcome) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    world.findings["b"] = [ProbeResult(outcome, text="no sign of it")] * 10_000
    with pytest.raises(Stopped) as caught:
        bench.run()
    assert caught.value.exit_code == 3
    assert caught.value.next_command == "cellmove resume m1"
    assert "no sign of it" in caught.value.message
    assert bench.now[0] >= LONG
    assert bench.phases() == {"a": "done", "b": "intent"}
    assert set(world.calls) == {"probe b"}


@pytest.mark.parametrize("error", [CannotConnect("no route"), CallUncertain("timeout"), CallFailed("HTTP 500")])
def test_a_look_that_fails_says_nothing(tmp_path: Path, world: World, error: Exception) -> None:
    bench = a_bench(tmp_path, world)
    intended(bench)
    world.faults["probe b"] = [error] * 10_000
    with pytest.raises(Stopped):
        bench.run()
    assert bench.phases() == {"a": "done", "b": "intent"}
    assert not any(call.startswith(("do", "undo")) for call in world.calls)


def test_without_a_probe_it_is_simply_done_again(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.journal.intend("m1", "prep-dest", "a", {"for": "a"})
    world.effects.add("a")
    bench.run()
    assert world.calls == ["do a", "do b", "do c"]


# an answer that does not come


def test_a_lost_answer_is_watched_and_not_sent_again(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("timed out")]
    world.findings["b"] = [ProbeResult(ProbeOutcome.UNDER_WAY), ProbeResult(ProbeOutcome.HAPPENED, {"b": "its id"})]
    bench.run()
    assert world.calls == ["do a", "do b", "probe b", "probe b", "do c"]
    assert any(event.kind is EventKind.NOTE and "timed out" in event.text for event in bench.events)


def test_a_lost_call_is_sent_once_more_and_then_failed(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("timed out")] * 100
    with pytest.raises(RolledBack):
        bench.run()
    assert world.calls == ["do a", "do b", "probe b", "do b", "probe b", "undo b", "undo a"]


def test_a_lost_call_that_arrives_the_second_time(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("timed out")]
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls == ["do a", "do b", "probe b", "do b", "do c"]


@pytest.mark.parametrize(
    "error", [CannotConnect("no route"), CallUncertain("timeout"), CallFailed("1213", kind="deadlock")]
)
def test_what_may_be_repeated_is_repeated_with_patience(tmp_path: Path, world: World, error: Exception) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do a"] = [error] * 3
    bench.run()
    assert world.calls == ["do a"] * 4 + ["do b", "do c"]
    assert 0 < bench.now[0] < PATIENCE


def test_patience_ends(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do a"] = [CannotConnect("no route")] * 10_000
    with pytest.raises(RolledBack):
        bench.run()
    assert bench.now[0] <= PATIENCE
    assert 4 < len(world.calls) < 30


def test_what_may_not_be_repeated_is_not(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CannotConnect("nova-compute is down")]
    with pytest.raises(RolledBack):
        bench.run()
    assert world.calls == ["do a", "do b", "undo b", "undo a"]


# failure before the pivot


def test_a_failed_step_takes_back_itself_and_the_move_stays_open(tmp_path: Path, world: World) -> None:
    actions = {Step.PREP_DEST: [world.action("a")], Step.PREP_SOURCE: [world.action("b"), world.action("c")]}
    bench = make_bench(tmp_path, actions, world)
    bench.run()
    world.faults["do c"] = [CallFailed("no")]
    with pytest.raises(RolledBack) as caught:
        bench.run(Step.PREP_SOURCE)
    assert caught.value.exit_code == 1
    assert world.calls == ["do a", "do b", "do c", "undo c", "undo b"]
    assert world.effects == {"a"}
    assert bench.fresh().state is State.DEST_PREPARED
    assert caught.value.next_command == "cellmove prep-source m1"
    assert bench.phases() == {"a": "done", "b": "undone", "c": "undone"}
    assert bench.run(Step.PREP_SOURCE).state is State.SOURCE_PREPARED


@pytest.mark.parametrize("heavy", [False, True])
def test_a_failed_whole_takes_everything_back(tmp_path: Path, world: World, heavy: bool) -> None:
    actions = {
        Step.PREP_DEST: [world.action("a")],
        Step.PREP_SOURCE: [world.action("b", rolls_back_move=heavy), world.action("c")],
    }
    bench = make_bench(tmp_path, actions, world)
    bench.run()
    world.faults["do c"] = [CallFailed("no")]
    with pytest.raises(RolledBack) as caught:
        bench.run(Step.PREP_SOURCE, whole=not heavy)
    assert world.calls[-3:] == ["undo c", "undo b", "undo a"]
    assert world.effects == set()
    assert bench.fresh().state is State.ROLLED_BACK
    assert caught.value.next_command == "cellmove migrate web-1"
    assert caught.value.state == "every action was rolled back; the server was not looked at since"


def test_a_heavy_action_that_was_not_begun_takes_nothing_more_back(tmp_path: Path, world: World) -> None:
    actions = {
        Step.PREP_DEST: [world.action("a")],
        Step.PREP_SOURCE: [world.action("b"), world.action("c", rolls_back_move=True)],
    }
    bench = make_bench(tmp_path, actions, world)
    bench.run()
    world.faults["do b"] = [CallFailed("no")]
    with pytest.raises(RolledBack):
        bench.run(Step.PREP_SOURCE)
    assert bench.fresh().state is State.DEST_PREPARED


def test_an_undo_gets_what_the_action_found(tmp_path: Path, world: World) -> None:
    given: list[tuple[Any, Any, Any]] = []
    actions = [
        toy(
            "a", "a", lambda _context, _intent: {"host": "h1"}, intend=lambda _context: {"before": 1},
            undo=lambda context, intent, result: given.append((dict(intent), dict(result), context[toy_type("a")]["host"])),
        )
    ]  # fmt: skip
    bench = make_bench(tmp_path, {Step.PREP_DEST: actions}, world)
    bench.run()
    bench.journal.undoing(bench.entries[0])  # and died: the result has to be there the second time too
    bench.undo()
    assert given == [({"before": 1}, {"host": "h1"}, "h1")]


def test_an_undo_without_an_answer_stops(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.run()
    world.faults["undo b"] = [CannotConnect("no route")] * 10_000
    with pytest.raises(Stopped) as caught:
        bench.undo()
    assert (caught.value.exit_code, caught.value.next_command) == (3, "cellmove rollback m1")
    assert bench.phases() == {"a": "done", "b": "undoing", "c": "undone"}
    del world.faults["undo b"]
    assert bench.undo().state is State.ROLLED_BACK
    assert world.effects == set()


def test_an_undo_that_is_refused_needs_a_person(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do c"] = [CallFailed("quota")]
    world.faults["undo b"] = [CallFailed("HTTP 409")]
    with pytest.raises(RollbackFailed) as caught:
        bench.run(whole=True)
    assert caught.value.exit_code == 7
    assert "quota" in caught.value.message
    assert "HTTP 409" in caught.value.message
    assert caught.value.next_command == "cellmove rollback m1"
    assert bench.undo().state is State.ROLLED_BACK
    assert world.effects == set()


def test_a_step_whose_undo_stopped_goes_on_with_resume(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do c"] = [CallFailed("quota")]
    world.faults["undo b"] = [CallFailed("HTTP 409")]
    with pytest.raises(RollbackFailed) as caught:
        bench.run()
    assert caught.value.next_command == "cellmove resume m1"
    assert is_undoing(bench.entries)
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls[-5:] == ["undo b", "undo a", "do a", "do b", "do c"]
    assert world.effects == {"a", "b", "c"}


# the pivot


def with_pivot(world: World, pivot: Pivot) -> dict[Step, list[AnyAction]]:
    return {
        Step.PREP_DEST: [
            world.action("a"),
            world.action("b", uninterruptible_with_next=True),
            world.action("p", pivot=pivot, uninterruptible_with_next=True),
            world.action("c"),
            world.action("d", probed=True),
        ]
    }


@pytest.mark.parametrize("failing", ["c", "d"])
def test_after_the_pivot_there_is_only_forward(tmp_path: Path, world: World, failing: str) -> None:
    bench = make_bench(tmp_path, with_pivot(world, Pivot.WHEN_DONE), world)
    world.faults[f"do {failing}"] = [CallFailed("no")]
    with pytest.raises(Stopped) as caught:
        bench.run(whole=True)
    assert (caught.value.exit_code, caught.value.next_command) == (3, "cellmove resume m1")
    assert past_pivot(bench.runner, bench.entries, Step.PREP_DEST)
    assert not any(call.startswith("undo") for call in world.calls)
    assert bench.run().state is State.DEST_PREPARED
    assert world.effects == {"a", "b", "p", "c", "d"}


def test_a_pivot_that_was_refused_is_not_passed(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, with_pivot(world, Pivot.WHEN_DONE), world)
    world.faults["do p"] = [CallFailed("0 rows")]
    with pytest.raises(RolledBack):
        bench.run()
    assert world.effects == set()


def test_a_pivot_that_counts_from_its_beginning(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, with_pivot(world, Pivot.WHEN_BEGUN), world)
    world.faults["do p"] = [CallFailed("half destroyed")]
    with pytest.raises(Stopped):
        bench.run()
    assert bench.run().state is State.DEST_PREPARED


def test_a_known_failure_after_the_pivot_is_tried_again(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, with_pivot(world, Pivot.WHEN_DONE), world)
    world.faults["do d"] = [CallFailed("no")]
    with pytest.raises(Stopped):
        bench.run()
    world.findings["d"] = [ProbeResult(ProbeOutcome.FAILED, text="no")]
    assert bench.run().state is State.DEST_PREPARED


# interrupts


def interrupting(world: World, bench: Bench, name: str) -> None:
    """Let the signal come while an action is at work."""
    before = world.call

    def call(one: str) -> None:
        if one == name:
            bench.signal[0] = 2
        before(one)

    world.call = call  # type: ignore[assignment,method-assign]


def test_an_interrupt_ends_after_the_action_in_hand(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    interrupting(world, bench, "do a")
    with pytest.raises(Interrupted) as caught:
        bench.run()
    assert caught.value.exit_code == 130
    assert caught.value.next_command == "cellmove resume m1"
    assert bench.phases() == {"a": "done"}
    bench.signal[0] = 0
    assert bench.run().state is State.DEST_PREPARED


@pytest.mark.parametrize("name", ["b", "p", "c"])
def test_an_interrupt_does_not_land_between_uninterruptible_actions_nor_after_the_pivot(
    tmp_path: Path, world: World, name: str
) -> None:
    bench = make_bench(tmp_path, with_pivot(world, Pivot.WHEN_DONE), world)
    interrupting(world, bench, f"do {name}")
    assert bench.run().state is State.DEST_PREPARED
    assert world.effects == {"a", "b", "p", "c", "d"}


def test_an_interrupt_ends_a_watch_and_keeps_the_line(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("timed out")]
    world.findings["b"] = [ProbeResult(ProbeOutcome.UNDER_WAY)] * 10_000
    interrupting(world, bench, "probe b")
    with pytest.raises(Interrupted) as caught:
        bench.run()
    assert caught.value.next_command == "cellmove resume m1"
    assert world.calls == ["do a", "do b", "probe b"]
    assert bench.phases() == {"a": "done", "b": "intent"}


def test_an_interrupt_of_a_rollback_ends_after_the_action_in_hand(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, {Step.PREP_DEST: [world.action(name) for name in "abc"]}, world)
    run_step(bench.runner, bench.move, Step.PREP_DEST, undo_whole_move=False)
    interrupting(world, bench, "undo c")
    with pytest.raises(Interrupted) as caught:
        undo(bench.runner, bench.move, None)
    assert caught.value.exit_code == 130
    assert caught.value.next_command == "cellmove rollback m1"
    assert world.effects == {"a", "b"}
    bench.signal[0] = 0
    moved = bench.journal.move("m1")
    assert moved is not None
    assert undo(bench.runner, moved, None).state is State.ROLLED_BACK
    assert world.effects == set()
    assert world.calls.count("undo c") == 1


def test_an_interrupt_does_not_keep_a_failure_from_being_taken_back(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallFailed("no")]
    interrupting(world, bench, "do b")
    with pytest.raises(RolledBack):
        bench.run()
    assert world.effects == set()


# losing the journal


def test_losing_the_journal_in_the_middle_is_a_stop_not_nothing_written(tmp_path: Path, world: World) -> None:
    class Torn(Journal):
        def done(self, entry: Entry, result: Mapping[str, Any]) -> None:
            raise Unreachable("disk full")

    def tear(journal: Journal) -> Journal:
        return Torn(journal.engine, journal.now, journal.location)

    bench = make_bench(tmp_path, {Step.PREP_DEST: three(world)}, world, tear)
    with pytest.raises(Stopped) as caught:
        bench.run()
    assert (caught.value.exit_code, caught.value.next_command) == (3, "cellmove resume m1")
    assert "disk full" in caught.value.message
