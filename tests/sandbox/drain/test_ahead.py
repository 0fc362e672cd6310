"""Servers that are prepared while others are cut over: ``--ahead``, told from the cloud's history and the journal's times."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cellmove.core.move import State, is_held
from tests.support.sandbox.drained_cell import (
    Drained,
    clock,
    err,
    most_at_once,
    most_in_calls,
    until_called,
    wait_until,
)

CUTOVER = ("prep-source", "finish", "confirm")
AHEAD = ("--parallel", "1", "--ahead", "2")


@pytest.fixture
def slow(cell: Drained) -> Iterator[Drained]:
    """Four servers, and computes that take their time."""
    cell.add("a", "b", "c", "d", volume_backed=True)
    cell.pace(0.1)
    yield cell
    cell.pace(0)
    cell.judge(*cell.moved)
    cell.judge(*(cell.servers.keys() - cell.moved), cell="cell1")


def stopped(cell: Drained) -> int:
    """How many guests were down, or not yet confirmed, at once."""
    return most_in_calls(cell.history, lambda call: "at_dest" not in call["method"] or "finish" in call["method"])


@pytest.mark.parametrize(("parallel", "ahead"), [(1, 2), (2, 1)])
def test_so_many_are_prepared_and_so_many_cut_over(slow: Drained, parallel: int, ahead: int) -> None:
    slow.drain("--parallel", str(parallel), "--ahead", str(ahead))
    assert slow.moved == slow.servers.keys()
    assert most_at_once(slow.spans().values()) == parallel + ahead
    assert most_at_once(slow.spans(CUTOVER).values()) == parallel
    assert stopped(slow) == parallel
    assert {len(moves) for moves in slow.moves().values()} == {1}


def test_when_nothing_is_begun_any_more_those_that_wait_are_taken_back(slow: Drained) -> None:
    """Their guests ran all the time; the next run begins with them anew."""
    run = slow.begin(*AHEAD, "--until", clock(60))
    until_called(slow, "call done", "prep_snapshot_based_resize_at_dest", 3)
    (slow.folder / "late").touch()
    assert run.end() == 9
    back = {name for name, moves in slow.moves().items() if moves[-1][0].state is State.ROLLED_BACK}
    assert back
    assert slow.moved | back <= slow.servers.keys()
    assert slow.moved & back == set()
    assert "was rolled back before its guest was stopped" in err(run)
    taken = {slow.servers[name].id for name in back}
    stops = [each for each in slow.history if each["what"] == "call begun" and "at_source" in each["method"]]
    assert [each for each in stops if each["server"] in taken] == []
    (slow.folder / "late").unlink()
    slow.drain(*AHEAD)
    assert slow.moved == slow.servers.keys()


def test_while_it_is_paused_those_that_wait_go_on_waiting(slow: Drained) -> None:
    run = slow.begin(*AHEAD)
    until_called(slow, "call done", "prep_snapshot_based_resize_at_dest", 2)
    slow.cellmove("drain", "pause")
    wait_until(lambda: slow.status()["counts"].get("moved"), "one is through")
    wait_until(lambda: "prepared, waiting for a free place" in err(run), "one says that it waits")
    moved = len(slow.moved)
    assert moved < 4
    slow.cellmove("drain", "resume")
    assert run.end() == 0
    assert slow.moved == slow.servers.keys()


@pytest.mark.parametrize("again", [AHEAD, ()], ids=["again with --ahead", "again without"])
def test_what_was_prepared_when_a_run_died_goes_on_in_the_next(slow: Drained, again: tuple[str, ...]) -> None:
    slow.killed("finish:start_target:after-intent", *AHEAD)
    open_moves = {name for name, moves in slow.moves().items() if moves[-1][0].is_open}
    assert len(open_moves) > 1
    slow.drain(*again)
    assert slow.moved == slow.servers.keys()
    assert stopped(slow) <= 2  # the guest that was down already does not wait for a slot
    assert {len(slow.moves()[name]) for name in open_moves} == {1}


def test_a_signal_leaves_them_prepared(slow: Drained) -> None:
    run = slow.begin(*AHEAD)
    wait_until(lambda: "prepared, waiting for a free place" in err(run), "one says that it waits")
    run.signal(signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM
    states = {moves[-1][0].state for moves in slow.moves().values()}
    assert State.DEST_PREPARED in states
    slow.drain()
    assert slow.moved == slow.servers.keys()


def test_one_that_is_prepared_may_be_finished_by_hand(slow: Drained) -> None:
    run = slow.begin(*AHEAD)
    until_called(slow, "call done", "prep_snapshot_based_resize_at_dest", 2)
    slow.cellmove("drain", "pause")
    wait_until(lambda: "prepared, waiting for a free place" in err(run), "one says that it waits")
    waiting = wait_until(lambda: [name for name, moves in slow.moves().items() if is_held(moves[-1][0])], "one is held")
    slow.cellmove("finish", waiting[0])
    slow.cellmove("drain", "resume")
    assert run.end() == 0
    assert slow.moved == slow.servers.keys()


def test_a_limit_is_of_those_that_begin_and_all_of_them_are_moved(slow: Drained) -> None:
    slow.drain(*AHEAD, "--limit", "2", expect=9)
    assert len(slow.moved) == 2
    assert len(slow.moves()) == 2


def test_one_that_was_being_prepared_when_a_run_died_goes_on_and_is_no_failure(slow: Drained) -> None:
    slow.killed("prep-dest:claim:after-intent", *AHEAD)
    slow.drain(*AHEAD)
    assert slow.moved == slow.servers.keys()
    assert most_at_once(slow.spans(CUTOVER).values()) == 1
    assert {len(moves) for moves in slow.moves().values()} == {1}


def test_what_a_run_with_more_places_left_prepared_waits_its_turn(slow: Drained) -> None:
    slow.killed("prep-dest:claim:after-done", "--parallel", "3")
    slow.drain(*AHEAD)
    assert slow.moved == slow.servers.keys()
    assert most_at_once(slow.spans(CUTOVER).values()) == 1


def test_while_it_is_paused_what_soaks_is_confirmed_when_it_is_due(slow: Drained) -> None:
    run = slow.begin("--parallel", "1", "--ahead", "1", "--soak", "3s")
    wait_until(lambda: slow.moved, "one is over there")
    slow.cellmove("drain", "pause")
    wait_until(lambda: err(run).count("prepared, waiting for a free place") >= 1, "one says that it waits")
    wait_until(lambda: slow.status()["counts"].get("moved"), "the first is confirmed")
    slow.cellmove("drain", "resume")
    assert run.end(120) == 0
    assert slow.moved == slow.servers.keys()
