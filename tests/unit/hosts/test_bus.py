"""How often a broker is probed: threads share the outcome for a moment, and a failed call ends that."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect
from cellmove.hosts import bus as buses
from cellmove.hosts.bus import Bus, call, notify, probe_broker
from cellmove.hosts.transport import Notification, Target

TARGET = Target("conductor", "3.0")
NOTIFICATION = Notification("messagingv2", ("notifications",), "compute", "update", {})


class Broker:
    """A transport that counts what reaches it."""

    def __init__(self) -> None:
        self.probes = 0
        self.sent = 0
        self.gone = False
        self.error: Exception | None = None
        self.seconds = 0.0

    def probe(self) -> None:
        self.probes += 1
        time.sleep(self.seconds)
        if self.gone:
            raise CannotConnect("message bus of cell1 cannot be reached")

    def send(self, *_what: Any) -> str:
        self.sent += 1
        if self.error:
            raise self.error
        return "answer"

    def notify(self, *_what: Any) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def bus(broker: Broker) -> Bus:
    return Bus("cell1", "rabbit://nowhere", broker, 5.0, 10.0)  # type: ignore[arg-type]


def ask(bus: Bus) -> Any:
    return call(bus, TARGET, {}, "ping", {})


def test_an_answer_counts_for_a_moment(bus: Bus, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [ask(bus) for _ in range(20)] == ["answer"] * 20
    assert broker.probes == 1
    monkeypatch.setattr(buses, "PROBE_TTL_SECONDS", 0.0)
    ask(bus)
    assert broker.probes == 2


def test_concurrent_threads_probe_once(bus: Bus, broker: Broker) -> None:
    broker.seconds = 0.2
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda _number: ask(bus), range(16))) == ["answer"] * 16
    assert broker.probes == 1


def test_threads_that_wait_together_share_a_failed_probe(bus: Bus, broker: Broker) -> None:
    broker.gone, broker.seconds = True, 0.2
    start = threading.Barrier(8)

    def attempt(_number: int) -> str:
        start.wait()
        try:
            ask(bus)
        except CannotConnect as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as threads:
        said = set(threads.map(attempt, range(8)))
    assert said == {"message bus of cell1 cannot be reached"}
    assert broker.probes < 8, "each thread waits for the first probe, not for a probe of its own after all others"
    assert broker.sent == 0
    broker.gone = False
    assert ask(bus) == "answer"


@pytest.mark.parametrize("error", [CallUncertain("no answer"), CannotConnect("not delivered")])
def test_after_a_call_that_got_no_answer_the_broker_is_asked_again(bus: Bus, broker: Broker, error: CallError) -> None:
    broker.error = error
    with pytest.raises(type(error)):
        ask(bus)
    broker.error, broker.gone = None, True
    with pytest.raises(CannotConnect):
        ask(bus)
    assert broker.sent == 1, "nothing was sent to a broker that is gone"


def test_an_error_of_the_other_side_is_an_answer_of_the_broker(bus: Bus, broker: Broker) -> None:
    broker.error = CallFailed("InstanceNotFound: no", kind="InstanceNotFound")
    for _ in range(3):
        with pytest.raises(CallFailed):
            ask(bus)
    assert broker.probes == 1


def test_a_notification_that_was_not_taken_invalidates_the_probe_as_well(bus: Bus, broker: Broker) -> None:
    broker.error = ValueError("no")
    with pytest.raises(CannotConnect):
        notify(bus, {}, NOTIFICATION)
    broker.error = None
    notify(bus, {}, NOTIFICATION)
    assert broker.probes == 2


def test_a_failed_probe_does_not_answer_a_later_one(bus: Bus, broker: Broker) -> None:
    broker.gone = True
    for _ in range(2):
        with pytest.raises(CannotConnect):
            probe_broker(bus)
    assert broker.probes == 2
