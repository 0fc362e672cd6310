"""The six calls of nova-compute that make up a snapshot based (cross-cell) resize.

Version and topic are chosen for each host from its own ``services`` row (nova/compute/rpcapi.py caps
them by the oldest compute of all cells; asking each host what it has is better and needs no cap).
Sending prep_at_source, finish_at_dest or finish_revert twice wrecks the server, so nothing here repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmove.hosts.bus import Bus, Target, call
from cellmove.hosts.conductor import Primitive

OLDEST_SERVICE_VERSION = 47
"""The first nova-compute that has all six calls (RPC 5.10, Ussuri)."""


@dataclass(frozen=True)
class Method:
    """One of the six.

    :param name: the RPC method
    :param event: the instance action event that nova-compute writes around it
    :param old_version: its version where the host speaks RPC 5.x
    :param alternative_topic: whether newer hosts take it on ``compute-alt``
    :param wants_request_spec: whether 5.x demands a (disregarded) request_spec
    :param repeatable: whether it may be sent while an earlier one may be at work: nova-compute does
        them one after the other (it locks the server, or its resources), and the later finds
        nothing left to do
    """

    name: str
    event: str
    old_version: str
    alternative_topic: bool = False
    wants_request_spec: bool = False
    repeatable: bool = False


# A second claim is counted twice until the host's next audit of its resources, a minute later.
PREP_AT_DEST = Method(
    "prep_snapshot_based_resize_at_dest", "compute_prep_snapshot_based_resize_at_dest", "5.5",
    wants_request_spec=True, repeatable=True,
)  # fmt: skip
PREP_AT_SOURCE = Method(
    "prep_snapshot_based_resize_at_source",
    "compute_prep_snapshot_based_resize_at_source",
    "5.6",
    alternative_topic=True,
)
FINISH_AT_DEST = Method(
    "finish_snapshot_based_resize_at_dest", "compute_finish_snapshot_based_resize_at_dest", "5.7",
    alternative_topic=True, wants_request_spec=True,
)  # fmt: skip
CONFIRM_AT_SOURCE = Method(
    "confirm_snapshot_based_resize_at_source", "compute_confirm_snapshot_based_resize_at_source", "5.8",
    repeatable=True,
)  # fmt: skip
REVERT_AT_DEST = Method(
    "revert_snapshot_based_resize_at_dest", "compute_revert_snapshot_based_resize_at_dest", "5.9", repeatable=True
)
FINISH_REVERT_AT_SOURCE = Method(
    "finish_revert_snapshot_based_resize_at_source", "compute_finish_revert_snapshot_based_resize_at_source", "5.10",
    alternative_topic=True,
)  # fmt: skip


def topic_of(method: Method, service_version: int) -> str:
    """The topic on which a host of this service version takes the call.

    A host that is shutting down has stopped listening on ``compute``; from version 71 on (RPC 6.5)
    the calls that end a move are taken on ``compute-alt`` as well.
    """
    return "compute-alt" if method.alternative_topic and service_version >= 71 else "compute"


_sent: set[tuple[str, str]] = set()


def is_of_this_run(method: Method, request_id: str) -> bool:
    """Whether this very process has made the call: what an operator says of calls before is not said of it."""
    return (request_id, method.name) in _sent


def invoke(
    bus: Bus,
    context: Mapping[str, Any],
    method: Method,
    *,
    host: str,
    service_version: int,
    instance: Primitive,
    migration: Primitive,
    **more: Any,
) -> Any:
    """Make one of the six calls and wait for its end.

    :param more: flavor, nodename, limits (prep at dest) or snapshot_id (prep at source, finish)
    :returns: the MigrationContext primitive for prep at dest, None otherwise
    :raises cellmove.core.errors.CallError: see :func:`cellmove.hosts.bus.call`
    """
    modern = service_version >= 56
    arguments = {"instance": instance, "migration": migration, **more}
    if not modern and method.wants_request_spec:
        arguments["request_spec"] = None
    target = Target(
        topic=topic_of(method, service_version), server=host, version="6.0" if modern else method.old_version
    )
    _sent.add((str(context.get("request_id")), method.name))
    return call(bus, target, context, method.name, arguments, long=True)
