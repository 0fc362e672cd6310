"""Each check is tripped by one change to a snapshot in which nothing is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from cellmove.checks import baggage, preflight, target
from cellmove.checks.duplicate import Duplicate
from cellmove.checks.preflight import CHECKS, Level, examine
from cellmove.checks.snapshot import ServerSnapshot, Target, likely_nodes
from cellmove.cloud.network import Port
from cellmove.cloud.quota import Quota
from cellmove.cloud.volume import Attachment
from cellmove.core.cell_names import CELL0_UUID
from cellmove.core.policy import Policy, Subject
from cellmove.db.shapes import (
    BlockDevice,
    Flavor,
    Group,
    Instance,
    InstanceMapping,
    MigrationRow,
    Node,
    Service,
)
from cellmove.hosts.disk_survey import Survey
from tests.support.cell_refs import ref

SMALL = Flavor(id=1, flavorid="one", name="m1.small", vcpus=1, memory_mb=512, root_gb=5)
LARGE = Flavor(id=2, flavorid="two", name="m1.large", vcpus=4, memory_mb=2048, root_gb=10)
ROOT_IMAGE = BlockDevice("bdm-1", "image", "local", 0, device_name="/dev/vda")
ROOT_VOLUME = BlockDevice(
    "bdm-1", "volume", "volume", 0, device_name="/dev/vda", volume_id="volume-1", attachment_id="attachment-1"
)
PORT = Port("port-1", "c1-host1", "ACTIVE", "normal", "ovs", "compute:nova")


def instance(**changes: Any) -> Instance:
    """An active server on c1-host1."""
    values: dict[str, Any] = {
        "uuid": "server-1", "display_name": "web-1", "project_id": "project", "user_id": "user",
        "vm_state": "active", "task_state": "", "host": "c1-host1", "node": "c1-host1", "image_ref": "image-1",
        "root_gb": 5, "flavor": SMALL,
    }  # fmt: skip
    return Instance(**values | changes)


def compute(host: str, **changes: Any) -> Service:
    values: dict[str, Any] = {"binary": "nova-compute", "version": 74, "disabled": False, "up": True}
    return Service(host=host, **values | changes)


def conductor(*, up: bool = True) -> Service:
    return Service("controller", "nova-conductor", 74, disabled=False, up=up)


def node(host: str) -> Node:
    return Node(f"node-of-{host}", host, host, 8, 2, 8192, 1024)


def cell(name: str = "cell2", hosts: tuple[str, ...] = ("c2-host1", "c2-host2"), **changes: Any) -> Target:
    """A target cell in good health."""
    values: dict[str, Any] = {
        "services": (conductor(), *map(compute, hosts)),
        "nodes": tuple(map(node, hosts)),
        "disk_store": "separate",
    }
    return Target(name, f"uuid-of-{name}", **values | changes)


def snapshot(**changes: Any) -> ServerSnapshot:
    """A migration to cell2 of an image-backed server with one port. Nothing is wrong with it."""
    values: dict[str, Any] = {
        "server_id": "server-1",
        "server_name": "web-1",
        "kind": "migration",
        "mapping": InstanceMapping("uuid-of-cell1", queued_for_delete=False),
        "server": instance(),
        "request_spec": {"nova_object.data": {"is_bfv": False}},
        "source_cell": "cell1",
        "source_services": (conductor(), compute("c1-host1"), compute("c1-host2")),
        "source_nodes": (node("c1-host1"), node("c1-host2")),
        "devices": (ROOT_IMAGE,),
        "ports": (PORT,),
        "allocations": frozenset({"node-of-c1-host1"}),
        "candidates": frozenset({"node-of-c2-host1", "node-of-c2-host2"}),
        "zones": {"c2-host1": "nova", "c2-host2": "nova", "c3-host1": "nova"},
        "targets": (cell(),),
    }
    return ServerSnapshot(**values | changes)


def resize(**changes: Any) -> ServerSnapshot:
    return snapshot(**{"kind": "resize", "new_flavor": LARGE} | changes)


def volume_backed(device: BlockDevice = ROOT_VOLUME, **changes: Any) -> ServerSnapshot:
    values: dict[str, Any] = {
        "devices": (device,),
        "request_spec": {"nova_object.data": {"is_bfv": True}},
        "volume_states": {"volume-1": "in-use"},
        "attachments": (Attachment("attachment-1", "volume-1", "server-1", "attached"),),
    }
    return snapshot(**values | changes)


def with_specs(flavor: Flavor, **specs: str) -> Flavor:
    return dataclasses.replace(flavor, extra_specs={key.replace("__", ":"): value for key, value in specs.items()})


def spec(**fields: Any) -> Mapping[str, Any]:
    return {"nova_object.data": fields}


def test_a_server_that_another_journal_moves_is_refused_with_one_finding() -> None:
    server = instance(mark="move-1a root@m2:/j.db", task_state="resize_prep", hidden=True, locked=True)
    (found,) = examine(snapshot(server=server, targets=(cell(leftovers={"instances": 1}),)))
    assert (found.level, found.code) == (Level.REFUSAL, "being-moved")
    assert "move-1a" in found.text
    assert "root@m2:/j.db" in found.text
    assert "cellmove --journal /j.db resume move-1a" in found.remedy
    assert "cellmove adopt server-1" in found.remedy


def findings(of: ServerSnapshot) -> list[tuple[str, str]]:
    return [(check.level.value, check.code) for check in examine(of) if check.level is not Level.OK]


@pytest.mark.parametrize(
    "clean",
    [
        snapshot(),
        resize(),
        volume_backed(),
        volume_backed(targets=(cell(disk_store="unknown"),)),
        volume_backed(stores={"ceph": frozenset({"node-of-c1-host1", "node-of-c2-host1"})}),
        snapshot(stores={"ceph": frozenset({"node-of-c1-host2", "node-of-c2-host1"})}),
        snapshot(narrowed={"trait X": frozenset({"node-of-c2-host1", "node-of-c2-host2"})}),
        resize(quotas=(Quota("project", "cores", 10, 7), Quota("user", "ram", -1, 10**6))),
        snapshot(policy=Policy(moves_a_day=2), subject=Subject(started_today=1)),
        volume_backed(kind="resize", new_flavor=dataclasses.replace(LARGE, root_gb=0)),
        snapshot(server=instance(vm_state="stopped")),
        snapshot(server=instance(locked=True, locked_by="admin"), force_locked=True),
        snapshot(source_services=(conductor(), compute("c1-host1", disabled=True))),
        snapshot(candidates=None),
        snapshot(wanted_cell="cell2", wanted_host="c2-host1"),
        snapshot(request_spec=spec(availability_zone="nova")),
        snapshot(targets=(cell(), cell("cell3", ("c3-host1",), disabled=True))),
        snapshot(migrations=(MigrationRow("m", "confirmed", "resize", "a", "b"),)),
        snapshot(group=Group("g", "web", "anti-affinity", ("server-1",))),
        snapshot(server=instance(has_numa_topology=True, flavor=with_specs(SMALL, hw__cpu_policy="dedicated"))),
        resize(
            server=instance(flavor=with_specs(SMALL, hw__cpu_policy="dedicated"), has_numa_topology=True),
            new_flavor=dataclasses.replace(
                LARGE, vcpus=1, memory_mb=512, extra_specs={"hw:cpu_policy": "dedicated", "quota:x": "1"}
            ),
        ),
        snapshot(targets=(cell(services=(conductor(), compute("c2-host1"), compute("c2-host2", version=40, disabled=True))),)),
    ],
)  # fmt: skip
def test_clean(clean: ServerSnapshot) -> None:
    assert findings(clean) == []
    assert len(examine(clean)) >= 5


def test_ok_texts_are_whole_sentences() -> None:
    texts = {check.code: check.text for check in examine(volume_backed(kind="resize", new_flavor=LARGE))}
    assert texts == {
        "state": "web-1 is active, idle and not locked",
        "source": "c1-host1 in cell1 is up (nova-compute, service version 74)",
        "target": "cell2 can host it: c2-host1, c2-host2",
        "flavor": "flavor m1.large fits in place of m1.small",
        "network": "1 port can be bound to another host",
        "volumes": "1 volume can be attached to another host",
        "disks": "the root disk is a volume, and there is no local disk to lose",
    }


TWICE = Duplicate(ref("cell2"), ref("cell1"))

REFUSALS: dict[str, list[ServerSnapshot]] = {
    # records
    "build-request": [snapshot(build_request=True)],
    "no-mapping": [
        snapshot(mapping=None, server=None, source_cell=""),
        snapshot(mapping=InstanceMapping("", queued_for_delete=False), server=None, source_cell=""),
    ],
    "being-deleted": [snapshot(mapping=InstanceMapping("uuid-of-cell1", queued_for_delete=True))],
    "cell0": [snapshot(source_cell="", server=None, mapping=InstanceMapping(CELL0_UUID, queued_for_delete=False))],
    "no-record": [snapshot(server=None)],
    "no-flavor": [snapshot(server=instance(flavor=None))],
    "hidden": [snapshot(server=instance(hidden=True))],
    "no-request-spec": [snapshot(request_spec={})],
    # state
    "vm-state": [snapshot(server=instance(vm_state=state)) for state in ("error", "paused", "resized", "building")],
    "task-state": [snapshot(server=instance(task_state="rebooting"))],
    "locked": [snapshot(server=instance(locked=True, locked_by="owner"))],
    "unfinished-migration": [
        snapshot(migrations=(MigrationRow("m", status, "resize", "a", "b"),))
        for status in ("pre-migrating", "migrating", "post-migrating", "finished", "confirming", "reverting", "running")
    ],
    # source
    "no-host": [snapshot(server=instance(host="", node=""), ports=())],
    "source-unknown": [snapshot(source_services=(conductor(),))],
    "source-down": [snapshot(source_services=(conductor(), compute("c1-host1", up=False)))],
    "source-too-old": [snapshot(source_services=(conductor(), compute("c1-host1", version=46)))],
    "source-conductor-down": [snapshot(source_services=(conductor(up=False), compute("c1-host1")))],
    # target
    "same-cell": [snapshot(target_is_source=True, targets=())],
    "no-target-cell": [snapshot(targets=())],
    "target-unreachable": [snapshot(targets=(Target("cell2", "u", unreachable="database of cell2: no route"),))],
    "duplicate-cell": [
        snapshot(targets=(cell(duplicate=TWICE),)),
        snapshot(targets=(cell(duplicate=TWICE, is_source_database=True),), wanted_cell="cell2"),
    ],
    "target-disabled": [snapshot(targets=(cell(disabled=True),))],
    "target-conductor-down": [snapshot(targets=(cell(services=(conductor(up=False), compute("c2-host1"))),))],
    "no-live-compute": [
        snapshot(targets=(cell(services=(conductor(),)),)),
        snapshot(targets=(cell(services=(conductor(), compute("c2-host1", up=False))),)),
        snapshot(targets=(cell(services=(conductor(), compute("c2-host1", disabled=True))),)),
        snapshot(wanted_cell="cell2", wanted_host="c2-host9"),
    ],
    "target-too-old": [snapshot(targets=(cell(services=(conductor(), compute("c2-host1", version=46))),))],
    "availability-zone": [
        snapshot(request_spec=spec(availability_zone="east")),
        snapshot(
            request_spec=spec(availability_zone="east"), wanted_cell="cell2", wanted_host="c2-host1",
            zones={"c2-host1": "nova", "c2-host2": "east"},
        ),
    ],
    "no-room": [
        snapshot(candidates=frozenset()),
        snapshot(candidates=frozenset({"node-of-c2-host2"}), wanted_cell="cell2", wanted_host="c2-host1"),
    ],
    "leftovers": [snapshot(targets=(cell(leftovers={"instances": 1, "migrations": 2}),))],
    "schema": [snapshot(targets=(cell(missing=("block_device_mapping.encrypted",)),))],
    # flavor
    "accelerator": [
        snapshot(server=instance(flavor=with_specs(SMALL, accel__device_profile="fpga"))),
        resize(new_flavor=with_specs(LARGE, accel__device_profile="fpga")),
    ],
    "same-flavor": [resize(new_flavor=SMALL)],
    "flavor-disabled": [resize(new_flavor=dataclasses.replace(LARGE, disabled=True))],
    "too-little-memory": [
        resize(server=instance(image={"min_ram": "4096"})),
        volume_backed(server=instance(image={"min_ram": "4096"}), new_flavor=LARGE),
    ],
    "zero-disk": [resize(new_flavor=dataclasses.replace(LARGE, root_gb=0))],
    "disk-too-small": [
        resize(new_flavor=dataclasses.replace(LARGE, root_gb=4)),
        resize(server=instance(image={"min_disk": "11"})),
    ],
    "numa": [
        resize(new_flavor=with_specs(LARGE, hw__numa_nodes="2")),
        resize(new_flavor=with_specs(LARGE, hw__cpu_policy="dedicated")),
        resize(new_flavor=with_specs(LARGE, hw__mem_page_size="large")),
        resize(new_flavor=with_specs(LARGE, resources__PCPU="4")),
        resize(server=instance(flavor=with_specs(SMALL, hw__numa_nodes="1"))),
        resize(server=instance(has_numa_topology=True)),
        resize(request_spec=spec(is_bfv=False, numa_topology={"cells": []})),
    ],
    "pci": [
        resize(new_flavor=with_specs(LARGE, pci_passthrough__alias="gpu:1")),
        resize(server=instance(flavor=with_specs(SMALL, pci_passthrough__alias="gpu:1"))),
        resize(new_flavor=with_specs(LARGE, hw__pci_numa_affinity_policy="required")),
    ],
    # network
    "no-binding-extended": [snapshot(extended_binding=False)],
    "port-resources": [
        snapshot(ports=(dataclasses.replace(PORT, resource_request={"resources": {"NET_BW_EGR_KILOBIT_PER_SEC": 1}}),))
    ],
    "port-accelerator": [
        snapshot(ports=(dataclasses.replace(PORT, vnic_type=kind),))
        for kind in ("accelerator-direct", "accelerator-direct-physical")
    ],
    "port-elsewhere": [snapshot(ports=(dataclasses.replace(PORT, host="c1-host2"),))],
    "port-binding-left": [snapshot(other_bindings={"port-1": ("c2-host1",)})],
    # volumes
    "device-without-uuid": [snapshot(devices=(dataclasses.replace(ROOT_IMAGE, uuid=""),))],
    "volume-missing": [volume_backed(volume_states={})],
    "volume-state": [volume_backed(volume_states={"volume-1": "extending"})],
    "old-attachment": [volume_backed(dataclasses.replace(ROOT_VOLUME, attachment_id=""), attachments=())],
    "attachment-missing": [volume_backed(attachments=())],
    "shares": [snapshot(shares=1)],
    # disks
    "loses-ephemeral": [
        snapshot(devices=(ROOT_IMAGE, BlockDevice("b", "blank", "local", -1))),
        snapshot(server=instance(flavor=dataclasses.replace(SMALL, ephemeral_gb=1))),
    ],
    "loses-swap": [
        snapshot(devices=(ROOT_IMAGE, BlockDevice("b", "blank", "local", -1, guest_format="swap"))),
        snapshot(server=instance(flavor=dataclasses.replace(SMALL, swap=64))),
    ],
    "loses-local-disk": [snapshot(devices=(ROOT_IMAGE, BlockDevice("b", "image", "local", 1)))],
    "loses-vtpm": [
        snapshot(server=instance(vtpm_secret=True)),
        snapshot(server=instance(flavor=with_specs(SMALL, hw__tpm_version="2.0"))),
        snapshot(server=instance(image={"hw_tpm_version": "2.0"})),
    ],
    "loses-nvram": [snapshot(server=instance(image={"hw_firmware_type": "uefi"}))],
    "loses-pmem": [snapshot(server=instance(flavor=with_specs(SMALL, hw__pmem="6GB")))],
    "cannot-stream": [snapshot(transfer_wish="stream", survey=Survey(hindrances=("it is raw",)))],
    "disks-in-danger": [
        snapshot(transfer_wish=transfer, survey=Survey(hindrances=("shared",), dangers=("shared",)))
        for transfer in ("auto", "stream")
    ],
    "encrypted-disk": [
        snapshot(devices=(dataclasses.replace(ROOT_IMAGE, encrypted=True),)),
        snapshot(server=instance(ephemeral_key=True)),
    ],
    "no-allocations": [snapshot(allocations=frozenset())],
    "shared-disk-store": [
        snapshot(targets=(cell(disk_store="shared"),)),
        snapshot(stores={"ceph": frozenset({"node-of-c1-host1", "node-of-c2-host2"})}),
        snapshot(
            stores={"ceph": frozenset({"node-of-c1-host1", "node-of-c2-host2"})},
            wanted_cell="cell2", wanted_host="c2-host2",
        ),
    ],
    "disk-store-unknown": [snapshot(targets=(cell(disk_store="unknown"),))],
    "quota": [
        resize(quotas=(Quota("project", "cores", 10, 8),)),
        resize(quotas=(Quota("user", "ram", 2048, 1024),)),
    ],
    # policy
    "policy-denied": [
        snapshot(policy=Policy(deny={"tags": ("pin*",)}), subject=Subject({"tags": ("blue", "pinned")})),
        snapshot(policy=Policy(deny={"projects": ("gold",)}), subject=Subject({"projects": ("5a", "gold")})),
    ],
    "policy-not-allowed": [
        snapshot(policy=Policy(allow={"tags": ("ok",)}), subject=Subject({"tags": ()})),
        snapshot(policy=Policy(allow={"flavors": ("m1.*",)}), subject=Subject({"flavors": ("m1.tiny", "c1.big")})),
    ],
    "policy-day": [snapshot(policy=Policy(moves_a_day=2), subject=Subject(started_today=2))],
}  # fmt: skip

WARNINGS: dict[str, list[ServerSnapshot]] = {
    "allocations": [snapshot(allocations=frozenset({"node-of-c1-host2"}))],
    "server-group": [
        snapshot(group=Group("g", "web", policy, ("server-1", "server-2")), group_hosts=("c1-host1",))
        for policy in ("affinity", "soft-affinity", "anti-affinity", "soft-anti-affinity")
    ],
    "config-drive": [snapshot(server=instance(config_drive=True))],
    "duplicate-cell": [
        snapshot(targets=(cell(duplicate=TWICE),), wanted_cell="cell2"),
        snapshot(targets=(cell(duplicate=TWICE), cell("cell3", hosts=("c3-host1",))), candidates=None),
    ],
    "target-disabled": [snapshot(targets=(cell(disabled=True),), wanted_cell="cell2")],
    "schema": [snapshot(targets=(cell(), cell("cell3", ("c3-host1",), missing=("tags",))), candidates=None)],
    "target-unreachable": [snapshot(targets=(cell(), Target("cell3", "u", unreachable="no route")))],
    "port-pci": [snapshot(ports=(dataclasses.replace(PORT, vnic_type="direct"),))],
    "few-hosts": [snapshot(narrowed={"trait X": frozenset({"node-of-c2-host1"})})],
    "loses-swap": [
        snapshot(server=instance(flavor=dataclasses.replace(SMALL, swap=64)), accepted_losses=("swap", "ephemeral"))
    ],
    "port-unbound": [snapshot(ports=(dataclasses.replace(PORT, vif_type="binding_failed"),))],
    "attachment-left": [
        volume_backed(
            attachments=(
                Attachment("attachment-1", "volume-1", "server-1", "attached"),
                Attachment("attachment-2", "volume-1", "server-1", "reserved"),
            ),
            attachment_users={"attachment-2": ()},
        )
    ],
}


def cases(table: Mapping[str, list[ServerSnapshot]]) -> list[Any]:
    return [
        pytest.param(code, of, id=f"{code}-{number}")
        for code, snapshots in table.items()
        for number, of in enumerate(snapshots)
    ]


@pytest.mark.parametrize(("code", "of"), cases(REFUSALS))
def test_refuses(code: str, of: ServerSnapshot) -> None:
    assert findings(of) == [("refusal", code)]


@pytest.mark.parametrize(("code", "of"), cases(WARNINGS))
def test_warns(code: str, of: ServerSnapshot) -> None:
    assert findings(of) == [("warning", code)]


@pytest.mark.parametrize(("code", "of"), cases(REFUSALS))
def test_every_refusal_says_what_and_what_to_do(code: str, of: ServerSnapshot) -> None:
    check = next(check for check in examine(of) if check.code == code)
    assert check.text
    assert check.remedy
    assert "None" not in check.text + check.remedy


def test_everything_is_found_at_once() -> None:
    bad = snapshot(
        server=instance(vm_state="error", locked=True),
        source_services=(),
        targets=(cell(services=()),),
        extended_binding=False,
        shares=2,
    )
    assert {code for _level, code in findings(bad)} == {
        "vm-state", "locked", "source-unknown", "source-conductor-down", "target-conductor-down", "no-live-compute",
        "no-binding-extended", "shares",
    }  # fmt: skip


def half_moved(**changes: Any) -> ServerSnapshot:
    """What is seen while nova resizes a server: everything about it is odd."""
    return volume_backed(
        dataclasses.replace(ROOT_VOLUME, attachment_id=""),
        **{
            "attachments": (Attachment("attachment-2", "volume-1", "server-1", "reserved"),),
            "attachment_users": {"attachment-2": ()},
            "allocations": frozenset(),
            "ports": (dataclasses.replace(PORT, host="c1-host2"),),
            "other_bindings": {PORT.id: ("c2-host2",)},
            "targets": (cell(leftovers={"instances": 1}),),
        }
        | changes,
    )


def test_what_is_odd_about_a_server_at_rest_is_found() -> None:
    assert {code for _level, code in findings(half_moved())} == {
        "old-attachment", "attachment-unnamed", "no-allocations", "port-elsewhere", "port-binding-left", "leftovers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        ({"server": instance(task_state="resize_migrating")}, {"task-state"}),
        ({"server": instance(vm_state="resized")}, {"vm-state"}),
        ({"server": instance(vm_state="building", task_state="spawning")}, {"vm-state", "task-state"}),
        ({"server": instance(hidden=True)}, {"hidden"}),
        ({"server": instance(vm_state="error", task_state="deleting", locked=True)}, {"task-state"}),
        ({"build_request": True}, {"build-request"}),
        ({"mapping": InstanceMapping("uuid-of-cell1", queued_for_delete=True)}, {"being-deleted"}),
        ({"migrations": (MigrationRow("m", "running", "live-migration", "a", "b"),)}, {"unfinished-migration"}),
        (
            {
                "server": instance(vm_state="resized"),
                "migrations": (MigrationRow("m", "finished", "resize", "a", "b"),),
            },
            {"vm-state", "unfinished-migration"},
        ),
    ],
)
def test_of_a_busy_server_nothing_else_is_diagnosed(busy: dict[str, Any], expected: set[str]) -> None:
    found = half_moved(**busy)
    assert {code for _level, code in findings(found)} == expected
    assert {check.code for check in preflight.refusals(found)} == expected, "a drain says the same"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "attachment-left"),
        ({"users": ("the record of server-2 in cell3 names it",)}, "attachment-unnamed"),
        ({"users": None}, "attachment-unnamed"),
        *(({"status": status}, "attachment-unnamed") for status in ("attached", "attaching", "detaching", "")),
        ({"device": dataclasses.replace(ROOT_VOLUME, attachment_id="")}, "attachment-unnamed"),
    ],
)
def test_only_an_attachment_that_nothing_can_use_is_left_over(changes: dict[str, Any], code: str) -> None:
    unnamed = Attachment("attachment-2", "volume-1", "server-1", changes.get("status", "reserved"))
    known = Attachment("attachment-1", "volume-1", "server-1", "attached")
    users = changes.get("users", ())
    found = volume_backed(
        changes.get("device", ROOT_VOLUME),
        attachments=(known, unnamed) if "device" not in changes else (unnamed,),
        attachment_users={} if users is None else {"attachment-2": users},
    )
    (one,) = (check for check in examine(found) if check.code.startswith("attachment-"))
    assert one.code == code
    assert "delete" not in one.remedy.partition("--repair")[0]


def test_of_several_cells_the_unfit_are_left_out() -> None:
    several = snapshot(
        targets=(cell(leftovers={"instances": 1}), cell("cell3", ("c3-host1",)), cell("cell4", disabled=True)),
        candidates=None,
    )
    assert findings(several) == [("warning", "leftovers")]
    assert [each.cell for each in target.allowed_targets(several)] == ["cell3"]


def test_when_no_cell_fits_each_says_why() -> None:
    none = snapshot(targets=(cell(leftovers={"instances": 1}), cell("cell3", disabled=True)), candidates=None)
    assert findings(none) == [("refusal", "leftovers"), ("refusal", "target-disabled")]
    assert target.allowed_targets(none) == []


def test_likely_nodes_are_up_enabled_offered_and_in_the_zone() -> None:
    hosts = ("up", "down", "off", "full", "west")
    of = cell(
        hosts=hosts,
        services=(
            compute("up"), compute("down", up=False), compute("off", disabled=True), compute("full"), compute("west"),
        ),
    )  # fmt: skip
    looked = snapshot(
        request_spec=spec(availability_zone="east"),
        zones=dict.fromkeys(hosts, "east") | {"west": "west"},
        candidates=frozenset(f"node-of-{host}" for host in hosts if host != "full"),
    )
    assert [each.host for each in likely_nodes(of, looked)] == ["up"]


@pytest.mark.parametrize(
    ("devices", "fields", "image_ref", "expected"),
    [
        ((ROOT_VOLUME,), {"is_bfv": False}, "image-1", True),  # the record itself counts, not the request spec
        ((ROOT_IMAGE,), {"is_bfv": True}, "", False),
        ((), {"is_bfv": True}, "image-1", True),
        ((), {}, "", True),
        ((), {}, "image-1", False),
    ],
)
def test_volume_backed(
    devices: tuple[BlockDevice, ...], fields: dict[str, Any], image_ref: str, expected: bool
) -> None:
    of = snapshot(devices=devices, request_spec=spec(**fields), server=instance(image_ref=image_ref))
    assert of.is_volume_backed is expected


def test_a_swap_disk_is_lost_once() -> None:
    of = snapshot(
        devices=(ROOT_IMAGE, BlockDevice("b", "blank", "local", -1, guest_format="swap", device_name="/dev/vdb")),
        server=instance(flavor=dataclasses.replace(SMALL, swap=64)),
    )
    assert [loss.name for loss in baggage.losses(of)] == ["swap"]


def test_an_ephemeral_disk_cannot_shrink_even_if_its_content_may_be_lost() -> None:
    has = instance(flavor=dataclasses.replace(SMALL, ephemeral_gb=1))
    of = resize(server=has, accepted_losses=("ephemeral",))
    assert sorted(findings(of)) == [("refusal", "disk-too-small"), ("warning", "loses-ephemeral")]
    keeps = dataclasses.replace(LARGE, ephemeral_gb=2)
    of = resize(server=has, new_flavor=keeps, accepted_losses=("ephemeral",))
    assert findings(of) == [("warning", "loses-ephemeral")]


def test_a_host_that_shares_no_store_can_be_named() -> None:
    shared = {"ceph": frozenset({"node-of-c1-host1", "node-of-c2-host2"})}
    assert findings(snapshot(stores=shared, wanted_cell="cell2", wanted_host="c2-host1")) == []


def test_a_shared_store_leaves_only_its_cell_out() -> None:
    targets = (cell(disk_store="shared"), cell("cell3", ("c3-host1",)))
    assert findings(snapshot(targets=targets, candidates=None)) == [("warning", "shared-disk-store")]


@pytest.mark.parametrize(("accepted", "says"), [((), False), (("swap",), False), (("swap", "config-drive"), True)])
def test_a_config_drive_is_warned_of_and_the_warning_says_whether_it_is_accepted(
    accepted: tuple[str, ...], *, says: bool
) -> None:
    found = examine(snapshot(server=instance(config_drive=True), accepted_losses=accepted))
    (check,) = (check for check in found if check.level is not Level.OK)
    assert (check.code, check.level) == ("config-drive", Level.WARNING)
    assert check.text.endswith("; accepted (--accept-loss)") == says
    assert bool(check.remedy) != says


def test_only_the_accepted_loss_is_accepted() -> None:
    both = instance(flavor=dataclasses.replace(SMALL, swap=64, ephemeral_gb=1))
    found = findings(snapshot(server=both, accepted_losses=("ephemeral",)))
    assert sorted(found) == [("refusal", "loses-swap"), ("warning", "loses-ephemeral")]


def test_every_group_is_asked() -> None:
    assert CHECKS[0].code == "records"
    assert len({group.code for group in CHECKS}) == len(CHECKS)
