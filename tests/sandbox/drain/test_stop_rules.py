"""What keeps a drain from beginning with servers: the clock, failures, a file, another terminal. What runs is finished."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cellmove.core.move import State
from tests.support.sandbox.drained_cell import (
    SOURCE,
    Drained,
    clock,
    err,
    most_at_once,
    said,
    seconds,
    today,
    until_called,
    wait_until,
)

PACE = 0.05


@pytest.fixture
def slow(cell: Drained) -> Iterator[Drained]:
    """Three servers, and computes that take their time."""
    cell.add("a", "b", "c", volume_backed=True)
    cell.pace(PACE)
    yield cell
    cell.pace(0)
    cell.judge(*cell.moved)
    cell.judge(*(cell.servers.keys() - cell.moved), cell="cell1")


def first_call(cell: Drained) -> None:
    until_called(cell, "call begun", "prep_snapshot_based_resize_at_dest")


# the clock


def test_outside_of_its_hours_nothing_is_begun_and_nothing_closed(slow: Drained) -> None:
    closed = (
        (("--window", f"{clock(120)}-{clock(180)}"), "the window is "),
        (("--days", today(1)), "--days excludes "),
        (("--window", f"{clock(-60)}-{clock(60)}", "--days", today(3)), ""),
    )
    for options, words in closed:
        stopped = slow.drain(*options, expect=9)
        assert f"3 servers remain in cell1: {words}" in stopped.stderr
        assert slow.journal.drains() == []
    assert slow.moved == set()


def test_a_line_of_a_crontab_that_may_not_move_anything_is_refused_by_day_too(slow: Drained) -> None:
    config = slow.folder / "config.toml"
    config.write_text("")
    refused = slow.drain("--window", f"{clock(120)}-{clock(180)}", expect=5, env={"CELLMOVE_CONFIG": str(config)})
    assert "there is no terminal to ask for consent" in refused.stderr


def test_outside_of_its_hours_the_summary_has_what_earlier_nights_moved(slow: Drained) -> None:
    slow.pace(0)
    slow.drain("--limit", "1", expect=9)
    closed = ("--window", f"{clock(120)}-{clock(180)}")
    stopped = slow.drain(*closed, expect=9)
    assert "2 servers remain in cell1: the window is " in stopped.stderr
    assert "servers  2 waiting, 1 moved\n" in stopped.stdout
    assert next(said(slow.lines(*closed, expect=9), "ended"))["counts"] == {"waiting": 2, "moved": 1}


def test_within_its_hours_all_are_moved(slow: Drained) -> None:
    slow.pace(0)
    hours = ("--window", f"{clock(-120)}-{clock(120)}", "--days", f"{today(-1)}-{today(1)}", "--until", clock(60))
    slow.drain(*hours, "--parallel", "3")
    assert slow.moved == {"a", "b", "c"}


@pytest.mark.parametrize("option", ["--until", "--window"])
def test_when_the_hour_comes_what_runs_is_finished(slow: Drained, option: str) -> None:
    """An hour before the end the command's own clock leaps."""
    run = slow.begin(option, clock(60) if option == "--until" else f"{clock(-60)}-{clock(60)}")
    first_call(slow)
    (slow.folder / "late").touch()
    assert run.end() == 9
    assert slow.moved == {"a"}
    assert slow.move("a").state is State.CONFIRMED
    shown = err(run)
    assert "cell1: starting no more servers: " in shown
    assert ". Moves in progress are completed" in shown
    assert "2 servers remain in cell1: " in shown
    assert f"next: cellmove drain-cell {SOURCE} {option}" in shown


# failures


@pytest.mark.parametrize(
    ("option", "moved", "code"), [((), 1, 9), (("--max-failures", "2"), 2, 8), (("--max-failures", "0"), 2, 8)]
)
def test_so_many_failures_and_nothing_new_is_begun(
    cell: Drained, option: tuple[str, ...], moved: int, code: int
) -> None:
    """The first one fails at once, while the second one is under way: that one is finished."""
    cell.add("a", "b", "c", volume_backed=True)
    cell.pace(PACE)
    bad = {f"{host}:get_host_ip_addr:{cell.servers['a'].id}": "fail" for host in ("c2-host1", "c2-host2")}
    cell.process.control("world", faults=bad)
    ended = cell.drain("--parallel", "2", *option, expect=code)
    assert len(cell.moved) == moved
    assert cell.move("a").state is State.ROLLED_BACK
    assert "a: failed: prep-dest of a failed at claim: " in ended.stderr
    assert f"(next: cellmove migrate {cell.servers['a'].id})" in ended.stderr
    cell.pace(0)
    cell.judge("a", cell="cell1")
    cell.judge(*cell.moved)
    cell.process.control("world", faults={})
    cell.drain("--parallel", "2")
    assert cell.moved == {"a", "b", "c"}


def test_one_that_fails_every_night_does_not_keep_the_others_from_being_moved(cell: Drained) -> None:
    cell.add("a", "b", volume_backed=True)
    bad = {f"{host}:get_host_ip_addr:{cell.servers['a'].id}": "fail" for host in ("c2-host1", "c2-host2")}
    cell.process.control("world", faults=bad)
    cell.drain(expect=9)
    assert cell.moved == set()
    again = cell.drain(expect=8)
    assert "a: failed: prep-dest of a failed at claim: " in again.stderr
    assert cell.moved == {"b"}
    cell.judge("a", cell="cell1")


def test_nonsense_is_a_line_of_json_too(cell: Drained) -> None:
    (line,) = cell.lines("--confirm", "never", "--soak", "1s", expect=2)
    assert (line["event"], line["reason"]) == (
        "error",
        "--soak and --confirm never exclude each other: a soak ends with a confirm",
    )


def test_a_cloud_that_cannot_be_reached_in_the_middle_fails_servers_and_not_the_run(cell: Drained) -> None:
    cell.add("a", "b", "c", volume_backed=True)
    cell.pace(PACE)
    run = cell.begin()
    first_call(cell)
    cell.broken(**{"GET /network/v2.0/ports": 504, "POST /network/v2.0/ports": 504})
    assert run.end() == 9
    cell.broken()
    shown = err(run)
    assert "internal error" not in shown
    (trouble,) = cell.status()["trouble"]
    assert trouble["next"].startswith("cellmove "), trouble
    cell.pace(0)
    cell.drain()
    cell.judge("a", "b", "c")


def test_a_broker_that_is_down_in_the_middle(cell: Drained) -> None:
    cell.add("a", "b", "c", volume_backed=True)
    cell.pace(PACE)
    run = cell.begin("--max-failures", "0")
    first_call(cell)
    cell.process.control("world", deaf=["cell2"])
    assert run.end() == 8
    cell.process.control("world", deaf=[])
    assert {each["stage"] for each in cell.status()["trouble"]} == {"failed"}
    assert all(each["next"] for each in cell.status()["trouble"])
    cell.pace(0)
    cell.drain()
    cell.judge("a", "b", "c")


# a file, another terminal


def test_while_a_file_is_there(slow: Drained) -> None:
    file = slow.folder / "pause"
    run = slow.begin("--pause-file", str(file))
    first_call(slow)
    file.touch()
    wait_until(lambda: slow.moved == {"a"}, "what runs is finished")
    wait_until(lambda: slow.status()["under_way"] == [], "nothing is under way")
    assert run.child.is_alive()
    assert slow.moved == {"a"}
    file.unlink()
    assert run.end() == 0
    assert slow.moved == {"a", "b", "c"}
    shown = err(run)
    assert f"cell1: paused: the file {file} exists. Moves in progress are completed" in shown
    assert "cell1: continued" in shown


def test_pause_and_resume_from_another_terminal(slow: Drained) -> None:
    run = slow.begin()
    first_call(slow)
    assert slow.cellmove("drain", "pause", "cell1", "-f", "json").json["control"] == "pause"
    wait_until(lambda: slow.moved == {"a"} and slow.status()["under_way"] == [], "what runs is finished")
    idle = len(slow.history)
    wait_until(lambda: "paused: cellmove drain pause" in err(run), "it says so")
    assert run.child.is_alive()
    assert slow.status()["control"] == "pause"
    assert "pause requested" in slow.cellmove("drain", "status").stdout
    assert len(slow.history) == idle
    assert slow.cellmove("drain", "resume", "-f", "json").json["control"] is None
    assert run.end() == 0
    assert slow.moved == {"a", "b", "c"}


def test_a_pause_holds_for_the_next_run_too(slow: Drained) -> None:
    slow.pace(0)
    slow.drain("--limit", "1", expect=9)
    slow.cellmove("drain", "pause")
    run = slow.begin()
    wait_until(lambda: "paused" in err(run), "it says so")
    slow.cellmove("drain", "abort")
    assert run.end() == 9
    assert "continued" not in err(run)
    assert slow.moved == {"a"}
    for verb in ("pause", "resume"):
        refused = slow.cellmove("drain", verb, expect=5)
        assert "cell1 is not being drained: drain-" in refused.stderr


def test_servers_that_soak_are_confirmed_although_nothing_new_may_be_begun(slow: Drained) -> None:
    file = slow.folder / "pause"
    run = slow.begin("--soak", "1s", "--pause-file", str(file))
    first_call(slow)
    file.touch()
    wait_until(lambda: slow.status()["counts"]["moved"] == 1, "the first one is confirmed")
    assert slow.move("a").state is State.CONFIRMED
    file.unlink()
    assert run.end() == 0


def test_json_says_why_nothing_is_begun(slow: Drained) -> None:
    slow.pace(0)
    lines = slow.lines("--limit", "1", expect=9)
    (line,) = said(lines, "stopping")
    assert line["reason"] == "--limit 1 reached"
    (end,) = said(lines, "ended")
    assert end["reason"] == "2 servers remain in cell1: --limit 1 reached"
    assert end["next"] == f"cellmove drain-cell {SOURCE} --limit 1"
    assert end["counts"] == {"moved": 1, "waiting": 2}
    assert end["ending"] is None
    (closed,) = slow.lines("--days", today(1), expect=9)
    assert (closed["event"], closed["counts"]) == ("ended", {"moved": 1, "waiting": 2})
    assert seconds(closed["at"]) > seconds(end["at"])
    assert most_at_once(slow.spans().values()) == 1
