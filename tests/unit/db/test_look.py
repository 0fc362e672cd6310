"""Reading a minimal nova schema in SQLite."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, create_engine, text

from cellmove.core.errors import CallFailed
from cellmove.db import look
from cellmove.db.shapes import (
    BlockDevice,
    Flavor,
    Group,
    InstanceMapping,
    MigrationRow,
    Node,
    Service,
    current_flavor,
    parse_json,
)
from cellmove.db.tables import CellDatabase, open_cell_database
from cellmove.gateway import Gateway

NOW = datetime.datetime(2026, 8, 1, 12, 0, 0)  # noqa: DTZ001  (as nova's tables hold it)
COMMON = "created_at DATETIME, updated_at DATETIME, deleted_at DATETIME, deleted INTEGER DEFAULT 0"

API_SCHEMA = """
CREATE TABLE cell_mappings (id INTEGER PRIMARY KEY, uuid TEXT, name TEXT);
CREATE TABLE instance_mappings (id INTEGER PRIMARY KEY, instance_uuid TEXT, cell_id INTEGER, queued_for_delete BOOLEAN);
CREATE TABLE build_requests (id INTEGER PRIMARY KEY, instance_uuid TEXT);
CREATE TABLE host_mappings (id INTEGER PRIMARY KEY, cell_id INTEGER, host TEXT);
CREATE TABLE flavors (id INTEGER PRIMARY KEY, flavorid TEXT, name TEXT, vcpus INTEGER, memory_mb INTEGER,
    root_gb INTEGER, ephemeral_gb INTEGER, swap INTEGER, disabled BOOLEAN);
CREATE TABLE flavor_extra_specs (id INTEGER PRIMARY KEY, flavor_id INTEGER, key TEXT, value TEXT);
CREATE TABLE aggregate_hosts (id INTEGER PRIMARY KEY, host TEXT, aggregate_id INTEGER);
CREATE TABLE aggregate_metadata (id INTEGER PRIMARY KEY, key TEXT, value TEXT, aggregate_id INTEGER);
CREATE TABLE instance_groups (id INTEGER PRIMARY KEY, uuid TEXT, name TEXT);
CREATE TABLE instance_group_member (id INTEGER PRIMARY KEY, group_id INTEGER, instance_uuid TEXT);
CREATE TABLE instance_group_policy (id INTEGER PRIMARY KEY, group_id INTEGER, policy TEXT);
INSERT INTO cell_mappings VALUES (1, 'uuid-0', 'cell0'), (2, 'uuid-1', 'cell1'), (3, 'uuid-2', 'cell2');
INSERT INTO instance_mappings VALUES
    (1, 'server-1', 2, 0), (2, 'server-2', 3, 0), (3, 'server-3', NULL, NULL), (4, 'server-4', 2, 1), (5, 'server-5', 3, 0);
INSERT INTO build_requests VALUES (1, 'server-3');
INSERT INTO host_mappings VALUES (1, 2, 'c1-host1'), (2, 3, 'c2-host1');
INSERT INTO flavors VALUES (1, 'one', 'small', 1, 512, 5, 0, 0, 0), (2, 'small', 'odd', 2, 1024, 6, 1, 64, 1),
    (3, 'three', 'large', 4, 2048, 7, 0, 0, NULL);
INSERT INTO flavor_extra_specs VALUES (1, 3, 'hw:cpu_policy', 'shared'), (2, 1, 'x', 'y');
INSERT INTO aggregate_hosts VALUES (1, 'c1-host1', 10), (2, 'c1-host1', 11), (3, 'c2-host1', 11);
INSERT INTO aggregate_metadata VALUES (1, 'availability_zone', 'east', 10), (2, 'cell', 'one', 11);
INSERT INTO instance_groups VALUES (7, 'group-1', 'web');
INSERT INTO instance_group_member VALUES (1, 7, 'server-1'), (2, 7, 'server-2'), (3, 7, 'server-5');
INSERT INTO instance_group_policy VALUES (1, 7, 'anti-affinity');
"""

CELL_SCHEMA = f"""
CREATE TABLE instances (id INTEGER PRIMARY KEY, {COMMON}, uuid TEXT, display_name TEXT, project_id TEXT, user_id TEXT,
    vm_state TEXT, task_state TEXT, host TEXT, node TEXT, availability_zone TEXT, image_ref TEXT, root_gb INTEGER,
    locked BOOLEAN, locked_by TEXT, hidden BOOLEAN DEFAULT 0, config_drive TEXT, ephemeral_key_uuid TEXT, user_data TEXT);
CREATE TABLE instance_extra (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, flavor TEXT, numa_topology TEXT,
    pci_requests TEXT);
CREATE TABLE instance_info_caches (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT);
CREATE TABLE instance_metadata (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, key TEXT, value TEXT);
CREATE TABLE instance_system_metadata (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, key TEXT, value TEXT);
CREATE TABLE block_device_mapping (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, uuid TEXT, source_type TEXT,
    destination_type TEXT, boot_index INTEGER, guest_format TEXT, device_name TEXT, volume_id TEXT, attachment_id TEXT,
    no_device BOOLEAN);
CREATE TABLE virtual_interfaces (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, address TEXT);
CREATE TABLE tags (resource_id TEXT, tag TEXT, PRIMARY KEY (resource_id, tag));
CREATE TABLE instance_actions (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT);
CREATE TABLE instance_actions_events (id INTEGER PRIMARY KEY, {COMMON}, action_id INTEGER);
CREATE TABLE migrations (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT, uuid TEXT, status TEXT,
    migration_type TEXT, source_compute TEXT, dest_compute TEXT);
CREATE TABLE instance_faults (id INTEGER PRIMARY KEY, {COMMON}, instance_uuid TEXT);
CREATE TABLE instance_id_mappings (id INTEGER PRIMARY KEY, {COMMON}, uuid TEXT);
CREATE TABLE services (id INTEGER PRIMARY KEY, {COMMON}, host TEXT, binary TEXT, version INTEGER, disabled BOOLEAN,
    forced_down BOOLEAN, last_seen_up DATETIME);
CREATE TABLE compute_nodes (id INTEGER PRIMARY KEY, {COMMON}, uuid TEXT, host TEXT, hypervisor_hostname TEXT,
    vcpus INTEGER, vcpus_used INTEGER, memory_mb INTEGER, memory_mb_used INTEGER,
    hypervisor_type TEXT, cpu_info TEXT, supported_instances TEXT);
"""


def primitive(**fields: Any) -> dict[str, Any]:
    return {"nova_object.name": "Flavor", "nova_object.data": fields}


FLAVOR_JSON = json.dumps({
    "cur": primitive(id=1, flavorid="one", name="small", vcpus=1, memory_mb=512, root_gb=5, ephemeral_gb=0, swap=64,
                     disabled=False, extra_specs={"hw:numa_nodes": "1"}),
    "old": None,
    "new": None,
})  # fmt: skip


def run(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        for statement in script.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def insert(database: CellDatabase, table: str, **values: Any) -> None:
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    with database.engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)  # noqa: S608


@pytest.fixture
def api(tmp_path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{tmp_path}/api.db")
    run(engine, API_SCHEMA)
    return engine


@pytest.fixture
def make_cell(tmp_path: Path) -> Callable[..., CellDatabase]:
    def make(name: str, more: str = "") -> CellDatabase:
        engine = create_engine(f"sqlite:///{tmp_path}/{name}.db")
        run(engine, CELL_SCHEMA + more)
        return open_cell_database(engine, name)

    return make


@pytest.fixture
def cell1(make_cell: Callable[..., CellDatabase]) -> CellDatabase:
    """The source, with one server that has a bit of everything."""
    cell = make_cell("cell1")
    insert(
        cell, "instances", uuid="server-1", display_name="web-1", project_id="p", user_id="u", vm_state="active",
        host="c1-host1", node="node-1", image_ref="image-1", root_gb=5, locked=False, hidden=False, config_drive="True",
    )  # fmt: skip
    insert(cell, "instance_extra", instance_uuid="server-1", flavor=FLAVOR_JSON, pci_requests='[{"count": 1}]')
    insert(cell, "instance_info_caches", instance_uuid="server-1")
    for key, value in (("image_min_ram", "64"), ("image_hw_firmware_type", "uefi"), ("password_0", "hunter2"),
                       ("imagination", "x"), ("vtpm_secret_uuid", "s")):  # fmt: skip
        insert(cell, "instance_system_metadata", instance_uuid="server-1", key=key, value=value)
    insert(cell, "instance_system_metadata", instance_uuid="server-1", key="image_old", value="x", deleted=9)
    insert(cell, "tags", resource_id="server-1", tag="red")
    insert(cell, "instance_actions", id=5, instance_uuid="server-1")
    insert(cell, "instance_actions_events", action_id=5)
    insert(cell, "instance_actions_events", action_id=6)
    insert(
        cell, "migrations", instance_uuid="server-1", uuid="m-1", status="confirmed", migration_type="resize",
        source_compute="a", dest_compute=None,
    )  # fmt: skip
    insert(cell, "virtual_interfaces", instance_uuid="server-1", address="mac-1/port-1")
    insert(
        cell, "block_device_mapping", id=1, instance_uuid="server-1", uuid="b-2", source_type="volume",
        destination_type="volume", device_name="/dev/vdb", volume_id="v", attachment_id="a",
    )  # fmt: skip
    insert(
        cell, "block_device_mapping", id=2, instance_uuid="server-1", uuid="b-1", source_type="image",
        destination_type="local", boot_index=0, no_device=False,
    )  # fmt: skip
    insert(cell, "block_device_mapping", id=3, instance_uuid="server-1", uuid="b-0", deleted=3)
    return cell


def test_mapping(api: Engine) -> None:
    assert look.mapping_of(api, "server-1") == InstanceMapping("uuid-1", queued_for_delete=False)
    assert look.mapping_of(api, "server-3") == InstanceMapping("", queued_for_delete=False)
    assert look.mapping_of(api, "server-4") == InstanceMapping("uuid-1", queued_for_delete=True)
    assert look.mapping_of(api, "server-9") is None


def test_build_request_and_hosts(api: Engine) -> None:
    assert look.has_build_request(api, "server-3")
    assert not look.has_build_request(api, "server-1")
    assert look.host_cells(api) == {"c1-host1": "uuid-1", "c2-host1": "uuid-2"}


def test_flavors(api: Engine) -> None:
    assert look.find_flavors(api, "large") == [
        Flavor(3, "three", "large", 4, 2048, 7, extra_specs={"hw:cpu_policy": "shared"})
    ]
    (by_id,) = look.find_flavors(api, "small")  # one flavor's id and another's name: the id wins
    assert (by_id.id, by_id.swap, by_id.disabled) == (2, 64, True)
    assert look.find_flavors(api, "none") == []
    assert look.flavor_names(api) == ["large", "odd", "small"]


def test_availability_zone(api: Engine) -> None:
    assert look.availability_zone_of(api, "c1-host1", "nova") == "east"
    assert look.availability_zone_of(api, "c2-host1", "nova") == "nova"
    assert look.availability_zones(api, ["c1-host1", "c2-host1"]) == {"c1-host1": "east"}
    assert look.availability_zones(api, []) == {}


def test_group_and_its_hosts_in_all_cells(
    api: Engine, cell1: CellDatabase, make_cell: Callable[..., CellDatabase]
) -> None:
    cell2 = make_cell("cell2")
    insert(cell2, "instances", uuid="server-2", host="c2-host1", hidden=False)
    insert(cell2, "instances", uuid="server-5", host="c2-host2", hidden=True)
    databases = {"uuid-1": cell1, "uuid-2": cell2}
    gateway = cast(
        Gateway,
        SimpleNamespace(
            api_engine=api,
            cells=[SimpleNamespace(uuid=uuid) for uuid in databases],
            database=lambda cell: databases[cell.uuid],
        ),
    )
    group = look.group_of(api, "server-1")
    assert group == Group("group-1", "web", "anti-affinity", ("server-1", "server-2", "server-5"))
    assert look.group_of(api, "server-9") is None
    assert look.group_hosts(gateway, group.members, []) == ["c1-host1", "c2-host1"]
    assert look.group_hosts(gateway, group.members, ["server-1"]) == ["c2-host1"]
    assert look.group_hosts(gateway, ["server-1"], ["server-1"]) == []


def test_instance(cell1: CellDatabase) -> None:
    found = look.instance_of(cell1, "server-1")
    assert found is not None
    assert found.flavor == Flavor(1, "one", "small", 1, 512, 5, swap=64, extra_specs={"hw:numa_nodes": "1"})
    assert (found.vm_state, found.task_state, found.host, found.node) == ("active", "", "c1-host1", "node-1")
    assert found.image == {"min_ram": "64", "hw_firmware_type": "uefi"}
    assert found.vtpm_secret
    assert found.config_drive
    assert not found.has_numa_topology
    assert found.pci_requests == ({"count": 1},)
    assert "hunter2" not in repr(found)


def test_instance_that_is_deleted_or_without_extra(cell1: CellDatabase) -> None:
    insert(cell1, "instances", uuid="gone", deleted=7, host="h")
    insert(cell1, "instances", uuid="bare", host=None, config_drive="")
    assert look.instance_of(cell1, "gone") is None
    bare = look.instance_of(cell1, "bare")
    assert bare is not None
    assert (bare.flavor, bare.host, bare.config_drive, bare.image, bare.vtpm_secret) == (None, "", False, {}, False)


def test_block_devices_root_first(cell1: CellDatabase) -> None:
    assert look.block_devices_of(cell1, "server-1") == [
        BlockDevice("b-1", "image", "local", 0),
        BlockDevice("b-2", "volume", "volume", None, device_name="/dev/vdb", volume_id="v", attachment_id="a"),
    ]


def test_services_and_nodes(cell1: CellDatabase) -> None:
    fresh, stale = NOW - datetime.timedelta(seconds=60), NOW - datetime.timedelta(seconds=61)
    insert(cell1, "services", host="a", binary="nova-compute", version=74, disabled=False, last_seen_up=fresh)
    insert(cell1, "services", host="b", binary="nova-compute", version=74, disabled=True, last_seen_up=stale)
    insert(cell1, "services", host="c", binary="nova-conductor", version=74, disabled=False, created_at=fresh)
    insert(cell1, "services", host="d", binary="nova-scheduler", version=74, disabled=False, last_seen_up=fresh)
    insert(cell1, "services", host="e", binary="nova-compute", version=74, last_seen_up=fresh, deleted=1)
    assert look.services_of(cell1, NOW, 60) == [
        Service("a", "nova-compute", 74, disabled=False, up=True),
        Service("b", "nova-compute", 74, disabled=True, up=False),
        Service("c", "nova-conductor", 74, disabled=False, up=True),
    ]
    insert(
        cell1, "compute_nodes", uuid="n", host="a", hypervisor_hostname="a.example", vcpus=8, vcpus_used=1,
        memory_mb=10, memory_mb_used=5,
    )  # fmt: skip
    assert look.nodes_of(cell1) == [Node("n", "a", "a.example", 8, 1, 10, 5)]


@pytest.mark.parametrize(
    ("hypervisor", "cpu", "supported", "expected"),
    [
        ("QEMU", '{"arch": "aarch64"}', '[["aarch64", "kvm", "hvm"], ["armv7l", "kvm", "hvm"]]', ("qemu", "aarch64", {"aarch64", "armv7l"})),
        ("fake", "{}", '[["x86_64", "fake", "hvm"]]', ("fake", "x86_64", {"x86_64"})),  # nova's own fake driver
        ("ironic", "", '[["x86_64", "baremetal", "hvm"]]', ("ironic", "x86_64", {"x86_64"})),
        ("VMware vCenter Server", '{"vendor": "x"}', '[["i686", "vmware", "hvm"], ["x86_64", "vmware", "hvm"]]',
         ("vmware vcenter server", "", {"i686", "x86_64"})),
        ("QEMU", '{"arch": "AMD64"}', "no JSON", ("qemu", "x86_64", set())),
        (None, None, None, ("", "", set())),
    ],
)  # fmt: skip
def test_a_node_says_what_it_runs(
    cell1: Any, hypervisor: str | None, cpu: str | None, supported: str | None, expected: tuple[str, str, set[str]]
) -> None:
    insert(
        cell1,
        "compute_nodes",
        uuid="n",
        host="a",
        hypervisor_type=hypervisor,
        cpu_info=cpu,
        supported_instances=supported,
    )
    (node,) = look.nodes_of(cell1)
    assert (node.hypervisor, node.architecture, set(node.architectures)) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"last_seen_up": NOW}, True),
        ({"last_seen_up": NOW - datetime.timedelta(seconds=60)}, True),
        ({"last_seen_up": NOW - datetime.timedelta(seconds=61)}, False),
        ({"last_seen_up": NOW + datetime.timedelta(seconds=61)}, False),  # nova takes the absolute difference
        ({"created_at": NOW}, True),
        ({"last_seen_up": NOW, "forced_down": True}, False),
        ({}, False),
    ],
)
def test_is_up(row: dict[str, Any], expected: bool) -> None:
    empty = {"last_seen_up": None, "created_at": None, "forced_down": None}
    assert look.is_up(empty | row, NOW, 60) is expected


def test_migrations(cell1: CellDatabase) -> None:
    assert look.migrations_of(cell1, "server-1") == [MigrationRow("m-1", "confirmed", "resize", "a", "")]


def test_row_counts(cell1: CellDatabase) -> None:
    live = look.row_counts(cell1, "server-1", with_deleted=False)
    assert live == {
        "instances": 1, "instance_extra": 1, "instance_info_caches": 1, "instance_system_metadata": 5,
        "block_device_mapping": 2, "virtual_interfaces": 1, "tags": 1, "instance_actions": 1, "migrations": 1,
        "instance_actions_events": 1,
    }  # fmt: skip
    every = look.row_counts(cell1, "server-1", with_deleted=True)
    assert (every["block_device_mapping"], every["instance_system_metadata"]) == (3, 6)


def test_shares(cell1: CellDatabase, make_cell: Callable[..., CellDatabase]) -> None:
    assert look.share_count(cell1, "server-1") == 0
    newer = make_cell("newer", "CREATE TABLE share_mapping (id INTEGER PRIMARY KEY, instance_uuid TEXT)")
    insert(newer, "share_mapping", instance_uuid="server-1")
    assert look.share_count(newer, "server-1") == 1


def test_leftovers(cell1: CellDatabase, make_cell: Callable[..., CellDatabase]) -> None:
    cell2 = make_cell("cell2")
    assert look.leftovers(cell1, cell2, "server-1") == {}
    insert(cell2, "instance_id_mappings", uuid="server-1")  # no one minds
    insert(cell2, "virtual_interfaces", instance_uuid="x", address="mac-1/port-1", deleted=4)  # nor that
    assert look.leftovers(cell1, cell2, "server-1") == {}
    insert(cell2, "instances", uuid="server-1", deleted=1)
    insert(cell2, "instance_info_caches", instance_uuid="server-1", deleted=1)
    insert(cell2, "block_device_mapping", instance_uuid="other", uuid="b-1", deleted=1)
    insert(cell2, "migrations", instance_uuid="other", uuid="m-1", deleted=1)
    insert(cell2, "virtual_interfaces", instance_uuid="x", address="mac-1/port-1")
    assert look.leftovers(cell1, cell2, "server-1") == {
        "instances": 1, "instance_info_caches": 1, "block_device_mapping": 1, "migrations": 1, "virtual_interfaces": 1,
    }  # fmt: skip


def test_missing_columns(make_cell: Callable[..., CellDatabase]) -> None:
    newer = make_cell(
        "newer",
        """
        ALTER TABLE block_device_mapping ADD COLUMN encrypted BOOLEAN;
        ALTER TABLE block_device_mapping ADD COLUMN encryption_format TEXT;
        ALTER TABLE instances ADD COLUMN compute_id INTEGER
        """,
    )
    older = make_cell("older")
    insert(newer, "instances", uuid="server-1")
    insert(newer, "block_device_mapping", instance_uuid="server-1", encrypted=False)
    assert look.missing_columns(newer, older, "server-1") == []
    insert(newer, "block_device_mapping", instance_uuid="server-1", encrypted=True, encryption_format="luks")
    insert(newer, "block_device_mapping", instance_uuid="server-2", encrypted=True)
    assert look.missing_columns(newer, older, "server-1") == [
        "block_device_mapping.encrypted",
        "block_device_mapping.encryption_format",
    ]
    assert look.missing_columns(older, newer, "server-1") == []
    assert look.block_devices_of(newer, "server-2")[0].encrypted


def test_missing_table(cell1: CellDatabase, make_cell: Callable[..., CellDatabase]) -> None:
    bare = make_cell("bare", "DROP TABLE tags; DROP TABLE instance_faults")
    assert look.missing_columns(cell1, bare, "server-1") == ["tags"]
    assert look.leftovers(cell1, bare, "server-1") == {}


def test_what_nova_sets_anew_is_not_missed(make_cell: Callable[..., CellDatabase]) -> None:
    newer, older = make_cell("newer", "ALTER TABLE instances ADD COLUMN compute_id INTEGER"), make_cell("older")
    insert(newer, "instances", uuid="server-1", compute_id=4)
    assert look.missing_columns(newer, older, "server-1") == []


def test_errors_are_translated(tmp_path: Path) -> None:
    with pytest.raises(CallFailed):
        look.mapping_of(create_engine(f"sqlite:///{tmp_path}/empty.db"), "server-1")


@pytest.mark.parametrize(
    "stored", [None, "", "no json", "[]", "{}", '{"cur": null}', '{"cur": {"nova_object.data": {}}}']
)
def test_flavor_that_cannot_be_read(stored: str | None) -> None:
    assert current_flavor(stored) is None


def test_json() -> None:
    assert parse_json('{"a": 1}') == {"a": 1}
    assert parse_json(None) is None
    assert parse_json("{") is None
