"""A message bus of nova's, called with our own deadline.

What carries the calls is picked by the URL: oslo.messaging (:mod:`cellmove.hosts.rabbit`) for every bus
of a real cloud, plain HTTP (:mod:`cellmove.hosts.loopback`) for those of the sandbox. A call runs in a
thread that is given up at a deadline, because a transport may never return.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect
from cellmove.hosts import loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellmove.core.settings import Settings

NOTICE_TIMEOUT = 10.0
"""Seconds that a bus has to take a notification."""

FRESH = 2.0
"""Seconds for which an answer of a broker counts, unless a call goes wrong meanwhile: each is a connection and a login."""

MARGIN = 10.0
"""Seconds that our own deadline lies behind the transport's timeout."""


@dataclass(frozen=True)
class Target:
    """Where a call goes: nova-facts A1."""

    topic: str
    version: str
    server: str = ""
    namespace: str = ""


class Transport(Protocol):
    """What carries the calls of a bus."""

    def named(self, name: str) -> Transport:
        """The same connections under the name of another cell that shares them."""

    def probe(self) -> None:
        """Check within seconds that the broker answers and accepts us.

        :raises CannotConnect: naming the host and port, never the password
        """

    def send(
        self, target: Target, context: Mapping[str, Any], method: str, arguments: Mapping[str, Any], timeout: float,
        long: bool,
    ) -> Any:  # fmt: skip
        """Send a call and wait for its answer: see :func:`call`, which raises the same."""

    def notify(self, context: Mapping[str, Any], notice: Notice) -> None:
        """Send a notification; nobody answers it."""


@dataclass(frozen=True)
class Notice:
    """A notification (oslo_messaging/notify/notifier.py): who says what has happened, and to which topics."""

    driver: str
    topics: tuple[str, ...]
    publisher: str
    event_type: str
    payload: Mapping[str, Any]


@dataclass
class Knocks:
    """When a broker answered, and when it did not: what the threads of a run tell each other.

    :param answered: by the monotonic clock, the moment before it was asked; ``silent`` the moment after
    :param error: what it came to then
    """

    turn: threading.Lock = field(default_factory=threading.Lock)
    answered: float = -math.inf
    silent: float = -math.inf
    error: str = ""


@dataclass(frozen=True)
class Bus:
    """An open bus.

    :param name: whose bus it is, for messages ("cell1", "API")
    :param url: with its password; never shown
    """

    name: str
    url: str = field(repr=False)
    transport: Transport = field(repr=False)
    response_timeout: float
    long_timeout: float
    knocks: Knocks = field(default_factory=Knocks, repr=False, compare=False)


def open_bus(url: str, name: str, settings: Settings, *, setting: str = "") -> Bus:
    """Prepare a bus and make sure that its broker answers.

    :param setting: where the URL is set, for messages about the URL
    :raises Misconfigured: the URL, or an option of nova.conf, cannot be used
    :raises CannotConnect: when no broker of the URL answers or lets us in
    """
    transport: Transport
    if url.startswith(loopback.SCHEME):
        where = url.replace(loopback.SCHEME, "http://", 1)
        transport = loopback.LoopbackTransport(where, name, settings.connect_timeout)
    else:
        from cellmove.hosts import rabbit

        transport = rabbit.open_transport(url, name, settings, setting)
    bus = Bus(name, url, transport, settings.rpc_response_timeout, settings.long_rpc_timeout)
    probe_broker(bus)
    return bus


def probe_broker(bus: Bus) -> None:
    """Check within seconds that a broker of this bus answers and accepts us. Threads that ask at once ask once.

    :raises CannotConnect: naming the host and port, never the password
    """
    knocks, asked = bus.knocks, time.monotonic()
    with knocks.turn:
        if asked - knocks.answered < FRESH:
            return
        if knocks.silent > asked:  # while this thread waited for its turn
            raise CannotConnect(knocks.error)
        begun = time.monotonic()
        try:
            bus.transport.probe()
        except CannotConnect as error:
            knocks.silent, knocks.error = time.monotonic(), str(error)
            raise
        knocks.answered = begun


def _doubt(bus: Bus) -> None:
    """A call went wrong in a way that may be the broker's: knock again before the next one."""
    bus.knocks.answered = -math.inf


def call(
    bus: Bus,
    target: Target,
    context: Mapping[str, Any],
    method: str,
    arguments: Mapping[str, Any],
    *,
    long: bool = False,
) -> Any:
    """Call a method and wait for its answer.

    :param context: a nova RequestContext as a dict (see :mod:`cellmove.hosts.context`)
    :param long: whether it is one of nova's long calls: then the whole may take ``long_rpc_timeout``
        while the other side's heartbeats are followed every ``rpc_response_timeout``
    :raises CallFailed: the other side raised; ``kind`` is the class of what it raised
    :raises CallUncertain: no answer came; the other side may still be at work
    :raises CannotConnect: nothing was sent
    """
    probe_broker(bus)
    timeout = bus.long_timeout if long else bus.response_timeout
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["answer"] = bus.transport.send(target, context, method, arguments, timeout, long)
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            box["error"] = error

    worker = threading.Thread(target=run, name=f"rpc-{method}", daemon=True)
    worker.start()
    worker.join(timeout + MARGIN)
    if worker.is_alive():
        _abandoned.append((bus.url, worker))
        _doubt(bus)
        raise CallUncertain(f"{method} on the bus of {bus.name} did not answer in {timeout + MARGIN:.0f} s")
    error = box.get("error")
    if error is not None:
        if not isinstance(error, CallFailed):
            _doubt(bus)
        raise error
    return box["answer"]


def notify(bus: Bus, context: Mapping[str, Any], notice: Notice) -> None:
    """Send a notification.

    :raises CannotConnect: the bus did not take it in time, or refused it
    """
    probe_broker(bus)
    box: list[Exception] = []

    def run() -> None:
        try:
            bus.transport.notify(context, notice)
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread
            box.append(error)

    worker = threading.Thread(target=run, name=f"notify-{notice.event_type}", daemon=True)
    worker.start()
    worker.join(NOTICE_TIMEOUT)
    if worker.is_alive() or box:
        _doubt(bus)
    if worker.is_alive():
        raise CannotConnect(f"the bus of {bus.name} did not take it in {NOTICE_TIMEOUT:.0f} s")
    if box:
        raise CannotConnect(f"the bus of {bus.name} did not take it: {type(box[0]).__name__}")


_abandoned: list[tuple[str, threading.Thread]] = []


def has_abandoned_calls(bus: Bus) -> bool:
    """Whether a call that was given up may still be sent by its thread, when the broker is back."""
    return any(url == bus.url and worker.is_alive() for url, worker in _abandoned)


def ping(bus: Bus, topic: str, server: str) -> bool:
    """Whether a service answers nova's ``baseapi`` ping on this queue.

    Queues keep their order: once a ping is answered, a call sent before it has been taken as well.
    """
    target = Target(topic=topic, server=server, namespace="baseapi", version="1.1")
    try:
        call(bus, target, {"is_admin": True, "request_id": "req-ping"}, "ping", {"arg": "cellmove"})
    except (CallUncertain, CallFailed):
        return False
    return True
