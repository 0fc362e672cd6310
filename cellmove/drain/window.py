"""When a drain may begin with a server: hours, days, and a moment after which it may not."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from cellmove.core.errors import Usage

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Hours:
    """When servers may be begun; all times are those of this machine.

    :param until: nothing is begun from then on; None: no such moment
    :param opens: minutes after midnight, ``closes`` likewise; None: all day. One that closes before it opens
        goes over midnight, and belongs to the day on which it opens
    :param days: numbers of weekdays, Monday is 0
    """

    until: datetime.datetime | None = None
    opens: int | None = None
    closes: int = 0
    days: frozenset[int] = frozenset(range(7))


def parse(*, until: str, window: str, days: str, now: datetime.datetime) -> Hours:
    """What was typed.

    :param until: ``HH:MM``, the next time that it is so late
    :param window: ``HH:MM-HH:MM``
    :param days: ``mon-fri``, ``sat,sun`` and the like
    :param now: of this machine, with its zone
    :raises Usage: one of them is none
    """
    end = next_time(until, "--until", now) if until else None
    opens, closes = None, 0
    if window:
        first, sign, second = window.partition("-")
        if not sign:
            raise Usage(f"--window: {window!r} has to be HH:MM-HH:MM, for instance 22:00-06:00")
        opens, closes = _minutes(first, "--window"), _minutes(second, "--window")
        if opens == closes:
            raise Usage(f"--window: {window!r} is never open; leave it out for the whole day")
    return Hours(end, opens, closes, _days(days) if days else frozenset(range(7)))


def next_time(text: str, option: str, now: datetime.datetime) -> datetime.datetime:
    """The next time that it is so late.

    :param text: ``HH:MM``
    :param option: what it was given to, for the message
    :param now: of this machine, with its zone
    :raises Usage: it is no time of day
    """
    minutes = _minutes(text, option)
    found = now.replace(hour=minutes // 60, minute=minutes % 60, second=0, microsecond=0)
    return found if found > now else found + datetime.timedelta(days=1)


def why_closed(hours: Hours, now: datetime.datetime) -> str:
    """Why nothing may be begun at this moment; empty when it may.

    :param now: of this machine, with its zone
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
        return f"nothing is begun on a {now:%A}" if day == now.weekday() else "the window did not open yesterday"
    return ""


def _minutes(text: str, option: str) -> int:
    match = re.fullmatch(r"(\d{1,2}):(\d\d)", text.strip())
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise Usage(f"{option}: {text!r} is no time of day; say for instance 06:00")
    return int(match[1]) * 60 + int(match[2])


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        first, sign, last = (word.strip()[:3] for word in part.partition("-"))
        if first not in DAYS or (sign and last not in DAYS):
            raise Usage(f"--days: {part.strip()!r} is no day; say for instance mon-fri or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last) if sign else DAYS.index(first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
