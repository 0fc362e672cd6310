"""What is seen of a drain while it runs."""

from __future__ import annotations

import io
import re
from typing import Any

from cellmove.drain.happening import Happening, Kind
from cellmove.drain.item import Stage
from cellmove.engine.events import Event, EventKind
from cellmove.ui import drain_show as show
from cellmove.ui.console import console
from tests.support.cell_refs import ref


def told(kind: Kind, name: str = "", **more: Any) -> Happening:
    values = {"server_id": name, "server_name": name, "host": "c1-host1", "target_host": "c2-host1", "disk_gb": 10}
    return Happening(kind, "2026-01-01T10:00:00.000Z", ref("cell1"), **{**(values if name else {}), **more})


def tally(*happenings: Happening, **counts: int) -> show.Tally:
    found = show.Tally()
    found.take(told(Kind.BEGUN, counts=counts), 0.0)
    for each in happenings:
        found.take(each, 3600.0)
    return found


def counts(found: show.Tally) -> dict[str, int]:
    return {stage: number for stage, number in found.counts.items() if number}


def test_a_server_that_soaks_is_counted_once() -> None:
    found = tally(told(Kind.SERVER_BEGUN, "one"), told(Kind.SERVER_SOAKING, "one"), waiting=1)
    assert (counts(found), found.total, found.done) == ({"soaking": 1}, 1, 0)
    found.take(told(Kind.SERVER_CONFIRMING, "one"), 3600.0)
    assert (counts(found), found.total) == ({"confirming": 1}, 1)
    found.take(told(Kind.SERVER_MOVED, "one"), 3600.0)
    assert (counts(found), found.total, found.done) == ({"moved": 1}, 1, 1)
    assert found.rates(3600.0) == (1, 10)


def test_what_an_earlier_run_left_does_not_become_more() -> None:
    found = tally(told(Kind.SERVER_TAKEN_UP, "one"), told(Kind.SERVER_TAKEN_UP, "two"), moving=1, confirming=1)
    assert found.total == 2
    for name in ("one", "two"):
        found.take(told(Kind.SERVER_MOVED, name), 3600.0)
    assert counts(found) == {"moved": 2}


def test_stages_are_listed_in_the_order_of_their_life() -> None:
    words = show.sentence(told(Kind.BEGUN, counts={"refused": 1, "moved": 2, "waiting": 3}), show.Tally())
    assert words == "cell1: 3 waiting, 2 moved, 1 refused"


def test_every_happening_but_a_step_and_an_error_has_its_line() -> None:
    for kind in Kind:
        words = show.sentence(told(kind, "one", counts={Stage.MOVED.value: 1}), show.Tally())
        assert bool(words) == (kind not in (Kind.STEP, Kind.ERROR)), kind


def test_a_long_title_leaves_the_other_columns_their_room() -> None:
    lively, stream = show.Lively(io.StringIO(), lambda: 0.0), io.StringIO()
    lively._out.width = 80
    lively.watch(told(Kind.BEGUN, counts={"waiting": 1}))
    lively.watch(told(Kind.SERVER_BEGUN, "web-1"))
    title = "stop the guest on c1-host2, upload its disk, let go of volumes and ports " * 3
    lively(Event(EventKind.ACTION_STARTED, "m1", "web-1", step="prep-source", action="stop_source", title=title))
    console(stream, 80).print(lively._snapshot())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    line = next(line for line in shown.splitlines() if "web-1" in line)
    assert "prep-source" in line
    assert "c1-host1" in line
    assert line.rstrip().endswith("0.0 s")
    assert "ELAPSED" in shown


def test_the_live_snapshot_has_the_bar_the_rates_what_is_left_and_the_last_failures() -> None:
    now = [0.0]
    lively = show.Lively(io.StringIO(), lambda: now[0])
    lively.watch(told(Kind.BEGUN, counts={"waiting": 4}))
    for name in ("one", "two"):
        lively.watch(told(Kind.SERVER_BEGUN, name))
    now[0] = 1800.0
    lively.watch(told(Kind.SERVER_MOVED, "one"))
    lively.watch(told(Kind.SERVER_FAILED, "two", reason="no room"))
    lively.watch(told(Kind.SERVER_BEGUN, "three"))
    stream = io.StringIO()
    console(stream, 140).print(lively._snapshot())
    lines = [re.sub(r" +", " ", line).strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()]
    assert re.fullmatch(r"cell1 \S+ 1 of 4 2 servers/h, 20 GiB/h about .+ left", lines[0]), lines
    assert lines[1] == "1 waiting, 1 moving, 1 moved, 1 failed"
    assert any("three" in line and "c1-host1" in line for line in lines), lines
    assert lines[lines.index("last failures") + 1] == "two: no room"
