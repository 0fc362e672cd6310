"""A drain that is interrupted: no guest is left off, nothing new is begun, and the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.sandbox.drained_cell import SOURCE, Drained, err, parsed, until_called, wait_until
from tests.support.sandbox.running import Begun
from tests.support.sandbox.terminal import at_a_terminal

PACE = 0.1
OPTIONS = ("--parallel", "2")


@pytest.fixture
def slow(cell: Drained) -> Iterator[Drained]:
    """Three servers, and computes that take their time."""
    cell.add("a", "b", "c", volumes=1)
    cell.pace(PACE)
    yield cell
    cell.pace(0)
    for name in cell.servers:
        assert cell.where(name), "its guest runs"
    cell.drain(*OPTIONS)
    cell.judge("a", "b", "c")
    assert len(cell.journal.drains()) == 1


def interrupt(cell: Drained, run: Begun, number: int) -> str:
    """Send a signal, and see to it that all guests run when the command has ended."""
    run.signal(number)
    assert run.end() == 128 + number
    for name in cell.servers:
        assert cell.where(name)
    shown = err(run)
    assert "Finishing the current action" in shown
    assert shown.splitlines()[-1].startswith(f"next: cellmove drain-cell {SOURCE}")
    return shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_guest_that_is_down_is_started_at_the_target_first(slow: Drained, number: int) -> None:
    run = slow.begin(*OPTIONS)
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_source", 2)
    shown = interrupt(slow, run, number)
    assert shown.splitlines()[-1] == f"next: cellmove drain-cell {SOURCE} --parallel 2"
    assert "interrupted; no guest was left down" in shown
    assert slow.moved == {"a", "b"}
    assert "c" not in slow.moves(), "nothing new is begun"
    steps = {name: {entry.step for entry in slow.moves()[name][-1][1]} for name in ("a", "b")}
    assert not any("confirm" in each for each in steps.values())


def test_a_move_stops_after_the_action_in_hand_while_its_guest_still_runs(slow: Drained) -> None:
    run = slow.begin(*OPTIONS)
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_dest", 2)
    interrupt(slow, run, signal.SIGINT)
    assert slow.moved == set()
    for name in ("a", "b"):
        assert slow.where(name) == "c1-host1"
        (_, entries) = slow.moves()[name][-1]
        assert {entry.step for entry in entries} == {"prep-dest"}
        assert entries[-1].action == "claim"
        assert entries[-1].phase == "done"
    assert "c" not in slow.moves()


def test_one_that_is_taken_back_is_taken_back_to_its_end(slow: Drained) -> None:
    """The guest could not be started at the target: it is started at its source before the run ends."""
    slow.process.control("world", faults={"c2-host1:spawn": "fail", "c2-host2:spawn": "fail"})
    run = slow.begin()
    until_called(slow, "call failed", "finish_snapshot_based_resize_at_dest")
    run.signal(signal.SIGTERM)
    assert run.end() == 143
    assert slow.where("a") == "c1-host1"
    slow.process.control("world", faults={})


def test_while_it_waits(slow: Drained) -> None:
    slow.pace(0)
    slow.drain("--limit", "1", expect=9)
    slow.cellmove("drain", "pause")
    run = slow.begin()
    wait_until(lambda: "paused" in err(run), "it waits")
    interrupt(slow, run, signal.SIGINT)
    assert slow.moved == {"a"}
    slow.cellmove("drain", "resume")


def test_an_orphan_whose_guest_is_down_is_started_before_the_interrupt_is_heeded(slow: Drained) -> None:
    slow.pace(0)
    slow.killed("prep-source:stop_source:after-done")
    slow.pace(PACE)
    run = slow.begin()
    until_called(slow, "call begun", "finish_snapshot_based_resize_at_dest")
    interrupt(slow, run, signal.SIGINT)
    assert slow.moved == {"a"}


def test_the_second_signal_ends_it_at_once(slow: Drained) -> None:
    run = slow.begin()
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_source")
    run.signal(signal.SIGINT)
    wait_until(lambda: "Press Ctrl-C again" in err(run), "the first one is heard")
    assert run.child.is_alive()
    run.signal(signal.SIGTERM)
    assert run.end(5) == 143
    assert "Aborted. The journal records where the move stopped." in err(run)
    wait_until(lambda: calls_are_over(slow), "the compute goes on alone")
    slow.pace(0)
    slow.drain(*OPTIONS)


def calls_are_over(cell: Drained) -> bool:
    ended = [each["what"] for each in cell.history if each["what"].startswith("call ")]
    return ended.count("call begun") == ended.count("call done") + ended.count("call failed")


def test_json_has_a_line_about_it(slow: Drained) -> None:
    run = slow.begin("-f", "json")
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_dest")
    run.signal(signal.SIGINT)
    assert run.end() == 130
    last = parsed(run.out.read_text())[-1]
    assert (last["event"], last["next"]) == ("error", f"cellmove drain-cell {SOURCE}")


# consent


def test_nothing_moves_unattended_before_it_is_switched_on(cell: Drained) -> None:
    cell.add("a")
    config = cell.folder / "config.toml"
    config.write_text("")
    off = {"CELLMOVE_CONFIG": str(config)}
    for more in ((), ("--yes",)):
        refused = cell.drain("--parallel", "2", *more, expect=5, env=off)
        assert "unattended = true" in refused.stderr
        assert refused.stderr.splitlines()[-1] == f"next: cellmove drain-cell {SOURCE} --parallel 2"
        assert cell.journal.drains() == []
    assert not [each for each in cell.history if each["what"].startswith("call")]
    assert cell.drain("--dry-run", env=off).stdout


def test_a_person_is_asked_once_a_run(cell: Drained) -> None:
    cell.add("a", "b")
    config = cell.folder / "config.toml"
    config.write_text("")
    off = {"CELLMOVE_CONFIG": str(config)}
    code, shown = at_a_terminal(cell, off, "n", "drain-cell", "cell1")
    assert code == 5, shown
    assert "2 of 2 servers move from cell1 to cell2, 1 at a time" in shown.replace("\r\n", " ")
    assert cell.journal.drains() == []
    code, shown = at_a_terminal(cell, off, "y", "drain-cell", "cell1", "--parallel", "2")
    assert code == 0, shown
    assert shown.count("[y/N]") == 1
    cell.judge("a", "b")
    cell.add("c")
    code, shown = at_a_terminal(cell, off, "", "drain-cell", "cell1", "--yes")
    assert (code, "[y/N]" in shown) == (0, False), shown
    assert cell.moved == {"a", "b", "c"}
