"""The report of a drain: from lines of the journal to bars and downtimes, to JSON and to text."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest

from cellmove.core.move import SCHEMA_VERSION, Entry, Phase, Step
from cellmove.drain.drain_report import DrainReport
from cellmove.drain.durations import REPORTED_STEPS, StepBar, downtime, step_bars
from cellmove.drain.item import Stage
from cellmove.steps import confirm, finish, prep_dest, prep_source, revert
from cellmove.ui.console import Page, render
from cellmove.ui.drain_documents import iso, report_document
from cellmove.ui.drain_text import MAX_NAMES, draw_report
from tests.support import sample_drains
from tests.support.cell_refs import ref

T0 = 1773349200.0  # 2026-03-12T21:00:00Z


def lines(*rows: tuple[str, str, float, float | None, Phase]) -> list[Entry]:
    """Lines of a journal: step, action, begin and end in seconds, phase."""
    return [
        Entry("m", number, step, action, phase, {}, {}, "", text(began), "" if ended is None else text(ended))
        for number, (step, action, began, ended, phase) in enumerate(rows, start=1)
    ]


def text(seconds: float) -> str:
    return iso(T0 + seconds)


def a_move(*more: tuple[str, str, float, float | None, Phase]) -> list[Entry]:
    return lines(
        ("prep-dest", "schedule", 0, 1, Phase.DONE),
        ("prep-dest", "claim", 1, 4.5, Phase.DONE),
        ("prep-source", "stash", 5, 5.1, Phase.DONE),
        ("prep-source", "stop_source", 5.25, 45, Phase.DONE),
        ("finish", "hand_over", 46, 46.5, Phase.DONE),
        ("finish", "start_target", 47, 65.25, Phase.DONE),
        ("finish", "close", 66, 67, Phase.DONE),
        *more,
    )


def bars(entries: list[Entry]) -> list[tuple[str, float, float | None, bool]]:
    return [
        (bar.step, round(bar.began - T0, 3), None if bar.ended is None else round(bar.ended - T0, 3), bar.failed)
        for bar in step_bars(entries)
    ]


def test_the_actions_are_those_of_the_steps():
    assert {"stop_source"} <= {action.name for action in prep_source.ACTIONS}
    assert {"start_target"} <= {action.name for action in finish.ACTIONS}
    assert {"clean_target", "start_source"} <= {action.name for action in revert.ACTIONS}
    others = {action.name for step in (prep_dest, confirm) for action in step.ACTIONS}
    assert others.isdisjoint({"stop_source", "start_target", "clean_target", "start_source"})


def test_a_bar_for_each_step():
    assert bars([]) == []
    assert bars(a_move()) == [
        ("prep-dest", 0, 4.5, False),
        ("prep-source", 5, 45, False),
        ("finish", 46, 67, False),
    ]


def test_a_step_under_way_has_no_end():
    assert bars(lines(("prep-dest", "schedule", 0, 1, Phase.DONE), ("prep-dest", "claim", 1, None, Phase.INTENT))) == [
        ("prep-dest", 0, None, False)
    ]
    assert bars(lines(("prep-dest", "schedule", 0, 9, Phase.UNDOING))) == [("prep-dest", 0, None, True)]


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.UNDONE])
def test_a_step_in_which_something_failed_or_was_taken_back_failed(phase):
    found = bars(lines(("prep-dest", "schedule", 0, 1, Phase.DONE), ("prep-dest", "claim", 1, 8, phase)))
    assert found == [("prep-dest", 0, 8, True)]


def test_a_step_that_went_well_on_another_host_did_not_fail():
    found = lines(
        ("prep-dest", "schedule", 0, 3, Phase.UNDONE),
        ("prep-dest", "claim", 1, 2, Phase.UNDONE),
        ("prep-dest", "schedule", 3, 4, Phase.DONE),
        ("prep-dest", "claim", 4, 6, Phase.DONE),
    )
    assert bars(found) == [("prep-dest", 0, 6, False)]


def test_sweeps_and_repairs_are_no_bars():
    assert bars(lines(("sweep", "sweep", 0, 1, Phase.DONE), ("repair", "mend", 0, 1, Phase.DONE))) == []


def test_downtime_is_from_the_stop_to_the_start():
    assert downtime(a_move()) == 60.0
    assert downtime(reversed(a_move())) == 60.0
    assert downtime(a_move(), active=False) is None
    assert downtime([]) is None
    assert downtime(a_move()[:2]) is None


@pytest.mark.parametrize("phase", [Phase.INTENT, Phase.FAILED, Phase.UNDOING, Phase.UNDONE])
def test_a_guest_that_was_not_started_is_down(phase):
    entries = a_move()
    entries[5] = dataclasses.replace(entries[5], phase=phase)
    assert downtime(entries[:6]) is None
    assert downtime(entries[:5]) is None


@pytest.mark.parametrize("phase", [Phase.INTENT, Phase.FAILED, Phase.UNDOING])
def test_a_stop_of_which_the_end_is_not_known(phase):
    entries = a_move()[:4]
    entries[3] = dataclasses.replace(entries[3], phase=phase)
    assert downtime(entries) is None


def test_a_rollback_ends_it_when_the_stop_was_taken_back():
    entries = a_move()[:6]
    entries[5] = dataclasses.replace(entries[5], phase=Phase.UNDONE, finished_at=text(80))
    entries[3] = dataclasses.replace(entries[3], phase=Phase.UNDONE, finished_at=text(95.25))
    assert downtime(entries) == 90.0


def test_a_revert_adds_the_way_back():
    back = (("revert", "clean_target", 100, 110, Phase.DONE), ("revert", "start_source", 110, 130.5, Phase.DONE))
    assert downtime(a_move(*back)) == 90.5
    assert downtime(a_move(back[0])) is None
    assert downtime(a_move(("revert", "begin_revert", 90, 91, Phase.UNDONE))) == 60.0


def test_what_adopt_wrote_has_no_times():
    adopted = [dataclasses.replace(entry, started_at=text(500), finished_at=text(500)) for entry in a_move()]
    assert downtime(adopted) is None
    assert downtime([*adopted[:4], *a_move()[4:]]) is None


# the document


def test_the_document_is_plain_json_and_its_sums_are_right():
    report = sample_drains.a_report(300, nights=3, hours=7)
    found = report_document(report)
    assert json.loads(json.dumps(found)) == found
    assert found == report_document(sample_drains.a_report(300, nights=3, hours=7))
    assert found["schema_version"] == SCHEMA_VERSION
    assert found["begun_at"] == "2026-03-12T20:59:00.000Z"
    assert sum(found["counts"]["stages"].values()) == sum(found["counts"]["shares"].values()) == 300
    assert len({one["server"]["id"] for one in found["servers"]}) == 300
    for hosts, some in (
        ("source_hosts", 300),
        ("target_hosts", sum(1 for server in report.servers if server.target_host)),
    ):
        assert sum(host["servers"] for host in found[hosts]) == some
        assert all(sum(host[share] for share in found["counts"]["shares"]) == host["servers"] for host in found[hosts])
    assert sum(host["gib"] for host in found["source_hosts"]) == found["pace"]["gib_moved"]
    known = [server.downtime for server in report.servers if server.downtime is not None]
    assert found["downtime"]["longest"] == max(known)
    assert sum(value <= found["downtime"]["ninety_percent"] for value in known) >= 0.9 * len(known)


def test_the_document_of_nothing():
    found = report_document(sample_drains.a_report(0))
    assert (found["downtime"], found["servers"], found["pace"]["servers_an_hour"]) == (None, [], None)


def test_the_document_of_one_server():
    bar = StepBar("prep-source", T0, None)
    server = sample_drains.a_server(
        1, "h1", Stage.FAILED, bars=(StepBar("prep-dest", T0, T0 + 2, failed=True), bar), move_id="m1"
    )
    (found,) = report_document(DrainReport("d", ref("cell1"), (ref("cell2"),), "running", T0, T0, (server,)))["servers"]
    assert found["steps"] == [
        {"step": "prep-dest", "state": "failed", "started_at": text(0), "finished_at": text(2)},
        {"step": "prep-source", "state": "running", "started_at": text(0), "finished_at": None},
    ]
    assert (found["move"], found["next"], found["reason"], found["downtime"]) == ("m1", None, None, None)


# at a terminal


def drawn(report: DrainReport, width: int | None = None) -> str:
    page = Page(width)
    draw_report(page, report_document(report))
    return page.text


def test_drawn_for_a_person():
    text = drawn(sample_drains.a_report(300, nights=3, hours=7))
    assert "cell     cell1 -> cell2, cell3\n" in text
    assert "when     2026-03-12 20:59 to 2026-03-15 02:" in text
    assert "failed  web-0036 on c1-compute-1\n  why   prep-source failed at stop_source" in text
    assert "  next  cellmove rollback move-000024\n" in text
    assert " and 2 more\n  why    it has the tag cellmove:skip\n" in text
    assert "FROM HOST     SERVERS  MOVED  LEFT  FAILED  STAYING  GONE  GIB" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [None, 80, 200])
@pytest.mark.parametrize("count", [0, 1, 24])
def test_every_drain_can_be_drawn(count, width):
    assert "cell1" in drawn(sample_drains.a_report(count), width)


def test_nothing_that_a_terminal_would_obey_is_drawn():
    text = drawn(sample_drains.hostile_report())
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_long_list_is_not_drawn_in_full():
    report = sample_drains.a_report(10_000, nights=6, hosts=30, parallel=40)
    skipped = [server.name for server in report.servers if server.stage is Stage.SKIPPED]
    text = drawn(report)
    assert sum(name in text for name in skipped) == MAX_NAMES
    assert f" and {len(skipped) - MAX_NAMES} more" in text


def test_it_goes_through_the_one_renderer():
    stream: Any = io.StringIO()
    render(report_document(sample_drains.a_report(3)), "table", stream, draw_report)
    assert stream.getvalue().startswith("drain")
    assert Step.FINISH in REPORTED_STEPS
