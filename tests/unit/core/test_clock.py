"""Times as nova's tables hold them, and as its heartbeats are judged."""

from __future__ import annotations

import datetime

from cellmove.core.clock import Clock
from cellmove.db.look import is_up

MOMENT = datetime.datetime(2026, 5, 4, 3, 2, 40, 400_000, tzinfo=datetime.UTC)


def test_a_service_is_down_as_soon_as_nova_says_so():
    clock = Clock(utc_now=lambda: MOMENT)
    silent = {"forced_down": 0, "last_seen_up": datetime.datetime(2026, 5, 4, 3, 2, 25), "created_at": None}  # noqa: DTZ001
    assert not is_up(silent, clock.heartbeat_time(), 15)
    assert is_up(silent, clock.heartbeat_time(), 16)


def test_what_is_written_has_whole_seconds():
    assert Clock(utc_now=lambda: MOMENT).database_time().isoformat() == "2026-05-04T03:02:40"
