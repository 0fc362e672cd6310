"""Fault injection in the sandbox: how often calls fail, in which ways, and that the same seed gives the same faults."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cellmove.sandbox.fault_injection import CONNECTION, FAULTS, FaultInjector


class Connection:
    """The connection of a request."""

    def __init__(self) -> None:
        self.cut = False

    def shutdown(self, _how: int) -> None:
        self.cut = True


class Cloud:
    """An application that counts its calls, and a fault injector around it."""

    def __init__(self, rate: float, seed: int) -> None:
        self.reached = 0
        self.injector = FaultInjector(self._app)
        self.injector.start(rate, seed)

    def _app(self, _environment: Any, start: Any) -> list[bytes]:
        self.reached += 1
        start("200 OK", [])
        return [b"{}"]

    def call(self, path: str) -> str:
        """How a call ended, and whether it had its effect."""
        connection, begun, before = Connection(), [], self.reached
        environment = {"REQUEST_METHOD": "POST", "PATH_INFO": path, CONNECTION: connection}
        try:
            body = b"".join(self.injector(environment, lambda status, _headers: begun.append(status)))
        except ConnectionAbortedError:
            assert connection.cut
            return "cut, done" if self.reached > before else "cut"
        return f"{begun[0][:3]} {body[:9].decode()}{', done' if self.reached > before else ''}"


def test_every_fault_occurs_as_often_as_the_rate_says() -> None:
    cloud = Cloud(0.5, 1)
    seen = Counter(cloud.call(f"/network/{number % 50}") for number in range(1000))
    assert set(seen) == {"200 {}, done", "cut", "cut, done", '500 {"errors"', '503 {"errors"'}
    assert 400 < 1000 - seen["200 {}, done"] < 600
    assert set(cloud.injector.start(0.0)) == set(FAULTS)
    assert {cloud.call("/network/1") for _ in range(100)} == {"200 {}, done"}


def test_an_error_on_a_bus_is_that_of_the_called_service() -> None:
    cloud = Cloud(1.0, 1)
    assert '200 {"error":' in {cloud.call("/bus/cell1") for _ in range(50)}


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_seed_hits_the_same_calls_in_any_order(order: int) -> None:
    paths = [f"/network/{number}" for number in range(200)]
    first, second = Cloud(0.1, 7), Cloud(0.1, 7)
    told = {path: first.call(path) for path in paths}
    assert {path: second.call(path) for path in paths[::order]} == told
    third = Cloud(0.1, 8)
    assert {path: third.call(path) for path in paths} != told


def test_control_calls_never_fail() -> None:
    cloud = Cloud(1.0, 1)
    assert cloud.call("/sandbox/state") == "200 {}, done"
