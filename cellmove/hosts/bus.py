"""A message bus of nova, called with a deadline of cellmove's own.

A call runs in a thread that is abandoned at the deadline, because a transport may never return.
:mod:`cellmove.hosts.bus_opener` opens a bus.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect
from cellmove.hosts.transport import Call, Target

if TYPE_CHECKING:
    from cellmove.hosts.transport import Arguments, Notification, Result, RpcContext, Transport

NOTIFICATION_TIMEOUT_SECONDS = 10.0
"""How long a broker may take to accept a notification."""

PROBE_TTL_SECONDS = 2.0
"""How long a successful probe of a broker stays valid, unless a call fails meanwhile. A probe is a connection and a login."""

MARGIN_SECONDS = 10.0
"""How long cellmove's own deadline lies behind the transport's timeout."""


@dataclass
class BrokerHealth:
    """The last probes of a broker, shared by the threads of a run.

    :param lock: held during a probe
    :param accepted_at: when the last successful probe started, by the monotonic clock
    :param failed_at: when the last failed probe ended, by the monotonic clock
    :param error: why it failed
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    accepted_at: float = -math.inf
    failed_at: float = -math.inf
    error: str = ""

    def invalidate(self) -> None:
        """Probe again before the next call: a call failed, and the broker may be the reason."""
        self.accepted_at = -math.inf


@dataclass(frozen=True)
class Bus:
    """An open bus. Copies of it with another name share its connections and its state.

    :param name: for messages, such as "cell1" or "API"
    :param url: with its password; never shown
    :param abandoned: the threads of calls that were given up at their deadline
    """

    name: str
    url: str = field(repr=False)
    transport: Transport = field(repr=False)
    response_timeout: float
    long_timeout: float
    health: BrokerHealth = field(default_factory=BrokerHealth, repr=False, compare=False)
    abandoned: list[threading.Thread] = field(default_factory=list, repr=False, compare=False)


def probe_broker(bus: Bus) -> None:
    """Check within seconds that a broker of this bus answers and accepts the login. Concurrent threads share one probe.

    :raises CannotConnect: naming the host and port, never the password
    """
    health, asked_at = bus.health, time.monotonic()
    with health.lock:
        if asked_at - health.accepted_at < PROBE_TTL_SECONDS:
            return
        if health.failed_at > asked_at:  # while this thread waited for the lock
            raise CannotConnect(health.error)
        started_at = time.monotonic()
        try:
            bus.transport.probe()
        except CannotConnect as error:
            health.failed_at, health.error = time.monotonic(), str(error)
            raise
        health.accepted_at = started_at


def call(
    bus: Bus, target: Target, context: RpcContext, method: str, arguments: Arguments, *, long: bool = False
) -> Result:
    """Call a method and wait for its result.

    :param context: see :mod:`cellmove.hosts.context`
    :param long: whether it is one of nova's long calls: then the whole call may take ``long_rpc_timeout``, while the
        receiver's heartbeats are expected every ``rpc_response_timeout``
    :raises CallFailed: the receiver raised; ``kind`` is the class of its exception
    :raises CallUncertain: no result arrived; the receiver may still be at work
    :raises CannotConnect: nothing was sent
    """
    probe_broker(bus)
    timeout = bus.long_timeout if long else bus.response_timeout
    request = Call(target, context, method, arguments, timeout, is_long=long)
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(bus.transport.send(request))
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            errors.append(error)

    worker = threading.Thread(target=run, name=f"rpc-{method}", daemon=True)
    worker.start()
    worker.join(timeout + MARGIN_SECONDS)
    if worker.is_alive():
        bus.abandoned.append(worker)
        bus.health.invalidate()
        raise CallUncertain(f"{method} on the bus of {bus.name} did not answer in {timeout + MARGIN_SECONDS:.0f} s")
    if errors:
        if not isinstance(errors[0], CallFailed):
            bus.health.invalidate()
        raise errors[0]
    return results[0]


def notify(bus: Bus, context: RpcContext, notification: Notification) -> None:
    """Send a notification.

    :raises CannotConnect: the broker did not accept it in time, or refused it
    """
    probe_broker(bus)
    errors: list[Exception] = []

    def run() -> None:
        try:
            bus.transport.notify(context, notification)
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread
            errors.append(error)

    worker = threading.Thread(target=run, name=f"notify-{notification.event_type}", daemon=True)
    worker.start()
    worker.join(NOTIFICATION_TIMEOUT_SECONDS)
    if worker.is_alive():
        bus.health.invalidate()
        raise CannotConnect(
            f"the bus of {bus.name} did not accept a notification in {NOTIFICATION_TIMEOUT_SECONDS:.0f} s"
        )
    if errors:
        bus.health.invalidate()
        raise CannotConnect(f"the bus of {bus.name} did not accept a notification: {type(errors[0]).__name__}")


def has_abandoned_calls(bus: Bus) -> bool:
    """Whether the thread of an abandoned call may still send it when the broker is back."""
    return any(worker.is_alive() for worker in bus.abandoned)


def ping(bus: Bus, topic: str, server: str) -> bool:
    """Whether a service answers nova's ``baseapi`` ping on this queue.

    Queues keep their order: once a ping is answered, the service has received every call that was sent before it.
    """
    target = Target(topic=topic, server=server, namespace="baseapi", version="1.1")
    try:
        call(bus, target, {"is_admin": True, "request_id": "req-ping"}, "ping", {"arg": "cellmove"})
    except (CallUncertain, CallFailed):
        return False
    return True
