"""Each code is tripped by one change to a server that has arrived as it was."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cellmove.checks import arrival_checks as checks
from cellmove.checks import root_disk
from cellmove.checks.arrival import Arrival, RootDisk
from cellmove.checks.arrival_checks import examine
from cellmove.checks.result import Level
from cellmove.cloud.network import Port
from cellmove.cloud.volume import Attachment
from cellmove.db.records import Rows
from cellmove.db.shapes import Group

MAC, ADDRESS = "fa:16:3e:00:00:01", "10.0.0.5"
SMALL = {"id": 1, "flavorid": "one", "name": "m1.small", "vcpus": 1, "memory_mb": 512, "root_gb": 5, "ephemeral_gb": 0}
LARGE = SMALL | {"id": 2, "flavorid": "two", "name": "m1.large", "vcpus": 4, "memory_mb": 2048, "root_gb": 10}
GROUP = Group("group-1", "web", "anti-affinity", ("server-1", "server-2"))
DISKS = ("disk-1", "disk-2")


def stored(**flavors: Mapping[str, Any]) -> str:
    """Flavors as nova keeps them."""
    return json.dumps({name: {"nova_object.data": flavor} for name, flavor in flavors.items()})


def sizes(flavor: Mapping[str, Any]) -> dict[str, Any]:
    """What a server's row says of its flavor."""
    return {"instance_type_id": flavor["id"]} | {
        name: flavor[name] for name in ("vcpus", "memory_mb", "root_gb", "ephemeral_gb")
    }


def disk(uuid: str, **values: Any) -> dict[str, Any]:
    """The record of a volume."""
    plain = {"uuid": uuid, "destination_type": "volume", "volume_id": f"volume-of-{uuid}", "tag": f"tag-of-{uuid}"}
    return plain | {"attachment_id": f"{uuid}-before"} | values


def rows() -> Rows:
    """The server in its source cell."""
    cached = [{
        "id": "port-1",
        "network": {"subnets": [{"ips": [
            {"address": ADDRESS, "type": "fixed"}, {"address": "192.0.2.1", "type": "floating"},
        ]}]},
    }]  # fmt: skip
    return {
        "instances": [{
            "id": 7, "uuid": "server-1", "host": "c1-host1", "vm_state": "active", "task_state": "resize_migrated",
            "power_state": 4, "hidden": 1, "display_name": "web-1", "locked": 0, "key_name": "key", **sizes(SMALL),
        }],
        "instance_extra": [{"id": 7, "flavor": stored(cur=SMALL), "keypairs": '{"a": 1}', "numa_topology": "{}"}],
        "instance_metadata": [{"id": 7, "key": "role", "value": "web"}],
        "instance_system_metadata": [{"key": "image_os", "value": "linux"}, {"key": "cellmove", "value": "move-1"}],
        "tags": [{"tag": "blue"}],
        "block_device_mapping": [disk(uuid) for uuid in DISKS],
        "virtual_interfaces": [{"id": 7, "uuid": "port-1", "address": f"{MAC}/port-1", "tag": "nic"}],
        "instance_actions": [{"request_id": "req-1", "action": "create", "message": None}],
        "instance_info_caches": [{"network_info": json.dumps(cached)}],
        "instance_faults": [{"message": "one"}, {"message": "two"}],
    }  # fmt: skip


def arrived(flavor: Mapping[str, Any] = LARGE) -> Rows:
    """The server in its target cell, as it is to be."""
    there = rows()
    there["instances"][0] |= {
        "id": 1, "host": "c2-host1", "vm_state": "resized", "task_state": None, "power_state": 1, "hidden": 0,
        **sizes(flavor),
    }  # fmt: skip
    there["instance_extra"][0] |= {
        "flavor": stored(cur=flavor, old=SMALL, new=flavor), "keypairs": '{ "a":1 }', "numa_topology": "[]",
    }  # fmt: skip
    there["instance_system_metadata"] = [
        {"key": "image_os", "value": "linux"},
        {"key": "old_vm_state", "value": "active"},
    ]
    for each in there["block_device_mapping"]:
        each["attachment_id"] = f"{each['uuid']}-there"
    return there


WELL = Arrival(
    name="web-1", kind="resize", target_cell="cell2", target_host="c2-host1", mapped=True, active=True, flavor_id="two",
    before=rows(), after=arrived(),
    ports=(Port("port-1", "c2-host1", "ACTIVE", "normal", "ovs", "compute:nova", mac_address=MAC, addresses=(ADDRESS,)),),
    volumes={f"volume-of-{uuid}": "in-use" for uuid in DISKS},
    attachments=tuple(Attachment(f"{uuid}-there", f"volume-of-{uuid}", "server-1", "attached") for uuid in DISKS),
    group=GROUP, group_wanted="group-1", group_hosts=("c2-host2",),
)  # fmt: skip
MIGRATED = dataclasses.replace(WELL, kind="migration", flavor_id="one", after=arrived(SMALL))
STOPPED = dataclasses.replace(WELL, active=False)

Change = Callable[[Arrival], Arrival]


@dataclass(frozen=True)
class Case:
    """One change, and what it is to be found as."""

    level: Level
    change: Change
    arrival: Arrival = WELL


def refusal(change: Change, arrival: Arrival = WELL) -> Case:
    """A case that keeps the server from being confirmed."""
    return Case(Level.REFUSAL, change, arrival)


def warning(change: Change, arrival: Arrival = WELL) -> Case:
    """A case to know about."""
    return Case(Level.WARNING, change, arrival)


def said(**values: Any) -> Change:
    """Change what is known besides the rows."""
    return lambda arrival: dataclasses.replace(arrival, **values)


def row(table: str, number: int = 0, /, **values: Any) -> Change:
    """Change a row in the target cell."""

    def change(arrival: Arrival) -> Arrival:
        after = copy.deepcopy(arrival.after)
        after[table][number] |= values
        return dataclasses.replace(arrival, after=after)

    return change


def lost(table: str, number: int = 0, /, **values: Any) -> Change:
    """Take a row away in the target cell."""

    def change(arrival: Arrival) -> Arrival:
        after = copy.deepcopy(arrival.after)
        del after[table][number]
        return dataclasses.replace(arrival, after=after, **values)

    return change


def flavored(**values: Any) -> Change:
    """Change the flavor that the server has in the target cell, and not its row."""
    return lambda arrival: row("instance_extra", flavor=stored(cur=_current(arrival) | values))(arrival)


def _current(arrival: Arrival) -> dict[str, Any]:
    flavor: dict[str, Any] = json.loads(arrival.after["instance_extra"][0]["flavor"])["cur"]["nova_object.data"]
    return flavor


def port(**values: Any) -> Change:
    """Change its port."""
    return lambda arrival: dataclasses.replace(arrival, ports=(dataclasses.replace(arrival.ports[0], **values),))


def _reordered(arrival: Arrival) -> Arrival:
    disks = list(reversed(arrival.after["block_device_mapping"]))
    return dataclasses.replace(arrival, after=arrival.after | {"block_device_mapping": disks})


def _attached(arrival: Arrival) -> Arrival:
    disks = [*arrival.after["block_device_mapping"], disk("disk-3", attachment_id="disk-3-there")]
    return dataclasses.replace(
        arrival,
        after=arrival.after | {"block_device_mapping": disks},
        volumes={**arrival.volumes, "volume-of-disk-3": "in-use"},
        attachments=(*arrival.attachments, Attachment("disk-3-there", "volume-of-disk-3", "server-1", "attached")),
    )


CASES: Mapping[str, tuple[Case, ...]] = {
    # the guest
    "mapping": (refusal(said(mapped=False)),),
    "state": (
        refusal(row("instances", vm_state="active")),
        refusal(row("instances", task_state="rebuilding")),
        refusal(row("instances", hidden=1)),
    ),
    "host": (refusal(row("instances", host="c2-host2")),),
    "power": (refusal(row("instances", power_state=4)), refusal(said(active=False))),
    # its records
    "row-lost": (
        refusal(lost("tags")),
        refusal(lost("instance_metadata")),
        refusal(lost("block_device_mapping")),
        refusal(lost("virtual_interfaces")),
        refusal(lost("instance_actions")),
        refusal(lost("instance_system_metadata")),
    ),
    "value-lost": (refusal(row("instance_extra", numa_topology=None)),),
    "value-changed": (
        refusal(row("instances", key_name="other")),
        refusal(row("instance_extra", keypairs='{"a": 2}')),
        refusal(row("block_device_mapping", 1, tag=None)),
        refusal(row("virtual_interfaces", address="fa:16:3e:00:00:02/port-1")),
    ),
    "keypairs-lost": (warning(row("instance_extra", keypairs=None)), warning(row("instance_extra", keypairs="[]"))),
    "vif-address": (warning(row("virtual_interfaces", address=MAC)),),
    "owner-changed": (warning(row("instances", display_name="mine")), warning(row("instances", locked=1))),
    "disk-order": (refusal(_reordered),),
    "volume-attached": (warning(_attached),),
    "volume-detached": (warning(lost("block_device_mapping", detached=frozenset({"disk-1"}))),),
    "faults-lost": (warning(lost("instance_faults")),),
    # its flavor
    "flavor": (
        refusal(said(flavor_id="one")),
        refusal(flavored(flavorid="three")),
        refusal(flavored(extra_specs={"hw:cpu_policy": "dedicated"}), MIGRATED),
        *(refusal(row("instances", **{column: 99})) for column in sizes(LARGE)),
        *(refusal(row("instances", **{column: 99}), MIGRATED) for column in sizes(SMALL)),
    ),
    # its ports
    # its root disk
    "root-disk-lost": (
        refusal(said(transfer="image", disk=RootDisk(64, 31, 1, 1))),
        refusal(said(transfer="image", disk=RootDisk(64, 0, 1, 1), target_version=53)),
        refusal(said(transfer="image", target_version=55)),
        refusal(said(transfer="image", target_version=51, disk=RootDisk(why="no ssh"))),
        refusal(said(transfer="image", target_version=51, disk=RootDisk(3, 3, 1, 1))),
    ),
    "disk-differs": (
        refusal(said(transfer="image", disk=RootDisk(64, 63, 1, 1)), row("instances", power_state=4)(STOPPED)),
    ),
    "disk-smaller": (refusal(said(transfer="image", disk=RootDisk(64, 64, 2, 1))),),
    "disk-not-compared": (
        warning(said(transfer="image")),
        warning(said(transfer="image", disk=RootDisk(why="no ssh"))),
        warning(said(transfer="image", disk=RootDisk(3, 0, 1, 1))),
    ),
    "port-lost": (refusal(said(ports=())),),
    "port-binding": (
        refusal(port(host="c1-host1")),
        refusal(port(host="")),
        refusal(port(vif_type="binding_failed")),
        refusal(port(vif_type="unbound")),
    ),
    "port-down": (refusal(port(status="DOWN")),),
    "mac-changed": (refusal(port(mac_address="fa:16:3e:00:00:02")),),
    "address-changed": (refusal(port(addresses=())), refusal(port(addresses=(ADDRESS, "10.0.0.6")))),
    # its volumes
    "volume-state": (
        refusal(said(volumes={**WELL.volumes, "volume-of-disk-1": "reserved"})),
        refusal(said(volumes={**WELL.volumes, "volume-of-disk-1": ""})),
    ),
    "attachment": (
        refusal(said(attachments=WELL.attachments[1:])),
        refusal(row("block_device_mapping", attachment_id="disk-1-before")),
        refusal(said(attachments=(dataclasses.replace(WELL.attachments[0], status="attaching"), WELL.attachments[1]))),
    ),
    # its group
    "group-lost": (refusal(said(group=None)), refusal(said(group_wanted="group-2"))),
    "group-policy": (
        warning(said(group_hosts=("c2-host1",))),
        warning(said(group=dataclasses.replace(GROUP, policy="affinity"))),
    ),
}
"""Code -> the cases that trip it."""


def trip(case: Case) -> tuple[checks.CheckResult, ...]:
    """What is found."""
    return examine(case.change(case.arrival))


@pytest.mark.parametrize(
    ("code", "case"),
    [pytest.param(code, case, id=f"{code}-{n}") for code, cases in CASES.items() for n, case in enumerate(cases)],
)
def test_it_is_found_and_nothing_else(code: str, case: Case) -> None:
    found = [check for check in trip(case) if check.level is not Level.OK]
    assert {(check.code, check.level) for check in found} == {(code, case.level)}
    for check in found:
        assert "None" not in check.text + check.remedy
        assert check.remedy or case.level is Level.WARNING


@pytest.mark.parametrize(
    "arrival",
    [
        WELL,
        MIGRATED,
        row("instances", power_state=4)(port(status="DOWN")(STOPPED)),
        said(group=dataclasses.replace(GROUP, policy="affinity"), group_hosts=("c2-host1",))(WELL),
        said(group=dataclasses.replace(GROUP, policy="affinity"), group_hosts=())(WELL),
        said(group_wanted="")(WELL),
    ],
)
def test_what_is_as_it_was_is_well(arrival: Arrival) -> None:
    found = examine(arrival)
    assert [(check.code, check.level) for check in found] == [
        (code, Level.OK) for code in ("guest", "records", "flavor", "network", "volumes", "group")
    ]
    assert "None" not in "".join(check.text for check in found)


def test_a_migrated_server_keeps_the_disk_sizes_of_its_row() -> None:
    """They need not be its flavor's: only a resize writes them anew (nova/compute/manager.py, _set_instance_info)."""
    before = rows()
    before["instances"][0]["root_gb"] = 4
    kept = dataclasses.replace(row("instances", root_gb=4)(MIGRATED), before=before)
    assert [check.code for check in examine(kept) if check.level is not Level.OK] == []
    other = dataclasses.replace(MIGRATED, before=before)
    assert [check.code for check in examine(other) if check.level is Level.REFUSAL] == ["flavor"]


def through_image(arrival: Arrival) -> Arrival:
    """The same with an image, a base image, and hosts that are not reached by ssh."""
    changed = copy.deepcopy(dataclasses.replace(arrival, transfer="image", disk=RootDisk(why="no ssh")))
    for rows_ in (changed.before, changed.after):
        rows_["instances"][0]["image_ref"] = "image-1"
        rows_["instance_system_metadata"].append({"key": "image_base_image_ref", "value": "base-1"})
    return changed


def test_a_disk_that_was_not_compared_names_what_was() -> None:
    found = examine(through_image(WELL))
    (check,) = [check for check in found if check.level is not Level.OK]
    assert check.code == "disk-not-compared"
    assert "Compared: the image and its base image in its record; its recorded size (5 GB, now 10 GB)" in check.text
    assert "nova-compute on c2-host1" in check.text
    assert "Not compared: its content, its backing file and its size in bytes (no ssh)" in check.text


def test_a_disk_that_is_smaller_by_its_record_is_found_without_ssh() -> None:
    arrival = through_image(MIGRATED)
    arrival.before["instances"][0]["root_gb"] = 9
    found = {check.code: check for check in examine(arrival) if check.level is Level.REFUSAL}
    assert found["disk-smaller"].text == "the root disk has 5 GB by its record, and had 9 GB"


@pytest.mark.parametrize("image", ["snapshot-1", ""])
def test_the_image_that_a_failed_finish_leaves_in_the_record_is_found_without_ssh(image: str) -> None:
    """nova-compute notes the temporary image while it starts the guest, and puts it back."""
    arrival = through_image(WELL)
    arrival.after["instances"][0]["image_ref"] = image
    found = [check for check in examine(arrival) if check.level is Level.REFUSAL]
    assert len(found) == 1
    assert "image_ref" in found[0].text


@pytest.mark.parametrize(
    ("disk", "version", "words"),
    [
        (RootDisk(64, 64, 1, 2), 74, "64 of 64 samples of the root disk equal those of the source"),
        (RootDisk(64, 33, 1, 1), 74, "33 of 64 samples of the root disk equal those of the source (its guest has been running since)"),
        (RootDisk(64, 60, 1, 1), 53, "60 of 64 samples of the root disk equal those of the source (its guest has been running since)"),
    ],
)  # fmt: skip
def test_a_disk_that_was_compared(disk: RootDisk, version: int, words: str) -> None:
    """What it holds counts for more than the release that started the guest."""
    found = examine(said(transfer="image", disk=disk, target_version=version)(WELL))
    assert [(check.level, check.text) for check in found if check.code == "disk"] == [(Level.OK, words)]
    assert {check.level for check in found} == {Level.OK}


def test_a_disk_that_was_streamed_is_not_compared_again() -> None:
    found = examine(said(transfer="stream", target_version=51)(WELL))
    (words,) = (check.text for check in found if check.code == "disk")
    assert "read back before the guest started" in words
    assert {check.level for check in found} == {Level.OK}


def test_a_server_without_a_group_has_no_line_of_it() -> None:
    alone = dataclasses.replace(WELL, group=None, group_wanted="")
    assert [check.code for check in examine(alone)] == ["guest", "records", "flavor", "network", "volumes"]


def test_what_is_not_well_has_no_line_that_says_so() -> None:
    (case, *_) = CASES["port-down"]
    assert "network" not in {check.code for check in trip(case)}


def test_no_code_is_forgotten() -> None:
    found = set()
    sources = [Path(str(module.__file__)).read_text() for module in (checks, root_disk)]
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("refusal", "warning"):
            (code, *_) = node.args
            assert isinstance(code, ast.Constant), f"a code that cannot be read: {ast.unparse(code)}"
            found.add((code.value, node.func.id))
    assert found == {(code, case.level.value) for code, cases in CASES.items() for case in cases}
