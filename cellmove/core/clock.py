"""Time, sleep and identifiers, injected so that a run can be replayed."""

from __future__ import annotations

import datetime
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def text_of(moment: datetime.datetime) -> str:
    """Return a time in UTC as the journal writes it: ISO 8601, milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """Return a time of :func:`text_of` in seconds since 1970; a time without a zone is in UTC."""
    moment = datetime.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _growing_waits() -> Iterator[float]:
    wait = 0.25
    while True:
        yield wait
        wait = min(wait * 1.5, 2.0)


@dataclass(frozen=True)
class Clock:
    """The source of time and identifiers."""

    utc_now: Callable[[], datetime.datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    new_uuid: Callable[[], str] = lambda: str(uuid.uuid4())
    new_token: Callable[[], str] = lambda: secrets.token_hex(3)
    waits: Callable[[], Iterator[float]] = _growing_waits

    def text(self) -> str:
        """The current time as ISO 8601 text in UTC."""
        return text_of(self.utc_now())

    def heartbeat_time(self) -> datetime.datetime:
        """Return the current time to the microsecond, with which nova compares heartbeats of services.

        With whole seconds a service would count as up for up to a second longer than for nova.
        """
        return self.utc_now().replace(tzinfo=None)

    def database_time(self) -> datetime.datetime:
        """The current time as nova's tables hold it: UTC without a zone, whole seconds."""
        return self.utc_now().replace(tzinfo=None, microsecond=0)
