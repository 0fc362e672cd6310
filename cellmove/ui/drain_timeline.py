"""The time line of the HTML page about a drain: the steps of every server on one axis, host by host."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cellmove.core.move import Step
from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.durations import StepBar
from cellmove.drain.figures import Stretch, end_of
from cellmove.drain.item import Stage
from cellmove.ui.console import duration
from cellmove.ui.html_filters import MARKS, clock, day, percent

STEPS = {
    Step.PREP_DEST: ("a", "the guest runs"),
    Step.PREP_SOURCE: ("b", "the guest is stopped, its disk is uploaded"),
    Step.FINISH: ("c", "the guest starts at the target"),
    Step.CONFIRM: ("d", "the source is cleaned up"),
    Step.REVERT: ("e", "the server returns to its source"),
}
"""The CSS class of a step's bars, and its meaning for the legend."""

OTHER_STEP_CLASS = "o"

BREAK_WIDTH, ALL_BREAKS_WIDTH = 1.6, 20.0
"""Percent of the axis: of one time without work, and the largest sum of all."""

MIN_STRETCH_WIDTH = 1.0
MIN_BAR_WIDTH, MIN_FAILED_WIDTH = 0.12, 0.5
"""Percent: shorter ones are drawn with this width, so that they are visible."""

TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
TICK_SPACE, SECONDS_SPACE, DAY_SPACE = 6.0, 9.0, 9.0
"""Percent of the axis that a label needs."""

NARROW_FACTOR = 2.6
"""How much more space a label needs on a narrow screen."""

EDGE = 3.0
LAST_DAY = 78
"""Percent: a date further right does not fit on a narrow screen."""

MAX_OPEN_SERVERS = 400
"""With more servers, all hosts are folded at first."""

MAX_CURVE_POINTS = 40_000
MIN_CURVE_POINTS, MAX_CURVE_POINTS_A_HOST = 60, 240


@dataclass(frozen=True)
class Tick:
    """A label on the axis. ``narrow``: it fits on a narrow screen as well."""

    at: float
    label: str
    narrow: bool


class Axis:
    """Maps times to percent of a width. A time without work is shortened.

    :param stretches: the times with work, oldest first; at least one
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = stretches
        self.break_width = min(BREAK_WIDTH, ALL_BREAKS_WIDTH / max(len(stretches) - 1, 1))
        least = min(MIN_STRETCH_WIDTH, (100 - ALL_BREAKS_WIDTH) / len(stretches) / 2)
        rest = 100 - self.break_width * (len(stretches) - 1) - least * len(stretches)
        total = sum(stretch.seconds for stretch in stretches) or 1.0
        self.widths = [least + rest * stretch.seconds / total for stretch in stretches]
        steps = itertools.accumulate((width + self.break_width for width in self.widths), initial=0.0)
        self.starts = list(steps)[:-1]
        self._begins = [stretch.began for stretch in stretches]

    def at(self, time: float) -> float:
        """Return the position of a time. A time without work is at the edge."""
        place = max(bisect.bisect_right(self._begins, time) - 1, 0)
        stretch = self.stretches[place]
        share = (time - stretch.began) / stretch.seconds if stretch.seconds else 0.0
        return self.starts[place] + self.widths[place] * min(max(share, 0.0), 1.0)

    def breaks(self) -> list[tuple[float, float]]:
        """Return the positions of the times without work."""
        return [(start - self.break_width, start) for start in self.starts[1:]]

    def ticks(self) -> list[Tick]:
        """Return round times, as close as their labels allow."""
        scale = sum(self.widths) / (sum(stretch.seconds for stretch in self.stretches) or 1.0)
        step = next((size for size in TICK_SECONDS if size * scale >= _tick_space(size)), TICK_SECONDS[-1])
        labels = []
        for stretch in self.stretches:
            time = -(-stretch.began // step) * step
            while time <= stretch.ended:
                labels.append((self.at(time), clock(time, second=step < 60)))
                time += step
        return _fitting(labels, _tick_space(step))

    def days(self) -> list[Tick]:
        """Return the date at the start of each stretch and at each midnight."""
        labels = []
        for stretch in self.stretches:
            time = stretch.began
            while time <= stretch.ended:
                labels.append((self.at(time), day(time)))
                time = (time // 86400 + 1) * 86400
        return _fitting(labels, DAY_SPACE, LAST_DAY)

    def background(self) -> str:
        """Return a CSS gradient behind every row: lines at the ticks, shades for times without work."""
        stops = [
            (tick.at, f"var(--clear) {percent(tick.at)},var(--line) 0 calc({percent(tick.at)} + 1px)")
            for tick in self.ticks()
        ]
        stops += [
            (left, f"var(--clear) {percent(left)},var(--night) 0 {percent(right)}") for left, right in self.breaks()
        ]
        inner = ",".join(f"{stop},var(--clear) 0" for _, stop in sorted(stops))
        return f"linear-gradient(90deg,{inner or 'var(--clear),var(--clear)'})"


def _tick_space(seconds: float) -> float:
    return TICK_SPACE if seconds >= 60 else SECONDS_SPACE


def _fitting(labels: Iterable[tuple[float, str]], space: float, last: float = 100.0) -> list[Tick]:
    """Return the labels that do not overlap the one before, on wide and on narrow screens.

    :param last: dates start at their position, and one further right fits on wide screens only. Times are centred
    """
    ticks: list[Tick] = []
    wide = narrow = -1000.0
    for at, label in labels:
        middle = at
        if last == 100:
            middle = min(max(at, space / 2 if at < EDGE else at), 100 - space / 2 if at > 100 - EDGE else at)
        if middle - wide < space:
            continue
        fits = middle - narrow >= space * NARROW_FACTOR and at <= last
        wide, narrow = middle, middle if fits else narrow
        ticks.append(Tick(at, label, fits))
    return ticks


def background(report: DrainReport) -> str:
    """Return the CSS value behind every row of the time line."""
    stretches = figures.stretches(report)
    return Axis(stretches).background() if stretches else "none"


@dataclass(frozen=True)
class LegendKey:
    """A key of the legend: the CSS classes of its rectangles."""

    classes: tuple[str, ...]
    name: str
    meaning: str


@dataclass(frozen=True)
class AxisLabel:
    """A label of the axis. ``anchor`` is empty for the start of the text."""

    kind: str
    left: float
    top: int
    anchor: str
    text: str
    narrow: bool


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of a row; positions are percent."""

    kind: str
    left: float
    width: float


@dataclass(frozen=True)
class ServerRow:
    """The row of a server that moved."""

    server: ServerReport
    title: str
    rectangles: tuple[Rectangle, ...]
    downtime: str
    mark: str
    is_bad: bool


@dataclass(frozen=True)
class StillGroup:
    """Servers of a stage that never started."""

    mark: str
    stage: Stage
    servers: tuple[ServerReport, ...]


@dataclass(frozen=True)
class Curve:
    """How many servers of a host were in progress at once: an SVG path in a box of ``points`` by ``top``.

    The path is empty if there never was any.
    """

    path: str
    points: int
    top: int


@dataclass(frozen=True)
class HostGroup:
    """The servers of one source host."""

    host: str
    curve: Curve
    moved: int
    failed: int
    rows: tuple[ServerRow, ...]
    still: tuple[StillGroup, ...]

    @property
    def amount(self) -> int:
        """Return the number of servers."""
        return len(self.rows) + sum(len(group.servers) for group in self.still)


@dataclass(frozen=True)
class Timeline:
    """The values of the time line."""

    legend: tuple[LegendKey, ...]
    labels: tuple[AxisLabel, ...]
    hosts: tuple[HostGroup, ...]
    has_moves: bool
    is_open: bool


def timeline_of(report: DrainReport) -> Timeline:
    """Return the values of the time line."""
    stretches = figures.stretches(report)
    axis = Axis(stretches) if stretches else None
    by_host = figures.grouped(report.servers, lambda server: server.source_host)
    points = min(max(MAX_CURVE_POINTS // max(len(by_host), 1), MIN_CURVE_POINTS), MAX_CURVE_POINTS_A_HOST)
    loads = {
        host: _load(axis, servers, report.generated_at, points) if axis else [] for host, servers in by_host.items()
    }
    top = max((max(load, default=0) for load in loads.values()), default=0)
    return Timeline(
        legend=tuple(_legend(report, len(stretches) > 1)) if axis else (),
        labels=tuple(_labels(axis)) if axis else (),
        hosts=tuple(
            _host_group(host, servers, axis, report.generated_at, Curve(_curve(loads[host], top), points, top))
            for host, servers in by_host.items()
        ),
        has_moves=axis is not None,
        is_open=len(report.servers) <= MAX_OPEN_SERVERS,
    )


def _legend(report: DrainReport, has_breaks: bool) -> Iterator[LegendKey]:
    bars = [bar for server in report.servers for bar in server.bars]
    used = {bar.step for bar in bars}
    for step, (css_class, meaning) in STEPS.items():
        if step in used:
            yield LegendKey((css_class,), step.value, meaning)
    if any(bar.failed for bar in bars):
        yield LegendKey(("b", "x"), "hatched, framed", "failed or rolled back")
    yield LegendKey(("l",), "line", "between two steps: soaking")
    if has_breaks:
        yield LegendKey(("n",), "shaded", "no run at work; shortened")


def _labels(axis: Axis) -> Iterator[AxisLabel]:
    """Return the labels of the axis. Dates start at their position; times are centred, except at the edges."""
    for tick in axis.days():
        yield AxisLabel("day", tick.at, 11, "", tick.label, tick.narrow)
    for tick in axis.ticks():
        anchor = "" if tick.at < EDGE else "end" if tick.at > 100 - EDGE else "middle"
        yield AxisLabel("hour", tick.at, 26, anchor, tick.label, tick.narrow)


def _host_group(host: str, servers: Sequence[ServerReport], axis: Axis | None, now: float, curve: Curve) -> HostGroup:
    moved = sorted(
        (server for server in servers if axis and server.bars),
        key=lambda server: (server.bars[0].began, server.name, server.server_id),
    )
    still = [server for server in servers if axis is None or not server.bars]
    shares = figures.by_share(servers)
    return HostGroup(
        host=host,
        curve=curve,
        moved=shares["moved"],
        failed=shares["failed"],
        rows=tuple(_row(axis, server, now) for server in moved) if axis else (),
        still=tuple(_still(still)),
    )


def _still(servers: Sequence[ServerReport]) -> Iterator[StillGroup]:
    for stage in figures.ORDER:
        own = [server for server in servers if server.stage is stage]
        if own:
            ordered = sorted(own, key=lambda server: (figures.natural(server.name), server.server_id))
            yield StillGroup(MARKS.get(stage, ""), stage, tuple(ordered))


def _row(axis: Axis, server: ServerReport, now: float) -> ServerRow:
    return ServerRow(
        server=server,
        title=_title(server, now),
        rectangles=tuple(_rectangles(axis, server.bars, now)),
        downtime="–" if server.downtime is None else duration(server.downtime),
        mark=MARKS.get(server.stage, ""),
        is_bad=server.stage in figures.FAILED,
    )


def _rectangles(axis: Axis, bars: Sequence[StepBar], now: float) -> Iterator[Rectangle]:
    """Return a thin line from the first bar to the last, the bars by start time, and hatches over failed ones."""
    placed = []
    for bar in sorted(bars, key=lambda bar: bar.began):
        left = axis.at(bar.began)
        least = MIN_FAILED_WIDTH if bar.failed else MIN_BAR_WIDTH
        placed.append((bar, left, max(axis.at(end_of(bar, now)) - left, least)))
    gaps = [after[1] - before[1] - before[2] for before, after in itertools.pairwise(placed)]
    if any(gap > MIN_BAR_WIDTH for gap in gaps):
        first, last = placed[0][1], placed[-1][1]
        yield Rectangle("l", first, last - first)
    for bar, left, width in placed:
        css_class = STEPS[Step(bar.step)][0] if bar.step in STEPS else OTHER_STEP_CLASS
        yield Rectangle(css_class, min(left, 100 - width), width)
        if bar.failed:
            yield Rectangle("x", min(left, 100 - width), width)


def _title(server: ServerReport, now: float) -> str:
    """Return the text of a row for a pointer and for screen readers."""
    steps = []
    for bar in server.bars:
        outcome = " (failed)" if bar.failed else " (runs)" if bar.ended is None else ""
        steps.append(f"{bar.step} {duration(end_of(bar, now) - bar.began)}{outcome}")
    target = f"to {server.target_host}, " if server.target_host else ""
    began = server.bars[0].began
    return f"{target}{day(began)} {clock(began, second=True)}: {', '.join(steps)}"


def _load(axis: Axis, servers: Iterable[ServerReport], now: float, points: int) -> list[int]:
    """Return how many servers of a host were in progress at once, along the axis."""
    steps = [0] * (points + 1)
    for server in servers:
        reached = -1  # a server counts once where one of its bars ends and the next begins
        for bar in sorted(server.bars, key=lambda bar: bar.began):
            left, right = (min(int(axis.at(time) * points / 100), points - 1) for time in (bar.began, end_of(bar, now)))
            left = max(left, reached + 1)
            if left <= right:
                steps[left] += 1
                steps[right + 1] -= 1
                reached = right
    return list(itertools.accumulate(steps[:-1]))


def _curve(load: Sequence[int], top: int) -> str:
    """Return the path of a step curve, as short as possible; empty without work."""
    if not top or not any(load):
        return ""
    pieces = [f"M0 {top}"]
    level = 0
    for height, run in itertools.groupby(load):
        pieces.append(f"v{level - height}" if height != level else "")
        level = height
        pieces.append(f"h{len(list(run))}")
    return "".join(pieces) + f"V{top}z"
