"""Planning against a cloud that is a table of answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cellmove.checks.preflight import Level
from cellmove.cloud import candidates, network, placement, quota, servers, stores, volume
from cellmove.cloud.network import Binding, Port
from cellmove.cloud.volume import Attachment
from cellmove.core.cell_names import CELL0_UUID
from cellmove.core.clock import Clock
from cellmove.core.documents import structure, to_document
from cellmove.core.errors import CannotConnect, NotFound, Usage
from cellmove.core.move_plan import MovePlan, plan_document
from cellmove.core.request import Destination, MoveRequest
from cellmove.core.settings import Settings
from cellmove.db import look, schemas, state
from cellmove.db.cells import Cell, find_cell
from cellmove.db.identity import DatabaseIdentity
from cellmove.db.shapes import BlockDevice, Flavor, Instance, InstanceMapping, Node, Service
from cellmove.gateway import Gateway
from cellmove.steps import plan as planning
from cellmove.steps.plan import Planned, gather

SERVER = "5e54d7c0-0000-4000-8000-000000000001"
SMALL = Flavor(id=1, flavorid="one", name="m1.small", vcpus=1, memory_mb=512, root_gb=5)
LARGE = Flavor(id=12, flavorid="two", name="m1.large", vcpus=4, memory_mb=2048, root_gb=10)
CELLS = tuple(
    Cell(number, f"uuid-{number}", f"cell{number}", disabled=False, transport_url="rabbit://", database_url="mysql://")
    for number in (1, 2, 3)
)
HOSTS = {"c1-host1": "uuid-1", "c2-host1": "uuid-2", "c2-host2": "uuid-2", "c3-host1": "uuid-3"}

PLAN_KEYS = {
    "server_id", "server_name", "project_id", "user_id", "kind", "source_cell", "source_cell_uuid", "source_host",
    "source_node", "source_compute_version", "wanted_cell", "wanted_host", "target_cells", "wanted_cell_uuid", "target_cell_uuids", "flavor_name",
    "new_flavor_id", "old_instance_type_id", "new_instance_type_id", "volume_backed", "vm_state", "active",
    "transfer", "transfer_wish", "only_streamed", "bwlimit", "volume_zones", "architecture", "ports", "volumes", "flavor_from", "image_ref", "accepted_losses", "forced", "command", "request",
}  # fmt: skip
SUMMARY = {
    "server_id", "server_name", "status", "kind", "source_cell", "source_cell_uuid", "source_host", "target_cell", "target_cell_uuid", "target_hosts",
    "flavor_from", "flavor_to", "backing", "active", "ports", "volumes", "copied", "lost", "transfer", "transfer_why",
}  # fmt: skip


@dataclasses.dataclass
class World:
    """What the fakes answer. Tests change it."""

    instance: Instance | None = dataclasses.field(
        default_factory=lambda: Instance(
            SERVER, "web-1", "project", "user", "active", "", "c1-host1", "c1-node1",
            image_ref="image-1", root_gb=5, flavor=SMALL,
        )
    )  # fmt: skip
    mapping: InstanceMapping | None = dataclasses.field(
        default_factory=lambda: InstanceMapping("uuid-1", queued_for_delete=False)
    )
    devices: list[BlockDevice] = dataclasses.field(default_factory=lambda: [BlockDevice("bdm-1", "image", "local", 0)])
    unreachable: frozenset[str] = frozenset()
    volumes: dict[str, str] = dataclasses.field(default_factory=dict)
    bindings: list[Binding] = dataclasses.field(
        default_factory=lambda: [Binding("c1-host1", "ACTIVE", "ovs", "normal")]
    )
    spec: dict[str, Any] | None = dataclasses.field(default_factory=lambda: {"nova_object.data": {"is_bfv": False}})
    asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    services: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def identity(self, cell: Cell) -> DatabaseIdentity:
        self.database(cell)
        return DatabaseIdentity(cell.uuid, self.services.get(cell.uuid, frozenset()))

    def database(self, cell: Cell) -> Any:
        if cell.label in self.unreachable:
            raise CannotConnect(f"database of {cell.label}: no route")
        return cell


def services_of(cell: Cell, _now: object, _down_time: float) -> list[Service]:
    hosts = [host for host, uuid in HOSTS.items() if uuid == cell.uuid]
    computes = [Service(host, "nova-compute", 74, disabled=False, up=True) for host in hosts]
    return [Service("controller", "nova-conductor", 74, disabled=False, up=True), *computes]


def nodes_of(cell: Cell) -> list[Node]:
    return [Node(f"node-of-{host}", host, host, 8, 2, 8192, 2048) for host, uuid in HOSTS.items() if uuid == cell.uuid]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def read_request_spec(*_: object) -> dict[str, Any]:
        if world.spec is None:
            raise NotFound("no request spec")
        return world.spec

    def get_volume(_connection: object, volume_id: str) -> Any:
        if volume_id not in world.volumes:
            raise NotFound("no such volume")
        return SimpleNamespace(status=world.volumes[volume_id], zone="nova")

    def offered(_connection: object, flavor: Flavor, **options: Any) -> frozenset[str]:
        world.asked.append({"flavor": flavor.name, **options})
        return frozenset(f"node-of-{host}" for host in HOSTS)

    answers: dict[tuple[Any, str], Callable[..., Any]] = {
        (servers, "find_server"): lambda *_: {"id": SERVER, "name": "web-1", "status": "ACTIVE"},
        (look, "mapping_of"): lambda *_: world.mapping,
        (look, "has_build_request"): lambda *_: False,
        (look, "host_cells"): lambda *_: HOSTS,
        (look, "find_flavors"): lambda _engine, name: [LARGE] if name in (LARGE.name, LARGE.flavorid) else [],
        (look, "flavor_names"): lambda *_: [SMALL.name, LARGE.name],
        (look, "availability_zones"): lambda *_: {"c2-host1": "east"},
        (look, "group_of"): lambda *_: None,
        (look, "instance_of"): lambda *_: world.instance,
        (look, "services_of"): services_of,
        (look, "nodes_of"): nodes_of,
        (look, "migrations_of"): lambda *_: [],
        (look, "block_devices_of"): lambda *_: world.devices,
        (look, "row_counts"): lambda *_, **__: {"instances": 1, "tags": 2},
        (look, "share_count"): lambda *_: 0,
        (look, "interfaces_of"): lambda *_: frozenset({"port-1"}),
        (look, "leftovers"): lambda *_: {},
        (look, "missing_columns"): lambda *_: [],
        (schemas, "needed_columns"): lambda *_: (),
        (schemas, "unfit_columns"): lambda *_: (),
        (state, "read_request_spec"): read_request_spec,
        (network, "has_extended_binding"): lambda *_: True,
        (network, "ports_of"): lambda *_: [Port("port-1", "c1-host1", "ACTIVE", "normal", "ovs", "compute:nova")],
        (network, "bindings"): lambda *_: world.bindings,
        (volume, "get_volume"): get_volume,
        (volume, "attachments_of"): lambda *_: [Attachment("attachment-1", "volume-1", SERVER, "attached")],
        (placement, "allocations_of"): lambda *_: {"allocations": {"node-of-c1-host1": {}}},
        (candidates, "offered"): offered,
        (stores, "sharing"): lambda *_: {},
        (quota, "quotas"): lambda *_: (),
        (planning, "with_access"): lambda _gateway, snapshot, _source: snapshot,
        (planning, "with_scheduler"): lambda _gateway, _clock, snapshot: snapshot,
    }
    for (module, name), answer in answers.items():
        monkeypatch.setattr(module, name, answer)
    return world


def plan(world: World, **options: Any) -> Planned:
    gateway = SimpleNamespace(
        api_engine=None, admin=None, service=None, cells=CELLS, database=world.database,
        cell=lambda name: find_cell(CELLS, name),
        settings=Settings(disk_stores="separate"), identity=world.identity,
    )  # fmt: skip
    shown = options.pop("shown", None)
    destination = Destination(options.pop("cell", ""), options.pop("host", ""))
    request = MoveRequest(options.pop("server", "web-1"), destination=destination, **options)
    return gather(cast(Gateway, gateway), Clock(), request, shown=shown)


def test_a_server_that_nova_was_asked_for_is_not_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def find_server(_connection: object, name: str) -> dict[str, Any]:
        calls.append(name)
        return {"id": SERVER, "name": "web-1", "status": "ACTIVE"}

    monkeypatch.setattr(servers, "find_server", find_server)
    assert stored(plan(world))["server_id"] == SERVER
    assert calls == ["web-1"]
    shown = plan(world, shown=servers.ShownServer(SERVER, "web-1", "SHUTOFF"))
    assert (stored(shown)["server_id"], calls) == (SERVER, ["web-1"])


def stored(planned: Planned) -> dict[str, Any]:
    """The plan as the journal has it."""
    assert planned.plan is not None
    document: dict[str, Any] = json.loads(json.dumps(plan_document(planned.plan)))
    return document


def refusals(planned: Planned) -> list[str]:
    return [check.code for check in planned.checks if check.level is Level.REFUSAL]


def test_the_plan_of_a_migration(world: World) -> None:
    planned = plan(world)
    assert refusals(planned) == []
    assert stored(planned).keys() == PLAN_KEYS
    assert structure(MovePlan, stored(planned), "the plan") == planned.plan
    assert stored(planned) == {
        "server_id": SERVER, "server_name": "web-1", "project_id": "project", "user_id": "user",
        "kind": "migration", "source_cell": "cell1", "source_cell_uuid": "uuid-1", "source_host": "c1-host1",
        "source_node": "c1-node1", "source_compute_version": 74, "wanted_cell": "", "wanted_cell_uuid": "", "wanted_host": "",
        "target_cells": ["cell2", "cell3"], "target_cell_uuids": ["uuid-2", "uuid-3"], "flavor_name": "m1.small", "new_flavor_id": "one",
        "old_instance_type_id": 1, "new_instance_type_id": 1, "volume_backed": False, "vm_state": "active",
        "active": True, "transfer": "image", "transfer_wish": "auto", "only_streamed": [], "bwlimit": 0, "volume_zones": [], "architecture": ["", False], "ports": ["port-1"], "volumes": [], "flavor_from": "m1.small",
        "image_ref": "image-1", "accepted_losses": [], "forced": False, "command": "cellmove migrate web-1",
        "request": to_document(MoveRequest("web-1")),
    }  # fmt: skip


def test_the_plan_of_a_resize(world: World) -> None:
    made = stored(plan(world, flavor="m1.large", cell="cell2"))
    assert made["kind"] == "resize"
    assert (made["flavor_from"], made["flavor_name"], made["new_flavor_id"]) == ("m1.small", "m1.large", "two")
    assert (made["old_instance_type_id"], made["new_instance_type_id"]) == (1, 12)
    assert (made["wanted_cell"], made["target_cells"]) == ("cell2", ["cell2"])
    assert (made["wanted_cell_uuid"], made["target_cell_uuids"]) == ("uuid-2", ["uuid-2"])
    assert made["command"] == "cellmove resize web-1 m1.large --cell cell2"
    assert [asked["flavor"] for asked in world.asked] == ["m1.large"]


def test_the_plan_of_a_volume_backed_server(world: World) -> None:
    world.devices = [
        BlockDevice("bdm-1", "volume", "volume", 0, volume_id="volume-1", attachment_id="attachment-1"),
    ]
    world.volumes = {"volume-1": "in-use"}
    planned = plan(world)
    assert refusals(planned) == []
    assert stored(planned)["volume_backed"] is True
    assert stored(planned)["transfer"] == "volumes"
    assert stored(planned)["volumes"] == [{"bdm_uuid": "bdm-1", "volume_id": "volume-1"}]
    assert (planned.summary["backing"], planned.summary["volumes"]) == ("volume", 1)
    assert world.asked[0]["volume_backed"] is True


def test_summary(world: World) -> None:
    summary = plan(world, flavor="m1.large").summary
    assert summary.keys() == SUMMARY
    assert (summary["source_cell_uuid"], summary["target_cell"], summary["target_cell_uuid"]) == ("uuid-1", "", "")
    assert summary["target_hosts"] == [
        {"host": "c2-host1", "cell": "cell2", "cell_uuid": "uuid-2", "note": "east; 2 of 8 vCPU, 2 of 8 GiB in use"},
        {"host": "c2-host2", "cell": "cell2", "cell_uuid": "uuid-2", "note": "nova; 2 of 8 vCPU, 2 of 8 GiB in use"},
        {"host": "c3-host1", "cell": "cell3", "cell_uuid": "uuid-3", "note": "nova; 2 of 8 vCPU, 2 of 8 GiB in use"},
    ]
    assert (summary["status"], summary["flavor_to"], summary["ports"]) == ("ACTIVE", "m1.large", 1)
    assert (summary["copied"], summary["lost"]) == ({"instances": 1, "tags": 2}, [])


def test_a_host_names_its_cell(world: World) -> None:
    planned = plan(world, host="c2-host2", force_locked=True)
    assert refusals(planned) == []
    assert (stored(planned)["wanted_host"], stored(planned)["target_cells"]) == ("c2-host2", ["cell2"])
    assert stored(planned)["command"] == "cellmove migrate web-1 --host c2-host2 --force-locked"
    assert [each["host"] for each in planned.summary["target_hosts"]] == ["c2-host2"]
    assert world.asked[0]["only"] == "node-of-c2-host2"


@pytest.mark.parametrize("options", [{"cell": "cell1"}, {"host": "c1-host1"}, {"host": "c1-host1", "cell": "uuid-1"}])
def test_the_source_is_no_target(world: World, options: dict[str, str]) -> None:
    planned = plan(world, **options)
    assert refusals(planned) == ["same-cell"]
    assert stored(planned)["target_cells"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flavor": "m1.larg"}, "no flavor m1.larg; did you mean m1.large?"),
        ({"flavor": "zzz"}, "no flavor zzz; there are: m1.large, m1.small"),
        ({"host": "c2-hots1"}, "no compute host c2-hots1; did you mean c2-host1"),
        ({"cell": "cell9"}, "no cell cell9"),
        ({"cell": "cell2", "host": "c3-host1"}, "host c3-host1 is in cell3, not in cell2"),
    ],
)
def test_what_makes_no_sense(world: World, options: dict[str, str], words: str) -> None:
    with pytest.raises(Usage, match=r"there is|host c3") as raised:
        plan(world, **options)
    assert words in raised.value.message


def test_the_command_is_quoted(world: World) -> None:
    assert stored(plan(world, server="my server"))["command"] == "cellmove migrate 'my server'"


def test_no_mapping(world: World) -> None:
    world.mapping = None
    planned = plan(world)
    assert refusals(planned) == ["no-mapping"]
    assert planned.plan is None
    assert planned.summary.keys() == SUMMARY


def test_never_scheduled(world: World) -> None:
    world.mapping = InstanceMapping(CELL0_UUID, queued_for_delete=False)
    assert refusals(plan(world)) == ["cell0"]


@pytest.mark.parametrize("instance", [None, "no flavor"])
def test_incomplete_records(world: World, instance: str | None) -> None:
    found = world.instance
    world.instance = dataclasses.replace(found, flavor=None) if instance and found else None
    planned = plan(world)
    assert refusals(planned) == ["no-flavor" if instance else "no-record"]
    assert planned.plan is None
    assert planned.summary.keys() == SUMMARY


def test_no_request_spec(world: World) -> None:
    world.spec = None
    assert refusals(plan(world)) == ["no-request-spec"]


def test_a_cell_that_is_out_of_reach_is_left_out(world: World) -> None:
    world.unreachable = frozenset({"cell3"})
    planned = plan(world)
    assert stored(planned)["target_cells"] == ["cell2"]
    assert planned.summary["target_cell"] == "cell2"
    assert any(check.code == "target-unreachable" and check.level is Level.WARNING for check in planned.checks)


@pytest.mark.parametrize(
    ("unreachable", "options"), [({"cell2"}, {"cell": "cell2"}), ({"cell1"}, {}), ({"cell2", "cell3"}, {})]
)
def test_out_of_reach(world: World, unreachable: set[str], options: dict[str, str]) -> None:
    world.unreachable = frozenset(unreachable)
    with pytest.raises(CannotConnect, match="no route"):
        plan(world, **options)


def test_a_binding_left_over_is_found(world: World) -> None:
    world.bindings.append(Binding("c2-host1", "INACTIVE", "ovs", "normal"))
    assert refusals(plan(world)) == ["port-binding-left"]


def test_a_volume_that_cinder_does_not_know(world: World) -> None:
    world.devices.append(
        BlockDevice("bdm-2", "volume", "volume", None, volume_id="volume-9", attachment_id="attachment-1")
    )
    assert refusals(plan(world)) == ["volume-missing"]


def codes(planned: Planned) -> list[tuple[str, str]]:
    return [(check.level.value, check.code) for check in planned.checks if check.code == "duplicate-cell"]


def test_of_two_mappings_of_one_database_the_one_with_more_hosts_is_a_target(world: World) -> None:
    world.services = dict.fromkeys(("uuid-2", "uuid-3"), frozenset({"service"}))
    planned = plan(world)
    assert codes(planned) == [("warning", "duplicate-cell")]
    assert stored(planned)["target_cell_uuids"] == ["uuid-2"]
    assert codes(plan(world, cell="cell3")) == []  # hosts are mapped to it, so it is compared with the source alone


def test_a_second_mapping_of_the_database_where_the_server_is_is_no_target(world: World) -> None:
    world.services = dict.fromkeys(("uuid-1", "uuid-3"), frozenset({"service"}))
    planned = plan(world)
    assert codes(planned) == [("warning", "duplicate-cell")]
    assert stored(planned)["target_cell_uuids"] == ["uuid-2"]
    assert codes(plan(world, cell="cell3")) == [("refusal", "duplicate-cell")]
