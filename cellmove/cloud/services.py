"""nova's compute services: whether the scheduler may send servers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.cloud.identity import read, request
from cellmove.cloud.types import Body, Resource

if TYPE_CHECKING:
    from openstack.connection import Connection

MICROVERSION = "2.53"
"""From here on a service is named by a UUID, whatever cell it is in."""

LONGEST_REASON = 255


@dataclass(frozen=True)
class ComputeService:
    """A nova-compute.

    :param reason: why it is disabled; empty when it is not, or no reason was given
    """

    id: str
    host: str
    disabled: bool
    reason: str


def compute_services(connection: Connection) -> list[ComputeService]:
    """All of them, of all cells that nova can reach, by host."""
    found = _services(connection, {"binary": "nova-compute"})
    return sorted(found, key=lambda each: each.host)


def compute_service(connection: Connection, host: str) -> ComputeService | None:
    """The one of a host; None when there is none."""
    return next(iter(_services(connection, {"binary": "nova-compute", "host": host})), None)


def disable(connection: Connection, service: ComputeService, reason: str) -> None:
    """Keep the scheduler from sending servers there.

    :raises CallFailed: refused
    """
    _put(connection, service, {"status": "disabled", "disabled_reason": reason[:LONGEST_REASON]})


def enable(connection: Connection, service: ComputeService) -> None:
    """Let the scheduler send servers there again."""
    _put(connection, service, {"status": "enabled"})


def _services(connection: Connection, params: dict[str, str]) -> list[ComputeService]:
    return read(connection, "compute", "/os-services", _made, params=params, microversion=MICROVERSION)


def _made(body: Body) -> list[ComputeService]:
    return [
        ComputeService(
            str(each["id"]), str(each["host"]), each["status"] == "disabled", str(each.get("disabled_reason") or "")
        )
        for each in body["services"]
        if "status" in each  # one in a cell that is down has nothing but its name
    ]


def _put(connection: Connection, service: ComputeService, body: Resource) -> None:
    path = f"/os-services/{service.id}"
    request(connection, "compute", "PUT", path, json=body, microversion=MICROVERSION)
