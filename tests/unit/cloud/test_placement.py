"""Moving, claiming and deleting allocations against a small placement that keeps its rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from cellmove.cloud import placement
from cellmove.core.errors import CallFailed

INSTANCE, MIGRATION = "instance", "migration"
SOURCE_HOST = {"host-1": {"resources": {"VCPU": 1, "MEMORY_MB": 512}}}
DEST_HOST = {"host-2": {"resources": {"VCPU": 2, "MEMORY_MB": 512}}}
PROVIDER_CHANGED = "resource provider generation conflict: host-1"
CONSUMER_CHANGED = "consumer generation conflict - expected 1 but got 2"


class Placement:
    """Consumers with generations; ``failures`` are details of 409s to answer updates with first."""

    def __init__(self, **held: Any) -> None:
        self.held: dict[str, Any] = held
        self.generations = dict.fromkeys(held, 1)
        self.failures: list[str] = []
        self.updates: list[tuple[str, str, Any, str]] = []
        self.placement = self

    def request(self, path: str, method: str, **options: Any) -> requests.Response:
        body: Any = options.get("json")
        version = options["microversion"]
        if method == "GET":
            return self._read(path.rpartition("/")[2])
        self.updates.append((method, path, body, version))
        if self.failures:
            return self._conflict(self.failures.pop(0))
        changes: dict[str, Any] = body if method == "POST" else {path.rpartition("/")[2]: body}
        for consumer, change in changes.items():
            if change["consumer_generation"] != self.generations.get(consumer):
                return self._conflict(CONSUMER_CHANGED)
        for consumer, change in changes.items():
            self.held.pop(consumer, None)
            self.generations.pop(consumer, None)
            if change["allocations"]:
                self.held[consumer] = change["allocations"]
                self.generations[consumer] = 7
        return self._answer(204, None)

    def _read(self, consumer: str) -> requests.Response:
        found: dict[str, Any] = {"allocations": {}}
        if consumer in self.held:
            # placement adds each provider's generation
            allocations = {name: {**held, "generation": 40} for name, held in self.held[consumer].items()}
            generation = self.generations[consumer]
            found = {"allocations": allocations, "consumer_generation": generation, "project_id": "p", "user_id": "u"}
        return self._answer(200, found)

    def _conflict(self, detail: str) -> requests.Response:
        code = "placement.undefined_code" if detail == "no room" else "placement.concurrent_update"
        return self._answer(409, {"errors": [{"status": 409, "title": "Conflict", "detail": detail, "code": code}]})

    def _answer(self, status: int, body: Any) -> requests.Response:
        made = requests.Response()
        made.status_code = status
        made._content = json.dumps(body).encode()
        made.request = requests.Request("PUT", "http://placement/").prepare()
        return made

    def amounts(self) -> dict[str, Any]:
        return {consumer: placement.resources_of(held) for consumer, held in self.held.items()}


def amounts(**held: Any) -> dict[str, Any]:
    return {consumer: placement.resources_of(allocations) for consumer, allocations in held.items()}


def move(cloud: Any, naps: list[float] | None = None) -> bool:
    return placement.move_allocations(cloud, INSTANCE, MIGRATION, sleep=(naps if naps is not None else []).append)


def test_moving_hands_over_everything_in_one_update() -> None:
    cloud = Placement(instance=SOURCE_HOST)
    assert move(cloud) is True
    assert cloud.amounts() == amounts(migration=SOURCE_HOST)
    [(method, path, body, version)] = cloud.updates
    assert (method, path, version) == ("POST", "/allocations", "1.28")
    assert body[INSTANCE] == {"allocations": {}, "project_id": "p", "user_id": "u", "consumer_generation": 1}
    assert body[MIGRATION]["consumer_generation"] is None


def test_moving_back_replaces_what_the_instance_holds_at_the_destination() -> None:
    cloud = Placement(instance=SOURCE_HOST, migration=DEST_HOST)
    assert move(cloud) is True
    assert cloud.amounts() == amounts(migration=SOURCE_HOST)


def test_moving_again_writes_nothing() -> None:
    cloud = Placement(migration=SOURCE_HOST)
    assert move(cloud) is False
    assert cloud.updates == []


def test_moving_nothing_to_nothing_is_an_error() -> None:
    with pytest.raises(CallFailed) as caught:
        move(Placement())
    assert caught.value.kind == "empty"


def test_a_provider_that_changed_is_tried_again() -> None:
    cloud, naps = Placement(instance=SOURCE_HOST), list[float]()
    cloud.failures = [PROVIDER_CHANGED, PROVIDER_CHANGED]
    assert move(cloud, naps) is True
    assert (len(cloud.updates), len(naps)) == (3, 2)


def test_a_provider_that_keeps_changing_is_given_up() -> None:
    cloud = Placement(instance=SOURCE_HOST)
    cloud.failures = [PROVIDER_CHANGED] * 9
    with pytest.raises(CallFailed) as caught:
        move(cloud)
    assert (caught.value.kind, len(cloud.updates)) == ("conflict", 4)
    assert cloud.amounts() == amounts(instance=SOURCE_HOST)


def test_a_consumer_that_somebody_else_changed_is_not_tried_again() -> None:
    cloud = Placement(instance=SOURCE_HOST)
    cloud.failures = [CONSUMER_CHANGED]
    with pytest.raises(CallFailed) as caught:
        move(cloud)
    assert (caught.value.kind, len(cloud.updates)) == ("conflict", 1)


def claim(cloud: Any) -> None:
    wanted = {"allocations": DEST_HOST, "mappings": {"": ["host-2"]}}
    placement.claim(cloud, placement.Claim(INSTANCE, wanted, "1.36", "p", "u"), sleep=lambda _seconds: None)


def test_claiming_sends_the_schedulers_request_at_its_version() -> None:
    cloud = Placement(migration=SOURCE_HOST)
    claim(cloud)
    assert cloud.amounts() == amounts(migration=SOURCE_HOST, instance=DEST_HOST)
    [(method, path, body, version)] = cloud.updates
    assert (method, path, version) == ("PUT", "/allocations/instance", "1.36")
    assert body["mappings"] == {"": ["host-2"]}


def test_claiming_again_writes_nothing() -> None:
    cloud = Placement(instance=DEST_HOST)
    claim(cloud)
    assert cloud.updates == []


def test_claiming_never_doubles_what_is_held() -> None:
    cloud = Placement(instance=SOURCE_HOST)
    with pytest.raises(CallFailed) as caught:
        claim(cloud)
    assert (caught.value.kind, cloud.updates) == ("held", [])


def test_a_host_without_room_is_not_tried_again() -> None:
    cloud = Placement()
    cloud.failures = ["no room"]
    with pytest.raises(CallFailed, match="no room") as caught:
        claim(cloud)
    assert (caught.value.kind, len(cloud.updates)) == ("409", 1)


def test_deleting_takes_all_and_a_second_time_writes_nothing() -> None:
    cloud: Any = Placement(instance=SOURCE_HOST, migration=DEST_HOST)
    assert placement.delete_allocations(cloud, MIGRATION) is True
    assert placement.delete_allocations(cloud, MIGRATION) is False
    assert cloud.amounts() == amounts(instance=SOURCE_HOST)
    assert len(cloud.updates) == 1
