"""The histogram of downtimes on the HTML page about a drain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellmove.drain import figures
from cellmove.ui.console import duration

MAX_EDGE_LABELS = 7

MAX_HEIGHT = 72
"""Percent: the height of the largest bar."""

BAR_SHARE = 0.88
"""Width of a bar, as a share of its bin."""

LABEL_MARGIN = 15
"""Percent: a label nearer to the edge is on the other side of its line."""


@dataclass(frozen=True)
class HistogramBar:
    """A bar of the histogram; positions are percent."""

    left: float
    width: float
    height: float
    center: float
    amount: int
    title: str


@dataclass(frozen=True)
class EdgeLabel:
    """A label below the histogram."""

    left: float
    side: str
    text: str


@dataclass(frozen=True)
class MarkLine:
    """A vertical line of the histogram; ``is_before``: its label is on the left."""

    kind: str
    label: str
    left: float
    is_before: bool


@dataclass(frozen=True)
class Histogram:
    """The histogram of downtimes."""

    bars: tuple[HistogramBar, ...]
    labels: tuple[EdgeLabel, ...]
    lines: tuple[MarkLine, ...]
    amount: int


def histogram_of(bins: Sequence[figures.Bin], spread: figures.Spread, amount: int) -> Histogram:
    """Return the histogram.

    :param amount: number of downtimes
    """
    top, width = max(one.count for one in bins), 100 / len(bins)
    bars = []
    for place, one in enumerate(bins):
        height = max(MAX_HEIGHT * one.count / top, 1) if one.count else 0
        bars.append(
            HistogramBar(
                left=place * width + width * (1 - BAR_SHARE) / 2,
                width=width * BAR_SHARE,
                height=height,
                center=(place + 0.5) * width,
                amount=one.count,
                title=f"{duration(one.low)} to {duration(one.high)}: {one.count:,}",
            )
        )
    lines = (
        _mark_line(bins, "median", "median", spread.median, prefers_before=True),
        _mark_line(bins, "ninety", "90 %", spread.ninety, prefers_before=False),
    )
    return Histogram(tuple(bars), tuple(_edge_labels(bins, width)), lines, amount)


def _edge_labels(bins: Sequence[figures.Bin], width: float) -> Iterator[EdgeLabel]:
    every = -(-(len(bins) + 1) // MAX_EDGE_LABELS)
    for place, edge in enumerate([*(one.low for one in bins), bins[-1].high]):
        if place % every == 0:
            side = "start" if place == 0 else "end" if place == len(bins) else "middle"
            yield EdgeLabel(place * width, side, _short(edge))


def _mark_line(bins: Sequence[figures.Bin], kind: str, label: str, value: float, *, prefers_before: bool) -> MarkLine:
    left = _position(bins, value)
    is_before = left > 100 - LABEL_MARGIN or (prefers_before and left > LABEL_MARGIN)
    return MarkLine(kind, label, left, is_before)


def _position(bins: Sequence[figures.Bin], value: float) -> float:
    """Return the position of a downtime on the histogram, in percent."""
    for place, one in enumerate(bins):
        if value < one.high or one is bins[-1]:
            share = (value - one.low) / (one.high - one.low)
            return (place + min(max(share, 0.0), 1.0)) * 100 / len(bins)
    return 100.0


def _short(seconds: float) -> str:
    """Return the edge of a bin as a short text: 0.2 s, 45 s, 1.5 min, 2 h, 4 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
