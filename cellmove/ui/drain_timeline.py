"""The time line of a drain: every server's steps on one axis, host by host."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cellmove.core.move import Step
from cellmove.drain import figures
from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.durations import StepBar
from cellmove.drain.figures import Stretch, end_of
from cellmove.drain.item import Stage
from cellmove.ui.console import duration
from cellmove.ui.drain_markup import MARKS, anchor, attribute, called, clock, day, percent, text

STEPS = {
    Step.PREP_DEST: ("a", "the guest runs on"),
    Step.PREP_SOURCE: ("b", "the guest stops, its disk is uploaded"),
    Step.FINISH: ("c", "the guest starts at the target"),
    Step.CONFIRM: ("d", "the source is cleaned up"),
    Step.REVERT: ("e", "the server goes back"),
}
"""The class of a step's bars, and what the legend says of it."""

NIGHT_WIDTH, NIGHTS_WIDTH = 1.6, 20.0
"""Percent of the axis: of one night, and of all of them at the most."""

LEAST_STRETCH = 1.0
LEAST_BAR, LEAST_MARK = 0.12, 0.5
"""Percent: what is shorter is drawn as long as that, to be seen at all."""

TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
TICK_ROOM, SECONDS_ROOM, DAY_ROOM, NARROW_FACTOR = 6.0, 9.0, 9.0, 2.6
"""Percent of the axis that a label needs; on a narrow screen so many times that."""

EDGE = 3.0
LAST_DAY = 78
"""A date further right than that would not fit on a narrow screen."""

MANY = 400
"""Of more servers than that the hosts are closed at first: what each of them did shows in its summary."""

BUCKETS = 40_000


@dataclass(frozen=True)
class Tick:
    """A label on the axis. ``narrow``: there is room for it on a narrow screen, too."""

    at: float
    label: str
    narrow: bool


class Axis:
    """Moments to percent of a width. Nights are cut down to a sliver each.

    :param stretches: when anything happened, oldest first; at least one
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = stretches
        self.night = min(NIGHT_WIDTH, NIGHTS_WIDTH / max(len(stretches) - 1, 1))
        least = min(LEAST_STRETCH, (100 - NIGHTS_WIDTH) / len(stretches) / 2)
        room = 100 - self.night * (len(stretches) - 1) - least * len(stretches)
        whole = sum(stretch.seconds for stretch in stretches) or 1.0
        self.widths = [least + room * stretch.seconds / whole for stretch in stretches]
        steps = itertools.accumulate((width + self.night for width in self.widths), initial=0.0)
        self.starts = list(steps)[:-1]
        self._begins = [stretch.began for stretch in stretches]

    def at(self, moment: float) -> float:
        """Where a moment lies; one in a night lies at its edge."""
        place = max(bisect.bisect_right(self._begins, moment) - 1, 0)
        stretch = self.stretches[place]
        share = (moment - stretch.began) / stretch.seconds if stretch.seconds else 0.0
        return self.starts[place] + self.widths[place] * min(max(share, 0.0), 1.0)

    def nights(self) -> list[tuple[float, float]]:
        """Where nobody was at work."""
        return [(start - self.night, start) for start in self.starts[1:]]

    def ticks(self) -> list[Tick]:
        """Round times, as close as their labels allow."""
        scale = sum(self.widths) / (sum(stretch.seconds for stretch in self.stretches) or 1.0)
        step = next((each for each in TICKS if each * scale >= (TICK_ROOM if each >= 60 else SECONDS_ROOM)), TICKS[-1])
        found = []
        for stretch in self.stretches:
            moment = -(-stretch.began // step) * step
            while moment <= stretch.ended:
                found.append((self.at(moment), clock(moment, second=step < 60)))
                moment += step
        return _fitting(found, TICK_ROOM if step >= 60 else SECONDS_ROOM)

    def days(self) -> list[Tick]:
        """The date at the begin of each stretch and at each midnight."""
        found = []
        for stretch in self.stretches:
            moment = stretch.began
            while moment <= stretch.ended:
                found.append((self.at(moment), day(moment)))
                moment = (moment // 86400 + 1) * 86400
        return _fitting(found, DAY_ROOM, LAST_DAY)

    def background(self) -> str:
        """Lines at the ticks and shades for the nights: a CSS gradient that lies behind every row."""
        stops = [
            (tick.at, f"var(--clear) {percent(tick.at)},var(--line) 0 calc({percent(tick.at)} + 1px)")
            for tick in self.ticks()
        ]
        stops += [
            (left, f"var(--clear) {percent(left)},var(--night) 0 {percent(right)}") for left, right in self.nights()
        ]
        inner = ",".join(f"{stop},var(--clear) 0" for _, stop in sorted(stops))
        return f"linear-gradient(90deg,{inner or 'var(--clear),var(--clear)'})"


def background(report: DrainReport) -> str:
    """What lies behind every row of the time line."""
    found = figures.stretches(report)
    return Axis(found).background() if found else "none"


def section(report: DrainReport) -> Iterable[str]:
    """The whole time line, piece by piece."""
    yield "<section class=time id=time><h2>Time line</h2>"
    found = figures.stretches(report)
    if found:
        axis = Axis(found)
        yield _legend(report)
        yield f"<div class=axis><span>UTC</span><svg aria-hidden=true>{''.join(_labels(axis))}</svg><b>down</b></div>"
    else:
        axis = None
        yield "<p>Nothing has moved yet.</p>"
    hosts = figures.grouped(report.servers, lambda server: server.source_host)
    buckets = min(max(BUCKETS // max(len(hosts), 1), 60), 240)
    crowds = {host: _crowd(axis, own, report.generated_at, buckets) if axis else [] for host, own in hosts.items()}
    most = max((max(crowd, default=0) for crowd in crowds.values()), default=0)
    is_open = " open" if len(report.servers) <= MANY else ""
    for host, own in hosts.items():
        yield f"<details{is_open}><summary><bdi>{text(host) or 'no host'}</bdi>{_curve(crowds[host], most)}<b>{_sums(own)}</b></summary>"
        yield from _rows(axis, own, report.generated_at)
        yield "</details>"
    yield "</section>"


def _legend(report: DrainReport) -> str:
    used = {bar.step for server in report.servers for bar in server.bars}
    keys = [
        f"<li><svg class=key><rect class={letter} width=100% /></svg>{step} <small>{words}</small>"
        for step, (letter, words) in STEPS.items()
        if step in used
    ]
    if any(bar.failed for server in report.servers for bar in server.bars):
        keys.append(
            "<li><svg class=key><rect class=b width=100% /><rect class=x width=100% /></svg>hatched, framed "
            "<small>failed or rolled back</small>"
        )
    keys.append("<li><svg class=key><rect class=l width=100% /></svg>line <small>between two steps: soaking</small>")
    if len(figures.stretches(report)) > 1:
        keys.append(
            "<li><svg class=key><rect class=n width=100% /></svg>shaded <small>nobody at work; cut short</small>"
        )
    return f"<ul class=legend>{''.join(keys)}</ul>"


def _labels(axis: Axis) -> Iterable[str]:
    """Of the axis: dates begin where their day does; times are in the middle, except at the very ends."""
    for name, height, ticks in (("day", 11, axis.days()), ("hour", 26, axis.ticks())):
        for tick in ticks:
            kind = f'"{name} wide-only"' if not tick.narrow else name
            side = (
                "" if name == "day" or tick.at < EDGE else f" text-anchor={'end' if tick.at > 100 - EDGE else 'middle'}"
            )
            yield f"<text class={kind} x={percent(tick.at)} y={height}{side}>{tick.label}</text>"


def _rows(axis: Axis | None, servers: Sequence[ServerReport], generated_at: float) -> Iterable[str]:
    """Servers that moved in the order in which they did; then the names of those that never began."""
    begun = [server for server in servers if server.bars] if axis else []
    if axis and begun:
        yield "<ol>"
        for server in sorted(begun, key=lambda one: (one.bars[0].began, one.name, one.server_id)):
            yield _row(axis, server, generated_at)
        yield "</ol>"
    still = [server for server in servers if axis is None or not server.bars]
    for stage in figures.ORDER:
        own = sorted(
            (server for server in still if server.stage is stage),
            key=lambda one: (figures.natural(one.name), one.server_id),
        )
        if own:
            names = ", ".join(f"<span id={anchor(server)}>{called(server)}</span>" for server in own)
            yield f"<p class=still><b>{MARKS.get(stage, '')} {len(own):,} {stage}</b> {names}</p>"


def _row(axis: Axis, server: ServerReport, generated_at: float) -> str:
    bars = "".join(_rects(axis, server.bars, generated_at))
    down = "–" if server.downtime is None else duration(server.downtime)
    mark = f"<i>{MARKS[server.stage]} {server.stage}</i>" if server.stage in MARKS else ""
    kind = " class=bad" if server.stage in figures.FAILED else ""
    return f"<li id={anchor(server)}{kind}>{called(server)}<svg><title>{_told(server, generated_at)}</title>{bars}</svg><b>{down}</b>{mark}"


def _rects(axis: Axis, bars: Sequence[StepBar], generated_at: float) -> Iterable[str]:
    """A thin line from the first to the last, the bars in the order in which they began, hatches where one failed."""
    places = []
    for bar in sorted(bars, key=lambda each: each.began):
        left = axis.at(bar.began)
        least = LEAST_MARK if bar.failed else LEAST_BAR
        places.append((bar, left, max(axis.at(end_of(bar, generated_at)) - left, least)))
    rests = [after[1] - before[1] - before[2] for before, after in itertools.pairwise(places)]
    if any(rest > LEAST_BAR for rest in rests):
        first, last = places[0][1], places[-1][1]
        yield f"<rect class=l x={percent(first)} width={percent(last - first)} />"
    for bar, left, width in places:
        place = f"x={percent(min(left, 100 - width))} width={percent(width)}"
        letter = STEPS[Step(bar.step)][0] if bar.step in STEPS else "o"
        yield f"<rect class={letter} {place} />"
        if bar.failed:
            yield f"<rect class=x {place} />"


def _told(server: ServerReport, generated_at: float) -> str:
    """What a pointer over a row, or a screen reader, gets to know."""
    words = []
    for bar in server.bars:
        outcome = " (failed)" if bar.failed else " (runs)" if bar.ended is None else ""
        words.append(f"{bar.step} {duration(end_of(bar, generated_at) - bar.began)}{outcome}")
    where = f"to {server.target_host}, " if server.target_host else ""
    began = server.bars[0].began
    return text(f"{where}{day(began)} {clock(began, second=True)}: {', '.join(words)}")


def _sums(servers: Sequence[ServerReport]) -> str:
    """A host's line: how many servers, and what became of those that are not moved."""
    shares = figures.by_share(servers)
    words = [f"{shares['moved']:,} of {len(servers):,} moved"]
    words += [f"<em>{MARKS[Stage.FAILED]} {shares['failed']:,} failed</em>"] if shares["failed"] else []
    return ", ".join(words)


def _crowd(axis: Axis, servers: Iterable[ServerReport], generated_at: float, buckets: int) -> list[int]:
    """How many servers of a host were at work at once, along the axis."""
    steps = [0] * (buckets + 1)
    for server in servers:
        reached = -1  # a server is counted once where one of its bars ends and the next begins
        for bar in sorted(server.bars, key=lambda each: each.began):
            left, right = (
                min(int(axis.at(when) * buckets / 100), buckets - 1) for when in (bar.began, end_of(bar, generated_at))
            )
            left = max(left, reached + 1)
            if left <= right:
                steps[left] += 1
                steps[right + 1] -= 1
                reached = right
    return list(itertools.accumulate(steps[:-1]))


def _curve(crowd: Sequence[int], most: int) -> str:
    """Steps of a curve, in as few characters as can be."""
    if not most or not any(crowd):
        return "<svg></svg>"
    pieces = [f"M0 {most}"]
    level = 0
    for height, run in itertools.groupby(crowd):
        pieces.append(f"v{level - height}" if height != level else "")
        level = height
        pieces.append(f"h{len(list(run))}")
    path = "".join(pieces) + f"V{most}z"
    box = attribute(f"0 0 {len(crowd)} {most}")
    return f"<svg viewBox={box} preserveAspectRatio=none aria-hidden=true><path d={attribute(path)} /></svg>"


def _fitting(labels: Iterable[tuple[float, str]], room: float, last: float = 100.0) -> list[Tick]:
    """Those labels that do not run into the one before, on wide and on narrow screens.

    :param last: of dates, which begin at their place: what is further right is for wide screens only
    """
    found: list[Tick] = []
    wide = narrow = -1000.0
    for at, label in labels:
        middle = at
        if last == 100:  # times are in the middle, except at the very ends
            middle = min(max(at, room / 2 if at < EDGE else at), 100 - room / 2 if at > 100 - EDGE else at)
        if middle - wide < room:
            continue
        fits = middle - narrow >= room * NARROW_FACTOR and at <= last
        wide, narrow = middle, middle if fits else narrow
        found.append(Tick(at, label, fits))
    return found
