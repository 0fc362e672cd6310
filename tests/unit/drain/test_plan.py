"""The plan of a drain as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellmove.drain.capacity import CellCapacity
from cellmove.drain.item import Census, Item, Verdict
from cellmove.drain.options import DrainOptions
from cellmove.drain.plan import make_plan
from cellmove.ui.console import Page
from cellmove.ui.drain_documents import plan_document
from cellmove.ui.drain_text import MAX_PLAN_SERVERS, draw_plan
from tests.support.cell_refs import ref

ONE = Item("id-1", "web-1", "p", "c1-host1", "m1.tiny", "active", False, 1, 64, 1, "2026-01-01T10:00:00Z")
LOCKED = {"verdict": Verdict.REFUSED, "codes": ("locked",), "reasons": ("the server is locked by its owner " * 6,)}
CAPACITY = CellCapacity(ref("cell2"), ("c2-host1",), {"VCPU": 64.0}, {"VCPU": 1.0})


def shown(*items: Item, width: int | None = None) -> str:
    plan = make_plan(Census(ref("cell1"), items, len(items)), DrainOptions(), [CAPACITY], [])
    page = Page(width)
    draw_plan(page, plan_document(plan, "cellmove drain-cell cell1"))
    return page.text


def many(number: int, **values: Any) -> list[Item]:
    return [replace(ONE, server_id=f"id-{at}", name=f"web-{at}", **values) for at in range(number)]


@pytest.mark.parametrize("number", [2, MAX_PLAN_SERVERS + 1])
def test_a_narrow_terminal_shows_names_and_whole_reasons(number: int) -> None:
    text = shown(*many(number, **LOCKED), width=80)
    assert "web-0" in text
    assert "…\n" not in text
    assert " ".join(text.split()).count("the server is locked by its owner") % 6 == 0


def test_the_command_that_moves_them_comes_last() -> None:
    assert shown(ONE).splitlines()[-1] == "next  cellmove drain-cell cell1"


def test_a_command_is_never_broken_however_narrow_the_terminal() -> None:
    command = "cellmove drain-cell cell1 --to cell2 --parallel 4 --window 22:00-06:00 --include name='web-*'"
    plan = make_plan(Census(ref("cell1"), (ONE,), 1), DrainOptions(), [CAPACITY], [])
    page = Page(40)
    draw_plan(page, plan_document(plan, command))
    (line,) = [line for line in page.text.splitlines() if "cellmove" in line]
    assert line.endswith(command) or line.replace("\x1b[0m", "").endswith(command)


def test_where_nothing_can_be_moved_nothing_is_said_about_how() -> None:
    text = shown(replace(ONE, **LOCKED))
    assert not any(word in text for word in ("takes", "fits", "next"))


def test_without_servers_there_is_little_to_say() -> None:
    assert shown().splitlines()[2] == "servers  0: 0 movable, 0 skipped, 0 refused"
