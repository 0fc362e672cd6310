"""The page about a drain, seen by a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cellmove.drain.drain_report import DrainReport
from cellmove.drain.durations import StepBar, downtime, step_bars
from cellmove.drain.item import Stage
from cellmove.engine.journal_open import open_journal
from cellmove.ui.console import clean
from cellmove.ui.drain_html import html
from cellmove.ui.drain_page import MIN_HISTOGRAM_VALUES
from tests.support import browser, sample_drains
from tests.support.browser import DARK, Browser, contrast
from tests.support.cell_refs import ref
from tests.support.sandbox.drained_cell import TARGET, Drained
from tests.support.sandbox.environment import Sandbox

WIDTHS = """(page, window) => ({
  wide: page.documentElement.scrollWidth, room: window.innerWidth,
  out: [...page.querySelectorAll("body *")].filter((each) => !each.closest(".wide, .defs, svg svg") &&
    each.getBoundingClientRect().right > window.innerWidth + 1 &&
    !["text", "rect", "line", "title"].includes(each.tagName)).map((each) => each.outerHTML.slice(0, 120)),
})"""

ROWS = """(page, window) => ({
  rows: [...page.querySelectorAll(".time li[id], .time .still span[id]")].map((row) => [row.id, row.querySelector("bdi").textContent]),
  title: page.title, scripts: page.scripts.length, find: page.querySelectorAll(".find").length,
  images: page.querySelectorAll("img, b b, iframe, link").length, handlers: [...page.querySelectorAll("*")].flatMap(
    (each) => each.getAttributeNames()).filter((name) => name.startsWith("on")),
  loaded: window.performance.getEntriesByType("resource").length,
  links: [...page.querySelectorAll("a")].filter((link) => !page.getElementById(decodeURIComponent(link.hash.slice(1)))).length,
  open: page.querySelectorAll(".time details[open]").length, hosts: page.querySelectorAll(".time details").length,
  commands: [...page.querySelectorAll(".look pre")].map((command) => command.textContent),
  hatched: page.querySelectorAll(".time ol rect.x").length,
})"""

REAL = """(page, window) => ({
  down: [...page.querySelectorAll(".bins text.n")].reduce((sum, each) => sum + Number(each.textContent), 0),
  bars: Object.fromEntries([...page.querySelectorAll(".time li[id]")].map(
    (row) => [row.querySelector("bdi").textContent, row.querySelectorAll("svg rect").length])),
})"""

COLOURS = """(page, window) => {
  const colour = (path, name) => window.getComputedStyle(page.querySelector(path))[name];
  return { paper: colour("body", "backgroundColor"),
    words: ["body", "small", ".bad", "em", "a", ".when", ".figures dt", "svg text", ".time ol i"].map(
      (path) => [path, colour(path, path.startsWith("svg") ? "fill" : "color")]),
    bars: [...page.querySelectorAll(".legend .key rect:only-child")].filter((bar) => "abce".includes(bar.classList[0])).map(
      (bar) => [bar.classList[0], window.getComputedStyle(bar).fill]) };
}"""

COMFORT = """async (page, window) => {
  const shown = () => [...page.querySelectorAll(".time li[id]")].filter((row) => row.offsetParent !== null).length;
  const before = shown();
  const box = page.querySelector(".find input");
  box.value = "WEB-0007";
  box.dispatchEvent(new window.Event("input"));
  const table = page.querySelectorAll("table.sums")[0], column = 1;
  const column_of = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].textContent));
  const button = table.tHead.rows[0].cells[column].querySelector("button");
  button.click();
  const down = column_of();
  button.click();
  await new Promise((done) => window.setTimeout(done, 400));
  return { before, after: shown(), tabbed: button.tabIndex, down, up: column_of() };
}"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return browser.find(tmp_path_factory.mktemp("browser"))


def test_a_missing_browser_is_a_failure_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        browser.find(tmp_path)


def test_every_server_is_there_and_nothing_is_loaded(chromium: Browser) -> None:
    report = sample_drains.a_report(300, nights=3)
    seen, asked = chromium.look(html(report), ROWS)
    assert sorted(name for _, name in seen["rows"]) == sorted(server.name for server in report.servers)
    assert len({identity for identity, _ in seen["rows"]}) == len(report.servers)
    assert seen["commands"].count("") == 0
    assert {server.next_command for server in report.servers if server.next_command} == set(seen["commands"])
    assert seen["hatched"] == sum(bar.failed for server in report.servers for bar in server.bars) > 0
    assert (seen["links"], seen["loaded"], seen["find"], seen["open"]) == (0, 0, 1, 6)
    assert set(asked) <= {"/frame.html", "/page.html", "/favicon.ico"}


def test_names_are_only_names(chromium: Browser) -> None:
    report = sample_drains.hostile_report()
    seen, asked = chromium.look(html(report), ROWS)
    wanted = sorted(clean(server.name).strip() or server.server_id for server in report.servers)
    assert sorted(name.strip() for _, name in seen["rows"]) == wanted
    assert seen["title"].startswith('"><img src=x')
    assert (seen["scripts"], seen["images"], seen["handlers"], seen["links"], seen["loaded"]) == (1, 0, [], 0, 0)
    assert set(asked) <= {"/frame.html", "/page.html", "/favicon.ico"}


def test_without_scripts_all_is_there(chromium: Browser) -> None:
    report = sample_drains.a_report(24, hours=0.4, hosts=3)
    seen, _ = chromium.look(html(report), ROWS, scripts=False)
    assert (len(seen["rows"]), seen["find"], seen["open"]) == (24, 0, 3)


def test_ten_thousand_are_folded_by_host(chromium: Browser) -> None:
    report = sample_drains.a_report(10_000, nights=6, hosts=300, parallel=40)
    seen, _ = chromium.look(html(report), ROWS)
    assert (len(seen["rows"]), seen["hosts"], seen["open"], seen["links"]) == (10_000, 300, 0, 0)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
@pytest.mark.parametrize(
    "report",
    [sample_drains.hostile_report(), sample_drains.a_report(300, nights=9), sample_drains.a_report(0)],
    ids=["hostile", "300", "0"],
)
def test_nothing_is_wider_than_a_telephone(chromium: Browser, report: DrainReport, scripts: bool) -> None:
    seen, _ = chromium.look(html(report), WIDTHS, width=480, scripts=scripts)
    assert seen["room"] == 480
    assert seen["wide"] <= 480
    assert seen["out"] == []


def test_words_and_bars_are_readable_in_both_schemes(chromium: Browser) -> None:
    page = html(sample_drains.a_report(300, nights=3))
    papers = set()
    for options in ((), (DARK,)):
        seen, _ = chromium.look(page, COLOURS, *options)
        papers.add(seen["paper"])
        assert {path for path, colour in seen["words"] if contrast(colour, seen["paper"]) < 4.5} == set()
        floors = {"a": 1.8, "e": 3.0, "b": 2.6, "c": 3.0}  # prep-dest is to be quiet: the guest runs on
        assert {step for step, colour in seen["bars"] if contrast(colour, seen["paper"]) < floors[step]} == set()
    assert len(papers) == 2


def test_the_page_from_a_file_is_no_blank_one(chromium: Browser) -> None:
    blank = chromium.snapshot("<!doctype html><title>nothing</title>")
    page = html(sample_drains.a_report(24, hours=0.4, hosts=3))
    light, dark = chromium.snapshot(page), chromium.snapshot(page, DARK)
    assert len(set(blank)) < 8
    assert len(set(light)) > 50
    assert len(set(dark)) > 50
    assert light != dark
    assert len(re.findall(r"<li id=", chromium.dump(page).replace('"', ""))) >= 20


def test_search_and_sorting(chromium: Browser) -> None:
    seen, _ = chromium.look(html(sample_drains.a_report(24, hours=0.4, hosts=5)), COMFORT)
    assert seen["before"] > 20
    assert seen["after"] == 1
    assert seen["tabbed"] == 0
    assert seen["down"] == sorted(seen["up"], reverse=True)
    assert seen["up"] == sorted(seen["up"])


def test_a_drain_that_is_under_way(chromium: Browser) -> None:
    server = sample_drains.a_server(1, "h1", Stage.MOVING, bars=(StepBar("prep-dest", sample_drains.BEGUN, None),))
    report = DrainReport("d", ref("cell1"), (), "running", sample_drains.BEGUN, sample_drains.BEGUN + 5, (server,))
    seen, _ = chromium.look(html(report), "(page) => page.querySelector('.time ol li').textContent")
    assert "prep-dest 5.0 s (runs)" in seen
    assert "→ moving" in seen


def test_bars_and_downtime_of_a_real_journal(sandbox: Sandbox) -> None:
    """What the command journalled is what the time line is drawn from."""
    server = sandbox.boot()
    sandbox.cellmove("migrate", server.name)
    journal = open_journal(sandbox.environment["CELLMOVE_JOURNAL"], str)
    (move,) = journal.find(server.name)
    there = downtime(journal.entries_of(move.id), active=move.plan["active"])
    assert [bar.step for bar in step_bars(journal.entries_of(move.id))] == ["prep-dest", "prep-source", "finish"]
    sandbox.cellmove("revert", server.name)
    entries = journal.entries_of(move.id)
    bars = step_bars(entries)
    assert [bar.step for bar in bars] == ["prep-dest", "prep-source", "finish", "revert"]
    assert not any(bar.failed or bar.ended is None for bar in bars)
    both = downtime(entries, active=move.plan["active"])
    assert there is not None
    assert both is not None
    assert 0 < there < both < (bars[-1].ended or 0) - bars[0].began


def test_the_page_of_a_drain_that_was_run_is_written_to_a_file(chromium: Browser, cell: Drained) -> None:
    names = [f"web{number}" for number in range(MIN_HISTOGRAM_VALUES)]
    (bad,), _good = cell.add("bad"), cell.add(*names)
    cell.process.control(
        "world", faults={f"{host}:get_host_ip_addr:{bad.id}": "fail" for host in ("c2-host1", "c2-host2")}
    )
    cell.drain("--to", "cell2", "--max-failures", "5", "--parallel", "4", expect=8)
    page = cell.folder / "drain.html"
    cell.cellmove("drain", "report", "--html", str(page))
    seen, _ = chromium.look(page.read_text(), ROWS)
    assert sorted(name for _, name in seen["rows"]) == ["bad", *names]
    assert f"cellmove migrate {bad.id} --cell {TARGET}" in seen["commands"]
    shown, _ = chromium.look(page.read_text(), REAL)
    assert shown["down"] == len(names), "of each server that was moved it is known how long it was down"
    assert shown["bars"]["bad"] > 0
    assert min(shown["bars"][name] for name in names) >= 4, "a bar for each step"
    refused = cell.cellmove("drain", "report", "--html", str(cell.folder / "nowhere" / "drain.html"), expect=4)
    assert "nowhere" in refused.stderr
