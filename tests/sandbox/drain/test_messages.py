"""What an operator reads of a drain: results, and what is to be typed next."""

from __future__ import annotations

import subprocess
import sys

from tests.support.sandbox.drained_cell import SOURCE, TARGET, Drained, wait_until
from tests.support.sandbox.running import files_of


def test_bare_values_are_a_line_for_each_server_or_for_each_stage(cell: Drained) -> None:
    (one,), (two,) = cell.add("one"), cell.add("two")
    cell.process.control("lock", server=two.id)
    assert cell.drain("--dry-run", "-f", "value").stdout == f"{one.id}\tmovable\t-\n{two.id}\trefused\tlocked\n"
    assert cell.drain("-f", "value", expect=8).stdout == "moved\t1\nrefused\t1\n"
    assert cell.cellmove("drain", "status", "-f", "value").stdout == "moved\t1\nrefused\t1\n"
    shown = cell.cellmove("drain", "report", "-f", "value").stdout
    assert shown == f"{one.id}\tmoved\t{cell.move('one').id}\n{two.id}\trefused\t-\n"


def test_each_line_says_what_begins_and_where_to(cell: Drained) -> None:
    cell.add("one")
    lines = [line for line in cell.lines("--soak", "1s") if line["server"]]
    assert [(line["event"], line["step"]) for line in lines] == [
        ("server-begun", None), ("step", "prep-dest"), ("step", "prep-source"), ("step", "finish"),
        ("server-soaking", None), ("server-confirming", None), ("step", "confirm"), ("server-moved", None),
    ]  # fmt: skip
    assert {line["target_host"] for line in lines[1:]} == {cell.where("one")}


def test_what_to_type_next_is_said_by_status(cell: Drained) -> None:
    cell.add("one", "two", "three")
    cell.drain("--limit", "1", expect=9)
    assert cell.status()["next"] == f"cellmove drain-cell {SOURCE} --limit 1"
    cell.drain("--limit", "1", "--parallel", "2", expect=9)
    assert cell.status()["next"] == f"cellmove drain-cell {SOURCE} --limit 1 --parallel 2"
    shown = cell.cellmove("drain", "pause").stdout
    assert "pause requested" in shown
    assert f"next     cellmove drain resume {SOURCE}" in shown
    cell.cellmove("drain", "resume")
    cell.drain()
    assert cell.status()["next"] is None


def test_a_server_that_leaves_between_two_runs_is_told_of(cell: Drained) -> None:
    (one,), (two,) = cell.add("one"), cell.add("two")
    cell.add("three")
    cell.drain("--limit", "1", expect=9)
    (gone,) = (each for each in (one, two) if each.name not in cell.moved)
    cell.process.control("delete", server=gone.id)
    again = cell.drain()
    assert (
        f"{gone.name}: gone: the server has left the cell: it was deleted, or moved outside of this drain"
        in again.stderr
    )
    assert cell.status()["counts"]["gone"] == 1
    assert "3: 2 moved, 1 gone" in cell.cellmove("drain", "report").stdout


def test_the_last_one_that_leaves_is_told_of(cell: Drained) -> None:
    cell.add("one")
    (two,) = cell.add("two")
    cell.drain("--exclude", "name=two", expect=8)
    cell.process.control("delete", server=two.id)
    assert "1 moved, 1 gone" in cell.drain().stdout


def test_an_aborted_drain_is_called_so(cell: Drained) -> None:
    cell.add("one", "two")
    cell.drain("--limit", "1", expect=9)
    ended = cell.cellmove("drain", "abort")
    assert "state    aborted\n" in ended.stdout
    assert "nova-scheduler" in ended.stderr, "it has to read again which cells are disabled"
    assert "state    aborted\n" in cell.cellmove("drain", "report").stdout
    refused = cell.cellmove("drain", "pause", expect=5).stderr
    assert "is aborted" in refused
    assert f"next: cellmove drain-cell {SOURCE} --dry-run" in refused


def test_a_run_that_is_aborted_says_when_the_cell_is_open_again(cell: Drained) -> None:
    cell.add("one", "two", "three")
    cell.pace(0.2)
    run = cell.begin()
    wait_until(lambda: cell.journal.drains() and cell.status()["under_way"], "it is at work")
    cell.cellmove("drain", "abort")
    assert run.end() == 9
    assert "cell1 is open to new servers again" in run.err.read_text()


def test_of_an_empty_cell_cron_hears_nothing(cell: Drained) -> None:
    cell.add("one")
    assert "the cell can be deleted. Type, in this order:" in cell.drain().stdout
    for more in ((), ("-f", "json")):
        again = cell.drain(*more)
        assert again.stdout + again.stderr == ""


def test_what_failed_is_tried_again_with_the_cells_of_the_drain(cell: Drained) -> None:
    (bad,), (locked,) = cell.add("bad"), cell.add("locked")
    cell.process.control("lock", server=locked.id)
    faults = {f"{host}:get_host_ip_addr:{bad.id}": "fail" for host in ("c2-host1", "c2-host2")}
    cell.process.control("world", faults=faults)
    cell.drain("--to", "cell2", expect=8)
    found = {each["server"]["name"]: each["next"] for each in cell.status()["trouble"]}
    assert found == {
        "bad": f"cellmove migrate {bad.id} --cell {TARGET}",
        "locked": f"cellmove plan {locked.id} --cell {TARGET} --dry-run",
    }
    cell.process.control("world", faults={})
    cell.cellmove(*found["bad"].split()[1:])
    assert cell.moved == {"bad"}


def test_cron_reads_of_a_failure_once_in_the_end(cell: Drained) -> None:
    """It mails stdout and stderr in one; where they go apart each of them has all of it."""
    (locked,) = cell.add("locked")
    cell.process.control("lock", server=locked.id)
    command = [sys.executable, "-m", "cellmove", "drain-cell", "cell1"]
    mailed = subprocess.run(
        command, env=cell.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert mailed.returncode == 8
    assert mailed.stdout.count("the server is locked by its owner") == 1, mailed.stdout
    assert "1 server was not moved from cell1" in mailed.stdout
    apart = cell.drain(expect=8)
    assert "the server is locked by its owner" in apart.stdout
    assert "locked: refused: the server is locked by its owner" in apart.stderr


def test_looking_at_a_drain_writes_nothing(cell: Drained) -> None:
    cell.add("one", "two")
    cell.drain("--limit", "1", expect=9)
    files = files_of(cell.folder)
    for words in (("status",), ("status", "-f", "json"), ("report",)):
        cell.cellmove("drain", *words)
    after = files_of(cell.folder)
    assert {name: after[name] for name in files} == files
