"""What is printed as a remedy does no harm: it is right, or it is not printed while nobody can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cellmove.core.request import Destination, MoveRequest
from cellmove.sandbox import services
from cellmove.sandbox.store import Cloud, Record
from cellmove.steps.plan import gather
from tests.scenarios.environment import Server
from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.environment import change_cloud
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.harness import Seen
from tests.support.sandbox.refusals import DESTRUCTIVE

WORDS = ("--cell", "cell2", "-f", "json")


def plan(cell: Drained, server: Server, *, expect: int | None = 5) -> dict[str, dict[str, str]]:
    """What the plan finds that is not right, by code; no remedy tells to delete anything."""
    said = cell.cellmove("plan", server.name, "--dry-run", *WORDS, expect=expect).json
    found = {check["code"]: check for check in said["checks"] if check["level"] != "ok"}
    assert not DESTRUCTIVE.search(json.dumps(list(found.values())))
    return found


def own_attachment(cloud: Cloud, server: str) -> Record:
    """The attachment by which the server's volume is connected."""
    (found,) = (each for each in cloud.world.attachments.values() if each["instance"] == server)
    return found


def resize_of_nova(cloud: Cloud, server: str) -> None:
    """What a cross-cell resize of nova's own looks like from outside while the guest is off."""
    values = {
        "uuid": cloud.new_id("migration"),
        "status": "migrating",
        "migration_type": "resize",
        "cross_cell_move": 1,
    }
    hosts = {"source_compute": "c1-host1", "dest_compute": "c2-host1"}
    cloud.insert("cell1", "migrations", {"instance_uuid": server, **values, **hosts, "created_at": cloud.now()})
    cloud.update("cell1", "instances", {"task_state": "resize_migrating"}, uuid=server)
    row = dict(cloud.row("cell1", "instances", uuid=server) or {})
    del row["id"]
    cloud.insert("cell2", "instances", row | {"hidden": 1})
    volume = own_attachment(cloud, server)["volume_id"]
    services.create_attachment(cloud, volume, server)
    (port,) = services.ports_of(cloud, server)
    services.create_binding(cloud, port["id"], "c2-host1", "normal", {})
    services.move_allocations(cloud, server, values["uuid"])


def test_while_nova_moves_a_server_nothing_else_is_said_of_it(cell: Drained) -> None:
    (server,) = cell.add("web", volumes=1)
    change_cloud(cell, resize_of_nova, server.id)
    before = cell.snapshot(server.id)
    found = plan(cell, server)
    assert found.keys() == {"task-state", "unfinished-migration"}
    said = cell.cellmove("migrate", server.name, "--cell", "cell2", expect=5)
    for wrong in ("heal_allocations", "earlier move left", "attachment", "binding"):
        assert wrong not in said.stdout + said.stderr
    (of_drain,) = cell.plan()["servers"]
    assert set(of_drain["codes"]) == {"task-state", "unfinished-migration"}
    audited = cell.cellmove("audit", "--server", server.name, "-f", "json").json
    assert [each["mend"] for each in audited["findings"] if DESTRUCTIVE.search(each["mend"] or "")] == []
    assert cell.snapshot(server.id) == before


def without_id(cloud: Cloud, server: str) -> None:
    """nova's record names no attachment; the guest is connected by the one that cinder knows."""
    cloud.update(
        "cell1", "block_device_mapping", {"attachment_id": None}, instance_uuid=server, destination_type="volume"
    )


def with_another_id(cloud: Cloud, server: str) -> None:
    """nova's record names one that cinder does not know."""
    wrong = {"attachment_id": cloud.new_id("attachment")}
    cloud.update("cell1", "block_device_mapping", wrong, instance_uuid=server, destination_type="volume")


@pytest.mark.parametrize(
    ("change", "codes", "kinds"),
    [
        (without_id, {"old-attachment", "attachment-unnamed"}, set()),
        (with_another_id, {"attachment-missing", "attachment-unnamed"}, {"unattached-volume"}),
    ],
)
@pytest.mark.parametrize("root", [False, True])
def test_the_attachment_of_a_running_guest_is_not_to_be_deleted(
    cell: Drained, change: Callable[[Cloud, str], Any], codes: set[str], kinds: set[str], *, root: bool
) -> None:
    (server,) = cell.add("web", volume_backed=root, volumes=0 if root else 1)
    attachment = own_attachment(cell.process.cloud(), server.id)["id"]
    change_cloud(cell, change, server.id)
    found = plan(cell, server)
    assert found.keys() == codes
    assert attachment in found["attachment-unnamed"]["text"]
    assert "change nothing until you know" in found["attachment-unnamed"]["remedy"]
    words = ("audit", "--server", server.name, "--older-than", "0", "-f", "json")
    findings = cell.cellmove(*words, expect=10 if kinds else 0).json["findings"]
    assert attachment not in {each["subject"] for each in findings}
    assert {each["kind"] for each in findings} == kinds
    assert [each["mend"] for each in findings if DESTRUCTIVE.search(each["mend"])] == []


def second_attachment(cloud: Cloud, server: str) -> None:
    """An empty one besides the one in use."""
    services.create_attachment(cloud, own_attachment(cloud, server)["volume_id"], server)


def test_an_empty_attachment_goes_by_the_printed_command(cell: Drained) -> None:
    (server,) = cell.add("web", volumes=1)
    used = own_attachment(cell.process.cloud(), server.id)["id"]
    change_cloud(cell, second_attachment, server.id)
    remedy = plan(cell, server, expect=0)["attachment-left"]["remedy"]
    command = remedy.partition(";")[0].split()
    assert command == ["cellmove", "audit", "--server", server.id]
    cell.cellmove(*command[1:], "--repair", "--yes", "--older-than", "0")
    assert [each["id"] for each in cell.process.cloud().world.attachments.values()] == [used]
    assert plan(cell, server, expect=0) == {}


def test_an_empty_attachment_that_another_record_names_stays(cell: Drained) -> None:
    """Of a hidden copy in another cell, for one: a move that is under way there would miss it."""
    server, other = cell.add("web", "other", volumes=1)

    def name_it(cloud: Cloud, _server: str) -> None:
        second_attachment(cloud, server.id)
        (empty,) = (each for each in cloud.world.attachments.values() if each["status"] == "reserved")
        row = dict(cloud.row("cell1", "block_device_mapping", instance_uuid=other.id, destination_type="volume") or {})
        del row["id"]
        row |= {"uuid": cloud.new_id("mapping"), "attachment_id": empty["id"], "volume_id": empty["volume_id"]}
        cloud.insert("cell1", "block_device_mapping", row)

    change_cloud(cell, name_it, server.id)
    found = plan(cell, server)
    assert found.keys() == {"attachment-unnamed"}
    assert f"the record of {other.id} in cell1 names it" in found["attachment-unnamed"]["text"]
    words = ("audit", "--server", server.name, "--repair", "--yes", "--older-than", "0", "-f", "json")
    (one,) = (each for each in cell.cellmove(*words, expect=10).json["findings"] if each["kind"] == "empty-attachment")
    assert not one["safe"]
    assert "leave it" in one["mend"]
    assert len(cell.process.cloud().world.attachments) == 3


def test_a_binding_that_is_left_goes_by_the_printed_command(cell: Drained) -> None:
    (server,) = cell.add("web")

    def bind(cloud: Cloud, server_id: str) -> None:
        (port,) = services.ports_of(cloud, server_id)
        services.create_binding(cloud, port["id"], "c2-host1", "normal", {})

    change_cloud(cell, bind, server.id)
    command = plan(cell, server)["port-binding-left"]["remedy"].partition(";")[0].split()
    cell.cellmove(*command[1:], "--repair", "--yes", "--older-than", "0")
    assert plan(cell, server, expect=0) == {}


@pytest.mark.parametrize(
    ("status", "kind", "has_uuid"),
    [("finished", "resize", True), ("post-migrating", "migration", True), ("finished", None, False)],
)
def test_the_record_of_a_migration_that_never_ended_is_settled_by_the_printed_command(
    cell: Drained, status: str, kind: str | None, has_uuid: bool
) -> None:
    (server,) = cell.add("web")

    def record(cloud: Cloud, server_id: str) -> None:
        values = {"uuid": cloud.new_id("migration") if has_uuid else None, "status": status, "migration_type": kind}
        hosts = {"source_compute": "c1-host2", "dest_compute": "c1-host1", "cross_cell_move": 0}
        cloud.insert("cell1", "migrations", {"instance_uuid": server_id, **values, **hosts, "created_at": cloud.now()})

    change_cloud(cell, record, server.id)
    before = cell.snapshot(server.id)
    found = plan(cell, server)
    assert found.keys() == {"unfinished-migration"}
    assert f"has the status {status}" in found["unfinished-migration"]["text"]
    command = found["unfinished-migration"]["remedy"].partition("  #")[0].split()
    assert command == ["cellmove", "audit", "--repair", "--server", server.id]
    assert cell.cellmove(*command[1:], "--yes", expect=0).code == 0  # too recent: nova may be at work, so it is owned
    assert plan(cell, server).keys() == {"unfinished-migration"}
    cell.cellmove(*command[1:], "--yes", "--older-than", "0")
    (row,) = cell.process.cloud().rows("cell1", "migrations", instance_uuid=server.id)
    assert row["status"] == "error"
    assert plan(cell, server, expect=0) == {}
    assert before.keys() == cell.snapshot(server.id).keys()


def test_what_a_dead_migration_holds_is_given_back(cell: Drained) -> None:
    """Healing would let the host count the server twice: the audit comes first, and knows better."""
    (server,) = cell.add("web")

    def hold(cloud: Cloud, server_id: str) -> None:
        uuid = cloud.new_id("migration")
        values = {"uuid": uuid, "status": "error", "migration_type": "migration", "cross_cell_move": 1}
        hosts = {"source_compute": "c1-host1", "dest_compute": "c2-host1"}
        cloud.insert("cell1", "migrations", {"instance_uuid": server_id, **values, **hosts, "created_at": cloud.now()})
        services.move_allocations(cloud, server_id, uuid)

    change_cloud(cell, hold, server.id)
    remedy = plan(cell, server)["no-allocations"]["remedy"]
    command = remedy.split()[:4]
    assert command == ["cellmove", "audit", "--server", server.id]
    assert remedy.index("cellmove audit") < remedy.index("heal_allocations")
    cell.cellmove(*command[1:], "--repair", "--yes", "--older-than", "0")
    assert plan(cell, server, expect=0) == {}
    assert len(cell.process.cloud().world.allocations) == 1


def test_a_resize_that_begins_while_the_plan_looks_is_noticed() -> None:
    """Its records were read before, neutron and cinder are asked after it began: what they say is half of it."""
    fixtures = Fixtures()
    checkpoint, harness = fixtures.set("image-active-full", "home"), fixtures.harness
    server, cloud = checkpoint.scene.server, harness.cloud
    begun: list[str] = []

    def begin(seen: Seen) -> str:
        if seen.kind == "http" and "/network/" in seen.text and not begun:
            begun.append(seen.text)
            cloud.update("cell1", "instances", {"task_state": "resize_migrating"}, uuid=server)
            for attachment in [each for each in cloud.world.attachments.values() if each["instance"] == server]:
                services.create_attachment(cloud, attachment["volume_id"], server)
        return ""

    harness.taps.on_call = begin
    request = MoveRequest(server=server, destination=Destination(cell="cell2"))
    planned = gather(harness.gateway, harness.clock, request)
    assert begun
    assert [check.code for check in planned.checks] == ["task-state"]
