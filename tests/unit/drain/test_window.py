"""The time window of a drain, at given times of given days."""

from __future__ import annotations

import datetime

import pytest

from cellmove.core.errors import Usage
from cellmove.drain import window

ZONE = datetime.timezone(datetime.timedelta(hours=2))
MONDAY = datetime.datetime(2026, 3, 2, 12, 0, tzinfo=ZONE)


def at(day: int, clock: str) -> datetime.datetime:
    """A moment of the week; day 0 is Monday."""
    hour, minute = map(int, clock.split(":"))
    return MONDAY.replace(hour=hour, minute=minute) + datetime.timedelta(days=day)


def hours(**typed: str) -> window.Hours:
    return window.parse(**{"until": "", "window": "", "days": "", **typed}, now=MONDAY)


@pytest.mark.parametrize(("clock", "is_open"), [
    ("21:59", False), ("22:00", True), ("23:59", True), ("00:00", True), ("05:59", True), ("06:00", False), ("12:00", False),
])  # fmt: skip
def test_a_window_over_midnight(clock: str, is_open: bool) -> None:
    why = window.closed_reason(hours(window="22:00-06:00"), at(2, clock))
    assert why == ("" if is_open else f"the window is 22:00-06:00, and it is {clock}")


@pytest.mark.parametrize(("clock", "is_open"), [("07:59", False), ("08:00", True), ("16:59", True), ("17:00", False)])
def test_a_window_within_a_day(clock: str, is_open: bool) -> None:
    assert (window.closed_reason(hours(window="8:00-17:00"), at(2, clock)) == "") is is_open


@pytest.mark.parametrize(("day", "clock", "why"), [
    (4, "23:00", ""), (5, "05:00", ""),  # Friday's night goes on into Saturday
    (5, "23:00", "--days excludes Saturday"), (6, "05:00", "--days excludes yesterday, when the window would have opened"),
    (0, "05:00", "--days excludes yesterday, when the window would have opened"), (0, "22:00", ""),
])  # fmt: skip
def test_a_night_belongs_to_the_day_on_which_it_begins(day: int, clock: str, why: str) -> None:
    assert window.closed_reason(hours(window="22:00-06:00", days="mon-fri"), at(day, clock)) == why


@pytest.mark.parametrize(("days", "meant"), [
    ("mon-fri", {0, 1, 2, 3, 4}), ("sat-mon", {5, 6, 0}), ("sat,sun", {5, 6}), ("wed", {2}), ("Tuesday - Thursday", {1, 2, 3}),
])  # fmt: skip
def test_days(days: str, meant: set[int]) -> None:
    chosen = hours(days=days)
    assert {day for day in range(7) if not window.closed_reason(chosen, at(day, "12:00"))} == meant


def test_the_hour_comes_today_or_tomorrow() -> None:
    assert hours(until="13:00").until == MONDAY.replace(hour=13)
    assert hours(until="11:00").until == at(1, "11:00")
    assert hours(until="12:00").until == at(1, "12:00"), "it is that late already"
    assert window.closed_reason(hours(until="06:00"), at(1, "05:59")) == ""
    assert window.closed_reason(hours(until="06:00"), at(1, "06:00")) == "it is past 06:00"


@pytest.mark.parametrize(("typed", "words"), [
    ({"window": "22:00"}, "must be HH:MM-HH:MM"), ({"window": "22:00-22:00"}, "is never open"), ({"window": "25:00-06:00"}, "not a time"),
    ({"until": "six"}, "not a time of day"), ({"until": "6:60"}, "not a time of day"), ({"days": "mon-funday"}, "not a day"), ({"days": ","}, "not a day"),
])  # fmt: skip
def test_what_is_no_time_is_told(typed: dict[str, str], words: str) -> None:
    with pytest.raises(Usage, match=words):
        hours(**typed)
