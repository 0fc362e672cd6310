"""The same command goes on: tomorrow, after SIGKILL at any moment, and after what people did to its servers meanwhile."""

from __future__ import annotations

import pytest

from cellmove.core.move import State
from cellmove.drain.options import SKIP_TAG
from tests.support.sandbox.drained_cell import SOURCE, Drained, said, today, until_called
from tests.support.sandbox.running import begin, files_of

IN_A_MOVE = (
    "prep-dest:take_server:before-intent",
    "prep-dest:schedule:after-effect",
    "prep-dest:claim:after-intent",
    "prep-source:stop_source:after-intent",
    "prep-source:stop_source:after-done",
    "finish:start_target:after-effect",
    "finish:switch_mapping:after-intent",
    "finish:close:after-done",
    "confirm:begin_confirm:after-done",
    "confirm:settle_target:after-effect",
)

IN_THE_DRAIN = (
    "cellmove.engine.journal:Journal.open_move:after",
    "cellmove.drain.queue:Queue.prepare:before",
    "cellmove.drain.queue:Queue.prepare:after",
    "cellmove.drain.queue:Queue.synchronise:before",
    "cellmove.drain.queue:Queue.synchronise:after",
    "cellmove.drain.queue:Queue.take:after",
    "cellmove.drain.queue:Queue.set_move:before",
    "cellmove.engine.journal:Journal.set_goal:before",
    "cellmove.drain.queue:Queue.put:before",
    "cellmove.drain.queue:Queue.put:after",
    "cellmove.drain.queue:Queue.release:before",
)


@pytest.mark.parametrize("points", [IN_A_MOVE, IN_THE_DRAIN], ids=["in a move", "in the drain"])
def test_killed_anywhere_and_again_and_again(cell: Drained, points: tuple[str, ...]) -> None:
    """A server more for each death; whatever an earlier run left is brought to its end by the next one."""
    for number, point in enumerate(points):
        cell.add(f"s{number}", volume_backed=bool(number % 2), volumes=1)
        cell.killed(point, "--max-failures", "1")
    cell.drain("--max-failures", "1")
    cell.judge(*cell.servers)
    assert cell.moved == cell.servers.keys()
    assert {move.state for many in cell.moves().values() for move, _ in many} <= {State.CONFIRMED, State.ROLLED_BACK}
    assert cell.status()["counts"]["failed"] == 0
    silent(cell)


def silent(cell: Drained) -> None:
    """Nothing is left: not a word, not a write."""
    before, effects = files_of(cell.folder), len(cell.history)
    for form in ((), ("-f", "json"), ("-f", "value")):
        again = cell.drain(*form)
        assert (again.stdout, again.stderr) == ("", "")
    assert files_of(cell.folder) == before
    assert len(cell.history) == effects


def test_tomorrow_it_is_the_same_drain(cell: Drained) -> None:
    cell.add("a", "b")
    cell.drain("--limit", "1", expect=9)
    cell.add("c")
    cell.drain("--limit", "1", expect=9)
    assert len(cell.moved) == 2
    cell.drain()
    assert len(cell.journal.drains()) == 1
    assert cell.status()["counts"]["moved"] == 3
    cell.judge("a", "b", "c")
    silent(cell)
    cell.add("late")
    cell.drain()
    assert len(cell.journal.drains()) == 2, "that one was through"


def test_what_was_skipped_or_refused_is_looked_at_anew_every_time(cell: Drained) -> None:
    (kept, locked) = cell.add("kept", "locked")
    cloud = cell.process.cloud()
    cloud.insert("cell1", "tags", {"resource_id": kept.id, "tag": SKIP_TAG})
    cell.process.control("lock", server=locked.id)
    cell.add("free")
    shown = cell.drain(expect=8)
    assert cell.moved == {"free"}
    assert "2 servers were not moved from cell1" in shown.stderr
    assert f"kept: skipped: it has the tag {SKIP_TAG}" in shown.stderr
    assert "locked: refused: " in shown.stderr
    cell.drain(expect=8)
    cloud.delete("cell1", "tags", resource_id=kept.id, tag=SKIP_TAG)
    cloud.update("cell1", "instances", {"locked": 0, "locked_by": None}, uuid=locked.id)
    cell.drain()
    assert cell.moved == {"kept", "locked", "free"}
    silent(cell)


def test_what_is_unfinished_is_finished_first_whatever_the_hour(cell: Drained) -> None:
    cell.add("a", "b")
    cell.killed("prep-source:stop_source:after-done")
    assert cell.moved == set()
    stopped = cell.drain("--days", today(1), expect=9)
    assert "1 server remains in cell1: --days excludes " in stopped.stderr
    assert cell.moved == {"a"}
    cell.judge("a")
    assert "b" not in cell.moves()


def test_a_server_whose_move_a_person_has_taken_back_is_tried_again(cell: Drained) -> None:
    cell.add("a", "b")
    cell.killed("prep-source:stop_source:after-done")
    cell.cellmove("rollback", "a")
    cell.judge("a", cell="cell1")
    lines = cell.lines()
    assert list(said(lines, "server-failed")) == []
    cell.judge("a", "b")
    assert [move.state for move, _ in cell.moves()["a"]] == [State.ROLLED_BACK, State.CONFIRMED]


def test_a_server_that_a_person_has_moved_on_is_only_confirmed(cell: Drained) -> None:
    cell.add("a", "b")
    cell.killed("prep-source:stop_source:after-done")
    cell.cellmove("resume", "a")
    cell.judge("a", status="VERIFY_RESIZE")
    cell.drain()
    cell.judge("a", "b")
    assert len(cell.moves()["a"]) == 1


def test_a_confirm_that_failed_half_way_is_finished_by_the_next_run(cell: Drained) -> None:
    cell.add("a")
    cell.process.control("world", faults={"c1-host1:cleanup": "fail"})
    failed = cell.drain(expect=8)
    move = cell.move("a")
    assert cell.moved == {"a"}
    assert f"next: cellmove resume {move.id}" in failed.stderr
    assert "state: the move of a is incomplete" in failed.stderr
    assert cell.drain(expect=8).stderr != ""
    assert len(cell.journal.drains()) == 1
    cell.process.control("world", faults={})
    cell.drain()
    cell.judge("a")
    silent(cell)


def test_a_person_who_walks_a_move_is_not_disturbed(cell: Drained) -> None:
    cell.add("mine", "b")
    cell.cellmove("plan", "mine", "--host", "c2-host2")
    cell.cellmove("prep-dest", "mine")
    shown = cell.drain(expect=8)
    assert cell.moved == {"b"}
    assert (
        f"mine: skipped: {cell.move('mine').id} was started outside of this drain and is dest-prepared" in shown.stderr
    )
    assert f"next: cellmove prep-source {cell.move('mine').id}" in shown.stderr
    cell.cellmove("rollback", "mine")
    cell.drain()
    cell.judge("mine", "b")


def test_a_server_that_another_command_works_on_is_waited_for(cell: Drained) -> None:
    cell.add("a", "b")
    cell.pace(0.4)  # long enough for a run to begin on a busy machine
    other = begin(cell, "migrate", "a", "--host", "c2-host2")
    until_called(cell, "call begun", "prep_snapshot_based_resize_at_source")
    run = cell.begin()
    assert other.end() == 0
    assert run.end() == 8
    cell.pace(0)
    assert cell.moved == {"a", "b"}
    cell.judge("b")
    cell.judge("a", status="VERIFY_RESIZE")
    assert cell.where("a") == "c2-host2", "it is not ours to confirm"
    assert "a: waiting again: another run of cellmove is working on a" in run.err.read_text()


def test_another_run_of_the_same_drain_is_turned_away_in_one_line(cell: Drained) -> None:
    cell.add("a", "b")
    cell.pace(0.1)
    run = cell.begin()
    until_called(cell, "call begun", "prep_snapshot_based_resize_at_dest")
    other = cell.drain("--parallel", "2", expect=6)
    assert other.stdout == ""
    assert other.stderr.splitlines() == [
        f"another run is draining cell1; this run touched nothing; next: cellmove drain status {SOURCE}"
    ]
    (line,) = cell.lines(expect=6)
    assert (line["event"], line["next"]) == ("error", f"cellmove drain status {SOURCE}")
    cell.pace(0)
    assert run.end() == 0
    cell.judge("a", "b")


def test_after_a_kill_nobody_is_waited_for(cell: Drained) -> None:
    """The dead run's lease has a minute to go; its lock went with it."""
    cell.add("a")
    cell.pace(0.1)
    run = cell.begin()
    until_called(cell, "call begun", "prep_snapshot_based_resize_at_source")
    run.child.kill()
    run.child.join(10)
    cell.pace(0)
    cell.drain()
    cell.judge("a")
    assert len(cell.moves()["a"]) == 1
