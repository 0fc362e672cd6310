"""Formats values for HTML templates. Templates escape text themselves; nothing here returns markup."""

from __future__ import annotations

import datetime
import urllib.parse
from typing import TYPE_CHECKING

from cellmove.drain.item import Stage
from cellmove.ui.console import clean

if TYPE_CHECKING:
    from cellmove.drain.drain_report import ServerReport

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

MARKS = {
    Stage.FAILED: "✕",
    Stage.UNVERIFIED: "≠",
    Stage.REVERTED: "↩",
    Stage.REFUSED: "⊘",
    Stage.SKIPPED: "–",
    Stage.GONE: "∅",
    Stage.WAITING: "·",
    Stage.MOVING: "→",
    Stage.CONFIRMING: "→",
}
"""Signs with the same meaning as the colours."""


def cleaned(value: object) -> object:
    """Remove control characters from text before a template escapes it: names of servers are input of other people."""
    return clean(value) if type(value) is str else value


def anchor(server: ServerReport) -> str:
    """Return the id of a server's row. It needs no quotes, and differs from all other ids of the page."""
    return "s-" + urllib.parse.quote(clean(server.server_id), safe="")


def display_name(server: ServerReport) -> str:
    """Return the name of a server, or its id if the name is empty."""
    return clean(server.name).strip() or server.server_id


def percent(value: float) -> str:
    """Return a share of a width with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with separators: 10,000. An unknown one is a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """Return an hourly rate. Large ones have no decimals."""
    return number(value, 1 if value is not None and value < 100 else 0)


def count(value: int, noun: str) -> str:
    """Return a number with its noun: 1 server, 2 servers."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def utc(seconds: float) -> datetime.datetime:
    """Return a time in UTC.

    :param seconds: since the epoch
    """
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def day(seconds: float) -> str:
    """Return the day of a time: Thu 12 Mar."""
    when = utc(seconds)
    return f"{DAYS[when.weekday()]} {when.day} {MONTHS[when.month - 1]}"


def clock(seconds: float, *, second: bool = False) -> str:
    """Return the time of day: 22:05, or 22:05:13."""
    return utc(seconds).strftime("%H:%M:%S" if second else "%H:%M")
