"""cellmove's own user at nova's databases and message buses, which then needs no rights but its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from cellmove.core.errors import Usage


@dataclass(frozen=True)
class Login:
    """A user and its password. docs/deployments.md has the rights that it needs."""

    user: str
    password: str = field(repr=False)


def own_login(what: str, user: str | None, password: str | None) -> Login | None:
    """Return cellmove's own login, if one is set.

    :param what: what it is for, as its settings begin: ``database`` or ``bus``
    :raises Usage: only one half of it is set
    """
    if bool(user) != bool(password):
        variable = f"CELLMOVE_{what.upper()}_USER"
        raise Usage(f"set both {what}_user and {what}_password, or neither ({variable}, _PASSWORD)")
    return Login(user, password) if user and password else None
