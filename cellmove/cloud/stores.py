"""What placement shows about compute nodes: stores that they share, and traits that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cellmove.cloud.failures import parsed
from cellmove.cloud.identity import read, request
from cellmove.cloud.types import Body

if TYPE_CHECKING:
    from openstack.connection import Connection

MICROVERSION = "1.22"
"""Forbidden traits in a query; every release that cellmove works with has it."""

SHARES = "MISC_SHARES_VIA_AGGREGATE"
"""The trait of a provider whose inventory is used by every provider that has an aggregate in common with it."""


def sharing(connection: Connection) -> Mapping[str, frozenset[str]]:
    """The providers whose disk others use: the providers that do, by the sharing one's name.

    It needs one call, and three more for each provider that shares resources.
    """
    found: dict[str, frozenset[str]] = {}
    for provider in _providers(connection, {"required": SHARES}):
        path = f"/resource_providers/{provider['uuid']}"
        inventories = read(
            connection,
            "placement",
            f"{path}/inventories",
            lambda body: set(body["inventories"]),
            microversion=MICROVERSION,
        )
        if "DISK_GB" not in inventories:
            continue
        aggregates = read(
            connection,
            "placement",
            f"{path}/aggregates",
            lambda body: sorted(body["aggregates"]),
            microversion=MICROVERSION,
        )
        if aggregates:
            members = _providers(connection, {"member_of": "in:" + ",".join(aggregates)})
            found[provider["name"]] = frozenset(each["uuid"] for each in members)
    return found


def nodes_with(connection: Connection, traits: Iterable[str]) -> frozenset[str] | None:
    """The providers that have some traits, and not those with ``!`` in front; None when placement knows no such trait.

    :param traits: as :func:`cellmove.cloud.candidates.wanted_traits` gives them
    """
    response = request(
        connection,
        "placement",
        "GET",
        "/resource_providers",
        params={"required": ",".join(traits)},
        microversion=MICROVERSION,
        accept={400},
    )
    if response.status_code == 400:
        return None
    return frozenset(each["uuid"] for each in parsed(response, "placement", _made))


def _providers(connection: Connection, params: Mapping[str, str]) -> list[Mapping[str, str]]:
    return read(connection, "placement", "/resource_providers", _made, params=params, microversion=MICROVERSION)


def _made(body: Body) -> list[Mapping[str, str]]:
    return [{name: str(each[name]) for name in ("uuid", "name")} for each in body["resource_providers"]]
