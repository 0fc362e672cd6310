"""Guests of the sandbox: started, stopped and destroyed, with their ports and volumes."""

from __future__ import annotations

import json

from cellmove.sandbox import disks, services
from cellmove.sandbox.compute_call import RUNNING, SHUT_DOWN, Call, Work
from cellmove.sandbox.store import Record, Refusal, filled


def flavor_columns(flavor: Record) -> Record:
    data = flavor["nova_object.data"]
    return {name: data[name] for name in ("memory_mb", "vcpus", "root_gb", "ephemeral_gb")} | {
        "instance_type_id": data["id"]
    }


def start_guest(call: Call, *, running: bool) -> None:
    """Define the guest, and start it; a root disk has to be there."""
    cloud, server = call.cloud, call.server
    if call.row()["image_ref"] and not disks.is_there(cloud, call.host, server):
        raise Refusal("DiskNotFound", f"No disk at {call.host} for {server}")
    plugged = [port["id"] for port in services.ports_of(cloud, server) if active_host(port) == call.host]
    cloud.world.guests[call.host][server] = {
        "state": RUNNING if running else SHUT_DOWN,
        "ports": sorted(plugged),
        "volumes": sorted(row["volume_id"] for row in call.volumes() if row["connection_info"]),
    }
    if running:
        cloud.tell("guest started", host=call.host, server=server)


def stop_guest(call: Call, guest: Record) -> None:
    """Take its power away, if it has any."""
    if guest["state"] == RUNNING:
        disks.write(call.cloud, call.host, call.server)  # a guest writes until its power is gone
        guest["state"] = SHUT_DOWN
        call.cloud.tell("guest stopped", host=call.host, server=call.server)


def destroy(call: Call, *, with_disks: bool) -> Work:
    call.fail_if_asked("destroy")
    guest = call.cloud.world.guests[call.host].get(call.server)
    if guest is not None:
        stop_guest(call, guest)
        del call.cloud.world.guests[call.host][call.server]
    yield
    # The ironic driver takes no notice of destroy_disks (nova/virt/ironic/driver.py, destroy).
    if (with_disks or call.is_bare_metal) and disks.destroy(call.cloud, call.host, call.server):
        call.cloud.tell("disks deleted", host=call.host, server=call.server)
        yield


def active_host(port: Record) -> str:
    return services.active_binding(port)[0]


def activate(call: Call, host: str) -> Work:
    """migrate_instance_start: a binding that is not there is passed over without a word."""
    for port in services.ports_of(call.cloud, call.server):
        if host in port["bindings"] and port["bindings"][host]["status"] != "ACTIVE":
            services.activate_binding(call.cloud, port["id"], host)
            yield


def bind_here(call: Call) -> None:
    """migrate_instance_finish: ports that are elsewhere, or unbound, are bound to this host."""
    for port in services.ports_of(call.cloud, call.server):
        host, binding = services.active_binding(port)
        if host != call.host or binding["vif_type"] == "unbound":
            services.bind_port(call.cloud, port["id"], call.host)


def delete_bindings(call: Call) -> Work:
    for port in services.ports_of(call.cloud, call.server):
        if call.host in port["bindings"]:
            services.delete_binding(call.cloud, port["id"], call.host)
            yield


def delete_attachments(call: Call) -> Work:
    """Errors are only logged."""
    for row in call.volumes():
        if row["attachment_id"] in call.cloud.world.attachments:
            services.delete_attachment(call.cloud, row["attachment_id"], by_service=True)
            yield


def connect_volumes(call: Call, *, only_known: bool = False) -> Work:
    """_update_volume_attachments, and the connections that the driver is given.

    :param only_known: as refresh_connection_info does it: a volume without a connection is left out
    """
    for row in call.volumes():
        services.connect_attachment(call.cloud, row["attachment_id"] or "", call.host, row["device_name"])
        if only_known and not row["connection_info"]:
            continue
        mapping = filled("volume_mapping", volume=row["volume_id"], server=call.server)
        values = {"connection_info": json.dumps(mapping["connection_info"])}
        call.cloud.update(call.cell, "block_device_mapping", values, id=row["id"])
        yield


def complete_volumes(call: Call) -> None:
    for row in call.volumes():
        services.complete_attachment(call.cloud, row["attachment_id"])
