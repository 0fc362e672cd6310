"""What has changed about one server between two snapshots, apart from what may change."""

import json

from lab.snapshot import fields, home_rows

# Columns that nova changes whenever it touches a row, or that only number it.
ALWAYS = {"id", "created_at", "updated_at", "deleted_at"}
# Columns of a move that went and came back, or arrived: where the server is, and when it was last started.
TRAVEL = {
    "instances": {"launched_at", "terminated_at", "progress"},
    "block_device_mapping": {"attachment_id", "connection_info"},
    "instance_actions_events": {"action_id"},
}
PLACES = {"instances": {"host", "node", "compute_id", "launched_on", "availability_zone"}}
RESIZED = {"instances": {"instance_type_id", "vcpus", "memory_mb", "root_gb", "ephemeral_gb"}}

# Tables that only ever grow: every row of before must still be there, there may be more.
HISTORY = ("instance_actions", "instance_actions_events", "migrations", "instance_faults")
HISTORY_IGNORED = {
    "instance_actions": {"message"},
    # The newest migration and its actions go on after a snapshot was taken in the middle of a move.
    "migrations": {"status", "migration_type", "hidden"},
}
# Columns that count rows of one cell: what they say of an earlier move means nothing in another cell.
CELL_NUMBERS = {"migrations": {"dest_compute_id"}}
CONTENT = (
    "instances", "instance_extra", "instance_info_caches", "instance_metadata", "instance_system_metadata",
    "block_device_mapping", "tags", "virtual_interfaces", "pci_devices", "instance_id_mappings", "share_mapping",
)  # fmt: skip

# Tables with more than one row for a server, and the column that tells the rows apart.
NAMED_BY = {
    "instance_metadata": "key", "instance_system_metadata": "key", "block_device_mapping": "uuid", "tags": "tag",
    "virtual_interfaces": "uuid", "pci_devices": "address", "share_mapping": "uuid",
}  # fmt: skip

# What the scheduler and nova's own move write into a request spec; none of it is the user's.
SPEC_IGNORED = {
    "id", "requested_destination", "retry", "limits", "ignore_hosts", "force_hosts", "force_nodes",
    "requested_resources", "network_metadata", "requested_networks", "request_level_params", "availability_zone_set",
    "instance_uuid", "numa_topology_set",
}  # fmt: skip
# Parts of a cached interface that differ from host to host.
VIF_IGNORED = {"profile", "active", "details", "preserve_on_delete", "vnic_type", "delegate_create", "devname"}

SERVER_PLACES = {"OS-EXT-SRV-ATTR:host", "OS-EXT-SRV-ATTR:hypervisor_hostname", "OS-EXT-AZ:availability_zone",
                 "OS-EXT-SRV-ATTR:instance_name"}  # fmt: skip
SYSTEM_METADATA_IGNORED = {"old_vm_state"}


def normal(value):
    """The same content in the same form: nested objects without envelopes, JSON text parsed, dicts in order."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, (dict, list)):
        return json.dumps(fields(value), sort_keys=True)
    return value


def kept(row, ignored):
    """A row without the ignored columns, comparable."""
    return {column: normal(value) for column, value in row.items() if column not in ignored}


def key_of(row):
    """Something to sort rows by."""
    return json.dumps(row, sort_keys=True, default=str)


def differences(label, before, after):
    """Two dicts, column by column."""
    for column in sorted({*before, *after}):
        if before.get(column) != after.get(column):
            yield f"{label}.{column}: {shorten(before.get(column))} -> {shorten(after.get(column))}"


def shorten(value, limit=160):
    """A value for a message."""
    text = str(value)
    return text if len(text) <= limit else text[:limit] + "..."


def row_differences(table, before, after):
    """Two lists of rows: what is missing, what is new; rows of the same name are shown column by column."""
    missing, new = list(before), list(after)
    for row in after:
        if row in missing:
            missing.remove(row)
            new.remove(row)
    name = NAMED_BY.get(table)
    for row in list(missing):
        twins = [other for other in new if name is None or other[name] == row[name]]
        if len(twins) == 1:
            missing.remove(row)
            new.remove(twins[0])
            yield from differences(f"{table} {row[name]}" if name else table, row, twins[0])
    yield from (f"{table}: missing {shorten(key_of(row), 300)}" for row in missing)
    yield from (f"{table}: new {shorten(key_of(row), 300)}" for row in new)


def table_rows(shot, table, ignored):
    """The living rows of one table at home, comparable."""
    found = []
    for row in home_rows(shot, table):
        if table == "instance_system_metadata" and row["key"] in SYSTEM_METADATA_IGNORED:
            continue
        if table == "instance_info_caches":
            row = row | {"network_info": vifs(row["network_info"])}
        if table == "instance_extra":
            row = row | {"flavor": fields(row["flavor"])}
        found.append(kept(row, ignored))
    return sorted(found, key=key_of)


def vifs(network_info):
    """A cached network_info by port, without what the host decides."""
    return {
        vif["id"]: {name: value for name, value in vif.items() if name not in VIF_IGNORED} for vif in network_info or []
    }


def content_differences(before, after, moved, resized):
    """Tables whose rows must be the same, however often the server went to and fro."""
    for table in CONTENT:
        ignored = ALWAYS | TRAVEL.get(table, set())
        ignored |= PLACES.get(table, set()) if moved else set()
        ignored |= RESIZED.get(table, set()) if resized else set()
        if table == "instance_extra" and resized:
            ignored |= {"flavor"}
        yield from row_differences(table, table_rows(before, table, ignored), table_rows(after, table, ignored))


def history_differences(before, after, moved):
    """Tables that only grow."""
    for table in HISTORY:
        ignored = ALWAYS | TRAVEL.get(table, set()) | HISTORY_IGNORED.get(table, set())
        ignored |= CELL_NUMBERS.get(table, set()) if moved else set()
        have = [key_of(kept(row, ignored)) for row in home_rows(after, table, deleted=True)]
        for row in home_rows(before, table, deleted=True):
            key = key_of(kept(row, ignored))
            if key in have:
                have.remove(key)
            else:
                yield f"{table}: lost {shorten(key, 300)}"


def spec_differences(before, after, resized):
    """The request spec: what the user asked for."""
    ignored = SPEC_IGNORED | ({"flavor"} if resized else set())

    def asked(shot):
        spec = fields(shot["api"]["request_spec"]) or {}
        for part in ("pci_requests", "numa_topology"):  # nova's own resize fills in whose they are
            if isinstance(spec.get(part), dict):
                spec[part] = {name: value for name, value in spec[part].items() if name != "instance_uuid"}
        return {name: normal(value) for name, value in spec.items() if name not in ignored and value not in (None, [])}

    yield from differences("request_spec", asked(before), asked(after))


def port_differences(before, after, moved):
    """Ports: the same, with the same addresses; bound alike unless moved."""
    yield from differences("ports", dict.fromkeys(before["ports"], "there"), dict.fromkeys(after["ports"], "there"))
    for port_id in sorted(before["ports"].keys() & after["ports"].keys()):
        old, new = dict(before["ports"][port_id]), dict(after["ports"][port_id])
        if moved:
            for port in (old, new):
                port["bindings"] = [{**binding, "host": "*"} for binding in port["bindings"]]
        yield from differences(f"port {old['name'] or port_id}", old, new)


def volume_differences(before, after, moved):
    """Volumes: the same, attached alike (attachments are made anew by every move)."""

    def seen(shot):
        ignored = {"id", "attached_host"} if moved else {"id"}
        return {
            volume_id: normal({**volume, "attachments": [kept(row, ignored) for row in volume.get("attachments", [])]})
            for volume_id, volume in shot["volumes"].items()
        }

    yield from differences("volumes", seen(before), seen(after))


def guest_differences(before, after, moved):
    """Guests and disks: the same content; on the same hosts unless moved."""

    def seen(by_host):
        return sorted(normal(value) for value in by_host.values()) if moved else normal(by_host)

    if seen(before["guests"]) != seen(after["guests"]):
        yield f"guests: {before['guests']} -> {after['guests']}"
    old, new = before["disks"], after["disks"]
    if moved:
        old, new = {"*": merged(old)}, {"*": merged(new)}
    for host in sorted({*old, *new}):
        yield from differences(f"disks on {host}", old.get(host, {}), new.get(host, {}))


def merged(disks):
    """All files of all hosts."""
    return {name: digest for files in disks.values() for name, digest in files.items()}


def server_differences(before, after, moved, resized):
    """What the API shows."""
    ignored = (SERVER_PLACES if moved else set()) | ({"flavor"} if resized else set())

    def seen(shot):
        shown = {name: normal(value) for name, value in (shot["server"] or {}).items() if name not in ignored}
        return shown | {"tags": sorted((shot["server"] or {}).get("tags") or [])}

    yield from differences("server", seen(before), seen(after))


def cell_differences(before, after, moved):
    """The mapping, and rows in cells where the server is not at home."""
    old, new = before["api"]["mapping"] or {}, after["api"]["mapping"] or {}
    ignored = ALWAYS | ({"cell", "cell_id"} if moved else set())
    yield from differences("mapping", kept(old, ignored), kept(new, ignored))
    for cell, tables in after["cells"].items():
        if cell == new.get("cell"):
            continue
        there = {} if moved else before["cells"].get(cell, {})
        for table, rows in sorted(tables.items()):
            if len(rows) != len(there.get(table, [])):
                yield f"{cell}.{table}: {len(there.get(table, []))} rows -> {len(rows)}"


def compare(before, after, *, moved=False, resized=False):
    """Everything that has changed and may not have.

    Without `moved`: after a revert or a rollback, where all must be as before, apart from new history.
    With `moved`: after a confirmed move, where the server is elsewhere but nothing of it may be lost; `resized` too
    when it has got another flavor.  Where a server may be is not judged here but by `problems`.
    """
    found = [
        *cell_differences(before, after, moved),
        *content_differences(before, after, moved, resized),
        *history_differences(before, after, moved),
        *spec_differences(before, after, resized),
        *port_differences(before, after, moved),
        *volume_differences(before, after, moved),
        *guest_differences(before, after, moved),
        *server_differences(before, after, moved, resized),
    ]
    if not moved and not resized:
        found += differences("allocations", before["allocations"]["server"], after["allocations"]["server"])
    if after["allocations"]["migrations"] != before["allocations"]["migrations"]:
        found.append(f"allocations of migrations: {after['allocations']['migrations']}")
    if before["images"] != after["images"]:
        found.append(f"images: {before['images']} -> {after['images']}")
    return found
