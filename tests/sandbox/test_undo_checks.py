"""An undo looks first whether the server is where the journal says: where it is not, the rollback stops with 3 and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cellmove.core import ownership
from cellmove.sandbox.store import Cloud
from tests.proof.cases import run_killed
from tests.support.sandbox.fixtures import Checkpoint, Fixtures
from tests.support.sandbox.harness import Harness, Seen
from tests.support.sandbox.snapshot import snapshot

SHAPE = "image-active-full"


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


def mapped_to_target(cloud: Cloud, server: str) -> None:
    cloud.update("api", "instance_mappings", {"cell_id": 3}, instance_uuid=server)


def hidden_at_source(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "instances", {"hidden": 1}, uuid=server)


def on_another_host(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "instances", {"host": "c1-host2"}, uuid=server)


def guest_stopped(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "instances", {"task_state": "resize_migrated"}, uuid=server)


def migration_finished(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "migrations", {"status": "finished"}, instance_uuid=server)


CASES = [
    ("prep-source", mapped_to_target, "the server's mapping points at cell2, not at cell1"),
    ("prep-source", hidden_at_source, "its row in cell1 is hidden"),
    ("prep-source", on_another_host, "says that it is on c1-host2, not on c1-host1"),
    ("prep-source", guest_stopped, "its guest was stopped there"),
    ("prep-source", migration_finished, "its migration in cell1 is finished"),
    ("finish", mapped_to_target, "the server's mapping points at cell2, not at cell1"),
    ("finish", hidden_at_source, "its row in cell1 is hidden"),
    ("finish", on_another_host, "says that it is on c1-host2, not on c1-host1"),
]


@pytest.mark.parametrize(
    ("step", "change", "says"), CASES, ids=[f"{step}-{change.__name__}" for step, change, _ in CASES]
)
def test_a_rollback_stops_where_the_server_is_not_as_the_journal_says(
    fixtures: Fixtures, step: str, change: Callable[[Cloud, str], None], says: str
) -> None:
    checkpoint = fixtures.set(SHAPE, step)
    harness, server = fixtures.harness, checkpoint.scene.server
    change(harness.cloud, server)
    outcome = harness.run("rollback", checkpoint.move)
    assert outcome.code == 3, outcome.text
    assert says in outcome.message
    assert "that is not what the journal says" in outcome.state
    assert outcome.next_command == f"cellmove rollback {checkpoint.move}"
    before = world(harness, checkpoint)
    again = harness.run("rollback", checkpoint.move)
    assert (again.code, again.message) == (3, outcome.message)
    assert world(harness, checkpoint) == before


def attachment_in_use(cloud: Cloud, server: str) -> None:
    """Another host uses what was reserved for the target."""
    volume = next(each["volume_id"] for each in cloud.world.attachments.values() if each["instance"] == server)
    made = {"id": "00000000-0000-4000-8000-0000000000a1", "volume_id": volume, "instance": server, "status": "attached"}
    cloud.world.attachments[made["id"]] = made | {"host": "c2-host2", "mountpoint": "/dev/vdb"}


def no_binding_at_source(cloud: Cloud, server: str) -> None:
    """The only binding of each port is the target's, and it is active."""
    for port in cloud.world.ports.values():
        if port["device_id"] == server:
            (binding,) = port["bindings"].values()
            port["bindings"] = {"c2-host1": {**binding, "status": "ACTIVE"}}


@pytest.mark.parametrize(
    ("change", "says"),
    [(attachment_in_use, "is in use, on another host"), (no_binding_at_source, "has no binding to c1-host1")],
)
def test_a_rollback_stops_where_ports_or_volumes_are_used_elsewhere(
    fixtures: Fixtures, change: Callable[[Cloud, str], None], says: str
) -> None:
    """Once the target's host has given up what it had."""
    checkpoint = fixtures.set(SHAPE, "prep-source")
    harness = fixtures.harness

    def on_journal(point: str, action: str) -> None:
        if (point, action) == ("after-undone", "claim"):
            change(harness.cloud, checkpoint.scene.server)

    harness.taps.on_journal = on_journal
    outcome = harness.run("rollback", checkpoint.move)
    harness.taps.on_journal = lambda _point, _action: None
    assert outcome.code == 3, outcome.text
    assert says in outcome.message
    before = world(harness, checkpoint)
    assert harness.run("rollback", checkpoint.move).code == 3
    assert world(harness, checkpoint) == before


def world(harness: Harness, checkpoint: Checkpoint) -> Any:
    """The server as it is, but for the generation of its mark."""
    shot = snapshot(harness.cloud, checkpoint.scene.server)
    for tables in shot["cells"].values():
        rows = tables.get("instance_system_metadata", [])
        tables["instance_system_metadata"] = [row for row in rows if row["key"] != ownership.GENERATION]
    return shot, harness.cloud.world.allocations, harness.cloud.world.guests


def test_a_rollback_goes_on_when_the_server_is_where_it_should_be_again(fixtures: Fixtures) -> None:
    checkpoint = fixtures.set(SHAPE, "prep-source")
    harness, server = fixtures.harness, checkpoint.scene.server
    on_another_host(harness.cloud, server)
    assert harness.run("rollback", checkpoint.move).code == 3
    harness.cloud.update("cell1", "instances", {"host": "c1-host1"}, uuid=server)
    assert harness.run("rollback", checkpoint.move).code == 0


def owner_goes_on(cloud: Cloud, server: str, status: str) -> None:
    """The owner's confirm or revert has begun."""
    cloud.update("cell2", "migrations", {"status": status}, instance_uuid=server)
    cloud.update("cell2", "instances", {"task_state": {"reverting": "resize_reverting"}.get(status)}, uuid=server)


@pytest.mark.parametrize("status", ["confirming", "reverting"])
def test_a_finish_that_died_after_the_switch_waits_for_the_owners_own_action(fixtures: Fixtures, status: str) -> None:
    checkpoint = fixtures.set(SHAPE, "finish")
    harness, server = fixtures.harness, checkpoint.scene.server
    run_killed(harness, [], "switch_mapping", "after-effect", "finish", checkpoint.move)
    owner_goes_on(harness.cloud, server, status)
    before = world(harness, checkpoint)
    for command in ("resume", "rollback"):
        outcome = harness.run(command, checkpoint.move)
        assert outcome.code == 3, outcome.text
        assert f"its migration is {status}" in outcome.message
        assert outcome.next_command == f"cellmove resume {checkpoint.move}"
        assert world(harness, checkpoint) == before
    cloud = harness.cloud
    gone, home, state = ("cell1", "cell2", "confirmed") if status == "confirming" else ("cell2", "cell1", "reverted")
    for table, key in (("instances", "uuid"), ("migrations", "instance_uuid")):
        cloud.update(gone, table, {"deleted": 1}, **{key: server})
    cloud.update(home, "instances", {"vm_state": "active", "task_state": None, "hidden": 0}, uuid=server)
    cloud.update(home, "migrations", {"status": state}, instance_uuid=server)
    cloud.update("api", "instance_mappings", {"cell_id": {"cell1": 2, "cell2": 3}[home]}, instance_uuid=server)
    assert harness.run("resume", checkpoint.move).code == 0
    assert harness.state().value == state


def test_the_mapping_is_not_switched_back_while_the_owners_own_action_runs(fixtures: Fixtures) -> None:
    """The answer to the switch was lost, and the next try failed for good after the owner went on."""
    checkpoint = fixtures.set(SHAPE, "finish")
    harness, server = fixtures.harness, checkpoint.scene.server
    faults = iter(("lost", "conflict"))

    def on_call(seen: Seen) -> str:
        if seen.text != "api.db UPDATE instance_mappings SET":
            return ""
        fault = next(faults)
        if fault == "conflict":
            owner_goes_on(harness.cloud, server, "confirming")
        return fault

    harness.taps.on_call = on_call
    outcome = harness.run("finish", checkpoint.move)
    assert outcome.code == 3, outcome.text
    assert "its migration in cell2 is confirming" in outcome.message
    assert snapshot(harness.cloud, server)["api"]["mapping"]["cell"] == "cell2"


# what is said of a server after its move was rolled back


def test_what_is_not_as_before_is_said_with_7(fixtures: Fixtures) -> None:
    checkpoint = fixtures.set(SHAPE, "prep-source")
    harness, server = fixtures.harness, checkpoint.scene.server

    def lose_a_volume(point: str, action: str) -> None:
        if (point, action) == ("after-undone", "take_server"):
            mine = [each for each in harness.cloud.world.attachments.values() if each["instance"] == server]
            mine[0] |= {"status": "reserved", "host": None}

    harness.taps.on_journal = lose_a_volume
    outcome = harness.run("rollback", checkpoint.move)
    assert outcome.code == 7, outcome.text
    assert "every action was rolled back, and the server is not as before: volume " in outcome.message
    assert "is reserved, not attached" in outcome.message
    assert "1 of its 2 volumes attached" in outcome.state
    assert outcome.next_command == f"cellmove audit --server {server}"


def test_what_could_not_be_looked_at_is_named(fixtures: Fixtures) -> None:
    checkpoint = fixtures.set(SHAPE, "prep-dest")
    harness = fixtures.harness
    harness.cloud.world.faults |= {"c2-host1:get_host_ip_addr": "fail", "c2-host2:get_host_ip_addr": "fail"}
    is_over = [False]

    def watch(point: str, action: str) -> None:
        is_over[0] = is_over[0] or (point, action) == ("after-undone", "take_server")

    harness.taps.on_journal = watch
    harness.taps.on_call = lambda seen: "refused" if is_over[0] and "/attachments" in seen.text else ""
    outcome = harness.run("resize", checkpoint.scene.server, "m1.small", "--cell", "cell2")
    assert outcome.code == 1, outcome.text
    assert (
        "every action was rolled back; looked at since: web is active and running on c1-host1 in cell1" in outcome.state
    )
    assert "not looked at: its volumes (" in outcome.state
    assert "as before" not in outcome.state
