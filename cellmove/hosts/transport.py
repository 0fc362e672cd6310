"""Types of a message bus: where a call goes, what is sent, and the protocol that every transport implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from cellmove.core.documents import NovaObject

Primitive: TypeAlias = NovaObject
"""A versioned object of nova as it travels: decoded JSON (oslo.versionedobjects, ``obj_to_primitive``)."""

RpcContext: TypeAlias = Mapping[str, Any]
"""A request context of nova as it travels (nova/context.py, ``to_dict``)."""

Arguments: TypeAlias = Mapping[str, Any]
"""The arguments of an RPC: decoded JSON."""

Result: TypeAlias = Any
"""The result of an RPC: decoded JSON. Each caller checks the form that it expects."""


@dataclass(frozen=True)
class Target:
    """Where a call goes.

    :param topic: the queue of a service
    :param version: of the RPC interface
    :param server: one host of that service; empty: any
    """

    topic: str
    version: str
    server: str = ""
    namespace: str = ""


@dataclass(frozen=True)
class Call:
    """A call of one method.

    :param timeout: seconds until the call fails without a result
    :param is_long: whether the receiver sends heartbeats meanwhile; nova's long calls do
    """

    target: Target
    context: RpcContext
    method: str
    arguments: Arguments
    timeout: float
    is_long: bool = False


@dataclass(frozen=True)
class Notification:
    """A notification (oslo_messaging/notify/notifier.py).

    :param publisher: the service and host that it names as its sender
    """

    driver: str
    topics: tuple[str, ...]
    publisher: str
    event_type: str
    payload: Mapping[str, Any]


class Transport(Protocol):
    """Carries the calls of one bus."""

    def named(self, name: str) -> Transport:
        """Return the same connections under the name of another cell that shares them."""

    def probe(self) -> None:
        """Check within seconds that the broker answers and accepts the login.

        :raises CannotConnect: naming the host and port, never the password
        """

    def send(self, call: Call) -> Result:
        """Send a call and wait for its result.

        :raises CallError: see :func:`cellmove.hosts.bus.call`
        """

    def notify(self, context: RpcContext, notification: Notification) -> None:
        """Send a notification. It has no answer.

        :raises CannotConnect: the broker did not accept it
        """
