"""A full snapshot of one server: every row, allocation, binding, attachment, image, guest and disk that is about it.

Read from the databases themselves (one connection, about forty statements) and from the hosts' files, so it also
shows what no API shows: soft-deleted rows, rows in the wrong cell, leftovers.
"""

import time

from lab import cloud
from lab.layout import CELLS, cell_labelled
from lab.rows import connect_database, rows

CELL_DATABASES = {"cell0": "nova_cell0", **{cell: f"nova_{cell}" for cell in CELLS}}


def references(connection, database):
    """table -> the column that names an instance by its uuid, for every table of a cell (shadow tables, too)."""
    found = rows(
        connection,
        "SELECT c.table_name AS name FROM information_schema.columns c JOIN information_schema.tables t "
        "ON t.table_schema = c.table_schema AND t.table_name = c.table_name AND t.table_type = 'BASE TABLE' "
        "WHERE c.table_schema = %s AND c.column_name = 'instance_uuid'",
        database,
    )
    tables = {row["name"]: "instance_uuid" for row in found}
    tables |= {"instances": "uuid", "instance_id_mappings": "uuid", "tags": "resource_id"}
    tables |= {f"shadow_{name}": column for name, column in list(tables.items()) if column == "uuid"}
    return tables


def cell_rows(connection, database, server_id):
    """table -> rows about the server in one cell; tables without any are left out."""
    found = {}
    for table, column in sorted(references(connection, database).items()):
        order = "resource_id, tag" if table == "tags" else "id"
        found[table] = rows(
            connection, f"SELECT * FROM {database}.{table} WHERE {column} = %s ORDER BY {order}", server_id
        )
    found["instance_actions_events"] = rows(
        connection,
        f"SELECT e.* FROM {database}.instance_actions_events e JOIN {database}.instance_actions a "
        "ON a.id = e.action_id WHERE a.instance_uuid = %s ORDER BY e.id",
        server_id,
    )
    return {table: content for table, content in found.items() if content}


def api_rows(connection, server_id):
    """What the API database knows: the cell, the request spec, an unfinished build."""
    mapping = rows(
        connection,
        "SELECT m.*, c.uuid AS cell FROM nova_api.instance_mappings m LEFT JOIN nova_api.cell_mappings c "
        "ON c.id = m.cell_id WHERE m.instance_uuid = %s",
        server_id,
    )
    for row in mapping:
        row["cell"] = cell_labelled(row["cell"]) or row["cell"]
    specs = rows(connection, "SELECT * FROM nova_api.request_specs WHERE instance_uuid = %s", server_id)
    builds = rows(connection, "SELECT id, created_at FROM nova_api.build_requests WHERE instance_uuid = %s", server_id)
    return {
        "mapping": mapping[0] if mapping else None,
        "request_spec": specs[0]["spec"] if specs else None,
        "build_requests": builds,
    }


def compute_nodes(connection):
    """host -> {cell, id, uuid, node} of every compute node."""
    found = {}
    for cell in CELLS:
        for row in rows(
            connection,
            f"SELECT id, uuid, host, hypervisor_hostname AS node FROM nova_{cell}.compute_nodes WHERE deleted = 0",
        ):
            found[row.pop("host")] = row | {"cell": cell}
    return found


def allocations(connection, consumer):
    """provider name -> {resource class: amount} of one consumer."""
    classes = (
        "SELECT p.name AS provider, r.name AS class, a.used FROM placement.allocations a "
        "JOIN placement.resource_providers p ON p.id = a.resource_provider_id "
        "JOIN placement.resource_classes r ON r.id = a.resource_class_id WHERE a.consumer_id = %s ORDER BY 1, 2"
    )
    found = {}
    for row in rows(connection, classes, consumer):
        found.setdefault(row["provider"], {})[row["class"]] = row["used"]
    return found


def port_states(connection, server_id, known):
    """Every port of the server, by neutron or by anybody else's records, with all of its bindings."""
    marks = ", ".join(["%s"] * (len(known) + 1))
    found = {}
    for port in rows(
        connection,
        "SELECT id, name, status, device_id, device_owner, mac_address, network_id, admin_state_up, project_id "
        f"FROM neutron.ports WHERE device_id = %s OR id IN ({marks})",
        server_id,
        "",
        *sorted(known),
    ):
        port["fixed_ips"] = [
            row["ip_address"]
            for row in rows(
                connection, "SELECT ip_address FROM neutron.ipallocations WHERE port_id = %s ORDER BY 1", port["id"]
            )
        ]
        port["bindings"] = rows(
            connection,
            "SELECT host, status, vif_type, vnic_type, profile FROM neutron.ml2_port_bindings WHERE port_id = %s "
            "ORDER BY host",
            port["id"],
        )
        found[port.pop("id")] = port
    return found


def volume_states(connection, server_id, known):
    """Every volume of the server, by cinder or by nova's records, with all attachments that are left."""
    attached = rows(
        connection,
        "SELECT DISTINCT volume_id FROM cinder.volume_attachment WHERE instance_uuid = %s AND deleted = 0",
        server_id,
    )
    found = {}
    for volume_id in sorted({row["volume_id"] for row in attached} | set(known)):
        volume = rows(
            connection,
            "SELECT display_name AS name, status, attach_status, size, bootable FROM cinder.volumes "
            "WHERE id = %s AND deleted = 0",
            volume_id,
        )
        found[volume_id] = (volume[0] if volume else {"status": "gone"}) | {
            "attachments": rows(
                connection,
                "SELECT id, instance_uuid, attached_host, mountpoint, attach_status, "
                "connector IS NOT NULL AS connected FROM cinder.volume_attachment "
                "WHERE volume_id = %s AND deleted = 0 ORDER BY created_at, id",
                volume_id,
            )
        }
    return found


def image_states(connection, server_id, name):
    """Images made from this server: its own snapshots, and the temporary ones that carry a disk between cells."""
    return rows(
        connection,
        "SELECT DISTINCT i.id, i.name, i.status, i.size, i.visibility FROM glance.images i "
        "LEFT JOIN glance.image_properties p ON p.image_id = i.id AND p.deleted = 0 AND p.name = 'instance_uuid' "
        "WHERE i.deleted = 0 AND (p.value = %s OR i.name = %s) ORDER BY i.id",
        server_id,
        f"{name}-resize-temp",
    )


def guest_states(server_id):
    """host -> what that host's driver knows of the guest."""
    found = {}
    for host in cloud.layout().hosts:
        record = cloud.guest(host, server_id)
        if record:
            found[host] = {
                "power_state": cloud.POWER_STATES[record["state"]],
                "ports": record["ports"],
                "volumes": sorted(record["volumes"]),
            }
    return found


def known_ports(cells):
    """The ports that nova's records name: interfaces and network caches of all cells."""
    found = set()
    for tables in cells.values():
        found |= {row["uuid"] for row in tables.get("virtual_interfaces", []) if not row["deleted"]}
        for cache in tables.get("instance_info_caches", []):
            if not cache["deleted"]:
                found |= {vif["id"] for vif in cache["network_info"] or []}
    return {port for port in found if port}


def known_volumes(cells):
    """The volumes that nova's records name."""
    return {
        row["volume_id"]
        for tables in cells.values()
        for row in tables.get("block_device_mapping", [])
        if row["volume_id"] and not row["deleted"]
    }


# What `openstack server show` tells that is not in the rows already, or that a user would miss first.
SHOWN = (
    "id", "name", "status", "user_id", "tenant_id", "created", "key_name", "metadata", "tags", "image", "flavor",
    "addresses", "config_drive", "description", "locked", "trusted_image_certificates", "server_groups",
    "accessIPv4", "accessIPv6", "security_groups", "os-extended-volumes:volumes_attached", "OS-EXT-STS:task_state",
    "OS-EXT-STS:vm_state", "OS-EXT-STS:power_state", "OS-EXT-SRV-ATTR:host", "OS-EXT-SRV-ATTR:hypervisor_hostname",
    "OS-EXT-SRV-ATTR:instance_name", "OS-EXT-SRV-ATTR:hostname", "OS-EXT-SRV-ATTR:root_device_name",
    "OS-EXT-SRV-ATTR:user_data", "OS-EXT-SRV-ATTR:reservation_id", "OS-EXT-SRV-ATTR:launch_index", "OS-DCF:diskConfig",
    "OS-EXT-AZ:availability_zone", "fault",
)  # fmt: skip


SETTLES_WITHIN = 30.0
"""Seconds that neutron's agent has for telling that a port is up; nova does not wait for it everywhere."""


def snapshot(server_id):
    """Everything about one server, as a dict that JSON can hold, once neutron has heard of its guest's start."""
    began = time.monotonic()
    while True:
        shot = look(server_id)
        if not ports_settle(shot) or time.monotonic() - began > SETTLES_WITHIN:
            return without_news(shot)
        time.sleep(0.25)


def ports_settle(shot):
    """Whether a port of a running guest, bound where the guest runs, is still on its way up."""
    running = {host for host, guest in shot["guests"].items() if guest["power_state"] == "running"}
    return any(
        port["status"] == "DOWN" and binding["status"] == "ACTIVE" and binding["host"] in running
        for port in shot["ports"].values()
        for binding in port["bindings"]
    )


def without_news(shot):
    """The snapshot without what neutron tells nova seconds later, or never: when its cache was told, of which port."""
    for tables in shot["cells"].values():
        for cache in tables.get("instance_info_caches", []):
            cache["updated_at"] = cache["updated_at"] and cache["created_at"]
            for vif in cache["network_info"] or []:
                vif.pop("active", None)
    return shot


def look(server_id):
    """Everything about one server at this moment."""
    connection = connect_database()
    try:
        cells = {cell: cell_rows(connection, database, server_id) for cell, database in CELL_DATABASES.items()}
        api = api_rows(connection, server_id)
        shown = cloud.show(server_id)
        migrations = sorted(
            {row["uuid"] for tables in cells.values() for row in tables.get("migrations", []) if row["uuid"]}
        )
        held = {uuid: allocations(connection, uuid) for uuid in migrations}
        names = [row["display_name"] for tables in cells.values() for row in tables.get("instances", [])]
        guests = guest_states(server_id)
        ports = known_ports(cells) | {port for guest in guests.values() for port in guest["ports"]}
        volumes = known_volumes(cells) | {volume for guest in guests.values() for volume in guest["volumes"]}
        return {
            "id": server_id,
            "server": {name: shown.get(name) for name in SHOWN if name in shown} if shown else None,
            "api": api,
            "cells": cells,
            "compute_nodes": compute_nodes(connection),
            "allocations": {
                "server": allocations(connection, server_id),
                "migrations": {uuid: providers for uuid, providers in held.items() if providers},
            },
            "ports": port_states(connection, server_id, ports),
            "volumes": volume_states(connection, server_id, volumes),
            "images": image_states(connection, server_id, names[0] if names else ""),
            "guests": guests,
            "disks": cloud.disks(server_id),
        }
    finally:
        connection.close()


def home_rows(shot, table, deleted=False):
    """The rows of one table in the cell that the mapping points at."""
    mapping = shot["api"]["mapping"] or {}
    found = shot["cells"].get(mapping.get("cell") or "", {}).get(table, [])
    return [row for row in found if deleted or not row.get("deleted")]


def fields(primitive):
    """The data of a versioned object (or a list of them) that was stored as JSON, without its envelope."""
    if isinstance(primitive, dict):
        if "nova_object.data" in primitive:
            return {name: fields(value) for name, value in primitive["nova_object.data"].items()}
        return {name: fields(value) for name, value in primitive.items()}
    if isinstance(primitive, list):
        return [fields(value) for value in primitive]
    return primitive
