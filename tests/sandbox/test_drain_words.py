"""What an operator reads of a drain: results, and what is to be typed next."""

from __future__ import annotations

from tests.sandbox.drains import Drained


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
