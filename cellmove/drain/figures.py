"""Sums over a drain's story: what arrived, how fast, how long guests were down, host by host. Pure."""

from __future__ import annotations

import bisect
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cellmove.drain.item import Bar, Stage, Story, Tale

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
"""What a stage comes to, for sums: every stage is in exactly one of them."""

ORDER = tuple(stage for share in SHARES.values() for stage in share)
"""All stages as they are listed."""

SHORTEST_NIGHT, LONGEST_BREAK = 600.0, 10800.0
"""A break in which nobody is at work is a night when it is an eighth of the work, within these bounds."""

EDGES = (
    0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 420, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200,
    10800, 18000, 28800, 43200, 86400, 172800, 345600, 691200,
)  # fmt: skip
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
NARROW = 8
"""Downtimes whose longest is less than so many times the shortest get bins of one width."""


@dataclass(frozen=True)
class Stretch:
    """A time in which the drain was at work, between two nights; seconds since the epoch."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Pace:
    """How fast it went while it was at work, nights left out; None when nothing was done."""

    seconds: float
    servers_an_hour: float | None
    gib_an_hour: float | None


@dataclass(frozen=True)
class Spread:
    """How long guests were down. ``ninety``: nine of ten were down no longer (nearest rank)."""

    median: float
    ninety: float
    longest: tuple[Tale, ...]


@dataclass(frozen=True)
class Bin:
    """A bar of the histogram: downtimes of ``low`` and more, and less than ``high`` seconds."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class HostSums:
    """What became of the servers of one host.

    :param counts: by the names of :data:`SHARES`; their sum is ``servers``
    :param gib: of those that moved
    :param median: of their downtimes; None when none is known
    """

    host: str
    servers: int
    counts: Mapping[str, int]
    gib: int
    median: float | None


def by_stage(tales: Iterable[Tale]) -> dict[Stage, int]:
    """How many servers stand at each stage that there is one at, in :data:`ORDER`."""
    found = [tale.stage for tale in tales]
    return {stage: found.count(stage) for stage in ORDER if stage in found}


def by_share(tales: Iterable[Tale]) -> dict[str, int]:
    """How many servers moved, are left, failed, stay and are gone."""
    found = by_stage(tales)
    return {share: sum(found.get(stage, 0) for stage in stages) for share, stages in SHARES.items()}


def gib_moved(tales: Iterable[Tale]) -> int:
    """How much disk travelled with the servers that moved."""
    return sum(tale.disk_gb for tale in tales if tale.stage in MOVED)


def end_of(bar: Bar, told: float) -> float:
    """When a bar ends on paper: one that runs, when the story was told; none ends before it begins."""
    return max(bar.began, told if bar.ended is None else bar.ended)


def stretches(story: Story) -> tuple[Stretch, ...]:
    """When the drain was at work, oldest first; what lies between two stretches is a night."""
    merged: list[list[float]] = []
    for began, ended in sorted((bar.began, end_of(bar, story.told)) for tale in story.tales for bar in tale.bars):
        if merged and began <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], ended)
        else:
            merged.append([began, ended])
    busy = sum(ended - began for began, ended in merged)
    night = min(max(busy / 8, SHORTEST_NIGHT), LONGEST_BREAK)
    joined: list[list[float]] = []
    for began, ended in merged:
        if joined and began - joined[-1][1] < night:
            joined[-1][1] = ended
        else:
            joined.append([began, ended])
    return tuple(Stretch(began, ended) for began, ended in joined)


def pace(story: Story) -> Pace:
    """How fast servers and their disks moved."""
    seconds = sum(stretch.seconds for stretch in stretches(story))
    if seconds <= 0:
        return Pace(0.0, None, None)
    moved, hours = by_share(story.tales)["moved"], seconds / 3600
    return Pace(seconds, moved / hours, gib_moved(story.tales) / hours)


def arrivals(story: Story, found: Sequence[Stretch]) -> list[tuple[Stretch, int, int, int]]:
    """For each stretch how many servers' moves ended well in it, their GiB, and how many failed.

    A move counts where its last bar before the confirm ends.
    """
    sums = [[0, 0, 0] for _ in found]
    ends = [stretch.ended for stretch in found]
    for tale in story.tales:
        bars = [bar for bar in tale.bars if bar.step != "confirm"]
        if not bars or tale.stage not in (*MOVED, *FAILED):
            continue
        here = sums[bisect.bisect_left(ends, max(end_of(bar, story.told) for bar in bars))]
        if tale.stage in MOVED:
            here[0] += 1
            here[1] += tale.disk_gb
        else:
            here[2] += 1
    return [(stretch, moved, gib, failed) for stretch, (moved, gib, failed) in zip(found, sums, strict=True)]


def spread(tales: Iterable[Tale], shown: int = 5) -> Spread | None:
    """How long guests were down; None when it is known of none.

    :param shown: how many of the longest are named
    """
    known = [(tale.downtime, tale) for tale in tales if tale.downtime is not None]
    if not known:
        return None
    values = sorted(seconds for seconds, _ in known)
    rank = -(-len(values) * 9 // 10) - 1  # nearest rank: the smallest that nine of ten do not exceed
    worst = sorted(known, key=lambda one: (-one[0], one[1].name, one[1].server_id))[:shown]
    return Spread(statistics.median(values), values[rank], tuple(tale for _, tale in worst))


def histogram(values: Sequence[float]) -> tuple[Bin, ...]:
    """Downtimes in bins: of one width when they lie close together, of growing widths otherwise."""
    if not values:
        return ()
    least, most = max(min(values), 0.0), max(*values, 0.0)
    if most < NARROW * least or most < 1:
        wanted = max((most - least) / 12, most / 60, STEPS[0])
        step = next((each for each in STEPS if each >= wanted), STEPS[-1])
        first = int(least / step)
        edges = [round(number * step, 1) for number in range(first, int(most / step) + 2)]
    else:
        low = max(bisect.bisect_right(EDGES, least) - 1, 0)
        edges = list(EDGES[low : bisect.bisect_right(EDGES, most) + 1])
        if most >= edges[-1]:
            edges.append(int(most) + 1)
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect.bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return tuple(Bin(low, high, count) for low, high, count in zip(edges, edges[1:], counts, strict=False))


def source_hosts(story: Story) -> tuple[HostSums, ...]:
    """What became of the servers of each host of the cell."""
    return _by_host(story.tales, lambda tale: tale.source_host)


def target_hosts(story: Story) -> tuple[HostSums, ...]:
    """What became of the servers that each host was chosen for."""
    return _by_host((tale for tale in story.tales if tale.target_host), lambda tale: tale.target_host)


def grouped(tales: Iterable[Tale], host: Callable[[Tale], str]) -> dict[str, list[Tale]]:
    """Servers by host; host-2 comes before host-10."""
    found: dict[str, list[Tale]] = {}
    for tale in tales:
        found.setdefault(host(tale), []).append(tale)
    return {name: found[name] for name in sorted(found, key=natural)}


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """The key that sorts names as a person does."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name


def _by_host(tales: Iterable[Tale], host: Callable[[Tale], str]) -> tuple[HostSums, ...]:
    sums = []
    for name, own in grouped(tales, host).items():
        down = spread(tale for tale in own if tale.stage in MOVED)
        sums.append(HostSums(name, len(own), by_share(own), gib_moved(own), down.median if down else None))
    return tuple(sums)
