"""Statistics of a drain report: servers by stage and host, pace and downtimes. Pure functions."""

from __future__ import annotations

import bisect
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cellmove.drain.drain_report import DrainReport, ServerReport
from cellmove.drain.durations import StepBar
from cellmove.drain.item import Stage

MOVED = (Stage.MOVED, Stage.CONFIRMING, Stage.SOAKING)
FAILED = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED)
LEFT = (Stage.MOVING, Stage.WAITING)
STAYING = (Stage.REFUSED, Stage.SKIPPED)

SHARES: Mapping[str, tuple[Stage, ...]] = {
    "moved": MOVED,
    "left": LEFT,
    "failed": FAILED,
    "staying": STAYING,
    "gone": (Stage.GONE,),
}
"""Groups of stages for sums. Every stage is in exactly one group."""

ORDER = tuple(stage for share in SHARES.values() for stage in share)
"""All stages in the order of lists."""

MIN_BREAK_SECONDS, MAX_BREAK_SECONDS = 600.0, 10800.0
BREAK_SHARE = 1 / 8
"""A time without work separates two stretches when it is this share of all work, within these bounds."""

BIN_EDGES_SECONDS = (
    0,
    1,
    2,
    3,
    5,
    7,
    10,
    15,
    20,
    30,
    45,
    60,
    90,
    120,
    180,
    300,
    420,
    600,
    900,
    1200,
    1800,
    2700,
    3600,
    5400,
    7200,
    10800,
    18000,
    28800,
    43200,
    86400,
    172800,
    345600,
    691200,
)
BIN_WIDTHS_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
NARROW_FACTOR = 8
"""Downtimes get bins of equal width when the longest is less than this factor times the shortest."""


@dataclass(frozen=True)
class Stretch:
    """A time in which runs were at work. Times are seconds since the epoch."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Pace:
    """How fast servers and disks moved while runs were at work; None when nothing was done."""

    seconds: float
    servers_an_hour: float | None
    gib_an_hour: float | None


@dataclass(frozen=True)
class Spread:
    """Downtimes in seconds. ``ninety`` is the 90th percentile by nearest rank."""

    median: float
    ninety: float
    longest: tuple[ServerReport, ...]


@dataclass(frozen=True)
class Bin:
    """A bin of the histogram: downtimes from ``low`` to less than ``high`` seconds."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class HostSums:
    """Sums of the servers of one host.

    :param counts: by the names of :data:`SHARES`; their sum is ``servers``
    :param gib: of the servers that moved
    :param median: of their downtimes in seconds; None when none is known
    """

    host: str
    servers: int
    counts: Mapping[str, int]
    gib: int
    median: float | None


def by_stage(servers: Iterable[ServerReport]) -> dict[Stage, int]:
    """Return the number of servers by stage, without empty stages, in :data:`ORDER`."""
    stages = [server.stage for server in servers]
    return {stage: stages.count(stage) for stage in ORDER if stage in stages}


def by_share(servers: Iterable[ServerReport]) -> dict[str, int]:
    """Return the number of servers by the names of :data:`SHARES`."""
    counts = by_stage(servers)
    return {share: sum(counts.get(stage, 0) for stage in stages) for share, stages in SHARES.items()}


def gib_moved(servers: Iterable[ServerReport]) -> int:
    """Return the GiB of local disk of the servers that moved."""
    return sum(server.disk_gb for server in servers if server.stage in MOVED)


def end_of(bar: StepBar, generated_at: float) -> float:
    """Return the end of a bar in the report: the time of the report while the step runs, and never before its start."""
    return max(bar.began, generated_at if bar.ended is None else bar.ended)


def stretches(report: DrainReport) -> tuple[Stretch, ...]:
    """Return the times in which runs were at work, oldest first."""
    merged: list[list[float]] = []
    for began, ended in sorted(
        (bar.began, end_of(bar, report.generated_at)) for server in report.servers for bar in server.bars
    ):
        if merged and began <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], ended)
        else:
            merged.append([began, ended])
    busy = sum(ended - began for began, ended in merged)
    min_break = min(max(busy * BREAK_SHARE, MIN_BREAK_SECONDS), MAX_BREAK_SECONDS)
    stretches: list[list[float]] = []
    for began, ended in merged:
        if stretches and began - stretches[-1][1] < min_break:
            stretches[-1][1] = ended
        else:
            stretches.append([began, ended])
    return tuple(Stretch(began, ended) for began, ended in stretches)


def pace(report: DrainReport) -> Pace:
    """Return how fast servers and their disks moved."""
    seconds = sum(stretch.seconds for stretch in stretches(report))
    if seconds <= 0:
        return Pace(0.0, None, None)
    moved, hours = by_share(report.servers)["moved"], seconds / 3600
    return Pace(seconds, moved / hours, gib_moved(report.servers) / hours)


def arrivals(report: DrainReport, stretches: Sequence[Stretch]) -> list[tuple[Stretch, int, int, int]]:
    """Return for each stretch the number of servers that moved in it, their GiB, and the number that failed.

    A move counts in the stretch in which its last step before the confirm ends.
    """
    sums = [[0, 0, 0] for _ in stretches]
    ends = [stretch.ended for stretch in stretches]
    for server in report.servers:
        bars = [bar for bar in server.bars if bar.step != "confirm"]
        if not bars or server.stage not in (*MOVED, *FAILED):
            continue
        here = sums[bisect.bisect_left(ends, max(end_of(bar, report.generated_at) for bar in bars))]
        if server.stage in MOVED:
            here[0] += 1
            here[1] += server.disk_gb
        else:
            here[2] += 1
    return [(stretch, moved, gib, failed) for stretch, (moved, gib, failed) in zip(stretches, sums, strict=True)]


def spread(servers: Iterable[ServerReport], shown: int = 5) -> Spread | None:
    """Return the downtimes of guests; None when none is known.

    :param shown: number of the longest ones to return
    """
    known = [(server.downtime, server) for server in servers if server.downtime is not None]
    if not known:
        return None
    values = sorted(seconds for seconds, _ in known)
    rank = -(-len(values) * 9 // 10) - 1
    worst = sorted(known, key=lambda pair: (-pair[0], pair[1].name, pair[1].server_id))[:shown]
    return Spread(statistics.median(values), values[rank], tuple(server for _, server in worst))


def histogram(values: Sequence[float]) -> tuple[Bin, ...]:
    """Return a histogram of downtimes: bins of equal width for a narrow range, of growing width otherwise."""
    if not values:
        return ()
    least, most = max(min(values), 0.0), max(*values, 0.0)
    if most < NARROW_FACTOR * least or most < 1:
        wanted = max((most - least) / 12, most / 60, BIN_WIDTHS_SECONDS[0])
        width = next((candidate for candidate in BIN_WIDTHS_SECONDS if candidate >= wanted), BIN_WIDTHS_SECONDS[-1])
        first = int(least / width)
        edges = [round(number * width, 1) for number in range(first, int(most / width) + 2)]
    else:
        low = max(bisect.bisect_right(BIN_EDGES_SECONDS, least) - 1, 0)
        edges = list(BIN_EDGES_SECONDS[low : bisect.bisect_right(BIN_EDGES_SECONDS, most) + 1])
        if most >= edges[-1]:
            edges.append(int(most) + 1)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect.bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return tuple(Bin(low, high, count) for low, high, count in zip(edges, edges[1:], counts, strict=False))


def source_hosts(report: DrainReport) -> tuple[HostSums, ...]:
    """Return the sums of each host of the cell."""
    return _by_host(report.servers, lambda server: server.source_host)


def target_hosts(report: DrainReport) -> tuple[HostSums, ...]:
    """Return the sums of each target host that was chosen."""
    return _by_host((server for server in report.servers if server.target_host), lambda server: server.target_host)


def grouped(servers: Iterable[ServerReport], host: Callable[[ServerReport], str]) -> dict[str, list[ServerReport]]:
    """Return the servers by host, in natural order: host-2 before host-10."""
    by_host: dict[str, list[ServerReport]] = {}
    for server in servers:
        by_host.setdefault(host(server), []).append(server)
    return {name: by_host[name] for name in sorted(by_host, key=natural)}


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return the sort key of a name in natural order."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name


def _by_host(servers: Iterable[ServerReport], host: Callable[[ServerReport], str]) -> tuple[HostSums, ...]:
    sums = []
    for name, own in grouped(servers, host).items():
        down = spread(server for server in own if server.stage in MOVED)
        sums.append(HostSums(name, len(own), by_share(own), gib_moved(own), down.median if down else None))
    return tuple(sums)
