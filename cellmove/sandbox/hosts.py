"""What nova-compute does of itself, and for an owner: its start, its audit of every minute, a hard reboot, a stop."""

from __future__ import annotations

from cellmove.sandbox import compute_call, guests
from cellmove.sandbox.store import Cloud, Refusal, cell_of


def unasked(cloud: Cloud, host: str, server: str) -> compute_call.Call:
    """Return a call that no conductor sent, for what a host does with a server by itself."""
    return compute_call.Call(cloud, host, "", "", {"uuid": server}, {}, {})


def start_host(cloud: Cloud, host: str) -> None:
    """What nova-compute does with its servers when it starts (_init_instance); the guests ran on meanwhile."""
    cell = cell_of(host)
    for row in cloud.rows(cell, "instances", host=host, deleted=0):
        call = unasked(cloud, host, row["uuid"])
        if row["task_state"] == "resize_prep" and row["vm_state"] != "error":
            call.save({"task_state": None})
        if row["task_state"] == "resize_migrating":
            guest = cloud.world.guests[host].get(row["uuid"])
            if guest is None or guest["state"] != compute_call.RUNNING:
                try:
                    guests.start_guest(call, running=call.metadata("old_vm_state") != "stopped")
                except Refusal as error:
                    cloud.tell("not started again", host=host, server=row["uuid"], why=str(error))
            call.save({"task_state": None})
    audit(cloud, host)


def audit(cloud: Cloud, host: str) -> None:
    """What the resource tracker counts anew every minute: servers here, and migrations to here."""
    cell = cell_of(host)
    usage: dict[str, int] = {}
    cloud.world.usage[host] = usage
    for row in cloud.rows(cell, "instances", host=host, deleted=0):
        usage[row["uuid"]] = 1
    for row in cloud.rows(cell, "migrations", dest_compute=host, deleted=0):
        if row["status"] not in ("confirmed", "reverted", "error", "failed", "accepted", "completed"):
            usage[row["instance_uuid"]] = 1


def hard_reboot(cloud: Cloud, host: str, server: str) -> None:
    """Build the guest anew from what the database says; it fails where its volumes or ports are not here."""
    call = unasked(cloud, host, server)
    attached = cloud.world.attachments
    try:
        call.fail_if_asked("hard_reboot")
        for row in call.volumes():
            if attached.get(row["attachment_id"], {}).get("host") != host:
                raise Refusal("VolumeNotConnected", f"volume {row['volume_id']} is not connected to {host}")
        guests.start_guest(call, running=True)
        call.save({"task_state": None, "vm_state": "active", "power_state": compute_call.RUNNING})
    except Refusal as error:
        compute_call.record_fault(call, error)
        call.save({"task_state": None, "vm_state": "error"})


def stop(cloud: Cloud, host: str, server: str) -> None:
    """Power a guest off."""
    call = unasked(cloud, host, server)
    if server in cloud.world.guests[host]:
        guests.stop_guest(call, cloud.world.guests[host][server])
    call.save({"task_state": None, "vm_state": "stopped", "power_state": compute_call.SHUT_DOWN})
