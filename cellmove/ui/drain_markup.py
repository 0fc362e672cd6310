"""Small pieces of HTML. All that comes from elsewhere goes through here: names of servers are hostile input."""

from __future__ import annotations

import datetime
import html
import re
import urllib.parse
from collections.abc import Iterable

from cellmove.drain.drain_report import ServerReport
from cellmove.drain.item import Stage
from cellmove.ui.console import clean

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
"""Signs that say the same as the colours."""


def text(words: str) -> str:
    """Words as they may stand between tags: no markup, nothing that turns the writing round."""
    return html.escape(clean(words), quote=False)


def attribute(value: str) -> str:
    """A value as it may stand behind ``name=``; quoted only where it has to be, as there are tens of thousands."""
    cleaned = clean(value)
    return cleaned if re.fullmatch(r"[A-Za-z0-9_.:%#-]+", cleaned) else f'"{html.escape(cleaned)}"'


def anchor(server: ServerReport) -> str:
    """The id of a server's row; apart from all ids of the page's own."""
    return "s-" + urllib.parse.quote(clean(server.server_id), safe="")


def called(server: ServerReport) -> str:
    """What a server is called, escaped; its writing direction is its own."""
    return f"<bdi>{text(server.name).strip() or text(server.server_id)}</bdi>"


def linked(server: ServerReport) -> str:
    """Its name, leading to its row on the time line."""
    return f"<a href=#{anchor(server)}>{called(server)}</a>"


def percent(value: float) -> str:
    """A share of a width, as short as it can be said to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


def number(value: float | None, digits: int = 0) -> str:
    """10,000; an unknown one is a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """An hourly rate: fast ones need no decimals."""
    return number(value, 1 if value is not None and value < 100 else 0)


def count(value: int, word: str) -> str:
    """1 server, 2 servers."""
    return f"{value:,} {word}{'' if value == 1 else 's'}"


def moment(seconds: float) -> datetime.datetime:
    """A moment in UTC, as all that is shown."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def day(seconds: float) -> str:
    """Thu 12 Mar."""
    when = moment(seconds)
    return f"{DAYS[when.weekday()]} {when.day} {MONTHS[when.month - 1]}"


def clock(seconds: float, *, second: bool = False) -> str:
    """22:05, or 22:05:13."""
    return moment(seconds).strftime("%H:%M:%S" if second else "%H:%M")


def table(name: str, headers: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "") -> str:
    """A table whose first column says what a row is about and whose others are numbers; all escaped already."""
    head = "".join(f"<th scope=col>{header}" for header in headers)
    body = "\n".join("<tr><th scope=row>" + "<td>".join(row) for row in rows)
    title = f"<caption>{caption}</caption>" if caption else ""
    return f"<div class=wide><table class={name}>{title}<thead><tr>{head}<tbody>\n{body}\n</table></div>"
