"""Hosts that cannot serve a move: a nova-compute that loses root disks (bug 1906428), bare metal, other CPUs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cellmove.core.move import State
from cellmove.sandbox import compute, seed, services
from cellmove.sandbox.store import Cloud
from lab import oracle
from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.environment import change_cloud
from tests.support.sandbox.fixtures import Fixtures

OLD, WALLABY = 55, 56


def set_version(cell: Drained, version: int, *hosts: str) -> None:
    """Let nova-compute on these hosts of cell2 (none named: on all) be of a release."""
    cloud = cell.process.cloud()
    for host in hosts or ("c2-host1", "c2-host2"):
        cloud.update("cell2", "services", {"version": version}, host=host, binary="nova-compute")


def set_node(cell: Drained, host: str, **values: Any) -> None:
    """Change what a compute node reports."""
    cell.process.cloud().update(f"cell{host[1]}", "compute_nodes", values, host=host)


def is_at_home(cell: Drained, server: str) -> None:
    """The guest runs at the source, from its own disk, and nothing of the move is left."""
    found = oracle.problems(cell.snapshot(server), cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE")
    assert found == []
    assert cell.process.control("state")["guests"]["c1-host1"][server]["state"] == compute.RUNNING


def test_the_sandbox_loses_the_disk_as_nova_does(small_cloud: tuple[Cloud, str]) -> None:
    """Without cellmove in between: the target's release decides what the guest is started from."""
    cloud, server = small_cloud
    for version, expected in ((WALLABY, "what the guest wrote"), (OLD, f"fresh from {seed.IMAGE}")):
        cloud.update("cell2", "services", {"version": version}, host="c2-host1", binary="nova-compute")
        migration = {"uuid": cloud.new_id("migration"), "migration_type": "migration", "source_compute": "c1-host1"}
        row = dict(cloud.row("cell1", "instances", uuid=server) or {})
        del row["id"]
        cloud.insert("cell2", "instances", row | {"task_state": "resize_migrated", "hidden": 1, "host": "c2-host1"})
        extra = dict(cloud.row("cell1", "instance_extra", instance_uuid=server) or {})
        del extra["id"]
        cloud.insert("cell2", "instance_extra", extra)
        image = cloud.new_id("image")
        cloud.world.images[image] = {"id": image, "status": "active", "data": "what the guest wrote", "token": ""}
        call = compute.Call(
            cloud, "c2-host1", "finish_snapshot_based_resize_at_dest", "req", {"uuid": server}, migration,
            {"snapshot_id": image},
        )  # fmt: skip
        for _write in compute.METHODS[call.method](call):
            pass
        assert cloud.world.disks["c2-host1"][server] == {"disk": expected}
        assert (cloud.row("cell2", "instances", uuid=server) or {})["image_ref"] == seed.IMAGE
        for table, key in (("instance_extra", "instance_uuid"), ("instances", "uuid")):
            cloud.delete("cell2", table, **{key: server})


def test_a_newer_host_is_chosen(cell: Drained) -> None:
    (server,) = cell.add("web")
    set_version(cell, OLD, "c2-host1")
    said = cell.cellmove("plan", server.name, "--cell", "cell2", "-f", "json").json
    (check,) = (each for each in said["checks"] if each["level"] == "warning")
    assert check["code"] == "root-disk-lost"
    assert "c2-host1" in check["text"]
    assert "1906428" in check["text"]
    assert [each["host"] for each in said["summary"]["target_hosts"]] == ["c2-host2"]
    cell.cellmove("migrate", server.name, "--cell", "cell2", "--confirm")
    assert oracle.problems(
        cell.snapshot(server.id), cell="cell2", host="c2-host2", flavor="m1.tiny", status="ACTIVE"
    ) == []  # fmt: skip


def test_a_host_that_was_offered_is_passed_over_when_it_is_old() -> None:
    """The scheduler's first choice fails; its second one cannot be had since it runs an older release."""
    fixtures = Fixtures()
    checkpoint, harness = fixtures.set("image-active-full", "home"), fixtures.harness

    def replace_release(point: str, action: str) -> None:
        if (point, action) == ("after-done", "schedule"):
            harness.cloud.update("cell2", "services", {"version": OLD}, host="c2-host2", binary="nova-compute")

    harness.taps.on_journal = replace_release
    harness.cloud.world.faults["c2-host1:get_host_ip_addr"] = "fail"
    outcome = harness.run("migrate", checkpoint.scene.server, "--cell", "cell2")
    assert outcome.code == 1
    assert "get_host_ip_addr fail on c2-host1" in outcome.text
    assert "no other host" in outcome.text
    assert harness.move().state is State.ROLLED_BACK


def test_volumes_are_not_concerned(cell: Drained) -> None:
    (server,) = cell.add("db", volume_backed=True, volumes=1)
    set_version(cell, OLD)
    cell.cellmove("migrate", server.name, "--cell", "cell2", "--confirm")
    assert oracle.problems(
        cell.snapshot(server.id), cell="cell2", host="c2-host1", flavor="m1.tiny", status="ACTIVE"
    ) == []  # fmt: skip


def test_nothing_is_written_where_all_hosts_are_old(cell: Drained) -> None:
    (server,) = cell.add("web")
    set_version(cell, OLD)
    before, effects = cell.snapshot(server.id), len(cell.history)
    for words in (
        ("migrate", server.name, "--cell", "cell2"),
        ("resize", server.name, "m1.small", "--host", "c2-host1"),
    ):
        said = cell.cellmove(*words, expect=5)
        assert "nova bug 1906428" in said.stdout + said.stderr
        assert "docs/stream.md" in said.stdout + said.stderr
    assert cell.snapshot(server.id) == before
    assert len(cell.history) == effects


@pytest.mark.parametrize("where", ["c2-host1", ""])
def test_a_move_that_was_prepared_earlier_stops_before_the_guest_does(cell: Drained, where: str) -> None:
    (server,) = cell.add("web")
    cell.cellmove("plan", server.name, *(("--host", where) if where else ("--cell", "cell2")))
    cell.cellmove("prep-dest", server.name)
    set_version(cell, OLD)
    said = cell.cellmove("prep-source", server.name, expect=1)
    assert "nova bug 1906428" in said.stderr
    assert "guest stopped" not in [each["what"] for each in cell.history]
    cell.cellmove("rollback", server.name)
    is_at_home(cell, server.id)


@pytest.mark.parametrize("command", ["finish", "resume"])
def test_a_move_whose_guest_is_off_goes_back(cell: Drained, command: str) -> None:
    """Whoever prepared it, an older cellmove perhaps: the guest starts again where its disk is."""
    (server,) = cell.add("web")
    cell.cellmove("plan", server.name, "--cell", "cell2")
    for step in ("prep-dest", "prep-source"):
        cell.cellmove(step, server.name)
    set_version(cell, OLD)
    said = cell.cellmove("migrate", server.name, "--cell", "cell2", expect=1) if command == "resume" else None
    said = said or cell.cellmove(command, server.name, expect=1)
    assert "nova bug 1906428" in said.stderr
    is_at_home(cell, server.id)


def test_a_drain_says_so_before_it_begins(cell: Drained) -> None:
    cell.add("web")
    cell.add("db", volume_backed=True)
    (metal,) = cell.add("metal", host="c1-host2")
    set_version(cell, OLD)
    set_node(cell, "c1-host2", hypervisor_type="ironic")
    found = {each["name"]: each for each in cell.plan()["servers"]}
    assert {name: each["verdict"] for name, each in found.items()} == {
        "web": "refused", "db": "movable", "metal": "refused",
    }  # fmt: skip
    assert found["web"]["codes"] == ["root-disk-lost"]
    assert "bare-metal" in found["metal"]["codes"]
    cell.drain("--yes", expect=None)
    history = [each for each in cell.history if each.get("server") == metal.id]
    assert [each["what"] for each in history if each["what"] in ("guest stopped", "disks deleted", "claimed")] == []
    is_moved = cell.process.cloud().row("api", "instance_mappings", instance_uuid=found["db"]["id"]) or {}
    assert is_moved["cell_id"] == 3


def test_bare_metal_is_refused_and_left_alone(cell: Drained) -> None:
    (server,) = cell.add("metal")
    set_node(cell, "c1-host1", hypervisor_type="ironic")
    for words in (("plan", server.name), ("migrate", server.name, "--cell", "cell2")):
        said = cell.cellmove(*words, "-f", "json", expect=5).json
        refused = {check["code"]: check["text"] for check in said["checks"] if check["level"] == "refusal"}
        assert refused.keys() == {"bare-metal"}
        assert "its data would be lost" in refused["bare-metal"]
    is_at_home(cell, server.id)


@pytest.mark.parametrize("volume_backed", [False, True])
def test_a_bare_metal_node_is_never_chosen(cell: Drained, *, volume_backed: bool) -> None:
    (server,) = cell.add("web", volume_backed=volume_backed)
    set_node(cell, "c2-host1", hypervisor_type="ironic")
    cell.cellmove("migrate", server.name, "--cell", "cell2")
    assert oracle.problems(
        cell.snapshot(server.id), cell="cell2", host="c2-host2", flavor="m1.tiny", status="VERIFY_RESIZE"
    ) == []  # fmt: skip


def test_a_host_that_became_bare_metal_since_the_plan_is_named(cell: Drained) -> None:
    (server,) = cell.add("web")
    cell.cellmove("plan", server.name, "--host", "c2-host1")
    set_node(cell, "c2-host1", hypervisor_type="ironic")
    said = cell.cellmove("prep-dest", server.name, expect=1)
    assert "c2-host1 is bare metal" in said.stderr
    is_at_home(cell, server.id)


def test_a_node_of_several_counts_for_its_host(cell: Drained) -> None:
    """A host with one node that will do is asked for."""
    (server,) = cell.add("web")
    set_node(cell, "c2-host1", hypervisor_type="ironic")

    def second_node(cloud: Cloud, _server: str) -> None:
        node = dict(cloud.row("cell2", "compute_nodes", host="c2-host1") or {})
        del node["id"]
        values = {"uuid": cloud.new_id("node"), "hypervisor_hostname": "second", "hypervisor_type": "QEMU"}
        cloud.insert("cell2", "compute_nodes", node | values)

    change_cloud(cell, second_node, server.id)
    said = cell.cellmove("plan", server.name, "--host", "c2-host1", "-f", "json", expect=None).json
    assert "target-hypervisor" not in {check["code"] for check in said["checks"]}


def test_other_cpus(cell: Drained) -> None:
    """A guest whose image names no architecture was built for its host's."""
    (server,) = cell.add("web")
    set_node(cell, "c2-host1", cpu_info='{"arch": "aarch64"}')
    cell.cellmove("migrate", server.name, "--cell", "cell2")
    assert (services.ports_of(cell.process.cloud(), server.id)[0])["bindings"].keys() == {"c1-host1", "c2-host2"}


@pytest.mark.parametrize(("release", "named"), [(51, False), (61, False), (64, True), (74, True)])
def test_the_stored_request_spec_is_as_that_release_writes_it(cell: Drained, release: int, *, named: bool) -> None:
    """From Zed on a resize writes whose the PCI requests are."""
    (server,) = cell.add("web", volume_backed=True)
    cloud = cell.process.cloud()
    for name in ("cell1", "cell2"):
        cloud.update(name, "services", {"version": release}, binary="nova-conductor")
    cell.cellmove("resize", server.id, "m1.small", "--cell", "cell2")
    spec = json.loads((cloud.row("api", "request_specs", instance_uuid=server.id) or {})["spec"])
    requests = spec["nova_object.data"]["pci_requests"]["nova_object.data"]
    assert requests.get("instance_uuid") == (server.id if named else None)
    assert spec["nova_object.data"]["flavor"]["nova_object.data"]["name"] == "m1.small"
