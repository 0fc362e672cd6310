"""Judge the judge: `python3 -m lab.selfcheck` in cellmove's environment, with the lab up.

A snapshot of a healthy server must have no problems, and none of the ways in which it can be broken may go unnoticed.
"""

import copy
import sys

from lab import cloud
from lab.oracle import compare, problems, snapshot

HOME, AWAY = "c1-host2", "c2-host2"  # most tests use the first hosts


def row(shot, table, cell="cell1"):
    """The first row of a table."""
    return shot["cells"][cell][table][0]


def only(mapping):
    """The only value of a dict."""
    (value,) = mapping.values()
    return value


def put(target, **values):
    """Set columns of a row."""
    target.update(values)


# What to break in the snapshot of a settled server, and words that the problem must then be described with.
BREAKS = {
    "no mapping": (lambda p: put(p["api"], mapping=None), "no instance mapping"),
    "mapping elsewhere": (lambda p: put(p["api"]["mapping"], cell="cell2"), "mapping points at"),
    "queued for delete": (lambda p: put(p["api"]["mapping"], queued_for_delete=1), "queued for delete"),
    "build request": (lambda p: p["api"]["build_requests"].append({"id": 1}), "build request"),
    "request spec gone": (lambda p: put(p["api"], request_spec=None), "no request spec"),
    "spec's flavor": (
        lambda p: put(p["api"]["request_spec"]["nova_object.data"]["flavor"]["nova_object.data"], name="x"),
        "request spec's flavor",
    ),
    "row in the other cell": (lambda p: put(p["cells"]["cell2"], tags=[{"tag": "x"}]), "rows left in tags"),
    "soft-deleted row there": (
        lambda p: put(p["cells"]["cell2"], instances=[row(p, "instances") | {"deleted": 1}]),
        "1 soft-deleted",
    ),
    "visible twice": (lambda p: put(p["cells"]["cell2"], instances=[row(p, "instances")]), "visible in"),
    "row in cell0": (lambda p: put(p["cells"]["cell0"], instances=[row(p, "instances")]), "cell0: 1 rows left"),
    "archived": (lambda p: put(p["cells"]["cell1"], shadow_instances=[{}]), "shadow_instances"),
    "hidden": (lambda p: put(row(p, "instances"), hidden=1), "hidden"),
    "wrong host": (lambda p: put(row(p, "instances"), host=AWAY), "host, node, compute_id"),
    "wrong compute_id": (lambda p: put(row(p, "instances"), compute_id=99), "host, node, compute_id"),
    "no compute_id": (lambda p: put(row(p, "instances"), compute_id=None), "host, node, compute_id"),
    "vm_state": (lambda p: put(row(p, "instances"), vm_state="resized"), "vm_state is resized"),
    "task_state": (lambda p: put(row(p, "instances"), task_state="resize_finish"), "task_state is"),
    "power_state": (lambda p: put(row(p, "instances"), power_state=4), "power_state is 4"),
    "vcpus": (lambda p: put(row(p, "instances"), vcpus=7), "vcpus is 7"),
    "old_vm_state": (
        lambda p: p["cells"]["cell1"]["instance_system_metadata"].append(
            {"key": "old_vm_state", "value": "active", "deleted": 0}
        ),
        "old_vm_state",
    ),
    "a key twice": (
        lambda p: p["cells"]["cell1"]["instance_system_metadata"].append(row(p, "instance_system_metadata")),
        "more than once",
    ),
    "migration context": (lambda p: put(row(p, "instance_extra"), migration_context={"x": 1}), "migration_context"),
    "open migration": (
        lambda p: put(p["cells"]["cell1"], migrations=[{"id": 1, "status": "migrating", "deleted": 0}]),
        "still migrating",
    ),
    "allocation elsewhere": (lambda p: put(p["allocations"]["server"], **{AWAY: {"VCPU": 1}}), "allocations on"),
    "no allocation": (lambda p: p["allocations"]["server"].clear(), "allocations on"),
    "wrong amount": (lambda p: put(only(p["allocations"]["server"]), VCPU=9), "the flavor says"),
    "migration's allocation": (
        lambda p: put(p["allocations"]["migrations"], some={AWAY: {"VCPU": 1}}),
        "still holds",
    ),
    "second binding": (
        lambda p: only(p["ports"])["bindings"].append({"host": AWAY, "status": "INACTIVE", "vif_type": "ovs"}),
        "still has bindings",
    ),
    "inactive binding": (lambda p: put(only(p["ports"])["bindings"][0], status="INACTIVE"), "not ACTIVE on"),
    "failed binding": (lambda p: put(only(p["ports"])["bindings"][0], vif_type="binding_failed"), "binding_failed"),
    "port down": (lambda p: put(only(p["ports"]), status="DOWN"), "is DOWN"),
    "port lost": (lambda p: put(only(p["ports"]), device_id=""), "belongs to nobody"),
    "interface gone": (lambda p: p["cells"]["cell1"]["virtual_interfaces"].clear(), "virtual interfaces"),
    "empty cache": (lambda p: put(row(p, "instance_info_caches"), network_info=[]), "network cache"),
    "volume available": (lambda p: put(only(p["volumes"]), status="available"), "is available"),
    "volume on another host": (
        lambda p: put(only(p["volumes"])["attachments"][0], attached_host=AWAY),
        "is attached to",
    ),
    "attachment unknown": (lambda p: put(only(p["volumes"])["attachments"][0], id="other"), "nova believes"),
    "reserved attachment": (
        lambda p: only(p["volumes"])["attachments"].append({"attach_status": "reserved"}),
        "besides the attached one",
    ),
    "no attachment": (lambda p: only(p["volumes"])["attachments"].clear(), "0 attachments"),
    "temporary image": (
        lambda p: p["images"].append({"name": "x-resize-temp", "status": "active"}),
        "x-resize-temp",
    ),
    "two guests": (lambda p: put(p["guests"], **{AWAY: p["guests"][HOME]}), "the guest is on"),
    "no guest": (lambda p: p["guests"].clear(), "no host"),
    "guest off": (lambda p: put(p["guests"][HOME], power_state="shutdown"), "is shutdown"),
    "guest unplugged": (lambda p: put(p["guests"][HOME], ports=[]), "plugged into"),
    "guest without volume": (lambda p: put(p["guests"][HOME], volumes=[]), "the guest has volumes"),
    "disk elsewhere": (lambda p: put(p["disks"], **{AWAY: {"disk": "x"}}), "disks left on"),
    "disk gone": (lambda p: p["disks"].clear(), "disks on"),
    "API says otherwise": (lambda p: put(p["server"], status="ERROR"), "the API shows"),
}

# What `compare` must notice although every rule of `problems` is kept.
CHANGES = {
    "disk content": lambda p: put(p["disks"][HOME], disk="x"),
    "metadata": lambda p: p["cells"]["cell1"]["instance_metadata"].clear(),
    "tag": lambda p: p["cells"]["cell1"]["tags"].clear(),
    "device tag": lambda p: put(row(p, "virtual_interfaces"), tag=None),
    "address": lambda p: put(only(p["ports"]), fixed_ips=["10.0.0.1"]),
    "key": lambda p: put(row(p, "instances"), key_name="other"),
    "action lost": lambda p: p["cells"]["cell1"]["instance_actions"].clear(),
    "events lost": lambda p: p["cells"]["cell1"]["instance_actions_events"].clear(),
    "volume's flag": lambda p: put(
        p["cells"]["cell1"]["block_device_mapping"][-1],
        delete_on_termination=not p["cells"]["cell1"]["block_device_mapping"][-1]["delete_on_termination"],
    ),
    "owner": lambda p: put(row(p, "instances"), project_id="other"),
    "created": lambda p: put(p["server"], created="never"),
    "spec": lambda p: put(p["api"]["request_spec"]["nova_object.data"], availability_zone="x"),
}


def check_breaks(healthy):
    """Every break is noticed, with the right words."""
    missed = []
    for name, (spoil, words) in BREAKS.items():
        shot = copy.deepcopy(healthy)
        spoil(shot)
        found = problems(shot, cell="cell1", host=HOME, flavor="m1.tiny", status="ACTIVE")
        if not any(words in problem for problem in found):
            missed.append(f"{name}: not noticed; found {found}")
    for name, spoil in CHANGES.items():
        shot = copy.deepcopy(healthy)
        spoil(shot)
        if not compare(healthy, shot):
            missed.append(f"{name}: not noticed by compare")
    return missed


def check_lab(server):
    """A native move there and back, a restart and a hang leave nothing to complain about."""
    before = snapshot(server)
    found = problems(before, host=HOME, flavor="m1.tiny", status="ACTIVE")
    with cloud.fault(AWAY, "spawn", "hang 2", server):
        cloud.native_move(server, host=AWAY)
    found += problems(snapshot(server), host=AWAY, flavor="m1.tiny", status="VERIFY_RESIZE")
    cloud.native_revert(server)
    found += compare(before, snapshot(server))
    cloud.stop_compute(HOME, wait=False)
    cloud.start_compute(HOME)
    found += compare(before, snapshot(server))
    return found


def main():
    """Boot one server, check, delete it."""
    server = cloud.boot("selfcheck", host=HOME, volumes=1, device_tags=True, metadata={"kept": "yes"}, tags=["kept"])
    try:
        wrong = check_breaks(snapshot(server)) + check_lab(server)
    finally:
        cloud.delete(server)
    for line in wrong:
        print(line)
    print(f"selfcheck: {len(BREAKS) + len(CHANGES)} breaks, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
