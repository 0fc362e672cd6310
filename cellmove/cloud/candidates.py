"""Which compute nodes placement would offer for a flavor: a forecast, nothing is claimed.

It asks for less than nova's scheduler does (nova/scheduler/utils.py, ResourceRequest): no groups with
a suffix, no traits from images, no pinned CPUs. So what is not offered here will not be chosen
there; the other way round is not sure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cellmove.cloud.failures import parsed
from cellmove.cloud.identity import request
from cellmove.cloud.types import Body, Resource

if TYPE_CHECKING:
    from openstack.connection import Connection

    from cellmove.db.shapes import Flavor

MICROVERSION = "1.36"


def wanted_resources(flavor: Flavor, *, volume_backed: bool) -> dict[str, int]:
    """The amounts by resource class. Extra specs ``resources:CLASS`` go before the flavor's own values."""
    overridden = {match[1] for key in flavor.extra_specs if (match := re.match(r"resources\w*:(\w+)$", key))}
    resources: dict[str, int] = {}
    pinned = flavor.extra_specs.get("hw:cpu_policy") in ("dedicated", "mixed")
    if not pinned and overridden.isdisjoint({"VCPU", "PCPU"}):
        resources["VCPU"] = flavor.vcpus
    if "MEMORY_MB" not in overridden:
        resources["MEMORY_MB"] = flavor.memory_mb
    if "DISK_GB" not in overridden:
        root = 0 if volume_backed else flavor.root_gb
        resources["DISK_GB"] = root + flavor.ephemeral_gb + -(-flavor.swap // 1024)
    for key, value in flavor.extra_specs.items():
        name = key.removeprefix("resources:")
        if name != key and value.isdecimal():
            resources[name] = int(value)
    return {name: amount for name, amount in resources.items() if amount}


def wanted_traits(flavor: Flavor) -> list[str]:
    """The flavor's traits as placement's parameter ``required`` takes them, ``!`` before forbidden ones."""
    marks = {"required": "", "forbidden": "!"}
    return sorted(
        marks[value] + key.removeprefix("trait:")
        for key, value in flavor.extra_specs.items()
        if key.startswith("trait:") and value in marks
    )


def offered(connection: Connection, flavor: Flavor, *, volume_backed: bool, only: str = "") -> frozenset[str] | None:
    """The compute nodes (as root providers) that have room.

    :param only: ask about this compute node alone
    :returns: their UUIDs, none when placement does not know a resource class or trait of the flavor;
        None when the flavor asks for nothing that placement counts
    """
    resources = wanted_resources(flavor, volume_backed=volume_backed)
    if not resources:
        return None
    parameters: Resource = {"resources": ",".join(f"{name}:{n}" for name, n in sorted(resources.items()))}
    if traits := wanted_traits(flavor):
        parameters["required"] = ",".join(traits)
    if only:
        parameters["in_tree"] = only
    response = request(
        connection,
        "placement",
        "GET",
        "/allocation_candidates",
        params=parameters,
        microversion=MICROVERSION,
        accept={400},
    )
    if response.status_code == 400:
        return frozenset()
    return parsed(response, "placement", _roots)


def _roots(answer: Body) -> frozenset[str]:
    summaries = answer["provider_summaries"]
    return frozenset(
        str(summaries[provider]["root_provider_uuid"])
        for candidate in answer["allocation_requests"]
        for provider in candidate["allocations"]
    )
