"""nova-compute: the six calls of a snapshot-based resize, with nova's own sequence of writes.

Each call is a generator that yields between two writes, so that a host can be stopped, or be slow,
anywhere in it. What fails leaves what nova's decorators leave (nova/compute/manager.py): a fault, a
migration in error, an event that ended with Error, and no task state.
"""

from __future__ import annotations

import json

from cellmove.sandbox import disks, services
from cellmove.sandbox.compute_call import RUNNING, SHUT_DOWN, WALLABY, Call, Work, record_fault
from cellmove.sandbox.guests import (
    activate,
    bind_here,
    complete_volumes,
    connect_volumes,
    delete_attachments,
    delete_bindings,
    destroy,
    flavor_columns,
    start_guest,
    stop_guest,
)
from cellmove.sandbox.store import Record, Refusal, envelope


def run(call: Call) -> Work:
    """The call as a host runs it: the event around it, and what a failure leaves."""
    cloud, body = call.cloud, METHODS[call.method]
    actions = cloud.rows(call.cell, "instance_actions", instance_uuid=call.server, request_id=call.request_id)
    if not actions:
        raise Refusal("InstanceActionNotFound", f"Action for request_id {call.request_id} not found")
    action, event = actions[-1]["id"], f"compute_{call.method}"
    cloud.insert(
        call.cell,
        "instance_actions_events",
        {"action_id": action, "event": event, "start_time": cloud.now(), "host": call.host},
    )
    cloud.tell("call begun", method=call.method, host=call.host, server=call.server, request=call.request_id)
    try:
        yield
        result = yield from body(call)
    except Refusal as error:
        record_fault(call, error)
        if call.method != "prep_snapshot_based_resize_at_dest":
            call.set_migration(status="error")
        _end_event(call, action, event, "Error", str(error)[:255])
        reverts = call.method != "prep_snapshot_based_resize_at_dest" and error.kind != "UnexpectedTaskStateError"
        if reverts:
            cloud.update(call.cell, "instances", {"task_state": None}, uuid=call.server, deleted=0)
        cloud.tell("call failed", method=call.method, host=call.host, server=call.server)
        raise
    _end_event(call, action, event, "Success")
    cloud.tell("call done", method=call.method, host=call.host, server=call.server)
    return result


def _end_event(call: Call, action: int, event: str, result: str, details: str | None = None) -> None:
    """nova ends the first event of that name, whichever was begun last (action_event_finish)."""
    cloud = call.cloud
    first = cloud.row(call.cell, "instance_actions_events", action_id=action, event=event)
    if first is not None:
        values = {"finish_time": cloud.now(), "result": result, "details": details}
        cloud.update(call.cell, "instance_actions_events", values, id=first["id"])
    cloud.update(call.cell, "instance_actions", {"message": "Error"} if result == "Error" else {}, id=action)


def _or_error(call: Call, body: Work) -> Work:
    """A failure in here leaves the server in ERROR (_error_out_instance_on_exception)."""
    try:
        return (yield from body)
    except Refusal:
        call.cloud.update(call.cell, "instances", {"vm_state": "error"}, uuid=call.server, deleted=0)
        raise


def _prep_at_dest(call: Call) -> Work:
    cloud, server = call.cloud, call.server
    try:
        call.fail_if_asked("get_host_ip_addr")
        if call.migration["migration_type"] == "resize" and not _sent_new_flavor(call):
            raise Refusal("AttributeError", "'NoneType' object has no attribute 'flavorid'")
    except Refusal as error:
        words = f"Migration pre-check error: Pre-checks failed on host '{call.host}'. Error: {error}"
        raise Refusal("MigrationPreCheckError", words) from None
    usage = cloud.world.usage[call.host]
    usage[server] = usage.get(server, 0) + 1
    cloud.tell("claimed", host=call.host, server=server)
    yield
    node = cloud.row(call.cell, "compute_nodes", host=call.host)
    call.set_migration(
        dest_compute=call.host,
        dest_node=call.more["nodename"],
        dest_host=services.ADDRESSES[call.host],
        status="pre-migrating",
        dest_compute_id=node["id"] if node else None,
    )
    yield
    row = cloud.row(call.cell, "migrations", uuid=call.migration["uuid"]) or {}
    devices = envelope("PciDeviceList", "1.3", {"objects": []})
    requests = envelope("InstancePCIRequests", "1.1", {"instance_uuid": server, "requests": []})
    context = envelope(
        "MigrationContext",
        "1.2",
        {
            "instance_uuid": server,
            "migration_id": row.get("id"),
            "old_pci_devices": devices,
            "new_pci_devices": devices,
            "old_pci_requests": requests,
            "new_pci_requests": requests,
            "old_numa_topology": None,
            "new_numa_topology": None,
            "old_resources": None,
            "new_resources": None,
        },
    )
    call.set_extra(migration_context=json.dumps(context))
    yield
    return context


def _sent_new_flavor(call: Call) -> bool:
    """The claim reads the new flavor from the instance that was sent."""
    return bool(call.instance.get("new_flavor") or (call.flavors().get("new")))


def _prep_at_source(call: Call) -> Work:
    cloud, snapshot = call.cloud, call.more.get("snapshot_id")
    call.set_migration(status="migrating")
    yield
    guest = cloud.world.guests[call.host].get(call.server)
    if guest is None or cloud.fault(call.host, "power_off", call.server):
        why = f"the sandbox was told to let power_off fail on {call.host}"
        raise Refusal("InstancePowerOffFailure", f"Failed to power off instance: {why}")
    stop_guest(call, guest)
    yield
    if snapshot:
        try:
            call.fail_if_asked("snapshot")
            services.upload(cloud, snapshot, disks.snapshot(cloud, call.host, call.server))
        except Refusal:
            cloud.world.images.pop(snapshot, None)  # delete_image_on_error
            raise
        yield
    yield from _or_error(call, _take_apart(call))


def _take_apart(call: Call) -> Work:
    cloud = call.cloud
    yield from destroy(call, with_disks=False)
    for row in call.volumes():
        fresh = services.create_attachment(cloud, row["volume_id"], call.server)["id"]
        yield
        services.delete_attachment(cloud, row["attachment_id"], by_service=True)
        yield
        cloud.update(call.cell, "block_device_mapping", {"attachment_id": fresh}, id=row["id"])
        yield
    yield from activate(call, call.migration["dest_compute"])
    call.set_migration(status="post-migrating")
    yield
    call.save({"task_state": "resize_migrated", "power_state": SHUT_DOWN}, "resize_migrating")
    yield


def _finish_at_dest(call: Call) -> Work:
    return _or_error(call, _finish(call))


def _finish(call: Call) -> Work:
    cloud, snapshot = call.cloud, call.more.get("snapshot_id")
    before = call.row()
    taken: Record | None = None
    if snapshot:
        try:
            taken = {"data": "", "token": "", **services.image(cloud, snapshot)}
        except Refusal:
            raise Refusal("ImageNotFound", f"Image {snapshot} could not be found.") from None
    flavors = call.flavors()
    now_flavor = flavors["new"] if call.migration["migration_type"] == "resize" else flavors["cur"]
    values = flavor_columns(now_flavor) if call.migration["migration_type"] == "resize" else {}
    spawns_from_snapshot = call.version >= WALLABY
    if snapshot and spawns_from_snapshot:
        values["image_ref"] = snapshot
    call.save({"task_state": "resize_finish", **values}, "resize_migrated")
    call.set_flavors(cur=now_flavor, old=flavors["cur"])
    yield
    yield from connect_volumes(call)
    complete_volumes(call)
    yield
    bind_here(call)
    yield
    power_on = call.metadata("old_vm_state") == "active"
    # Before Wallaby the root disk is made from image_ref, whatever the snapshot holds (nova bug 1906428).
    content = taken if spawns_from_snapshot or not taken else {"data": disks.fresh(before["image_ref"]), "token": ""}
    yield from _spawn(call, before["image_ref"], content, running=power_on)
    if snapshot:
        services.delete_image(cloud, snapshot)
        yield
    call.set_migration(status="finished")
    yield
    node = cloud.row(call.cell, "compute_nodes", host=call.host) or {}
    values = {
        "vm_state": "resized",
        "task_state": None,
        "power_state": RUNNING if power_on else SHUT_DOWN,
        "image_ref": before["image_ref"],
        "host": call.host,
        "node": node.get("hypervisor_hostname"),
        "compute_id": node.get("id"),
        "launched_at": cloud.now(),
        "progress": 0,
    }
    call.save(values, "resize_finish")
    yield


def _spawn(call: Call, image: str, content: Record | None, *, running: bool) -> Work:
    try:
        call.fail_if_asked("spawn")
        disks.spawn(call.cloud, call.host, call.server, image, call.migration["source_compute"], content)
        start_guest(call, running=running)
    except Refusal:
        yield from _undo_spawn(call)
        raise
    yield


def _undo_spawn(call: Call) -> Work:
    for row in call.volumes():
        call.cloud.world.attachments.pop(row["attachment_id"], None)
        call.cloud.tell("attachment deleted", attachment=row["attachment_id"], volume=row["volume_id"])
        yield
    yield from activate(call, call.migration["source_compute"])


def _confirm_at_source(call: Call) -> Work:
    try:
        yield from _or_error(call, _confirm(call))
    except Refusal:
        services.drop_allocations(call.cloud, call.migration["uuid"])
        raise
    services.drop_allocations(call.cloud, call.migration["uuid"])
    yield


def _confirm(call: Call) -> Work:
    cloud, server = call.cloud, call.server
    call.row()
    call.fail_if_asked("cleanup")
    if disks.destroy(cloud, call.host, server):
        cloud.tell("disks deleted", host=call.host, server=server)
    yield
    yield from delete_bindings(call)
    yield from delete_attachments(call)
    call.set_migration(status="confirmed")
    cloud.world.usage[call.host].pop(server, None)
    call.set_extra(migration_context=None)
    yield


def _revert_at_dest(call: Call) -> Work:
    return _or_error(call, _revert(call))


def _revert(call: Call) -> Work:
    cloud, server = call.cloud, call.server
    call.row()
    yield from destroy(call, with_disks=True)
    yield from activate(call, call.migration["source_compute"])
    yield from delete_bindings(call)
    yield from delete_attachments(call)
    call.set_migration(status="reverted")
    usage = cloud.world.usage[call.host]
    usage[server] = usage.get(server, 0) - 1
    if not usage[server]:
        del usage[server]
    call.set_extra(migration_context=None)
    yield
    call.save({}, "resize_reverting")
    yield


def _finish_revert_at_source(call: Call) -> Work:
    try:
        yield from _or_error(call, _finish_revert(call))
    except Refusal:
        _forget_flavors(call)
        raise
    _forget_flavors(call)
    yield


def _forget_flavors(call: Call) -> None:
    """_delete_stashed_flavor_info, whatever came before."""
    call.cloud.delete(call.cell, "instance_system_metadata", instance_uuid=call.server, key="old_vm_state")
    if call.cloud.row(call.cell, "instance_extra", instance_uuid=call.server, deleted=0):
        call.set_flavors(old=None, new=None)


def _finish_revert(call: Call) -> Work:
    cloud, server = call.cloud, call.server
    power_on = (call.metadata("old_vm_state") or "active") == "active"
    old = call.flavors().get("old")
    if old is None:
        raise Refusal("AttributeError", "'NoneType' object has no attribute 'id'")
    node = cloud.row(call.cell, "compute_nodes", host=call.host) or {}
    place = {"host": call.host, "node": node.get("hypervisor_hostname"), "compute_id": node.get("id")}
    call.save({**flavor_columns(old), **place}, "resize_reverting")
    call.set_flavors(cur=old)
    yield
    services.move_allocations(cloud, call.migration["uuid"], server)
    yield
    yield from connect_volumes(call, only_known=True)
    bind_here(call)
    yield
    failure: Refusal | None = None
    try:
        call.fail_if_asked("finish_revert_migration")
        start_guest(call, running=power_on)
        yield
        call.set_extra(migration_context=None)
        call.save(
            {
                "vm_state": "active" if power_on else "stopped",
                "task_state": None,
                "launched_at": cloud.now(),
                "power_state": RUNNING if power_on else SHUT_DOWN,
                "progress": 0,
            },
            "resize_reverting",
        )
        yield
    except Refusal as error:
        failure = error
    complete_volumes(call)
    yield
    if failure:
        raise failure
    call.set_migration(status="reverted")
    yield


METHODS = {
    "prep_snapshot_based_resize_at_dest": _prep_at_dest,
    "prep_snapshot_based_resize_at_source": _prep_at_source,
    "finish_snapshot_based_resize_at_dest": _finish_at_dest,
    "confirm_snapshot_based_resize_at_source": _confirm_at_source,
    "revert_snapshot_based_resize_at_dest": _revert_at_dest,
    "finish_revert_snapshot_based_resize_at_source": _finish_revert_at_source,
}
