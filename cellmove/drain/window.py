"""The time window of a drain: hours, days, and a time after which no server starts."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from cellmove.core.errors import Usage

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Hours:
    """When servers may start, by the clock of this machine.

    :param until: no server starts from this time on; None: no such time
    :param opens: minutes after midnight, likewise ``closes``; None: all day. A window that closes before it opens crosses
        midnight, and belongs to the day on which it opens
    :param days: weekdays; Monday is 0
    """

    until: datetime.datetime | None = None
    opens: int | None = None
    closes: int = 0
    days: frozenset[int] = frozenset(range(7))


def parse(*, until: str, window: str, days: str, now: datetime.datetime) -> Hours:
    """Parse the options of a window.

    :param until: ``HH:MM``, the next occurrence
    :param window: ``HH:MM-HH:MM``
    :param days: ``mon-fri``, ``sat,sun`` and the like
    :param now: of this machine, with its time zone
    :raises Usage: an option has another form
    """
    end = next_time(until, "--until", now) if until else None
    opens, closes = None, 0
    if window:
        first, sign, second = window.partition("-")
        if not sign:
            raise Usage(f"--window: {window!r} must be HH:MM-HH:MM, for example 22:00-06:00")
        opens, closes = _minutes(first, "--window"), _minutes(second, "--window")
        if opens == closes:
            raise Usage(f"--window: {window!r} is never open; omit the option for the whole day")
    return Hours(end, opens, closes, _days(days) if days else frozenset(range(7)))


def next_time(text: str, option: str, now: datetime.datetime) -> datetime.datetime:
    """Return the next occurrence of a time of day.

    :param text: ``HH:MM``
    :param option: name of the option, for the message
    :param now: of this machine, with its time zone
    :raises Usage: the text is no time of day
    """
    minutes = _minutes(text, option)
    today = now.replace(hour=minutes // 60, minute=minutes % 60, second=0, microsecond=0)
    return today if today > now else today + datetime.timedelta(days=1)


def closed_reason(hours: Hours, now: datetime.datetime) -> str:
    """Return why no server may start now; empty when one may.

    :param now: of this machine, with its time zone
    """
    if hours.until is not None and now >= hours.until:
        return f"it is past {hours.until:%H:%M}"
    minute = now.hour * 60 + now.minute
    day = now.weekday()
    if hours.opens is not None:
        over_midnight = hours.closes < hours.opens
        if over_midnight and minute < hours.closes:
            day = (day - 1) % 7  # the window that opened yesterday
        elif not (hours.opens <= minute and (over_midnight or minute < hours.closes)):
            return f"the window is {_clock(hours.opens)}-{_clock(hours.closes)}, and it is {_clock(minute)}"
    if day not in hours.days:
        return (
            f"--days excludes {now:%A}"
            if day == now.weekday()
            else "--days excludes yesterday, when the window would have opened"
        )
    return ""


def _minutes(text: str, option: str) -> int:
    match = re.fullmatch(r"(\d{1,2}):(\d\d)", text.strip())
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise Usage(f"{option}: {text!r} is not a time of day; use for example 06:00")
    return int(match[1]) * 60 + int(match[2])


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        first, sign, last = (word.strip()[:3] for word in part.partition("-"))
        if first not in DAYS or (sign and last not in DAYS):
            raise Usage(f"--days: {part.strip()!r} is not a day; use for example mon-fri or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last) if sign else DAYS.index(first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
