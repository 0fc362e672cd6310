"""A repair is killed at every point, and every call of it goes wrong: then the same command again ends well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import requests

from cellmove.core.errors import CellmoveError
from cellmove.core.request import AuditRequest
from cellmove.operations import audit as auditing
from cellmove.operations.audit import AuditReport
from cellmove.operations.recover import resume
from cellmove.sandbox import seed
from cellmove.sandbox.store import Cloud
from lab import oracle
from tests.proof import cases
from tests.scenarios.environment import Server
from tests.support.sandbox import leftovers as leave
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.harness import Crash, Harness, Snapshot
from tests.support.sandbox.snapshot import snapshot

STRIDE = 4
"""Every so manieth call: an odd number of ways to go wrong walks through all of them."""

WRONG = ("refused", "error", "lost", "timeout", "conflict")
LEFT = ("inactive-binding", "empty-attachment", "dead-allocation", "temporary-image", "hidden-row", "lost-keypairs", "stale-context")  # fmt: skip


@dataclass
class InProcess:
    """A harness's cloud, where those who leave something look for that of a sandbox."""

    harness: Harness
    process: InProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = self

    def cloud(self) -> Cloud:
        return self.harness.cloud

    def control(self, _what: str, **parts: Any) -> None:
        for name, value in parts.items():
            setattr(self.harness.cloud.world, name, value)


@dataclass
class Left:
    """A server of which much was left behind."""

    harness: Harness
    scene: Scene
    snapshot: Snapshot

    def restore(self) -> None:
        self.harness.restore(self.snapshot)

    def problems(self) -> list[str]:
        """What is not as before anything was left."""
        after = snapshot(self.harness.cloud, self.scene.server)
        found = [each for each in oracle.compare(self.scene.before, after) if not each.startswith("migrations")]
        return found + [f"unannounced: {each}" for each in self.harness.taps.unannounced]


@pytest.fixture(scope="module")
def left() -> Iterator[Left]:
    send = requests.adapters.HTTPAdapter.send
    fixtures = Fixtures()
    scene = fixtures.set("image-active-full", "home").scene
    harness, server = fixtures.harness, Server(scene.server, "web")
    place: Any = InProcess(harness)
    cloud = harness.cloud
    (extra,) = cloud.rows("cell1", "instance_extra", instance_uuid=server.id)
    (key,) = json.loads(extra["keypairs"])["nova_object.data"]["objects"]
    leave.lose_keypairs(cloud, server)
    values = {name: key["nova_object.data"][name] for name in (*leave.KEY, "user_id", "public_key")}
    cloud.insert("api", "key_pairs", values | {"created_at": cloud.now()})
    key["nova_object.data"]["created_at"] = f"{cloud.now().isoformat()}Z"  # it is as old as the one that is made here
    uuid = leave.give_up(place, server)
    port = next(iter(each["id"] for each in cloud.world.ports.values() if each["device_id"] == server.id))
    binding = {"status": "INACTIVE", "vif_type": "ovs", "vnic_type": "normal", "profile": {}}
    cloud.world.ports[port]["bindings"]["c2-host1"] = binding
    volume = next(row["volume_id"] for row in cloud.rows("cell1", "block_device_mapping", instance_uuid=server.id)
                  if row["volume_id"])  # fmt: skip
    reserved = {"id": leave.UUID.format(0xA1), "volume_id": volume, "instance": server.id, "status": "reserved"}
    cloud.world.attachments[reserved["id"]] = reserved | {"host": None, "mountpoint": None}
    image = {"id": leave.UUID.format(0xA2), "name": "web-resize-temp", "instance_uuid": server.id, "status": "active"}
    cloud.world.images[image["id"]] = image | {
        "image_type": "snapshot",
        "created_at": f"{cloud.now().isoformat()}Z",
    }
    leave.copy_row(cloud, server.id)
    leave.record(cloud, server.id, "cell2", status="pre-migrating", uuid=uuid)
    cloud.update("cell1", "instance_extra", {"migration_context": "{}"}, instance_uuid=server.id)
    before = json.loads(json.dumps(scene.before, default=str))
    before["cells"]["cell1"]["instance_extra"][0]["keypairs"]["nova_object.data"]["objects"] = [key]
    yield Left(harness, replace(scene, before=before), harness.save())
    requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


def audit(harness: Harness, **how: Any) -> AuditReport | CellmoveError | None:
    """Type the command: what it found, what was said instead, or None when it was killed."""
    try:
        with harness.session() as session:
            return auditing.audit(session, AuditRequest(older_than=0, **how))
    except CellmoveError as error:
        return error
    except Crash:
        return None


def again(left: Left) -> list[str]:
    """The same command until it ends well: what is wrong then."""
    left.harness.taps.on_call = lambda _seen: ""
    left.harness.taps.on_journal = lambda _point, _action: None
    said = audit(left.harness, repair=True)
    if isinstance(said, CellmoveError):
        return [f"{said.exit_code}: {said.message}"]
    last = audit(left.harness)
    assert isinstance(last, AuditReport)
    with left.harness.session() as session:
        unfinished = [move.id for move in session.journal.all_moves() if move.is_open]
    return [each.leftover.text for each in last.results] + unfinished + left.problems()


def test_all_of_it_is_found_and_mended_and_looking_writes_nothing(left: Left) -> None:
    left.restore()
    for how in ({}, {"repair": True, "dry_run": True}):
        found = audit(left.harness, **how)
        assert isinstance(found, AuditReport)
        assert [each.leftover.kind.value for each in found.results] == list(LEFT)
        assert all(each.leftover.safe for each in found.results)
    assert left.harness.taps.effects == 0
    mended = audit(left.harness, repair=True)
    assert isinstance(mended, AuditReport)
    assert [each.outcome for each in mended.results] == ["mended"] * len(LEFT)
    wrong = again(left)
    assert wrong == [], "\n".join(wrong)


def test_killed_at_every_point(left: Left) -> None:
    wrong: list[str] = []
    for number in range(4 * len(LEFT)):
        left.restore()
        cases.kill_at_number(left.harness, number)
        assert audit(left.harness, repair=True) is None
        wrong += [f"point {number}: {each}" for each in again(left)]
    assert wrong == []


def test_every_call_goes_wrong(left: Left) -> None:
    left.restore()
    audit(left.harness, repair=True)
    count, wrong = len(left.harness.taps.calls), []
    for number in range(0, count, STRIDE):
        left.restore()
        how = WRONG[number % len(WRONG)]
        left.harness.taps.on_call = lambda seen, number=number, how=how: how if seen.number == number else ""
        said = audit(left.harness, repair=True)
        assert not isinstance(said, CellmoveError) or said.exit_code in (3, 4), said
        wrong += [f"call {number} {how}: {each}" for each in again(left)]
    assert wrong == []


def test_what_changed_since_it_was_found_is_left(left: Left) -> None:
    left.restore()
    cases.kill_at_number(left.harness, 0)
    assert audit(left.harness, repair=True) is None
    server, harness = left.scene.server, left.harness
    harness.cloud.update("cell1", "instances", {"task_state": "rebooting"}, uuid=server)
    before = snapshot(harness.cloud, server)
    with harness.session() as session:
        (move,) = session.journal.all_moves()
        assert resume(session, move).state == "repaired"
        results = {each.action.split("/")[1]: each.result for each in session.journal.entries_of(move.id)}
    assert snapshot(harness.cloud, server) == before
    assert all("left" in result for result in results.values())
    assert set(results) == set(LEFT)


def test_calls_do_not_grow_with_the_servers_that_are_well(left: Left) -> None:
    left.restore()
    audit(left.harness)  # the first one of a gateway asks each database once who it is
    counts = []
    for more in (2, 12):
        left.restore()
        for number in range(more):
            seed.boot(left.harness.cloud, f"well-{number}", host=("c1-host2", "c2-host2")[number % 2], volumes=1)
        audit(left.harness)
        counts.append([seen.text for seen in left.harness.taps.calls])
    assert counts[0] == counts[1]
