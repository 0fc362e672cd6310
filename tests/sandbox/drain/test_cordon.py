"""The cordon of a cell during its drain. Services that were disabled before stay disabled."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from cellmove.core.move import State
from tests.support.sandbox.drained_cell import SOURCE, Drained, wait_until

ACTIONS = ("disable/c1-host1", "disable/c1-host2", "disable-cell")
THEIRS = {"disabled": 1, "disabled_reason": "broken fan"}


def services(cell: Drained) -> dict[str, tuple[int, str | None]]:
    """Whether each host's nova-compute is disabled, and why."""
    cloud = cell.process.cloud()
    rows = [row for name in ("cell1", "cell2") for row in cloud.rows(name, "services", binary="nova-compute")]
    return {row["host"]: (int(row["disabled"] or 0), row["disabled_reason"]) for row in rows}


def is_closed(cell: Drained) -> bool:
    """Whether the cell is disabled for scheduling."""
    row = cell.process.cloud().row("api", "cell_mappings", name="cell1") or {}
    return bool(row["disabled"])


def everything(cell: Drained) -> tuple[Any, ...]:
    return services(cell), is_closed(cell)


def test_services_and_cell_are_closed_with_our_reason_and_stay_so_when_it_is_empty(cell: Drained) -> None:
    cell.add("one")
    cell.drain()
    (record,) = cell.journal.drains()
    reason = f"cellmove {record.id}: cell1 ({SOURCE}) is being emptied"
    assert services(cell) == {
        "c1-host1": (1, reason), "c1-host2": (1, reason), "c2-host1": (0, None), "c2-host2": (0, None),
    }  # fmt: skip
    assert is_closed(cell)
    assert record.state is State.DRAINED
    assert [entry.action for entry in cell.journal.entries_of(record.id)] == list(ACTIONS)
    cell.judge("one")


def test_what_somebody_else_has_disabled_is_not_touched_and_abort_restores_the_rest(cell: Drained) -> None:
    cell.add("one", "two")
    cell.process.cloud().update("cell1", "services", THEIRS, host="c1-host2")
    before = everything(cell)
    cell.drain("--limit", "1", expect=9)
    assert services(cell)["c1-host2"] == (1, "broken fan")
    assert services(cell)["c1-host1"][0] == 1
    said = cell.cellmove("drain", "abort", "cell1", "-f", "json").json
    assert said["state"] == "rolled-back"
    assert everything(cell) == before
    assert len(cell.moved) == 1, "what is moved stays moved"
    cell.judge(*cell.moved)
    cell.judge(*(cell.servers.keys() - cell.moved), cell="cell1")


def test_a_cell_that_was_closed_before_stays_so(cell: Drained) -> None:
    cell.add("one", "two")
    cell.process.cloud().update("api", "cell_mappings", {"disabled": 1}, name="cell1")
    before = everything(cell)
    cell.drain("--limit", "1", expect=9)
    cell.drain("--abort")
    assert everything(cell) == before
    assert is_closed(cell)


def test_a_service_that_somebody_has_disabled_anew_meanwhile_stays_so(cell: Drained) -> None:
    cell.add("one", "two")
    cell.drain("--limit", "1", expect=9)
    cell.process.cloud().update("cell1", "services", THEIRS, host="c1-host2")
    cell.drain("--abort")
    assert services(cell)["c1-host1"] == (0, None)
    assert services(cell)["c1-host2"] == (1, "broken fan")


def test_without_a_cordon_nothing_is_closed(cell: Drained) -> None:
    cell.add("one")
    before = everything(cell)
    cell.drain("--no-cordon")
    assert everything(cell) == before
    assert cell.moved == {"one"}


def test_an_older_journal_does_not_open_a_cell_that_another_drain_has_closed(cell: Drained) -> None:
    cell.add("one", "two", "three")
    cell.drain("--limit", "1", expect=9)
    older = cell.folder / "older.db"
    shutil.copy(cell.folder / "journal.db", older)
    cell.cellmove("drain", "abort", "cell1")
    cell.drain("--limit", "1", expect=9)
    before = everything(cell)
    aborted = cell.cellmove("drain", "abort", "cell1", env={"CELLMOVE_JOURNAL": str(older)})
    assert "cell1 stays disabled for scheduling: another drain empties it" in aborted.stdout + aborted.stderr
    assert everything(cell) == before
    cell.cellmove("drain", "abort", "cell1")
    assert everything(cell) == (dict.fromkeys(services(cell), (0, None)), False)


def test_a_later_run_closes_what_an_earlier_one_left_open_and_abort_opens_it_again(cell: Drained) -> None:
    cell.add("one", "two", "three")
    before = everything(cell)
    cell.drain("--no-cordon", "--limit", "1", expect=9)
    assert everything(cell) == before
    cell.drain("--limit", "1", expect=9)
    assert is_closed(cell)
    assert services(cell)["c1-host1"][0] == services(cell)["c1-host2"][0] == 1
    cell.drain("--no-cordon", "--exclude", "name=*", expect=8)
    assert is_closed(cell), "what is closed stays so"
    (record,) = cell.journal.drains()
    assert [entry.action for entry in cell.journal.entries_of(record.id)] == list(ACTIONS)
    assert cell.status()["counts"]["moved"] == 2, "it is the same drain"
    cell.cellmove("drain", "abort")
    assert everything(cell) == before


def test_nothing_is_closed_when_nothing_can_be_moved_and_all_is_closed_once_something_can(cell: Drained) -> None:
    (one,) = cell.add("one")
    cell.process.control("lock", server=one.id)
    before = everything(cell)
    said = cell.drain(expect=8)
    assert "--force-locked" in said.stderr
    assert everything(cell) == before
    cell.drain("--force-locked")
    assert is_closed(cell)
    assert services(cell)["c1-host1"][0] == 1


@pytest.mark.parametrize("point", ["after-intent", "after-effect", "after-done"])
def test_killed_anywhere_in_it_the_same_command_goes_on_and_abort_takes_it_back(cell: Drained, point: str) -> None:
    cell.add("one")
    cell.process.cloud().update("cell1", "services", THEIRS, host="c1-host2")
    before = everything(cell)
    for action in (*(each for each in ACTIONS if "host2" not in each),):
        cell.killed(f"cordon:{action}:{point}")
        assert cell.moved == set()
        cell.drain("--abort")
        assert everything(cell) == before
    cell.killed(f"cordon:disable-cell:{point}")
    cell.drain()
    assert is_closed(cell)
    first, second, third = cell.journal.drains()
    assert [first.state, second.state, third.state] == [State.ROLLED_BACK, State.ROLLED_BACK, State.DRAINED]
    assert services(cell)["c1-host1"] == (1, f"cellmove {third.id}: cell1 ({SOURCE}) is being emptied")
    assert services(cell)["c1-host2"] == (1, "broken fan")


def test_a_drain_that_is_being_taken_back_does_not_go_on(cell: Drained) -> None:
    cell.add("one", "two")
    before = everything(cell)
    cell.killed("cordon:disable-cell:after-done")
    journal = cell.journal
    (record,) = (each for each in journal.drains() if each.is_open)
    journal.set_state(record.id, State.ROLLING_BACK)
    refused = cell.drain(expect=5)
    assert f"{record.id} is being aborted" in refused.stderr
    assert f"next: cellmove drain abort {SOURCE}" in refused.stderr
    assert cell.moved == set()
    assert cell.cellmove("drain", "abort", "-f", "json").json["state"] == "rolled-back"
    assert everything(cell) == before
    cell.drain()
    assert cell.moved == {"one", "two"}


def test_abort_from_another_terminal_while_a_run_works(cell: Drained) -> None:
    cell.add("one", "two", "three")
    before = everything(cell)
    cell.pace(0.15)
    run = cell.begin()
    wait_until(
        lambda: (cell.folder / "journal.db").exists() and cell.journal.drains() and cell.status(None)["under_way"],
        "something is under way",
    )
    said = cell.cellmove("drain", "abort", "cell1", "-f", "json").json
    assert (said["control"], said["state"]) == ("abort", "draining"), "the run at work opens the cell"
    assert run.end() == 9
    assert len(cell.moved) == 1
    assert everything(cell) == before
    (record,) = cell.journal.drains()
    assert record.state is State.ROLLED_BACK
    cell.pace(0)
    cell.judge(*cell.moved)
    assert (
        "cell1: starting no more servers: cellmove drain abort. Moves in progress are completed" in run.err.read_text()
    )
    again = cell.cellmove("drain", "abort", "cell1", "-f", "json").json
    assert again["state"] == "rolled-back", "once more changes nothing"


def test_a_run_that_was_killed_does_not_keep_an_abort_waiting(cell: Drained) -> None:
    cell.add("one")
    before = everything(cell)
    cell.killed("prep-dest:claim:after-intent")
    found = cell.status()
    assert (found["runs"], found["next"]) == ([], f"cellmove drain-cell {SOURCE}"), (
        "its lease has a minute to go, but it is gone"
    )
    move = cell.move("one")
    aborted = cell.drain("--abort", "-f", "json", expect=3)
    assert (aborted.json["state"], aborted.json["next"]) == ("rolled-back", f"cellmove resume {move.id}")
    assert "cell1 is uncordoned, but the move of one is incomplete" in aborted.stderr
    assert f"next: cellmove resume {move.id}" in aborted.stderr
    assert everything(cell) == before
    assert cell.status()["next"] == f"cellmove resume {move.id}"
    cell.cellmove("resume", move.id)
    assert cell.status()["next"] == f"cellmove confirm {move.id}"
    cell.cellmove("confirm", move.id)
    assert cell.status()["next"] is None
    cell.drain("--abort")


def test_what_was_emptied_stays_closed_and_a_new_drain_of_it_may_open_it(cell: Drained) -> None:
    cell.add("one")
    before = everything(cell)
    cell.drain()
    closed = everything(cell)
    refused = cell.cellmove("drain", "abort", expect=5)
    for command in ("openstack compute service set --enable c1-host1 nova-compute", "nova-manage cell_v2 update_cell"):
        assert command in refused.stderr
    assert everything(cell) == closed
    cell.add("two", "three")
    cell.drain("--limit", "1", expect=9)
    assert {disabled for disabled, _reason in services(cell).values()} == {0, 1}
    cell.cellmove("drain", "abort")
    assert everything(cell) == before


def test_an_abort_that_a_run_has_not_heard_yet_is_not_taken_back(cell: Drained) -> None:
    cell.add("one", "two")
    cell.pace(0.3)
    run = cell.begin()
    wait_until(lambda: cell.journal.drains() and cell.status()["under_way"], "one is under way")
    cell.cellmove("drain", "abort")
    for verb in ("pause", "resume"):
        assert "cell1 is being aborted" in cell.cellmove("drain", verb, expect=5).stderr
    assert run.end(60) == 9
    assert f"next: cellmove drain status {SOURCE}" in run.err.read_text()
    assert not is_closed(cell)


def test_a_cordon_that_fails_is_taken_back(cell: Drained) -> None:
    cell.add("one")
    before = everything(cell)
    cell.process.cloud().update("cell1", "services", THEIRS, host="c1-host1")
    cell.broken(**{"PUT /compute/v2.1/os-services": 403})
    failed = cell.drain("--parallel", "2", expect=1)
    assert f"next: cellmove drain-cell {SOURCE} --parallel 2" in failed.stderr
    assert "the changes of this run to the services of cell1 were rolled back" in failed.stderr
    cell.broken()
    assert everything(cell)[1] == before[1]
    assert services(cell)["c1-host2"] == (0, None)
    assert cell.moved == set()
    cell.drain()


def test_a_cordon_that_cannot_be_taken_back_says_how_to_go_on(cell: Drained) -> None:
    cell.add("one", "two")
    before = everything(cell)
    cell.drain("--limit", "1", expect=9)
    cell.broken(**{"PUT /compute/v2.1/os-services": 403})
    stuck = cell.drain("--abort", expect=7)
    assert f"next: cellmove drain abort {SOURCE}" in stuck.stderr
    cell.broken(**{"PUT /compute/v2.1/os-services": 504})
    assert f"next: cellmove drain abort {SOURCE}" in cell.drain("--abort", expect=3).stderr
    cell.broken()
    cell.drain("--abort")
    assert everything(cell) == before
