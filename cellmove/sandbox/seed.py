"""A fresh cloud, its servers, and what their owners do with them."""

from __future__ import annotations

import json
from typing import Any

from cellmove.sandbox import buses, compute, compute_call, disks, guests, hosts, services
from cellmove.sandbox.store import CELLS, HOSTS, Cloud, Record, Refusal, cell_of, filled, metadata, recorded

PROJECT, USER = "5a" * 16, "5b" * 16
IMAGE = "30000000-0000-4000-8000-000000000001"


def make_cloud(cloud: Cloud, bus_url: str) -> None:
    """Cells, hosts and flavors.

    :param bus_url: in front of ``/cell1`` and ``/cell2``
    """
    cloud.create()
    disks.make_hosts(cloud)
    cell0 = {"uuid": "00000000-0000-0000-0000-000000000000", "name": "cell0", "transport_url": "none:///"}
    cloud.insert("api", "cell_mappings", cell0 | {"database_connection": "none://", "disabled": 0})
    for number, cell in enumerate(CELLS, 2):
        values = {
            "id": number,
            "uuid": buses.CELL_UUIDS[cell],
            "name": cell,
            "disabled": 0,
            "transport_url": f"{bus_url}/{cell}",
            "database_connection": cloud.urls[cell],
        }
        cloud.insert("api", "cell_mappings", values)
        _insert(cloud, cell, "services", "service", host="vm", binary="nova-conductor", topic="conductor")
    for host, cell in HOSTS.items():
        cloud.insert("api", "host_mappings", {"host": host, "cell_id": CELLS.index(cell) + 2})
        _insert(cloud, cell, "services", "service", host=host)
        _insert(
            cloud,
            cell,
            "compute_nodes",
            "compute_node",
            host=host,
            hypervisor_hostname=host,
            uuid=services.provider_of(host),
            service_id=None,
        )
    for row in recorded()["rows"]["flavors"]:
        cloud.insert("api", "flavors", _dated(cloud, "flavors", row))
    heartbeat(cloud)


def name_cell(cloud: Cloud, cell: str, name: str | None) -> None:
    """Give a cell's mapping another name, as an operator may: None, a blank one, or that of another cell.

    :param cell: which database: one of :data:`cellmove.sandbox.store.CELLS`
    """
    cloud.update("api", "cell_mappings", {"name": name}, uuid=buses.CELL_UUIDS[cell])


def map_again(cloud: Cloud, cell: str, uuid: str, name: str | None) -> None:
    """Map a cell's database a second time (nova bug 1923899), with the same message bus.

    :param uuid: of the new mapping
    """
    first = cloud.row("api", "cell_mappings", uuid=buses.CELL_UUIDS[cell]) or {}
    cloud.insert("api", "cell_mappings", {**first, "id": None, "uuid": uuid, "name": name})


def make_flavor(cloud: Cloud, name: str, **values: Any) -> None:
    """Another flavor, like the smallest one but for these values."""
    row = {**cloud.rows("api", "flavors")[0], **values, "name": name, "flavorid": cloud.new_id("flavor")}
    del row["id"]
    cloud.insert("api", "flavors", row)


def _insert(cloud: Cloud, where: str, table: str, template: str, **values: Any) -> int:
    """One row like the one that was recorded."""
    row = {**recorded()["rows"][template], "uuid": cloud.new_id(table), **values}
    del row["id"]
    return cloud.insert(where, table, _dated(cloud, table, row))


def _dated(cloud: Cloud, table: str, row: Record) -> Record:
    """A row with real times, and with JSON as text."""
    which = "api" if table in metadata("api").tables else "cell"
    columns = cloud.table(table, which).c
    times = {name for name in row if name in columns and str(columns[name].type) == "DATETIME" and row[name]}
    text = {name: json.dumps(value) for name, value in row.items() if isinstance(value, dict | list)}
    return {**row, **text, **dict.fromkeys(times, cloud.now())}


def heartbeat(cloud: Cloud) -> None:
    """Every service that is not down reports itself alive."""
    for cell in CELLS:
        for row in cloud.rows(cell, "services"):
            name = row["host"] if row["binary"] == "nova-compute" else f"{cell}-conductor"
            if name in cloud.world.down:
                continue
            cloud.update(cell, "services", {"last_seen_up": cloud.now()}, id=row["id"])


def boot(
    cloud: Cloud,
    name: str,
    *,
    host: str = "c1-host1",
    flavor: str = "m1.tiny",
    volume_backed: bool = False,
    active: bool = True,
    ports: int = 1,
    volumes: int = 0,
) -> str:
    """A server with everything on it; returns its UUID. Ports and volumes are named as in the lab."""
    server, cell = cloud.new_id(name), cell_of(host)
    words = {"server": server, "image": IMAGE, "user": USER, "project": PROJECT, "host": host, "name": name}
    rows = {each: filled(each, **words) for each in recorded()["rows"]}
    chosen = buses.flavor_object(cloud.row("api", "flavors", name=flavor) or {})
    data, node = chosen["nova_object.data"], cloud.row(cell, "compute_nodes", host=host) or {}

    def put(table: str, row: Record, **changes: Any) -> int:
        kept = {column: value for column, value in row.items() if column != "id"}
        return cloud.insert(cell, table, _dated(cloud, table, kept | changes))

    columns = {key: data[key] for key in ("memory_mb", "vcpus", "root_gb", "ephemeral_gb")}
    put(
        "instances",
        rows["instance"],
        **columns,
        instance_type_id=data["id"],
        compute_id=node["id"],
        image_ref="" if volume_backed else IMAGE,
        launched_on=host,
    )
    put("instance_extra", rows["instance_extra"], flavor={"cur": chosen, "old": None, "new": None})
    for key, value in rows["volume_system_metadata" if volume_backed else "system_metadata"].items():
        put("instance_system_metadata", {"instance_uuid": server, "key": key, "value": value})
    put("instance_metadata", {"instance_uuid": server, "key": "a", "value": "b"})
    put("tags", {"resource_id": server, "tag": "blue"})
    put("instance_id_mappings", {"uuid": server})
    put("instance_actions_events", rows["event"], action_id=put("instance_actions", rows["action"]))
    if not volume_backed:
        kind = None if volumes else "disk"  # nova's API says it only where the owner named no mappings
        put("block_device_mapping", rows["image_mapping"], uuid=cloud.new_id("mapping"), device_type=kind)
    _boot_volumes(cloud, server, host, name, ["root"] * volume_backed + [f"data{each}" for each in range(volumes)])
    vifs = [_plug(cloud, server, host, name, number) for number in range(ports)]
    put("instance_info_caches", {"instance_uuid": server, "network_info": vifs, "updated_at": "now"})
    where = {"id": None, "cell_id": CELLS.index(cell) + 2}
    cloud.insert("api", "instance_mappings", _dated(cloud, "instance_mappings", rows["instance_mapping"] | where))
    spec = rows["request_spec"]
    spec["nova_object.data"] |= {"flavor": chosen, "is_bfv": volume_backed}
    spec["nova_object.data"] |= {"image": rows["volume_image"]} if volume_backed else {}
    cloud.insert("api", "request_specs", {"instance_uuid": server, "spec": json.dumps(spec)})
    disk = {} if volume_backed else {"DISK_GB": data["root_gb"] + data["ephemeral_gb"]}
    resources = {"VCPU": data["vcpus"], "MEMORY_MB": data["memory_mb"], **disk}
    held = {"allocations": {services.provider_of(host): {"resources": resources}}, "consumer_generation": None}
    services.put_allocations(cloud, {server: held | {"project_id": PROJECT, "user_id": USER}})
    if not volume_backed:
        disks.boot(cloud, host, server, IMAGE, ephemeral=bool(data["ephemeral_gb"]))
    guests.start_guest(hosts.unasked(cloud, host, server), running=True)
    cloud.world.usage[host][server] = 1
    if not active:
        stop(cloud, server)
    return server


def _boot_volumes(cloud: Cloud, server: str, host: str, name: str, tags: list[str]) -> None:
    """Create and attach the volumes of a new server; the one with the tag ``root`` has its system."""
    devices = iter("abcdefgh" if "root" in tags else "bcdefgh")
    for tag in tags:
        is_root = tag == "root"
        volume = make_volume(cloud, f"{name}-{tag}")
        _attach(cloud, server, host, volume, 0 if is_root else -1, f"/dev/sd{next(devices)}", None if is_root else tag)


def make_volume(cloud: Cloud, name: str) -> str:
    """An available volume of 1 GiB."""
    volume = cloud.new_id("volume")
    cloud.world.volumes[volume] = {"id": volume, "name": name, "size": 1, "bootable": name.endswith("-root")}
    return volume


def _attach(
    cloud: Cloud, server: str, host: str, volume: str, boot_index: int, device: str, tag: str | None = None
) -> None:
    attachment = services.create_attachment(cloud, volume, server)["id"]
    services.connect_attachment(cloud, attachment, host, device)
    services.complete_attachment(cloud, attachment)
    row = filled("volume_mapping", server=server, volume=volume)
    row |= {"id": None, "uuid": cloud.new_id("mapping"), "attachment_id": attachment, "device_name": device}
    row |= {"boot_index": boot_index, "tag": tag}
    cell = _cell_of_server(cloud, server)
    cloud.insert(cell, "block_device_mapping", _dated(cloud, "block_device_mapping", row))


def _cell_of_server(cloud: Cloud, server: str) -> str:
    """Where the server is for its owner: by its mapping, or (while it is made) by its row."""
    mapping = cloud.row("api", "instance_mappings", instance_uuid=server)
    if mapping is not None:
        return CELLS[mapping["cell_id"] - 2]
    return next(cell for cell in CELLS if cloud.row(cell, "instances", uuid=server))


def _plug(cloud: Cloud, server: str, host: str, name: str, number: int) -> Record:
    port, count = cloud.new_id("port"), len(cloud.world.ports) + 1
    mac, address = f"fa:16:3e:00:{count // 256:02x}:{count % 256:02x}", f"10.90.{count // 250}.{count % 250 + 1}"
    words = {
        "server": server,
        "project": PROJECT,
        "port": port,
        "mac": mac,
        "address": address,
        "tap": f"tap{port[:11]}",
    }
    vif: Record = filled("vif", **words)
    cloud.world.ports[port] = {
        "id": port,
        "name": f"{name}-port{number}",
        "device_id": server,
        "device_owner": "compute:nova",
        "mac_address": mac,
        "network_id": vif["network"]["id"],
        "project_id": PROJECT,
        "ip": address,
        "bindings": {host: {"status": "ACTIVE", "vif_type": "ovs", "vnic_type": "normal", "profile": {}}},
    }
    row = filled("virtual_interface", **words) | {"id": None, "tag": f"nic{number}"}
    cloud.insert(cell_of(host), "virtual_interfaces", _dated(cloud, "virtual_interfaces", row))
    return vif


# what an owner does


def _instance(cloud: Cloud, server: str) -> tuple[str, Record]:
    mapping = cloud.row("api", "instance_mappings", instance_uuid=server)
    cell = _cell_of_server(cloud, server) if mapping and not mapping["queued_for_delete"] else ""
    row = cloud.row(cell, "instances", uuid=server, deleted=0) if cell else None
    if row is None or row["hidden"]:
        raise Refusal(404, f"Instance {server} could not be found.")
    return cell, row


def _note(cloud: Cloud, cell: str, row: Record, action: str, event: str) -> None:
    """What nova writes down of an owner's act; without an event when no host has a part in it."""
    words = {"server": row["uuid"], "user": USER, "project": PROJECT, "host": row["host"]}
    act = filled("action", **words) | {"id": None, "action": action, "request_id": f"req-{cloud.new_id('request')}"}
    number = cloud.insert(cell, "instance_actions", _dated(cloud, "instance_actions", act))
    if not event:
        return
    done = filled("event", **words) | {"id": None, "action_id": number, "event": event}
    cloud.insert(cell, "instance_actions_events", _dated(cloud, "instance_actions_events", done))


def rename(cloud: Cloud, server: str, name: str) -> None:
    """Possible in every state."""
    cell, row = _instance(cloud, server)
    cloud.update(cell, "instances", {"display_name": name}, id=row["id"])


def lock(cloud: Cloud, server: str) -> None:
    """Possible in every state."""
    cell, row = _instance(cloud, server)
    _note(cloud, cell, row, "lock", "")
    cloud.update(cell, "instances", {"locked": 1, "locked_by": "owner"}, id=row["id"])


def hard_reboot(cloud: Cloud, server: str) -> None:
    """Only without a task, and not while resized: 409."""
    cell, row = _instance(cloud, server)
    if row["task_state"] is not None or row["vm_state"] not in ("active", "stopped", "error"):
        raise Refusal(409, f"Cannot 'reboot' instance {server} while it is in task_state {row['task_state']}")
    if row["host"] in cloud.world.down:
        cloud.update(cell, "instances", {"task_state": "rebooting_hard"}, id=row["id"])
        return
    _note(cloud, cell, row, "reboot", "compute_reboot_instance")
    hosts.hard_reboot(cloud, row["host"], server)


def stop(cloud: Cloud, server: str) -> None:
    """Only an active server without a task: 409."""
    cell, row = _instance(cloud, server)
    if row["task_state"] is not None or row["vm_state"] not in ("active", "error"):
        raise Refusal(409, f"Cannot 'stop' instance {server} while it is in vm_state {row['vm_state']}")
    _note(cloud, cell, row, "stop", "compute_stop_instance")
    hosts.stop(cloud, row["host"], server)


def attach(cloud: Cloud, server: str, volume: str) -> None:
    """Active, stopped or resized, without a task."""
    cell, row = _instance(cloud, server)
    if row["task_state"] is not None or row["vm_state"] not in ("active", "stopped", "resized"):
        raise Refusal(409, f"Cannot 'attach_volume' instance {server} while it is in task_state {row['task_state']}")
    taken = [each["device_name"] for each in cloud.rows(cell, "block_device_mapping", instance_uuid=server)]
    device = next(name for name in (f"/dev/sd{letter}" for letter in "bcdefghijk") if name not in taken)
    _attach(cloud, server, row["host"], volume, -1, device)
    cloud.world.guests[row["host"]][server]["volumes"].append(volume)
    cloud.world.guests[row["host"]][server]["volumes"].sort()


def detach(cloud: Cloud, server: str, volume: str) -> None:
    """Active, stopped or resized, without a task; never the root disk."""
    cell, row = _instance(cloud, server)
    if row["task_state"] is not None or row["vm_state"] not in ("active", "stopped", "resized"):
        raise Refusal(409, f"Cannot 'detach_volume' instance {server} while it is in task_state {row['task_state']}")
    mapping = cloud.row(cell, "block_device_mapping", instance_uuid=server, volume_id=volume, deleted=0) or {}
    services.delete_attachment(cloud, mapping["attachment_id"], by_service=True)
    cloud.update(cell, "block_device_mapping", {"deleted": mapping["id"]}, id=mapping["id"])
    cloud.world.guests[row["host"]][server]["volumes"].remove(volume)


def delete(cloud: Cloud, server: str) -> None:
    """Possible in every state; a server that waits to be confirmed is confirmed first, as nova's API does it."""
    cell, row = _instance(cloud, server)
    host, now = row["host"], cloud.now()
    _confirm_first(cloud, cell, row)
    guest = cloud.world.guests[host].pop(server, None)
    if guest and guest["state"] == 1:
        cloud.tell("guest stopped", host=host, server=server)
    disks.destroy(cloud, host, server)
    cloud.world.usage[host].pop(server, None)
    for mapping in cloud.rows(cell, "block_device_mapping", instance_uuid=server, deleted=0):
        cloud.world.attachments.pop(mapping["attachment_id"], None)
        cloud.update(cell, "block_device_mapping", {"deleted": mapping["id"], "deleted_at": now}, id=mapping["id"])
    for port in services.ports_of(cloud, server):
        port.update(device_id="", device_owner="", bindings={})
    services.drop_allocations(cloud, server)
    ended = {"deleted": row["id"], "deleted_at": now, "vm_state": "deleted", "task_state": None}
    cloud.update(cell, "instances", ended, id=row["id"])
    for table in (
        "instance_extra",
        "instance_system_metadata",
        "instance_info_caches",
        "instance_metadata",
        "instance_faults",
        "migrations",
        "virtual_interfaces",
    ):
        for each in cloud.rows(cell, table, instance_uuid=server, deleted=0):
            cloud.update(cell, table, {"deleted": each["id"], "deleted_at": now}, id=each["id"])
    cloud.delete(cell, "tags", resource_id=server)
    cloud.update("api", "instance_mappings", {"queued_for_delete": 1}, instance_uuid=server)
    cloud.delete("api", "request_specs", instance_uuid=server)
    cloud.tell("server deleted", server=server)


def _confirm_first(cloud: Cloud, cell: str, row: Record) -> None:
    """_confirm_resize_on_deleting: nothing happens unless a migration is finished or confirming."""
    waiting = [
        each
        for each in cloud.rows(cell, "migrations", instance_uuid=row["uuid"], deleted=0)
        if each["status"] in ("finished", "confirming")
    ]
    if row["vm_state"] != "resized" or not waiting:
        return
    migration, request = waiting[0], f"req-{cloud.new_id('delete')}"
    other = cell_of(migration["source_compute"])
    if cloud.row(other, "instances", uuid=row["uuid"], deleted=0) is None:
        raise Refusal(500, "the confirm finds no instance in the source cell; the server goes to ERROR")
    action = {"action": "confirmResize", "instance_uuid": row["uuid"], "request_id": request, "deleted": 0}
    cloud.insert(other, "instance_actions", action | {"start_time": cloud.now(), "created_at": cloud.now()})
    method = "confirm_snapshot_based_resize_at_source"
    host = migration["source_compute"]
    buses.finish(
        cloud, compute.run(compute_call.Call(cloud, host, method, request, {"uuid": row["uuid"]}, migration, {}))
    )
    for table in (
        "instance_extra",
        "instance_system_metadata",
        "instance_info_caches",
        "instance_metadata",
        "instance_faults",
        "migrations",
        "virtual_interfaces",
        "block_device_mapping",
    ):
        cloud.delete(other, table, instance_uuid=row["uuid"])
    cloud.delete(other, "tags", resource_id=row["uuid"])
    cloud.delete(other, "instance_id_mappings", uuid=row["uuid"])
    for each in cloud.rows(other, "instance_actions", instance_uuid=row["uuid"]):
        cloud.delete(other, "instance_actions_events", action_id=each["id"])
    cloud.delete(other, "instance_actions", instance_uuid=row["uuid"])
    cloud.delete(other, "instances", uuid=row["uuid"])
    cloud.update(cell, "migrations", {"status": "confirmed"}, uuid=migration["uuid"])


def running_hosts(cloud: Cloud, server: str) -> list[str]:
    """The hosts on which the guest runs."""
    return [host for host, guests in cloud.world.guests.items() if guests.get(server, {}).get("state") == 1]
