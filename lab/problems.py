"""What is wrong with one server, by its snapshot: leftovers, contradictions, things that are not where they should be."""

from lab.layout import cell_of
from lab.snapshot import fields, home_rows

VM_STATES = {"ACTIVE": "active", "SHUTOFF": "stopped", "VERIFY_RESIZE": "resized", "ERROR": "error"}
POWER = {1: "running", 4: "shutdown"}


def cell_problems(shot, cell, settled):
    """The mapping, and the rows in every cell."""
    mapping = shot["api"]["mapping"]
    if mapping is None:
        yield "no instance mapping"
        return
    if mapping["cell"] != cell:
        yield f"the mapping points at {mapping['cell']}, not at {cell}"
    if mapping["queued_for_delete"]:
        yield "the mapping is queued for delete"
    if shot["api"]["build_requests"]:
        yield "a build request is left"
    visible = []
    for name, tables in shot["cells"].items():
        rows = tables.get("instances", [])
        visible += [name for row in rows if not row["deleted"] and not row["hidden"]]
        if name == cell:
            yield from (f"{name}: the instance row is soft-deleted" for row in rows if row["deleted"])
            yield from shadow_problems(name, tables)
        elif settled:
            for table, left in sorted(tables.items()):
                dead = sum(1 for row in left if row.get("deleted"))
                yield f"{name}: {len(left)} rows left in {table}" + (f" ({dead} soft-deleted)" if dead else "")
        else:
            yield from hidden_problems(name, tables)
    if visible != [cell]:
        yield f"visible in {visible or 'no cell'}, not just in {cell}"


def shadow_problems(name, tables):
    """Nothing of a living server belongs into the archive."""
    for table, left in sorted(tables.items()):
        if table.startswith("shadow_"):
            yield f"{name}: {len(left)} rows in {table}"


def hidden_problems(name, tables):
    """The cell on the other side of an unconfirmed move: one hidden instance, or nothing."""
    rows = tables.get("instances", [])
    if len(rows) > 1 or any(row["deleted"] or not row["hidden"] for row in rows):
        states = [(row["hidden"], row["deleted"]) for row in rows]
        yield f"{name}: instance rows with (hidden, deleted) {states} instead of one hidden row"
    if not rows:
        yield from (f"{name}: {len(left)} rows in {table} without an instance" for table, left in tables.items())


def instance_problems(shot, host, flavor, status, settled):
    """The instance's own row and what hangs on it."""
    rows = home_rows(shot, "instances")
    if len(rows) != 1:
        yield f"{len(rows)} instance rows in its cell"
        return
    row = rows[0]
    node = shot["compute_nodes"].get(host)
    if (row["host"], row["node"], row["compute_id"]) != (host, node["node"], node["id"]):
        yield (
            f"host, node, compute_id are {row['host']}, {row['node']}, {row['compute_id']}; "
            f"{host} is {node['node']}, {node['id']}"
        )
    if row["hidden"]:
        yield "the instance in the mapping's cell is hidden"
    if row["vm_state"] != VM_STATES[status]:
        yield f"vm_state is {row['vm_state']}, not {VM_STATES[status]}"
    if row["task_state"]:
        yield f"task_state is {row['task_state']}"
    wanted_power = {"ACTIVE": "running", "SHUTOFF": "shutdown"}.get(status)
    if wanted_power and POWER.get(row["power_state"]) != wanted_power:
        yield f"power_state is {row['power_state']}, not {wanted_power}"
    keys = [entry["key"] for entry in home_rows(shot, "instance_system_metadata")]
    if settled and "old_vm_state" in keys:
        yield "system_metadata still has old_vm_state"
    if not settled and status == "VERIFY_RESIZE" and "old_vm_state" not in keys:
        yield "system_metadata has no old_vm_state"
    for key in {key for key in keys if keys.count(key) > 1}:
        yield f"system_metadata has {key} more than once"
    yield from flavor_problems(shot, row, flavor, settled)
    if shot["server"] is None:
        yield "the API does not show the server"
    elif shot["server"]["status"] != status:
        yield f"the API shows {shot['server']['status']}, not {status}"


def flavor_problems(shot, row, flavor, settled):
    """The flavor in the instance, in its extra row, and in the request spec."""
    extra = home_rows(shot, "instance_extra")
    if len(extra) != 1:
        yield f"{len(extra)} instance_extra rows"
        return
    stored = fields(extra[0]["flavor"])
    current = stored["cur"]
    if current["name"] != flavor:
        yield f"the instance's flavor is {current['name']}, not {flavor}"
    for column, attribute in (("vcpus", "vcpus"), ("memory_mb", "memory_mb"), ("root_gb", "root_gb"),
                              ("ephemeral_gb", "ephemeral_gb"), ("instance_type_id", "id")):  # fmt: skip
        if row[column] != current[attribute]:
            yield f"{column} is {row[column]}, its flavor says {current[attribute]}"
    if settled:
        yield from (f"instance_extra.flavor still has '{name}'" for name in ("old", "new") if stored.get(name))
        if extra[0].get("migration_context"):
            yield "instance_extra still has a migration_context"
    spec = shot["api"]["request_spec"]
    if spec is None:
        yield "no request spec"
    else:
        name = (fields(spec).get("flavor") or {}).get("name")
        if name != flavor:
            yield f"the request spec's flavor is {name}, not {flavor}"


def migration_problems(shot, settled):
    """No migration of a settled server is under way, nor has one that was finished been forgotten."""
    final = {"confirmed", "reverted", "error", "failed", "cancelled", "completed", "done"}
    for row in home_rows(shot, "migrations"):
        if settled and row["status"] not in final:
            yield f"migration {row['id']} is still {row['status']}"
    if not settled:
        count = sum(1 for row in home_rows(shot, "migrations") if row["status"] == "finished")
        if count != 1:
            yield f"{count} migrations are 'finished', not one"


def allocation_problems(shot, host, settled):
    """Placement: the server holds resources of its host only; a migration those of the other side, while unsettled."""
    held = shot["allocations"]["server"]
    if sorted(held) != [host]:
        yield f"allocations on {sorted(held) or 'nothing'}, not just on {host}"
    extra = home_rows(shot, "instance_extra")
    if host in held and extra:
        flavor = fields(extra[0]["flavor"])["cur"]
        wanted = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["memory_mb"]}
        root = flavor["root_gb"] if image_backed(shot) else 0
        disk = root + flavor["ephemeral_gb"] + -(-flavor["swap"] // 1024)
        wanted |= {"DISK_GB": disk} if disk else {}
        if held[host] != wanted:
            yield f"allocated on {host}: {held[host]}, the flavor says {wanted}"
    moving = shot["allocations"]["migrations"]
    if settled:
        yield from (f"migration {uuid} still holds {list(providers)}" for uuid, providers in moving.items())
    elif len(moving) != 1 or len(next(iter(moving.values()))) != 1 or host in next(iter(moving.values())):
        yield f"allocations of migrations are {moving}, not those of the other side"


def image_backed(shot):
    """Whether the root disk is a local one."""
    rows = home_rows(shot, "instances")
    return bool(rows and rows[0]["image_ref"])


def port_problems(shot, host, running, settled):
    """Neutron: every port bound once, to the host, and up when the guest runs; nova's own idea of the ports."""
    for port_id, port in shot["ports"].items():
        label = f"port {port['name'] or port_id}"
        if port["device_id"] != shot["id"]:
            yield f"{label} belongs to {port['device_id'] or 'nobody'}"
        bindings = {binding["host"]: binding["status"] for binding in port["bindings"]}
        if bindings.get(host) != "ACTIVE" or list(bindings.values()).count("ACTIVE") != 1:
            yield f"{label} has bindings {bindings}, not ACTIVE on {host}"
        elif settled and len(bindings) != 1:
            yield f"{label} still has bindings {bindings}"
        elif not settled and sorted(bindings.values()) != ["ACTIVE", "INACTIVE"]:
            yield f"{label} has bindings {bindings}, not one on either side"
        for binding in port["bindings"]:
            if binding["status"] == "ACTIVE" and binding["vif_type"] != "ovs":
                yield f"{label} is bound to {binding['host']} as {binding['vif_type']}"
        if running is not None and port["status"] != ("ACTIVE" if running else "DOWN"):
            yield f"{label} is {port['status']} while the guest is {'running' if running else 'stopped'}"
    ports = sorted(shot["ports"])
    interfaces = sorted(row["uuid"] for row in home_rows(shot, "virtual_interfaces"))
    if interfaces != ports:
        yield f"virtual interfaces {interfaces}, ports {ports}"
    caches = home_rows(shot, "instance_info_caches")
    cached = sorted(vif["id"] for cache in caches for vif in cache["network_info"] or [])
    if len(caches) != 1 or cached != ports:
        yield f"the network cache ({len(caches)} rows) has {cached}, ports {ports}"


def volume_problems(shot, host, settled):
    """Cinder: every volume in use, attached once, by the attachment that nova knows."""
    mappings = [row for row in home_rows(shot, "block_device_mapping") if row["destination_type"] == "volume"]
    known = {row["volume_id"]: row for row in mappings}
    if len(known) != len(mappings):
        yield "a volume is mapped more than once"
    for volume_id, volume in shot["volumes"].items():
        label = f"volume {volume.get('name') or volume_id}"
        mapping = known.get(volume_id)
        if mapping is None:
            yield f"{label} is attached by cinder's records, not by nova's"
            continue
        if volume["status"] != "in-use":
            yield f"{label} is {volume['status']}"
        attached = [a for a in volume.get("attachments", []) if a["attach_status"] == "attached"]
        others = [a for a in volume.get("attachments", []) if a["attach_status"] != "attached"]
        if len(attached) != 1:
            yield f"{label} has {len(attached)} attachments that are attached"
        for attachment in attached:
            if attachment["id"] != mapping["attachment_id"]:
                yield f"{label} is attached by {attachment['id']}, nova believes by {mapping['attachment_id']}"
            if (attachment["attached_host"], attachment["instance_uuid"]) != (host, shot["id"]):
                yield f"{label} is attached to {attachment['instance_uuid']} on {attachment['attached_host']}"
        wanted = 0 if settled else 1
        if len(others) != wanted:
            states = [attachment["attach_status"] for attachment in others]
            yield f"{label} has attachments {states or 'none'} besides the attached one, not {wanted}"
        if not mapping["connection_info"]:
            yield f"{label}: nova has no connection_info"
    for volume_id in sorted(set(known) - set(shot["volumes"])):
        yield f"volume {volume_id} is unknown to cinder"


def guest_problems(shot, host, running):
    """The hypervisors: the guest on one host, with its ports and volumes, and in the right power state."""
    guests = shot["guests"]
    if sorted(guests) != [host]:
        yield f"the guest is on {sorted(guests) or 'no host'}, not just on {host}"
    guest = guests.get(host)
    if guest is None:
        return
    if running is not None and guest["power_state"] != ("running" if running else "shutdown"):
        yield f"the guest on {host} is {guest['power_state']}"
    if guest["ports"] != sorted(shot["ports"]):
        yield f"the guest is plugged into {guest['ports']}, its ports are {sorted(shot['ports'])}"
    mapped = sorted(
        row["volume_id"]
        for row in home_rows(shot, "block_device_mapping")
        if row["destination_type"] == "volume" and row["volume_id"]
    )
    if guest["volumes"] != mapped:
        yield f"the guest has volumes {guest['volumes']}, nova maps {mapped}"


def disk_problems(shot, host, settled):
    """Local disks: those that the flavor asks for, on that host, and (when settled) nowhere else."""
    disks = shot["disks"]
    extra = home_rows(shot, "instance_extra")
    flavor = fields(extra[0]["flavor"])["cur"] if extra else {}
    wanted = ["disk"] if image_backed(shot) else []
    wanted += ["disk.eph0"] if flavor.get("ephemeral_gb") else []
    wanted += ["disk.swap"] if flavor.get("swap") else []
    found = sorted(disks.get(host, {}))
    if found != wanted:
        yield f"disks on {host}: {found or 'none'}, not {wanted or 'none'}"
    if settled:
        yield from (f"disks left on {other}: {sorted(files)}" for other, files in disks.items() if other != host)


def problems(shot, *, cell=None, host, flavor, status, settled=None):
    """Everything that is not as it should be for a server on `host` with this flavor and status.

    `settled`: nothing is under way, so there must be no trace of any other place.  With settled=False (the default
    for VERIFY_RESIZE) the server was moved to `host` from another cell and waits to be confirmed or reverted: then the
    other side must hold exactly what is needed to go back.
    """
    cell = cell or cell_of(host)
    settled = status != "VERIFY_RESIZE" if settled is None else settled
    running = {"ACTIVE": True, "SHUTOFF": False}.get(status)
    if status == "VERIFY_RESIZE":
        old = [r["value"] for r in home_rows(shot, "instance_system_metadata") if r["key"] == "old_vm_state"]
        running = old == ["active"] if old else None
    found = [
        *cell_problems(shot, cell, settled),
        *instance_problems(shot, host, flavor, status, settled),
        *migration_problems(shot, settled),
        *allocation_problems(shot, host, settled),
        *port_problems(shot, host, running, settled),
        *volume_problems(shot, host, settled),
        *guest_problems(shot, host, running),
        *disk_problems(shot, host, settled),
    ]
    images = [image for image in shot["images"] if image["name"].endswith("-resize-temp")]
    found += [f"image {image['name']} ({image['status']}) is left" for image in images]
    return found
