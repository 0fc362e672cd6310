"""What has to be in a cloud for each refusal and each warning of the plan."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cellmove.sandbox import seed, services
from cellmove.sandbox.store import Cloud, Record

STORE = "60000000-0000-4000-8000-000000000001"
CELLS = {"cell1": 2, "cell2": 3}  # by their ids in the API database
SECOND = "22222222-2222-4222-8222-333333333333"
"""The UUID of a second mapping of a database."""
LONG_AGO = datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - as nova's tables hold it

DESTRUCTIVE = re.compile(
    r"(attachment|binding|allocation|image|volume|server|port) delete|remove (volume|port)|DELETE|evacuate|server rebuild|--state"
)
"""What no remedy tells an operator to type: it may hit what a visible row, a guest or a mapping uses."""

NOT_OF_A_SERVER = {"policy-day", "policy-unattended"}
"""Rules that hold for whoever begins moves, and not for a server."""

ASKED_BY_A_PLAN_ALONE = {
    "no-valid-host",
    "scheduler-failed",
    "schema-narrow",
    "port-stray",
    "port-not-cached",
    "port-gone",
}
"""What takes a call for each server; it is found when a drain comes to the server."""

Change = Callable[[Cloud, str], Any]


@dataclass(frozen=True)
class Case:
    """One change that trips one check.

    :param change: what happens to the cloud; it is given the server's id
    :param flavor: of a resize; empty for a migration
    :param where: the options that say where to
    :param also: codes that cannot but be found with it
    :param boot: how the server is made
    :param env: for the command
    :param options: more of them
    :param config: what stands under [policy]
    :param by_id: nova lists no such server, and shows it only by its id
    """

    level: str
    change: Change = lambda _cloud, _server: None
    flavor: str = ""
    where: tuple[str, ...] = ("--cell", "cell2")
    also: frozenset[str] = frozenset()
    boot: Mapping[str, Any] = field(default_factory=lambda: {"ports": 1, "volumes": 1})
    env: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    config: str = ""
    by_id: bool = False


def is_compared(code: str, case: Case) -> bool:
    """Return whether a census of the server's cell says the same as its plan."""
    return code not in NOT_OF_A_SERVER | ASKED_BY_A_PLAN_ALONE and "--host" not in case.where


def require_found(code: str, case: Case, results: Iterable[Mapping[str, Any]]) -> None:
    """Assert that a plan gives a case's code at its level, no code besides, and only remedies that are safe to type.

    :param results: of all checks, as documents have them
    """
    found = [result for result in results if result["level"] != "ok"]
    assert {result["code"] for result in found} == {code, *case.also}
    (one, *_) = (result for result in found if result["code"] == code)
    assert one["level"] == case.level
    assert one["text"]
    assert "None" not in one["text"] + one["remedy"]
    assert one["remedy"] or case.level == "warning"
    assert not DESTRUCTIVE.search(" ".join(result["remedy"] for result in found))


def refusal(change: Change = lambda _cloud, _server: None, /, **more: Any) -> Case:
    """A case that forbids the move."""
    return Case("refusal", change, **more)


def warning(change: Change = lambda _cloud, _server: None, /, **more: Any) -> Case:
    """A case to know about."""
    return Case("warning", change, **more)


def row(table: str, where: str = "cell1", key: str = "instance_uuid", /, **values: Any) -> Change:
    """Change the server's rows of a table."""
    return lambda cloud, server: cloud.update(where, table, values, **{key: server})


def instance(**values: Any) -> Change:
    """Change the server's own row."""
    return row("instances", "cell1", "uuid", **values)


def image(**properties: str) -> Change:
    """What is remembered of its image."""

    def change(cloud: Cloud, server: str) -> None:
        for key, value in properties.items():
            cloud.insert(
                "cell1", "instance_system_metadata", {"instance_uuid": server, "key": f"image_{key}", "value": value}
            )

    return change


def device(**values: Any) -> Change:
    """One more disk."""
    plain = {"destination_type": "local", "delete_on_termination": 1, "no_device": 0, "boot_index": -1}

    def change(cloud: Cloud, server: str) -> None:
        own = {"instance_uuid": server, "uuid": cloud.new_id("mapping"), "device_name": "/dev/vdx"}
        cloud.insert("cell1", "block_device_mapping", plain | own | values)

    return change


def volume(**values: Any) -> Change:
    """Change the record of its volume."""
    return lambda cloud, server: cloud.update(
        "cell1", "block_device_mapping", values, instance_uuid=server, destination_type="volume"
    )


def service(cell: str, binary: str = "nova-compute", host: str = "", /, **values: Any) -> Change:
    """Change services of a cell; all hosts unless one is named."""

    def change(cloud: Cloud, _server: str) -> None:
        match = {"host": host} if host else {}
        cloud.update(cell, "services", values, binary=binary, **match)

    return change


def nodes(cell: str, host: str = "", /, **values: Any) -> Change:
    """Change compute nodes of a cell; all hosts unless one is named."""

    def change(cloud: Cloud, _server: str) -> None:
        match = {"host": host} if host else {}
        cloud.update(cell, "compute_nodes", values, deleted=0, **match)

    return change


def arm(*cells: str) -> Change:
    """Let all hosts of these cells have aarch64 CPUs."""
    values = {"cpu_info": '{"arch": "aarch64"}', "supported_instances": '[["aarch64", "kvm", "hvm"]]'}

    def change(cloud: Cloud, server: str) -> None:
        for cell in cells:
            nodes(cell, **values)(cloud, server)

    return change


def each(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(cloud: Cloud, server: str) -> None:
        for one in changes:
            one(cloud, server)

    return change


def small(**values: Any) -> Change:
    """Change the flavor of the resize."""
    return lambda cloud, _server: cloud.update("api", "flavors", values, name="m1.small")


def spec(key: str, value: str) -> Change:
    """An extra spec of the flavor of the resize."""

    def change(cloud: Cloud, _server: str) -> None:
        flavor = cloud.row("api", "flavors", name="m1.small") or {}
        cloud.insert("api", "flavor_extra_specs", {"flavor_id": flavor["id"], "key": key, "value": value})

    return change


def own_flavor(**values: Any) -> Change:
    """Change the flavor that the server has."""

    def change(cloud: Cloud, server: str) -> None:
        extra = cloud.row("cell1", "instance_extra", instance_uuid=server) or {}
        flavors = json.loads(extra["flavor"])
        flavors["cur"]["nova_object.data"] |= values
        cloud.update("cell1", "instance_extra", {"flavor": json.dumps(flavors)}, instance_uuid=server)

    return change


def own_spec(key: str, value: str) -> Change:
    """An extra spec of the flavor that the server has."""

    def change(cloud: Cloud, server: str) -> None:
        extra = cloud.row("cell1", "instance_extra", instance_uuid=server) or {}
        flavors = json.loads(extra["flavor"])
        flavors["cur"]["nova_object.data"]["extra_specs"][key] = value
        cloud.update("cell1", "instance_extra", {"flavor": json.dumps(flavors)}, instance_uuid=server)

    return change


def binding(**values: Any) -> Change:
    """Change the binding of its port."""

    def change(cloud: Cloud, server: str) -> None:
        (port,) = services.ports_of(cloud, server)
        services.active_binding(port)[1].update(values)

    return change


def port(change_it: Callable[[Record], Any]) -> Change:
    """Change its port."""
    return lambda cloud, server: change_it(services.ports_of(cloud, server)[0])


def request_spec(**fields: Any) -> Change:
    """Change its request spec."""

    def change(cloud: Cloud, server: str) -> None:
        found = cloud.row("api", "request_specs", instance_uuid=server) or {}
        stored = json.loads(found["spec"])
        stored["nova_object.data"] |= fields
        cloud.update("api", "request_specs", {"spec": json.dumps(stored)}, instance_uuid=server)

    return change


def another_port(*, interface: bool = False, plugged: bool = False) -> Change:
    """One more port that carries the server's id; ``plugged`` on its host, or known to nova alone as an ``interface``."""

    def change(cloud: Cloud, server: str) -> None:
        (first,) = services.ports_of(cloud, server)
        number = cloud.new_id("port")
        if interface:
            cache = cloud.row("cell1", "instance_info_caches", instance_uuid=server) or {}
            vifs = json.loads(cache["network_info"])
            values = {"network_info": json.dumps([*vifs, {**vifs[0], "id": number}])}
            cloud.update("cell1", "instance_info_caches", values, instance_uuid=server)
            return
        owner, bindings = ("compute:nova", dict(first["bindings"])) if plugged else ("", {})
        cloud.world.ports[number] = {**first, "id": number, "device_owner": owner, "bindings": bindings}

    return change


def _mark(cloud: Cloud, server: str) -> None:
    values = {"instance_uuid": server, "key": "cellmove", "value": "move-1a root@elsewhere:/journal.db"}
    cloud.insert("cell1", "instance_system_metadata", values)


def _build_request(cloud: Cloud, server: str) -> None:
    cloud.insert("api", "build_requests", {"instance_uuid": server, "project_id": seed.PROJECT})


def _map_to(cell_id: int | None) -> Change:
    return lambda cloud, server: cloud.update("api", "instance_mappings", {"cell_id": cell_id}, instance_uuid=server)


def _cell0(cloud: Cloud, server: str) -> None:
    cell0 = cloud.row("api", "cell_mappings", name="cell0") or {}
    cloud.update("api", "instance_mappings", {"cell_id": cell0["id"]}, instance_uuid=server)


def _migration(cloud: Cloud, server: str) -> None:
    values = {"instance_uuid": server, "uuid": cloud.new_id("migration"), "status": "migrating", "migration_type": "migration",
              "source_compute": "c1-host1", "dest_compute": "c1-host2"}  # fmt: skip
    cloud.insert("cell1", "migrations", values)


def _down(cloud: Cloud, _server: str) -> None:
    cloud.world.down.append("c1-host1")
    cloud.update("cell1", "services", {"last_seen_up": LONG_AGO}, host="c1-host1")


def _no_services(cloud: Cloud, _server: str) -> None:
    cloud.delete("cell1", "services", host="c1-host1")


def _only_cell(cloud: Cloud, _server: str) -> None:
    cloud.delete("api", "host_mappings", cell_id=CELLS["cell2"])
    cloud.delete("api", "cell_mappings", name="cell2")


def _third_cell(cloud: Cloud, _server: str) -> None:
    values = {
        "uuid": cloud.new_id("cell"),
        "name": "cell3",
        "disabled": 0,
        "transport_url": "rabbit://nobody:x@127.0.0.1:9/",
    }
    cloud.insert("api", "cell_mappings", values | {"database_connection": "mysql+pymysql://nobody:x@127.0.0.1:9/nova"})


def twice(cell: str) -> Change:
    """A second mapping of a cell's database."""
    return lambda cloud, _server: seed.map_again(cloud, cell, SECOND, "second")


def bus(cell: str, *, third: bool = False) -> Change:
    """Nobody listens on a cell's bus; with ``third``, of a third cell whose database is cell2's."""

    def change(cloud: Cloud, server: str) -> None:
        if third:
            _third_cell(cloud, server)
            cloud.update("api", "cell_mappings", {"database_connection": cloud.urls["cell2"]}, name=cell)
        cloud.update("api", "cell_mappings", {"transport_url": "sandbox://127.0.0.1:9/bus"}, name=cell)
        if not third:
            cloud.update("cell1", "instances", {"locked": 1, "locked_by": "owner"}, uuid=server)

    return change


def _full(cloud: Cloud, _server: str) -> None:
    for host in ("c2-host1", "c2-host2"):
        there = {services.provider_of(host): {"resources": {"VCPU": cloud.world.capacity["VCPU"]}}}
        owner = {"project_id": seed.PROJECT, "user_id": seed.USER, "generation": 1}
        cloud.world.allocations[cloud.new_id(host)] = {"allocations": there, **owner}


def _leftover(cloud: Cloud, server: str) -> None:
    found = dict(cloud.row("cell1", "instances", uuid=server) or {})
    del found["id"]
    cloud.insert("cell2", "instances", found | {"deleted": 7})


def _older_schema(cloud: Cloud, _server: str) -> None:
    from sqlalchemy import text

    with cloud.write("cell2") as connection:
        connection.execute(text("ALTER TABLE block_device_mapping DROP COLUMN tag"))


def remade(table: str, **columns: str) -> Change:
    """A table of cell2 is made anew, with these columns declared so."""

    def change(cloud: Cloud, _server: str) -> None:
        from sqlalchemy import text

        with cloud.write("cell2") as connection:
            declared = connection.execute(text(f"PRAGMA table_info({table})")).all()
            parts = {row.name: f"{row.name} {row.type}{' NOT NULL' if row.notnull else ''}" for row in declared}
            parts |= {name: f"{name} {words}" for name, words in columns.items()}
            connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(text(f"CREATE TABLE {table} ({', '.join(parts.values())})"))

    return change


def _shared_store(cloud: Cloud, _server: str) -> None:
    cloud.world.stores[STORE] = ["c1-host1", "c2-host1", "c2-host2"]


def _rare_trait(cloud: Cloud, server: str) -> None:
    cloud.world.traits["c2-host1"] = ["CUSTOM_RARE"]
    spec("trait:CUSTOM_RARE", "required")(cloud, server)


def _rare_aggregate(cloud: Cloud, server: str) -> None:
    number = cloud.insert("api", "aggregates", {"uuid": cloud.new_id("aggregate"), "name": "fast"})
    cloud.insert("api", "aggregate_hosts", {"aggregate_id": number, "host": "c2-host2"})
    cloud.insert("api", "aggregate_metadata", {"aggregate_id": number, "key": "ssd", "value": "true"})
    spec("aggregate_instance_extra_specs:ssd", "true")(cloud, server)


def isolate(*hosts: str) -> Change:
    """Put hosts into an aggregate that is only for servers that require a trait."""

    def change(cloud: Cloud, _server: str) -> None:
        number = cloud.insert("api", "aggregates", {"uuid": cloud.new_id("aggregate"), "name": "gpu hosts"})
        values = {"aggregate_id": number, "key": "trait:CUSTOM_GPU", "value": "required"}
        cloud.insert("api", "aggregate_metadata", values)
        for host in hosts:
            cloud.insert("api", "aggregate_hosts", {"aggregate_id": number, "host": host})

    return change


def _zone(*zones: str) -> Change:
    """Put its volumes into availability zones."""

    def change(cloud: Cloud, server: str) -> None:
        own = sorted(each["volume_id"] for each in cloud.world.attachments.values() if each["instance"] == server)
        for volume_id, zone in zip(own, zones, strict=True):
            cloud.world.volumes[volume_id]["availability_zone"] = zone

    return change


def _held_elsewhere(cloud: Cloud, server: str) -> None:
    held = cloud.world.allocations[server]["allocations"]
    held[services.provider_of("c1-host2")] = held.pop(services.provider_of("c1-host1"))


def _attachment(change_it: Callable[[Cloud, Record], Any]) -> Change:
    def change(cloud: Cloud, server: str) -> None:
        (found,) = [each for each in cloud.world.attachments.values() if each["instance"] == server]
        change_it(cloud, found)

    return change


def _second_attachment(cloud: Cloud, found: Record, status: str = "reserved", host: str | None = None) -> Record:
    other = dict(found, id=cloud.new_id("attachment"), status=status, host=host)
    cloud.world.attachments[other["id"]] = other
    return other


def _named_by_another(cloud: Cloud, found: Record) -> None:
    """Another server's record, hidden in the other cell, names the empty one."""
    other = _second_attachment(cloud, found)
    values = {"instance_uuid": cloud.new_id("server"), "uuid": cloud.new_id("mapping"), "volume_id": found["volume_id"]}
    cloud.insert("cell2", "instances", {"uuid": values["instance_uuid"], "hidden": 1, "deleted": 0})
    cloud.insert("cell2", "block_device_mapping", values | {"attachment_id": other["id"], "deleted": 0})


def _connected_by_another(cloud: Cloud, found: Record) -> None:
    """nova's own connection is that of the empty one, which its record does not name."""
    other = _second_attachment(cloud, found)
    text = json.dumps({"driver_volume_type": "fake", "data": {}, "attachment_id": other["id"]})
    cloud.update("cell1", "block_device_mapping", {"connection_info": text}, attachment_id=found["id"])


def _group(cloud: Cloud, server: str) -> None:
    member = seed.boot(cloud, f"member-{server}", host="c1-host1", volume_backed=True)
    number = cloud.insert(
        "api", "instance_groups", {"uuid": cloud.new_id("group"), "name": "web", "project_id": seed.PROJECT}
    )
    cloud.insert("api", "instance_group_policy", {"group_id": number, "policy": "affinity"})
    for each in (server, member):
        cloud.insert("api", "instance_group_member", {"group_id": number, "instance_uuid": each})


def _shares(cloud: Cloud, server: str) -> None:
    values = {
        "uuid": cloud.new_id("mapping"),
        "instance_uuid": server,
        "share_id": cloud.new_id("share"),
        "tag": "docs",
    }
    cloud.insert("cell1", "share_mapping", values)


ANYWHERE: tuple[str, ...] = ()
VOLUME = {"volume_backed": True, "ports": 1}
RESIZE = {"flavor": "m1.small"}
APART = {"OS_CINDER__CROSS_AZ_ATTACH": "false"}

CASES: Mapping[str, tuple[Case, ...]] = {
    # its records
    "build-request": (refusal(_build_request),),
    "no-mapping": (refusal(_map_to(None)),),
    "being-deleted": (refusal(row("instance_mappings", "api", queued_for_delete=1)),),
    "cell0": (refusal(_cell0),),
    "no-record": (refusal(_map_to(CELLS["cell2"]), where=ANYWHERE),),
    "no-flavor": (refusal(row("instance_extra", flavor="{}")),),
    "hidden": (refusal(instance(hidden=1), by_id=True),),
    "no-request-spec": (refusal(lambda cloud, server: cloud.delete("api", "request_specs", instance_uuid=server)),),
    # its state
    "being-moved": (refusal(_mark),),
    "vm-state": (refusal(instance(vm_state="error")), refusal(instance(vm_state="paused"))),
    "task-state": (refusal(instance(task_state="rebooting")),),
    "locked": (refusal(instance(locked=1, locked_by="owner")),),
    "unfinished-migration": (refusal(_migration),),
    # the rules
    "policy-denied": (refusal(config='deny.tags = "blue"'),),
    "policy-not-allowed": (refusal(config='allow.flavors = "c1.*"'),),
    "policy-day": (refusal(config="moves_a_day = 0"),),
    "policy-unattended": (refusal(config="unattended = false"),),
    # the source
    "no-host": (refusal(instance(host=None), also=frozenset({"port-elsewhere"})),),
    "source-unknown": (refusal(_no_services),),
    "source-down": (refusal(_down),),
    "source-too-old": (refusal(service("cell1", "nova-compute", "c1-host1", version=46)),),
    "source-conductor-down": (refusal(service("cell1", "nova-conductor", forced_down=1)),),
    "bare-metal": (refusal(nodes("cell1", "c1-host1", hypervisor_type="ironic")),),
    "hypervisor-unable": (
        refusal(nodes("cell1", "c1-host1", hypervisor_type="VMware vCenter Server")),
        refusal(nodes("cell1", "c1-host1", hypervisor_type="LXC")),
    ),
    "hypervisor-unknown": (warning(nodes("cell1", "c1-host1", hypervisor_type="acme")),),
    "no-allocations": (refusal(lambda cloud, server: cloud.world.allocations.pop(server)),),
    "allocations": (warning(_held_elsewhere),),
    # the target
    "same-cell": (refusal(where=("--cell", "cell1")),),
    "no-target-cell": (refusal(_only_cell, where=ANYWHERE),),
    "target-unreachable": (warning(_third_cell, where=ANYWHERE),),
    "bus": (refusal(bus("cell1"), also=frozenset({"locked"})),),
    "target-bus": (
        refusal(bus("cell2"), also=frozenset({"locked"})),
        warning(bus("cell3", third=True), where=ANYWHERE, also=frozenset({"duplicate-cell"})),
    ),
    "duplicate-cell": (
        refusal(twice("cell1"), where=("--cell", SECOND)),
        warning(twice("cell2"), where=("--cell", SECOND)),
        warning(twice("cell2"), where=ANYWHERE),
        warning(twice("cell1"), where=ANYWHERE),
    ),
    "target-disabled": (
        refusal(lambda cloud, _server: cloud.update("api", "cell_mappings", {"disabled": 1}, name="cell2"), where=ANYWHERE),
        warning(lambda cloud, _server: cloud.update("api", "cell_mappings", {"disabled": 1}, name="cell2")),
    ),
    "target-conductor-down": (refusal(service("cell2", "nova-conductor", forced_down=1)),),
    "no-live-compute": (
        refusal(service("cell2", disabled=1)),
        refusal(service("cell2", "nova-compute", "c2-host1", disabled=1), where=("--host", "c2-host1")),
    ),
    "target-too-old": (refusal(service("cell2", version=46)),),
    "availability-zone": (refusal(request_spec(availability_zone="east")),),
    "target-hypervisor": (
        refusal(nodes("cell2", hypervisor_type="ironic")),
        refusal(nodes("cell2", "c2-host1", hypervisor_type="hyperv"), where=("--host", "c2-host1")),
    ),
    "target-architecture": (refusal(arm("cell2")), refusal(each(arm("cell2"), image(hw_architecture="x86_64")))),
    "root-disk-lost": (
        refusal(service("cell2", version=55)),
        refusal(service("cell2", "nova-compute", "c2-host1", version=51), where=("--host", "c2-host1"), options=("--transfer", "image")),
        warning(service("cell2", "nova-compute", "c2-host1", version=53)),
    ),
    "no-room": (refusal(_full),),
    "leftovers": (refusal(_leftover),),
    "schema": (refusal(_older_schema),),
    "schema-needs": (refusal(remade("tags", weight="INTEGER NOT NULL")),),
    "schema-narrow": (
        refusal(remade("tags", tag="VARCHAR(3)")),
        refusal(remade("block_device_mapping", tag="VARCHAR(255) NOT NULL")),
    ),
    "no-valid-host": (
        refusal(isolate("c2-host1"), where=("--host", "c2-host1")),
        refusal(isolate("c2-host1", "c2-host2"), **RESIZE),
    ),
    "scheduler-failed": (warning(lambda cloud, _server: cloud.world.faults.update({"scheduler:select": "fail"})),),
    "shared-disk-store": (
        refusal(_shared_store),
        refusal(env={"CELLMOVE_DISK_STORES": "shared"}),
    ),
    "disk-store-unknown": (refusal(env={"CELLMOVE_DISK_STORES": "unknown"}),),
    "few-hosts": (warning(_rare_trait, **RESIZE), warning(_rare_aggregate, **RESIZE)),
    # the flavor
    "accelerator": (refusal(spec("accel:device_profile", "fpga"), **RESIZE), refusal(own_spec("accel:device_profile", "fpga"))),
    "same-flavor": (refusal(flavor="m1.tiny"),),
    "flavor-disabled": (refusal(small(disabled=1), **RESIZE),),
    "too-little-memory": (refusal(image(min_ram="4096"), **RESIZE),),
    "zero-disk": (refusal(small(root_gb=0), **RESIZE),),
    "disk-too-small": (
        refusal(instance(root_gb=4), **RESIZE),
        refusal(image(min_disk="5"), **RESIZE),
        refusal(
            own_flavor(ephemeral_gb=1), **RESIZE, options=("--accept-loss=ephemeral",), also=frozenset({"loses-ephemeral"})
        ),
    ),
    "numa": (refusal(spec("hw:numa_nodes", "2"), **RESIZE), refusal(request_spec(numa_topology={"cells": []}), **RESIZE)),
    "pci": (refusal(spec("pci_passthrough:alias", "gpu:1"), **RESIZE),),
    "quota": (refusal(lambda cloud, _server: cloud.world.quota.update(cores=1), **RESIZE),),
    # the network
    "no-binding-extended": (refusal(lambda cloud, _server: cloud.world.extensions.clear()),),
    "port-resources": (refusal(port(lambda found: found.update(resource_request={"NET_BW_EGR_KILOBIT_PER_SEC": 1}))),),
    "port-accelerator": (refusal(binding(vnic_type="accelerator-direct")),),
    "port-pci": (warning(binding(vnic_type="direct")),),
    "port-elsewhere": (refusal(port(lambda found: found["bindings"].update({"c1-host2": found["bindings"].pop("c1-host1")}))),),
    "port-unbound": (warning(binding(vif_type="binding_failed")),),
    "port-binding-left": (refusal(port(lambda found: found["bindings"].update({"c2-host2": {"status": "INACTIVE", "vif_type": "unbound"}}))),),
    "port-stray": (warning(another_port()),),
    "port-not-cached": (refusal(another_port(plugged=True)),),
    "port-gone": (warning(another_port(interface=True)),),
    # volumes
    "device-without-uuid": (refusal(volume(uuid=None)),),
    "volume-zone": (
        refusal(_zone("east"), env=APART),
        refusal(_zone("east"), env=APART, where=("--host", "c2-host1")),
        refusal(_zone("nova", "east"), env=APART, boot={"ports": 1, "volumes": 2}),
    ),
    "volume-missing": (refusal(lambda cloud, _server: cloud.world.volumes.clear()),),
    "volume-state": (refusal(_attachment(lambda _cloud, found: found.update(status="attaching"))),),
    "old-attachment": (refusal(volume(attachment_id=None), also=frozenset({"attachment-unnamed"})),),
    "attachment-missing": (refusal(volume(attachment_id=STORE), also=frozenset({"attachment-unnamed"})),),
    "attachment-left": (warning(_attachment(_second_attachment)),),
    "attachment-unnamed": (
        refusal(_attachment(partial(_second_attachment, status="attached", host="c1-host1"))),
        refusal(_attachment(_named_by_another)),
        refusal(_attachment(_connected_by_another)),
    ),
    "shares": (refusal(_shares),),
    # local disks
    "loses-ephemeral": (
        refusal(device(source_type="blank")),
        warning(device(source_type="blank"), options=("--accept-loss", "ephemeral")),
    ),
    "loses-swap": (
        refusal(device(source_type="blank", guest_format="swap")),
        warning(device(source_type="blank", guest_format="swap"), options=("--accept-loss", "swap,ephemeral")),
    ),
    "loses-local-disk": (
        refusal(device(source_type="image", boot_index=1)),
        warning(device(source_type="image", boot_index=1), options=("--accept-loss=local-disk",)),
    ),
    "loses-vtpm": (
        refusal(image(hw_tpm_version="2.0")), refusal(own_spec("hw:tpm_version", "2.0")),
        warning(image(hw_tpm_version="2.0"), options=("--accept-loss=vtpm",)),
    ),
    "loses-nvram": (
        refusal(image(hw_firmware_type="uefi")),
        refusal(arm("cell1", "cell2")),
        refusal(each(arm("cell1", "cell2"), image(hw_firmware_stateless="true"))),
        warning(image(hw_firmware_type="uefi"), options=("--accept-loss=nvram",)),
    ),
    "loses-pmem": (
        refusal(own_spec("hw:pmem", "6GB")),
        warning(own_spec("hw:pmem", "6GB"), options=("--accept-loss=pmem",)),
    ),
    "encrypted-disk": (refusal(instance(ephemeral_key_uuid=STORE)),),
    # to know about
    "server-group": (warning(_group),),
    "config-drive": (warning(instance(config_drive="True")), warning(instance(config_drive="1"), options=("--accept-loss=config-drive",))),
}  # fmt: skip
"""Code -> the cases that trip it."""
