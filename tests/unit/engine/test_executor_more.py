"""The executor's events, its answers about a journal, a journal that is lost at once, and the next choice after a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.errors import (
    CallFailed,
    CallUncertain,
    CannotConnect,
    Interrupted,
    JournalLost,
    JournalUnreachable,
    RolledBack,
    Stopped,
    Unexpected,
    Unreachable,
)
from cellmove.core.move import Entry, Phase, State, Step
from cellmove.engine.action import Context, Pivot, ProbeOutcome, ProbeResult
from cellmove.engine.events import Event, EventKind
from cellmove.engine.executor import busy_step, context_before, is_undoing, next_choice, past_pivot
from cellmove.engine.journal import Journal
from cellmove.engine.record import record_of
from tests.support.pipeline_harness import Bench, Toy, World, a_bench, make_bench, toy, toy_type


@pytest.fixture
def world() -> World:
    return World()


def an_entry(step: str, action: str, phase: Phase, sequence: int = 1, **result: Any) -> Entry:
    return Entry("m1", sequence, step, action, phase, {}, result, "", "", "")


# what the lines of a journal say


def test_the_busy_step_is_the_one_that_follows_the_moves_state(tmp_path: Path, world: World) -> None:
    move = a_bench(tmp_path, world).fresh()
    assert busy_step([], move) is None
    assert busy_step([an_entry("prep-dest", "a", Phase.INTENT)], move) is Step.PREP_DEST
    assert busy_step([an_entry("prep-dest", "a", Phase.UNDONE)], move) is None
    assert busy_step([an_entry("prep-source", "a", Phase.INTENT)], move) is None
    later = replace(move, state=State.DEST_PREPARED)
    lines = [an_entry("prep-dest", "a", Phase.DONE), an_entry("prep-source", "b", Phase.FAILED, 2)]
    assert busy_step(lines, later) is Step.PREP_SOURCE
    assert busy_step(lines[:1], later) is None


def test_only_a_line_that_is_being_taken_back_says_so() -> None:
    assert [is_undoing([an_entry("finish", "a", phase)]) for phase in (Phase.UNDONE, Phase.DONE, Phase.UNDOING)] == [
        False, False, True,
    ]  # fmt: skip


def test_only_results_of_what_is_done_are_known(tmp_path: Path, world: World) -> None:
    move = a_bench(tmp_path, world).fresh()
    lines = [an_entry("s", "a", Phase.DONE, 1, host="one"), an_entry("s", "b", Phase.UNDOING, 2, host="two")]
    record = record_of(move, lines)
    assert (record.get(toy_type("a")), record.get(toy_type("b"))) == ({"host": "one"}, None)
    with pytest.raises(Unexpected, match="the journal has no result of b"):
        record[toy_type("b")]
    again = record_of(move, [*lines, an_entry("s", "a", Phase.DONE, 3, host="three")])
    assert again[toy_type("a")] == {"host": "three"}


@pytest.mark.parametrize(
    ("pivot", "passed"),
    [
        (Pivot.NO, set()),
        (Pivot.WHEN_DONE, {Phase.INTENT, Phase.DONE}),
        (Pivot.WHEN_BEGUN, {Phase.INTENT, Phase.DONE, Phase.FAILED}),
    ],
)
def test_a_pivot_is_passed_by_its_own_step_only(tmp_path: Path, world: World, pivot: Pivot, passed: set[Phase]) -> None:
    actions = {Step.FINISH: [world.action("a", pivot=pivot)], Step.PREP_DEST: [world.action("b")]}
    runner = make_bench(tmp_path, actions, world).runner
    found = {phase for phase in Phase if past_pivot(runner, [an_entry("finish", "a", phase)], Step.FINISH)}
    assert found == passed
    assert not past_pivot(runner, [an_entry("prep-dest", "a", Phase.DONE)], Step.FINISH)
    assert not past_pivot(runner, [an_entry("finish", "a", Phase.DONE)], Step.PREP_DEST)


# the way through a step


def test_after_an_action_that_does_not_apply_the_next_one_is_done(tmp_path: Path, world: World) -> None:
    actions = [world.action("a"), world.action("b", applies=lambda _context: False), world.action("c")]
    bench = make_bench(tmp_path, {Step.PREP_DEST: actions}, world)
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls == ["do a", "do c"]


@pytest.mark.parametrize(
    ("uninterruptible_with_next", "interrupted_in", "calls"),
    [
        ("", "a", ["do a"]),
        ("a", "a", ["do a", "do b"]),
        ("b", "a", ["do a"]),
        ("b", "b", ["do a", "do b", "do c"]),
        ("c", "", []),
        ("c", "a", ["do a"]),
    ],
)
def test_an_interrupt_ends_before_the_next_action_that_may_be_interrupted(
    tmp_path: Path, world: World, uninterruptible_with_next: str, interrupted_in: str, calls: list[str]
) -> None:
    actions = [
        world.action(name, uninterruptible_with_next=name == uninterruptible_with_next) for name in ("a", "b", "c")
    ]
    bench = make_bench(tmp_path, {Step.PREP_DEST: actions}, world)
    call = world.call

    def interrupted(name: str) -> None:
        call(name)
        if name == f"do {interrupted_in}":
            bench.signal[0] = 2

    world.call = interrupted  # type: ignore[method-assign]
    if not interrupted_in:
        bench.signal[0] = 2
    if len(calls) < 3:
        with pytest.raises(Interrupted):
            bench.run()
    else:
        bench.run()
    assert world.calls == calls


# events


def observed(bench: Bench) -> list[tuple[Any, ...]]:
    """The events, without empty values and without the move, which is always the same."""
    assert {(event.move_id, event.server_name) for event in bench.events} == {("m1", "web-1")}
    return [tuple(value for value in _values(event) if value not in ("", 0.0)) for event in bench.events]


def _values(event: Event) -> tuple[Any, ...]:
    return event.kind.value, event.step, event.action, event.title, event.seconds, event.text


def slow(name: str, seconds: float, error: Exception | None = None) -> Toy:
    """An action that takes its time, and what it takes to undo it."""

    def do(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
        context.progress("half")
        context.clock.sleep(seconds)
        if error is not None:
            raise error
        return {"target_host": "its id"}

    def take_back(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
        context.note("back")
        context.clock.sleep(seconds * 2)

    return toy(name, f"make {name} {{target_host}}", do, undo=take_back)


def test_every_action_is_told_with_its_title_and_how_long_it_took(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, {Step.PREP_DEST: [slow("a", 3.0), slow("b", 4.0)]}, world)
    bench.now[0] = 50.0
    bench.run()
    assert observed(bench) == [
        ("step-started", "prep-dest"),
        ("action-started", "prep-dest", "a", "make a …"),
        ("progress", "half"),
        ("action-finished", "prep-dest", "a", "make a its id", 3.0),
        ("action-started", "prep-dest", "b", "make b its id"),
        ("progress", "half"),
        ("action-finished", "prep-dest", "b", "make b its id", 4.0),
        ("step-finished", "prep-dest", 7.0),
    ]


def test_a_failure_and_each_undo_are_told(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, {Step.PREP_DEST: [slow("a", 3.0), slow("b", 4.0, CallFailed("no"))]}, world)
    bench.now[0] = 50.0
    with pytest.raises(RolledBack):
        bench.run()
    assert observed(bench)[5:] == [
        ("progress", "half"),
        ("action-failed", "prep-dest", "b", "no"),
        ("undo-started", "prep-dest", "b", "make b its id"),
        ("note", "back"),
        ("undo-finished", "prep-dest", "b", "make b its id", 8.0),
        ("undo-started", "prep-dest", "a", "make a its id"),
        ("note", "back"),
        ("undo-finished", "prep-dest", "a", "make a its id", 6.0),
    ]


def test_a_watch_is_told(tmp_path: Path, world: World) -> None:
    bench = make_bench(tmp_path, {Step.PREP_DEST: [world.action("b", probed=True)]}, world)
    world.faults["do b"] = [CallUncertain("no answer")]
    world.findings["b"] = [ProbeResult(ProbeOutcome.UNDER_WAY, text="at work"), ProbeResult(ProbeOutcome.HAPPENED, {})]
    bench.run()
    assert ("note", "no answer; watching what becomes of it") in observed(bench)
    assert ("waiting", "prep-dest", "b", "at work") in observed(bench)


# a journal that is lost


class Losing:
    """A journal of which one method fails at its n-th call."""

    def __init__(self, journal: Journal, method: str, call: int) -> None:
        self.journal, self.method, self.left = journal, method, call

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.journal, name)
        if name != self.method:
            return found

        def losing(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise JournalUnreachable("the disk is full", state="of the journal", next_command="of the journal")
            return found(*arguments)

        return losing


def test_a_journal_that_cannot_take_the_first_line_has_nothing_written(tmp_path: Path, world: World) -> None:
    actions = {Step.PREP_DEST: [world.action("a"), world.action("b")]}
    bench = make_bench(tmp_path, actions, world, lambda journal: Losing(journal, "intend", 1))  # type: ignore[arg-type,return-value]
    with pytest.raises(Unreachable, match="the disk is full") as nothing:
        bench.run()
    assert not isinstance(nothing.value, JournalLost)
    assert (nothing.value.exit_code, nothing.value.state) == (4, "nothing was written")
    assert world.calls == []


@pytest.mark.parametrize(("method", "call", "calls"), [("intend", 2, ["do a"]), ("done", 1, ["do a"])])
def test_a_journal_lost_later_is_a_stop(tmp_path: Path, world: World, method: str, call: int, calls: list[str]) -> None:
    actions = {Step.PREP_DEST: [world.action("a"), world.action("b")]}
    bench = make_bench(tmp_path, actions, world, lambda journal: Losing(journal, method, call))  # type: ignore[arg-type,return-value]
    with pytest.raises(JournalLost, match="the disk is full") as lost:
        bench.run()
    assert (lost.value.exit_code, lost.value.next_command) == (3, "cellmove resume m1")
    assert world.calls == calls


# the next choice


def host_of(context: Context) -> int:
    """The host that was chosen."""
    return int(context[toy_type("pick")]["target_host"])


class Hosts:
    """An action that chooses a host, of some; those after it fail with the first ones."""

    def __init__(self, world: World, *, bad: int = 1, hosts: int = 3, error: Exception | None = None) -> None:
        self.world, self.bad, self.hosts = world, bad, hosts
        self.error = error or CallFailed("no room")
        self.chosen: list[int] = []
        self.tried: list[list[str]] = []
        self.pick = toy(
            "pick",
            "ask: host {target_host}",
            self.choose,
            has_alternative=lambda context: context[toy_type("a")]["a"] == "its id" and host_of(context) < self.hosts,
        )
        self.actions = [
            world.action("a"),
            self.pick,
            world.action("b"),
            replace(self._use(), retry_from=toy_type("pick")),
        ]

    def choose(self, context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
        self.chosen.append(len(self.chosen) + 1)
        self.tried.append([str(entry.result["target_host"]) for entry in context.tried])
        return {"target_host": self.chosen[-1]}

    def _use(self) -> Toy:
        def use(context: Context, _intent: Mapping[str, Any]) -> None:
            self.world.call(f"use {host_of(context)}")
            if host_of(context) <= self.bad:
                raise self.error

        return toy("use", "use it", use, undo=lambda context, _i, _r: self.world.call(f"leave {host_of(context)}"))


def test_the_next_choice_is_tried_and_what_came_before_stays(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    assert bench.run().state is State.DEST_PREPARED
    assert world.calls == ["do a", "do b", "use 1", "leave 1", "undo b", "do b", "use 2"]
    assert hosts.tried == [[], ["1"]]
    assert ("action-failed", "prep-dest", "use", "no room") in observed(bench)


def test_when_no_choice_is_left_all_of_them_are_named(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world, bad=2, hosts=2)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    with pytest.raises(RolledBack) as caught:
        bench.run()
    assert caught.value.message == ("prep-dest of web-1 failed at use: no room\nbefore that, ask: host 1: no room")
    assert world.calls[-3:] == ["leave 2", "undo b", "undo a"]
    assert hosts.chosen == [1, 2]


def test_a_new_attempt_begins_without_earlier_choices(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world, bad=1, hosts=1)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    with pytest.raises(RolledBack) as caught:
        bench.run()
    assert "before that" not in caught.value.message
    bench.run()
    assert hosts.tried == [[], []]


@pytest.mark.parametrize("error", [CannotConnect("no route"), CallFailed("no")])
def test_a_host_that_cannot_be_reached_is_one_that_failed(tmp_path: Path, world: World, error: Exception) -> None:
    hosts = Hosts(world, error=error)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    bench.run()
    assert hosts.chosen == [1, 2]
    assert [line.error for line in bench.entries if line.action == "use"] == [str(error), ""]


def test_an_unknown_outcome_is_no_reason_to_choose_again(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world, error=CallUncertain("no answer"))
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    with pytest.raises((RolledBack, Stopped)):
        bench.run()
    assert hosts.chosen == [1]


def test_another_action_that_fails_is_no_reason_to_choose_again(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world, bad=0)
    world.faults["do b"] = [CallFailed("no")]
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    with pytest.raises(RolledBack):
        bench.run()
    assert hosts.chosen == [1]


def test_a_run_that_died_while_a_choice_was_taken_back_takes_back_the_rest_and_goes_on(
    tmp_path: Path, world: World
) -> None:
    hosts = Hosts(world)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    lines = {}
    for name, result in (("a", {"a": "its id"}), ("pick", {"target_host": 1}), ("b", {"b": "its id"})):
        intent = {} if name == "pick" else {"for": name}
        lines[name] = bench.journal.done(bench.journal.intend("m1", "prep-dest", name, intent), result)
    failed = bench.journal.intend("m1", "prep-dest", "use", {})
    bench.journal.failed(failed, "no room")
    bench.journal.undoing(bench.entries[-1])
    hosts.chosen.append(1)
    chose = next_choice(bench.runner, bench.fresh(), bench.entries, Step.PREP_DEST)
    assert chose is not None
    assert chose.action == "pick"
    bench.run()
    assert world.calls == ["leave 1", "undo b", "do b", "use 2"]
    assert next_choice(bench.runner, bench.fresh(), bench.entries, Step.PREP_DEST) is None


def test_a_failure_before_the_intent_is_no_reason_to_choose_again(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world, bad=0)

    def refuse(_context: Context) -> Mapping[str, Any]:
        raise CallFailed("no")

    hosts.actions[-1] = replace(hosts.actions[-1], intend=refuse)
    bench = make_bench(tmp_path, {Step.PREP_DEST: hosts.actions}, world)
    with pytest.raises(RolledBack):
        bench.run()
    assert hosts.chosen == [1]


def test_without_a_choice_a_failure_is_taken_back(tmp_path: Path, world: World) -> None:
    hosts = Hosts(world)
    pick = replace(hosts.pick, applies=lambda _context: False)
    use = replace(world.action("use"), retry_from=toy_type("pick"))
    world.faults["do use"] = [CallFailed("no")]
    bench = make_bench(tmp_path, {Step.PREP_DEST: [world.action("a"), pick, use]}, world)
    with pytest.raises(RolledBack):
        bench.run()
    assert world.calls == ["do a", "do use", "undo use", "undo a"]


@pytest.mark.parametrize(
    ("pick", "pick_sequence", "is_found"),
    [
        (Phase.DONE, 2, True),
        (Phase.UNDOING, 2, True),
        (Phase.UNDONE, 2, False),
        (Phase.INTENT, 2, False),
        (Phase.FAILED, 2, False),
        (Phase.DONE, 4, False),
    ],
)
def test_a_choice_counts_that_was_made_before_the_failure_and_not_taken_back(
    tmp_path: Path, world: World, pick: Phase, pick_sequence: int, is_found: bool
) -> None:
    bench = make_bench(tmp_path, {Step.PREP_DEST: Hosts(world).actions}, world)
    first = an_entry("prep-dest", "a", Phase.DONE, 1, a="its id")
    chosen = an_entry("prep-dest", "pick", pick, pick_sequence, target_host=1)
    failed = replace(an_entry("prep-dest", "use", Phase.FAILED, 3), error="no room")
    lines = sorted((first, chosen, failed), key=lambda line: line.sequence)
    for known in (None, failed):
        found = next_choice(bench.runner, bench.fresh(), lines, Step.PREP_DEST, known)
        assert found == (chosen if is_found else None)
    other = replace(failed, step="finish")
    assert next_choice(bench.runner, bench.fresh(), [first, chosen, other], Step.PREP_DEST) is None


def test_a_step_that_was_being_taken_back_is_taken_back_whole_when_nothing_was_chosen(
    tmp_path: Path, world: World
) -> None:
    bench = a_bench(tmp_path, world)
    for name in ("a", "b"):
        bench.journal.done(bench.journal.intend("m1", "prep-dest", name, {"for": name}), {name: "its id"})
    bench.journal.undoing(bench.entries[-1])
    bench.run()
    assert world.calls == ["undo b", "undo a", "do a", "do b", "do c"]


def test_the_context_before_a_step_knows_what_is_done(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    bench.run()
    assert context_before(bench.runner, bench.fresh(), Step.PREP_SOURCE)[toy_type("c")] == {"c": "its id"}


def test_an_action_may_leave_when_it_is_interrupted(tmp_path: Path, world: World) -> None:
    bench: Bench

    def do(context: Context, _intent: Mapping[str, Any]) -> None:
        context.leave_if_asked()
        bench.signal[0] = 15
        context.leave_if_asked()

    bench = make_bench(tmp_path, {Step.PREP_DEST: [toy("a", "a", do)]}, world)
    with pytest.raises(Interrupted) as caught:
        bench.run()
    assert (caught.value.exit_code, caught.value.next_command) == (143, "cellmove resume m1")
    assert EventKind.STEP_FINISHED not in [event.kind for event in bench.events]


# what became of a call


def intended_b(bench: Bench, *, failed: str = "") -> None:
    """An earlier run did a, and announced b (which failed, or is not known of)."""
    bench.journal.done(bench.journal.intend("m1", "prep-dest", "a", {"for": "a"}), {"a": "its id"})
    line = bench.journal.intend("m1", "prep-dest", "b", {"for": "b"})
    if failed:
        bench.journal.failed(line, failed)


def test_a_call_without_a_result_has_an_empty_one(tmp_path: Path, world: World) -> None:
    action = toy("b", "b", lambda _c, _i: None, probe=lambda _c, _i: ProbeResult(ProbeOutcome.NOT_HAPPENED))
    bench = make_bench(tmp_path, {Step.PREP_DEST: [action]}, world)
    bench.run()
    assert [(line.phase, line.result) for line in bench.entries] == [(Phase.DONE, {})]


def test_a_failure_that_an_earlier_run_recorded_is_taken_back_and_not_tried_again(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended_b(bench, failed="the host said no")
    with pytest.raises(RolledBack, match="the host said no"):
        bench.run()
    assert world.calls == ["undo b", "undo a"]


def test_a_failure_that_is_seen_is_recorded(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    intended_b(bench)
    world.findings["b"] = [ProbeResult(ProbeOutcome.FAILED, text="the host said no")]
    with pytest.raises(RolledBack):
        bench.run()
    assert [line.error for line in bench.entries] == ["", "the host said no"]


def test_a_call_that_is_lost_twice_is_told_of(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("no answer"), CallUncertain("no answer")]
    with pytest.raises(RolledBack, match="b was tried twice, got no answer, and did not happen"):
        bench.run()


def test_a_call_that_is_lost_twice_and_not_seen_stops(tmp_path: Path, world: World) -> None:
    bench = a_bench(tmp_path, world)
    world.faults["do b"] = [CallUncertain("no answer"), CallUncertain("no answer")]
    world.findings["b"] = [ProbeResult(ProbeOutcome.NOT_HAPPENED), *[ProbeResult(ProbeOutcome.UNKNOWN)] * 10_000]
    with pytest.raises(Stopped, match="what became of b cannot be told yet"):
        bench.run()
    assert world.calls.count("do b") == 2
    assert bench.phases()["b"] == "intent"


def test_after_the_pivot_a_failed_call_is_sent_again_only_when_it_is_seen_to_have_failed(
    tmp_path: Path, world: World
) -> None:
    bench = a_bench(tmp_path, world, pivot=Pivot.WHEN_BEGUN)
    intended_b(bench, failed="no")
    world.findings["b"] = [ProbeResult(ProbeOutcome.UNKNOWN)] * 10_000
    with pytest.raises(Stopped):
        bench.run()
    assert set(world.calls) == {"probe b"}
    world.findings["b"] = [ProbeResult(ProbeOutcome.FAILED)]
    bench.run()
    assert world.calls[-2:] == ["do b", "do c"]
