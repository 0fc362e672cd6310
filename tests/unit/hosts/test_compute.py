"""Version and topic of the six calls, chosen for each host."""

from __future__ import annotations

from typing import Any

import pytest

from cellmove.hosts import compute
from cellmove.hosts.transport import Target


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def call(_bus: Any, target: Target, context: Any, method: str, arguments: Any, *, long: bool = False) -> None:
        calls.append({"target": target, "method": method, "arguments": dict(arguments), "long": long})

    monkeypatch.setattr(compute, "call", call)
    return calls


def invoke(method: compute.Method, version: int, **more: Any) -> None:
    service, arguments = (
        compute.ComputeService("c1-host1", version),
        {"instance": {"i": 1}, "migration": {"m": 1}, **more},
    )
    compute.invoke(None, {}, method, service, arguments, compute.SentCalls())


OLD = {
    compute.PREP_AT_DEST: "5.5",
    compute.PREP_AT_SOURCE: "5.6",
    compute.FINISH_AT_DEST: "5.7",
    compute.CONFIRM_AT_SOURCE: "5.8",
    compute.REVERT_AT_DEST: "5.9",
    compute.FINISH_REVERT_AT_SOURCE: "5.10",
}


@pytest.mark.parametrize(("method", "version"), OLD.items(), ids=lambda value: getattr(value, "name", value))
def test_hosts_of_ussuri_and_victoria_are_called_as_they_expect(sent, method, version) -> None:
    invoke(method, 55)
    (call,) = sent
    assert call["target"] == Target(topic="compute", server="c1-host1", version=version)
    assert call["method"] == method.name
    wants = method in (compute.PREP_AT_DEST, compute.FINISH_AT_DEST)
    assert ("request_spec" in call["arguments"]) == wants


@pytest.mark.parametrize("method", OLD, ids=lambda method: method.name)
def test_newer_hosts_get_version_6_without_a_request_spec(sent, method) -> None:
    invoke(method, 56)
    (call,) = sent
    assert call["target"] == Target(topic="compute", server="c1-host1", version="6.0")
    assert "request_spec" not in call["arguments"]
    assert call["long"]


def test_the_calls_that_end_a_move_go_to_the_alternative_topic_where_there_is_one(sent) -> None:
    for method in OLD:
        assert compute.topic_of(method, 70) == "compute"
    alternative = {method for method in OLD if compute.topic_of(method, 71) == "compute-alt"}
    assert alternative == {compute.PREP_AT_SOURCE, compute.FINISH_AT_DEST, compute.FINISH_REVERT_AT_SOURCE}


def test_what_is_given_is_passed_on(sent) -> None:
    invoke(compute.PREP_AT_SOURCE, 74, snapshot_id="image-1")
    assert sent[0]["arguments"] == {"instance": {"i": 1}, "migration": {"m": 1}, "snapshot_id": "image-1"}
