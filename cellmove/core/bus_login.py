"""Puts cellmove's own login into the URLs of nova's message buses."""

from __future__ import annotations

from urllib.parse import quote

from cellmove.core.login import Login

DRIVERS = ("rabbit://", "kombu://")


def with_login(url: str, login: Login | None) -> str:
    """Return the URL of a bus with another login for each of its brokers.

    :param url: a URL of nova's; one of another kind, and one that :func:`is_cut`, is returned as it is
    :param login: None leaves the URL as it is
    """
    if login is None or not url.lower().startswith(DRIVERS) or is_cut(url):
        return url
    scheme, _, rest = url.partition("://")
    end = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    words = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
    brokers = (f"{words}@{broker.rpartition('@')[2]}" for broker in rest[:end].split(","))
    return f"{scheme}://{','.join(brokers)}{rest[end:]}"


def is_cut(url: str) -> bool:
    """Tell whether a character of a password may have ended the part of the URL that the password belongs to.

    Such a URL must be neither opened nor shown: a part of the password stands where a host, a port or a virtual host is read.
    """
    authority, _, path = url.partition("://")[2].partition("/")
    has_login = ["@" in broker for broker in authority.split(",")]
    is_split = has_login != sorted(has_login, reverse=True)  # by a comma: a broker without a login before one with
    return "#" in url or "@" in url.partition("?")[2] or is_split or ("@" in path and not has_login[-1])
