"""cellmove's own user at the message buses of nova, which then needs no permissions but its own (docs/deployments.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

DRIVERS = ("rabbit://", "kombu://")


@dataclass(frozen=True)
class BusLogin:
    """A user and its password."""

    user: str
    password: str = field(repr=False)


def with_login(url: str, login: BusLogin | None) -> str:
    """Return the URL of a bus with another login for each of its brokers.

    :param url: a URL of nova's; one of another kind is returned as it is
    :param login: None leaves the URL as it is
    """
    if login is None or not url.startswith(DRIVERS):
        return url
    scheme, _, rest = url.partition("://")
    end = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    words = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
    brokers = (f"{words}@{broker.rpartition('@')[2]}" for broker in rest[:end].split(","))
    return f"{scheme}://{','.join(brokers)}{rest[end:]}"
