"""The renderers of a drain."""

from __future__ import annotations

import io
import re
from typing import Any

from cellmove.drain.events import DrainEvent, DrainEventKind
from cellmove.drain.item import Stage
from cellmove.engine.events import Event, EventKind
from cellmove.ui.console import console
from cellmove.ui.drain_progress import DrainLiveRenderer, Tally, sentence
from tests.support.cell_refs import ref


def event(kind: DrainEventKind, name: str = "", **more: Any) -> DrainEvent:
    values = {"server_id": name, "server_name": name, "host": "c1-host1", "target_host": "c2-host1", "disk_gb": 10}
    return DrainEvent(kind, "2026-01-01T10:00:00.000Z", ref("cell1"), **{**(values if name else {}), **more})


def tally(*events: DrainEvent, **counts: int) -> Tally:
    result = Tally()
    result.add(event(DrainEventKind.RUN_STARTED, counts=counts), 0.0)
    for each in events:
        result.add(each, 3600.0)
    return result


def counts(found: Tally) -> dict[str, int]:
    return {stage: number for stage, number in found.counts.items() if number}


def test_a_server_that_soaks_is_counted_once() -> None:
    found = tally(event(DrainEventKind.SERVER_STARTED, "one"), event(DrainEventKind.SERVER_SOAKING, "one"), waiting=1)
    assert (counts(found), found.total, found.done) == ({"soaking": 1}, 1, 0)
    found.add(event(DrainEventKind.SERVER_CONFIRMING, "one"), 3600.0)
    assert (counts(found), found.total) == ({"confirming": 1}, 1)
    found.add(event(DrainEventKind.SERVER_MOVED, "one"), 3600.0)
    assert (counts(found), found.total, found.done) == ({"moved": 1}, 1, 1)
    assert found.rates(3600.0) == (1, 10)


def test_what_an_earlier_run_left_does_not_become_more() -> None:
    found = tally(
        event(DrainEventKind.SERVER_RESUMED, "one"), event(DrainEventKind.SERVER_RESUMED, "two"), moving=1, confirming=1
    )
    assert found.total == 2
    for name in ("one", "two"):
        found.add(event(DrainEventKind.SERVER_MOVED, name), 3600.0)
    assert counts(found) == {"moved": 2}


def test_stages_are_listed_in_the_order_of_their_life() -> None:
    words = sentence(event(DrainEventKind.RUN_STARTED, counts={"refused": 1, "moved": 2, "waiting": 3}), Tally())
    assert words == "cell1: 3 waiting, 2 moved, 1 refused"


def test_every_event_but_a_step_and_an_error_has_its_line() -> None:
    for kind in DrainEventKind:
        name = "one" if kind.value.startswith("server-") else ""
        words = sentence(event(kind, name, counts={Stage.MOVED.value: 1}), Tally())
        assert bool(words) == (kind not in (DrainEventKind.STEP_FINISHED, DrainEventKind.RUN_FAILED)), kind


def test_a_long_title_leaves_the_other_columns_their_room() -> None:
    live, stream = DrainLiveRenderer(io.StringIO(), lambda: 0.0), io.StringIO()
    live._out.width = 80
    live(event(DrainEventKind.RUN_STARTED, counts={"waiting": 1}))
    live(event(DrainEventKind.SERVER_STARTED, "web-1"))
    title = "stop the guest on c1-host2, upload its disk, let go of volumes and ports " * 3
    live(Event(EventKind.ACTION_STARTED, "m1", "web-1", step="prep-source", action="stop_source", title=title))
    console(stream, 80).print(live._render())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    line = next(line for line in shown.splitlines() if "web-1" in line)
    assert "prep-source" in line
    assert "c1-host1" in line
    assert line.rstrip().endswith("0.0 s")
    assert "ELAPSED" in shown


def test_the_live_picture_has_the_bar_the_rates_what_is_left_and_the_last_failures() -> None:
    now = [0.0]
    live = DrainLiveRenderer(io.StringIO(), lambda: now[0])
    live(event(DrainEventKind.RUN_STARTED, counts={"waiting": 4}))
    for name in ("one", "two"):
        live(event(DrainEventKind.SERVER_STARTED, name))
    now[0] = 1800.0
    live(event(DrainEventKind.SERVER_MOVED, "one"))
    live(event(DrainEventKind.SERVER_FAILED, "two", reason="no room"))
    live(event(DrainEventKind.SERVER_STARTED, "three"))
    stream = io.StringIO()
    console(stream, 140).print(live._render())
    lines = [re.sub(r" +", " ", line).strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()]
    assert re.fullmatch(r"cell1 \S+ 1 of 4 2 servers/h, 20 GiB/h about .+ left", lines[0]), lines
    assert lines[1] == "1 waiting, 1 moving, 1 moved, 1 failed"
    assert any("three" in line and "c1-host1" in line for line in lines), lines
    assert lines[lines.index("last failures") + 1] == "two: no room"
