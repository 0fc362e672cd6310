"""What placement shows about compute nodes: stores that they share, and traits that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cellmove.cloud.identity import request

if TYPE_CHECKING:
    from openstack.connection import Connection

MICROVERSION = "1.22"
"""Forbidden traits in a query; every release that cellmove works with has it."""

SHARES = "MISC_SHARES_VIA_AGGREGATE"
"""The trait of a provider whose inventory is used by every provider that has an aggregate in common with it."""


def sharing(connection: Connection) -> Mapping[str, frozenset[str]]:
    """The providers whose disk others use: the providers that do, by the sharing one's name.

    One call where nobody shares anything, three more for each that does.
    """
    found: dict[str, frozenset[str]] = {}
    for provider in _providers(connection, {"required": SHARES}):
        path = f"/resource_providers/{provider['uuid']}"
        inventories = request(connection, "placement", "GET", f"{path}/inventories", microversion=MICROVERSION).json()
        if "DISK_GB" not in inventories["inventories"]:
            continue
        aggregates = request(connection, "placement", "GET", f"{path}/aggregates", microversion=MICROVERSION).json()
        if aggregates["aggregates"]:
            members = _providers(connection, {"member_of": "in:" + ",".join(sorted(aggregates["aggregates"]))})
            found[str(provider["name"])] = frozenset(str(each["uuid"]) for each in members)
    return found


def nodes_with(connection: Connection, traits: Iterable[str]) -> frozenset[str] | None:
    """The providers that have some traits, and not those with ``!`` in front; None when placement knows no such trait.

    :param traits: as :func:`cellmove.cloud.candidates.wanted_traits` gives them
    """
    response = request(
        connection, "placement", "GET", "/resource_providers", params={"required": ",".join(traits)},
        microversion=MICROVERSION, accept={400},
    )  # fmt: skip
    if response.status_code == 400:
        return None
    return frozenset(str(each["uuid"]) for each in response.json()["resource_providers"])


def _providers(connection: Connection, params: Mapping[str, str]) -> list[Mapping[str, str]]:
    answer = request(
        connection, "placement", "GET", "/resource_providers", params=params, microversion=MICROVERSION
    ).json()
    found: list[Mapping[str, str]] = answer["resource_providers"]
    return found
