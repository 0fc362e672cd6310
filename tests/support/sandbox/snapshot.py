"""A snapshot of one server of the sandbox in exactly the shape of the lab's, so that the lab's oracle judges both."""

from __future__ import annotations

from typing import Any

from cellmove.sandbox import rest_compute, services
from cellmove.sandbox.store import CELLS, HOSTS, Cloud, Record, Refusal, metadata
from lab.rows import plain
from lab.snapshot import SHOWN, fields, known_ports, known_volumes

POWER_STATES = {1: "running", 4: "shutdown"}
NAMED = {"instances": "uuid", "instance_id_mappings": "uuid", "tags": "resource_id"}


def simple(row: Record) -> Record:
    """A row as JSON can hold it, as the lab shows it."""
    return {column: plain(column, value) for column, value in row.items()}


def cell_rows(cloud: Cloud, cell: str, server_id: str) -> dict[str, list[Record]]:
    """Table -> rows about the server in one cell; tables without any are left out."""
    found = {}
    for name, table in metadata("cell").tables.items():
        column = NAMED.get(name, "instance_uuid")
        if column in table.c:
            found[name] = [simple(row) for row in cloud.rows(cell, name, **{column: server_id})]
    actions = [row["id"] for row in found["instance_actions"]]
    events = cloud.rows(cell, "instance_actions_events")
    found["instance_actions_events"] = [simple(row) for row in events if row["action_id"] in actions]
    return {table: rows for table, rows in found.items() if rows}


def api_rows(cloud: Cloud, server_id: str) -> Record:
    """What the API database knows."""
    mapping = cloud.row("api", "instance_mappings", instance_uuid=server_id)
    names = {row["id"]: row["name"] for row in cloud.rows("api", "cell_mappings")}
    spec = cloud.row("api", "request_specs", instance_uuid=server_id)
    builds = cloud.rows("api", "build_requests", instance_uuid=server_id)
    return {
        "mapping": simple(mapping) | {"cell": names.get(mapping["cell_id"])} if mapping else None,
        "request_spec": simple(spec)["spec"] if spec else None,
        "build_requests": [simple({name: row[name] for name in ("id", "created_at")}) for row in builds],
    }


def compute_nodes(cloud: Cloud) -> dict[str, Record]:
    """Host -> its compute node."""
    return {
        row["host"]: {"id": row["id"], "uuid": row["uuid"], "node": row["hypervisor_hostname"], "cell": cell}
        for cell in CELLS
        for row in cloud.rows(cell, "compute_nodes", deleted=0)
    }


def allocations(cloud: Cloud, consumer: str) -> dict[str, dict[str, int]]:
    """Provider name -> what a consumer holds there."""
    held = services.held(cloud, consumer)["allocations"]
    return {services.PROVIDERS[uuid]: dict(each["resources"]) for uuid, each in held.items()}


def port_states(cloud: Cloud, server_id: str, known: set[str]) -> dict[str, Record]:
    """Every port of the server with all of its bindings."""
    shown = ("name", "device_id", "device_owner", "mac_address", "network_id", "project_id")
    return {
        port["id"]: {
            **{name: port[name] for name in shown},
            "status": services.port_status(cloud, port),
            "admin_state_up": 1,
            "fixed_ips": [port["ip"]],
            "bindings": [
                {"host": host, **binding, "profile": plain("", str(binding["profile"] or ""))}
                for host, binding in sorted(port["bindings"].items())
            ],
        }
        for port in cloud.world.ports.values()
        if port["device_id"] == server_id or port["id"] in known
    }


def volume_states(cloud: Cloud, server_id: str, known: set[str]) -> dict[str, Record]:
    """Every volume of the server with all attachments that are left."""
    attached = {each["volume_id"] for each in cloud.world.attachments.values() if each["instance"] == server_id}
    found = {}
    for volume_id in sorted(attached | known):
        volume = cloud.world.volumes.get(volume_id)
        left = services.attachments_of_volume(cloud, volume_id)
        found[volume_id] = {"status": "gone"}
        if volume:
            found[volume_id] = {
                "name": volume["name"], "size": volume["size"], "bootable": int(volume["bootable"]),
                "status": services.volume_status(cloud, volume_id),
                "attach_status": services.volume_attach_status(cloud, volume_id),
            }  # fmt: skip
        found[volume_id]["attachments"] = [
            {
                "id": each["id"], "instance_uuid": each["instance"], "attached_host": each["host"],
                "mountpoint": each["mountpoint"], "attach_status": each["status"],
                "connected": int(each["host"] is not None),
            }
            for each in left
        ]  # fmt: skip
    return found


def image_states(cloud: Cloud, server_id: str, name: str) -> list[Record]:
    """Images made from this server."""
    shown = ("id", "name", "status", "size", "visibility")
    return [
        {column: image.get(column) for column in shown}
        for image in cloud.world.images.values()
        if image.get("instance_uuid") == server_id or image["name"] == f"{name}-resize-temp"
    ]


def guest_states(cloud: Cloud, server_id: str) -> dict[str, Record]:
    """Host -> what it knows of the guest."""
    return {
        host: {
            "power_state": POWER_STATES[guests[server_id]["state"]],
            "ports": sorted(guests[server_id]["ports"]),
            "volumes": sorted(guests[server_id]["volumes"]),
        }
        for host, guests in cloud.world.guests.items()
        if server_id in guests
    }


def disk_states(cloud: Cloud, server_id: str) -> dict[str, dict[str, str]]:
    """Host -> its files of the server, by their content."""
    return {host: dict(cloud.world.disks[host][server_id]) for host in HOSTS if server_id in cloud.world.disks[host]}


def shown_server(cloud: Cloud, server_id: str, tables: dict[str, list[Record]]) -> Record | None:
    """The server as nova's API would give it: what the sandbox's own call says, and what nova makes of the rows."""
    try:
        shown = rest_compute.find_server(cloud, server_id)
    except Refusal:
        return None
    row, flavor = tables["instances"][0], fields(tables["instance_extra"][0]["flavor"])["cur"]
    mappings = tables.get("block_device_mapping", [])
    shown |= {
        "created": row["created_at"] + "Z", "key_name": row["key_name"], "config_drive": row["config_drive"],
        "description": row["display_description"], "accessIPv4": "", "accessIPv6": "", "server_groups": [],
        "trusted_image_certificates": None, "OS-DCF:diskConfig": "AUTO" if row["auto_disk_config"] else "MANUAL",
        "metadata": {each["key"]: each["value"] for each in tables.get("instance_metadata", []) if not each["deleted"]},
        "tags": [each["tag"] for each in tables.get("tags", [])],
        "image": {"id": row["image_ref"]} if row["image_ref"] else "",
        "flavor": {
            "original_name": flavor["name"], "vcpus": flavor["vcpus"], "ram": flavor["memory_mb"],
            "disk": flavor["root_gb"], "ephemeral": flavor["ephemeral_gb"], "swap": flavor["swap"],
            "extra_specs": flavor["extra_specs"],
        },
        "addresses": addresses(tables["instance_info_caches"][0]["network_info"] or []),
        "security_groups": [{"name": "default"} for _vif in tables["instance_info_caches"][0]["network_info"] or []],
        "os-extended-volumes:volumes_attached": [
            {"id": each["volume_id"], "delete_on_termination": bool(each["delete_on_termination"])}
            for each in mappings
            if each["volume_id"] and not each["deleted"]
        ],
        "OS-EXT-SRV-ATTR:hypervisor_hostname": row["node"], "OS-EXT-AZ:availability_zone": row["availability_zone"],
        "OS-EXT-SRV-ATTR:instance_name": f"instance-{row['id']:08x}",
        **{f"OS-EXT-SRV-ATTR:{name}": row[name]
           for name in ("hostname", "root_device_name", "user_data", "reservation_id", "launch_index")},
    }  # fmt: skip
    return {name: shown[name] for name in SHOWN if name in shown}


def addresses(network_info: list[Record]) -> dict[str, list[Record]]:
    """Network name -> addresses, out of nova's cache of them."""
    found: dict[str, list[Record]] = {}
    for vif in network_info:
        for subnet in vif["network"]["subnets"]:
            found.setdefault(vif["network"]["label"], []).extend(
                {
                    "addr": ip["address"],
                    "version": 4,
                    "OS-EXT-IPS:type": "fixed",
                    "OS-EXT-IPS-MAC:mac_addr": vif["address"],
                }
                for ip in subnet["ips"]
            )
    return found


def snapshot(cloud: Cloud, server_id: str) -> dict[str, Any]:
    """Everything about one server, as a dict that JSON can hold."""
    with cloud.lock:
        cells = {"cell0": {}, **{cell: cell_rows(cloud, cell, server_id) for cell in CELLS}}
        api = api_rows(cloud, server_id)
        migrations = sorted({row["uuid"] for tables in cells.values() for row in tables.get("migrations", [])})
        held = {uuid: allocations(cloud, uuid) for uuid in migrations}
        names = [row["display_name"] for tables in cells.values() for row in tables.get("instances", [])]
        guests = guest_states(cloud, server_id)
        ports = known_ports(cells) | {port for guest in guests.values() for port in guest["ports"]}
        volumes = known_volumes(cells) | {volume for guest in guests.values() for volume in guest["volumes"]}
        return {
            "id": server_id,
            "server": shown_server(cloud, server_id, cells.get(api["mapping"]["cell"], {})) if api["mapping"] else None,
            "api": api,
            "cells": cells,
            "compute_nodes": compute_nodes(cloud),
            "allocations": {
                "server": allocations(cloud, server_id),
                "migrations": {uuid: providers for uuid, providers in held.items() if providers},
            },
            "ports": port_states(cloud, server_id, ports),
            "volumes": volume_states(cloud, server_id, volumes),
            "images": image_states(cloud, server_id, names[0] if names else ""),
            "guests": guests,
            "disks": disk_states(cloud, server_id),
        }
