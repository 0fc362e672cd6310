"""The six calls of nova-compute that make up a snapshot-based (cross-cell) resize.

The ``services`` row of each host decides version and topic. nova/compute/rpcapi.py caps both by the oldest compute of all
cells instead. A second prep_at_source, finish_at_dest or finish_revert wrecks the server, so this module never repeats a call.
"""

from __future__ import annotations

from dataclasses import dataclass

from cellmove.hosts.bus import Bus, call
from cellmove.hosts.transport import Arguments, Result, RpcContext, Target

OLDEST_SERVICE_VERSION = 47
"""The first nova-compute that has all six calls (RPC 5.10, Ussuri)."""


@dataclass(frozen=True)
class Method:
    """One of the six calls.

    :param name: the RPC method
    :param event: the instance action event that nova-compute writes around the call
    :param old_version: its version where the host speaks RPC 5.x
    :param alternative_topic: whether newer hosts receive it on ``compute-alt``
    :param wants_request_spec: whether RPC 5.x requires a request_spec, which nova-compute ignores
    :param repeatable: whether it may be sent while an earlier one may still run. nova-compute runs them one after the
        other, because it locks the server or its resources, and the later one has no effect
    """

    name: str
    event: str
    old_version: str
    alternative_topic: bool = False
    wants_request_spec: bool = False
    repeatable: bool = False


PREP_AT_DEST = Method(
    name="prep_snapshot_based_resize_at_dest",
    event="compute_prep_snapshot_based_resize_at_dest",
    old_version="5.5",
    wants_request_spec=True,
    repeatable=True,  # a second claim counts twice until the host's next audit of its resources, a minute later
)
PREP_AT_SOURCE = Method(
    name="prep_snapshot_based_resize_at_source",
    event="compute_prep_snapshot_based_resize_at_source",
    old_version="5.6",
    alternative_topic=True,
)
FINISH_AT_DEST = Method(
    name="finish_snapshot_based_resize_at_dest",
    event="compute_finish_snapshot_based_resize_at_dest",
    old_version="5.7",
    alternative_topic=True,
    wants_request_spec=True,
)
CONFIRM_AT_SOURCE = Method(
    name="confirm_snapshot_based_resize_at_source",
    event="compute_confirm_snapshot_based_resize_at_source",
    old_version="5.8",
    repeatable=True,
)
REVERT_AT_DEST = Method(
    name="revert_snapshot_based_resize_at_dest",
    event="compute_revert_snapshot_based_resize_at_dest",
    old_version="5.9",
    repeatable=True,
)
FINISH_REVERT_AT_SOURCE = Method(
    name="finish_revert_snapshot_based_resize_at_source",
    event="compute_finish_revert_snapshot_based_resize_at_source",
    old_version="5.10",
    alternative_topic=True,
)


def topic_of(method: Method, service_version: int) -> str:
    """Return the topic on which a host of this service version receives the call.

    A host that shuts down does not listen on ``compute`` any more. From version 71 on (RPC 6.5) it still receives the calls
    that end a move on ``compute-alt``.
    """
    return "compute-alt" if method.alternative_topic and service_version >= 71 else "compute"


@dataclass(frozen=True)
class ComputeService:
    """A host's nova-compute.

    :param version: of its service record (nova/objects/service.py, ``SERVICE_VERSION``)
    """

    host: str
    version: int


class SentCalls:
    """The calls that this process has sent, by request id and method."""

    def __init__(self) -> None:
        self._sent: set[tuple[str, str]] = set()

    def add(self, request_id: str, method: Method) -> None:
        """Remember a call."""
        self._sent.add((request_id, method.name))

    def has(self, request_id: str, method: Method) -> bool:
        """Whether this process has sent the call. The operator's ``--host-restarted`` does not apply to such a call."""
        return (request_id, method.name) in self._sent

    def clear(self) -> None:
        """Forget all calls, as a new process would."""
        self._sent.clear()


def invoke(
    bus: Bus, context: RpcContext, method: Method, service: ComputeService, arguments: Arguments, sent: SentCalls
) -> Result:
    """Make one of the six calls and wait for its end.

    :param arguments: ``instance`` and ``migration``; flavor, nodename and limits (prep at dest) or snapshot_id (prep at
        source, finish)
    :param sent: records the call before it is sent
    :returns: the MigrationContext primitive for prep at dest, None otherwise
    :raises cellmove.core.errors.CallError: see :func:`cellmove.hosts.bus.call`
    """
    is_rpc_6 = service.version >= 56
    if not is_rpc_6 and method.wants_request_spec:
        arguments = {**arguments, "request_spec": None}
    target = Target(
        topic=topic_of(method, service.version),
        server=service.host,
        version="6.0" if is_rpc_6 else method.old_version,
    )
    sent.add(str(context.get("request_id")), method)
    return call(bus, target, context, method.name, arguments, long=True)
