"""The page about a drain: whole, the same every time, small, and safe from the names in it."""

from __future__ import annotations

import collections
import dataclasses
import html.parser
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport
from cellmove.drain.durations import StepBar
from cellmove.drain.figures import Stretch
from cellmove.drain.item import Stage
from cellmove.ui import drain_timeline as timeline
from cellmove.ui.console import clean
from cellmove.ui.drain_html import html as page_of
from tests.support import sample_drains
from tests.support.cell_refs import ref

T0 = sample_drains.BEGUN
WITHOUT_END = {"meta", "br", "img", "link", "input"}


class Reader(html.parser.HTMLParser):
    """What is in a page: tags with their attributes, and the words in each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = collections.defaultdict(list)
        self._last = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.words[tag].append("")
        self._last = tag

    def handle_data(self, data: str) -> None:
        if self._last:
            self.words[self._last][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._last = ""

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


def a_drain(*servers: object, generated_at: float = T0 + 7200) -> DrainReport:
    return DrainReport("d1", ref("cell1"), (ref("cell2"),), "done", T0, generated_at, servers)  # type: ignore[arg-type]


def moved(number: int, *bars: StepBar, stage: Stage = Stage.MOVED, **more: object) -> object:
    return sample_drains.a_server(number, "h1", stage, bars=bars, **more)


REPORTS = {
    "none": sample_drains.a_report(0), "one": sample_drains.a_report(1, hours=0.05), "24": sample_drains.a_report(24, hours=0.4),
    "300": sample_drains.a_report(300, nights=3), "hostile": sample_drains.hostile_report(), "waiting": sample_drains.a_report(50, hours=0.0),
    "sixty nights": sample_drains.a_report(2000, nights=60, parallel=1),
}  # fmt: skip


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_every_server_has_one_row(report):
    ids = Reader(page_of(report)).ids
    rows = [each for each in ids if each.startswith("s-")]
    assert sorted(rows) == sorted(f"s-{server.server_id}" for server in report.servers)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_nothing_is_loaded_from_anywhere(report):
    reader = Reader(page_of(report))
    allowed = {"href", "class", "id", "content", "charset", "name", "lang", "http-equiv", "open", "title", "role"}
    drawing = {"x", "y", "x1", "x2", "y1", "y2", "dx", "d", "width", "height", "viewbox", "preserveaspectratio"}
    drawing |= {"text-anchor", "patternunits", "patterntransform", "aria-hidden", "aria-label", "scope", "value"}
    for tag, attributes in reader.tags:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject"}
        assert set(attributes) <= allowed | drawing, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert len(reader.words["script"]) == len(reader.words["style"]) == 1
    assert re.findall(r"url\([^)]*\)|@import|https?:", reader.words["style"][0]) == ["url(#hatch)"]
    assert re.findall(r"https?:|fetch|XMLHttp|import", reader.words["script"][0]) == []


def test_the_policy_lets_through_this_style_and_this_script_alone():
    import base64
    import hashlib

    reader = Reader(page_of(sample_drains.a_report(24)))
    policy = next(attributes["content"] for _, attributes in reader.tags if "http-equiv" in attributes)
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(reader.words[tag][0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_names_are_words_and_nothing_else():
    report = sample_drains.hostile_report()
    page = page_of(report)
    page.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page)
    reader = Reader(page)
    names = collections.Counter(each.strip() for each in reader.words["bdi"])
    for name in sample_drains.HOSTILE:
        if clean(name).strip():
            assert names[clean(name).strip()] >= len(Stage), name
    plain = dataclasses.replace(
        report,
        servers=tuple(
            dataclasses.replace(server, name="x", target_host=server.target_host and "x") for server in report.servers
        ),
    )
    ours = collections.Counter(tag for tag, _ in reader.tags if tag in {"script", "b", "img", "svg"})
    others = collections.Counter(tag for tag, _ in Reader(page_of(plain)).tags if tag in {"script", "b", "img", "svg"})
    assert ours == others


def test_ids_are_hostile_too():
    server = dataclasses.replace(sample_drains.a_server(1, "h", Stage.REFUSED), server_id='1" onclick=x><b id=time')
    reader = Reader(page_of(a_drain(server)))
    assert "s-1%22%20onclick%3Dx%3E%3Cb%20id%3Dtime" in reader.ids
    assert all("onclick" not in attributes for _, attributes in reader.tags)


def test_the_same_story_gives_the_same_bytes_in_every_process():
    program = "import hashlib; from tests.support import sample_drains; from cellmove.ui.drain_html import html; "
    program += "print(hashlib.sha256(html(sample_drains.a_report(300, nights=3)).encode()).hexdigest())"
    root = Path(__file__).resolve().parents[3]
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for environment in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    }
    assert len(digests) == 1


def test_ten_thousand_servers_stay_small():
    report = sample_drains.a_report(10_000, nights=6, hosts=300, parallel=40)
    page = page_of(report)
    assert len(page.encode()) < 4_200_000
    assert page.count("<li id=s-") + page.count("<span id=s-") == 10_000
    assert "<details open>" not in page
    worst = tuple(
        dataclasses.replace(
            server,
            stage=Stage.FAILED,
            reason=f"no space for {server.name}",
            next_command=f"cellmove rollback {server.move_id}",
        )
        for server in report.servers
    )
    assert len(page_of(dataclasses.replace(report, servers=worst)).encode()) < 9_000_000


def test_style_script_and_templates_are_installed_with_the_package():
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())
    data = {"report.css", "report.js", "templates/*.j2"}
    assert set(project["tool"]["setuptools"]["package-data"]["cellmove.ui"]) == data


def test_the_head_sums_up():
    bars = (StepBar("prep-dest", T0, T0 + 600), StepBar("prep-source", T0 + 600, T0 + 3600))
    servers = [moved(number, *bars, disk_gb=10, downtime=60.0 * number) for number in range(1, 5)]
    servers.append(moved(9, *bars, stage=Stage.UNVERIFIED, disk_gb=500))
    words = Reader(page_of(a_drain(*servers))).words
    assert words["dd"][::2] == ["4", "0", "1", "4.0", "40.0", "2 min 30 s"]
    assert words["small"][:6] == [
        "of 5 servers", "to be moved", "of them 1 unverified", "in 1 h 00 min at work", "40 GiB moved", "longest 4 min 00 s",
    ]  # fmt: skip


def test_reasons_are_said_once_and_commands_can_be_copied():
    refused = [
        sample_drains.a_server(number, "h1", Stage.REFUSED, reason="no", next_command="cellmove plan")
        for number in range(30)
    ]
    failed = [
        sample_drains.a_server(50 + number, "h1", Stage.FAILED, reason="so", next_command=f"do {number}")
        for number in range(3)
    ]
    words = Reader(page_of(a_drain(*refused, *failed))).words
    assert words["pre"] == ["do 0", "do 1", "do 2", "cellmove plan"]
    assert words["summary"][0] == "30 servers"


def test_many_reasons_fold_away():
    failed = [sample_drains.a_server(number, "h1", Stage.FAILED, reason=f"reason {number}") for number in range(50)]
    assert "30 more servers, each with its reason" in page_of(a_drain(*failed))


def test_nothing_to_look_at():
    page = page_of(a_drain(moved(1, StepBar("finish", T0, T0 + 9))))
    assert "id=look" not in page
    assert "href=#look" not in page


# the axis


def test_nights_are_cut_short():
    first, second = StepBar("finish", T0, T0 + 8 * 3600), StepBar("finish", T0 + 86400, T0 + 86400 + 8 * 3600)
    report = a_drain(moved(1, first), moved(2, second), generated_at=T0 + 2 * 86400)
    assert figures.stretches(report) == (Stretch(first.began, first.ended), Stretch(second.began, second.ended))
    axis = timeline.Axis(figures.stretches(report))
    ((left, right),) = axis.breaks()
    assert right - left == pytest.approx(timeline.BREAK_WIDTH)
    assert (axis.at(T0), axis.at(second.ended)) == (0, pytest.approx(100))
    assert axis.at(T0 + 12 * 3600) == pytest.approx(left)
    assert "stretches of work" in page_of(report)
    assert [tick.label for tick in axis.days()] == ["Thu 12 Mar", "Fri 13 Mar", "Fri 13 Mar", "Sat 14 Mar"]


def test_a_short_break_is_none():
    report = a_drain(moved(1, StepBar("finish", T0, T0 + 3600)), moved(2, StepBar("finish", T0 + 4000, T0 + 7200)))
    assert len(figures.stretches(report)) == 1


def test_moments_go_from_left_to_right_and_labels_do_not_touch():
    for report in REPORTS.values():
        found = figures.stretches(report)
        if not found:
            continue
        axis = timeline.Axis(found)
        moments = sorted(bar.began for server in report.servers for bar in server.bars)
        positions = [axis.at(moment) for moment in moments]
        assert positions == sorted(positions)
        assert 0 <= positions[0] <= positions[-1] <= 100.0001
        for ticks, space in ((axis.ticks(), timeline.TICK_SPACE), (axis.days(), timeline.DAY_SPACE)):
            assert all(after.at - before.at > space / 3 for before, after in itertools.pairwise(ticks))
            assert len(ticks) <= 100 / space + 1


def test_what_failed_is_hatched_and_what_is_short_can_be_seen():
    page = page_of(
        a_drain(moved(1, StepBar("finish", T0, T0 + 3600)), moved(2, StepBar("prep-dest", T0, T0 + 0.1, failed=True)))
    )
    assert (
        f"<rect class=a x=0% width={timeline.MIN_FAILED_WIDTH}% /><rect class=x x=0% width={timeline.MIN_FAILED_WIDTH}% />"
        in page
    )


def test_a_bar_says_its_step_and_seconds():
    bars = (
        StepBar("prep-dest", T0, T0 + 1.7),
        StepBar("prep-source", T0 + 2, T0 + 47),
        StepBar("finish", T0 + 47, None),
    )
    page = page_of(a_drain(moved(1, *bars, target_host="c2-host1"), generated_at=T0 + 50))
    said = "to c2-host1, Thu 12 Mar 21:00:00: prep-dest 1.7 s, prep-source 45 s, finish 3.0 s (runs)"
    assert f"<title>{said}</title>" in page


def test_times_that_run_backwards_do_no_harm():
    assert page_of(
        a_drain(moved(1, StepBar("finish", T0 + 50, T0 + 20)), moved(2, StepBar("x", T0, None)), generated_at=T0 - 5)
    )


# sums


def test_every_stage_is_in_one_share():
    assert sorted(figures.ORDER) == sorted(Stage)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_bins_hold_every_downtime(report):
    values = [server.downtime for server in report.servers if server.downtime is not None]
    bins = figures.histogram(values)
    assert sum(one.count for one in bins) == len(values)
    assert all(one.low < one.high for one in bins)
    assert all(before.high == after.low for before, after in itertools.pairwise(bins))
    assert len(bins) <= len(figures.BIN_EDGES_SECONDS)


@pytest.mark.parametrize(
    "values", [[0.0], [0.01, 0.02], [5.0] * 9, [59.9, 60.0, 60.1], [1.0, 1e7], [3.0, 2e6], [86400.0, 86401.0]]
)
def test_odd_downtimes_have_bins_too(values):
    bins = figures.histogram(values)
    assert sum(one.count for one in bins) == len(values)
    assert len(bins) <= 61


def test_stretches_of_work_add_up():
    report = sample_drains.a_report(300, nights=3)
    found = figures.arrivals(report, figures.stretches(report))
    shares = figures.by_share(report.servers)
    assert sum(moved for _, moved, _, _ in found) == shares["moved"]
    assert sum(gib for _, _, gib, _ in found) == figures.gib_moved(report.servers)
    assert sum(failed for _, _, _, failed in found) == shares["failed"]


def test_hosts_are_sorted_as_a_person_does():
    names = ["h-10", "h-2", "h-1", "", "a", "h-", "1", "²"]
    assert sorted(names, key=figures.natural) == ["", "1", "a", "h-", "h-1", "h-2", "h-10", "²"]
