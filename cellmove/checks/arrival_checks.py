"""Compare a server that has been moved with its records in the source cell.

Until a move is confirmed or reverted, nova keeps the server's hidden rows in the source cell unchanged since the guest was
stopped. All columns of all tables are compared. :data:`OTHERWISE` lists the columns that legitimately differ, or that are
compared in another way, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cellmove.checks.arrival import Arrival
from cellmove.checks.result import CheckResult, CheckResults, Level, refusal, warning
from cellmove.checks.root_disk import check_disk, disk_words
from cellmove.db.shapes import object_fields, parse_json
from cellmove.db.types import Record

if TYPE_CHECKING:
    pass

RUNNING, SHUT_DOWN = 1, 4  # nova/compute/power_state.py
UNBOUND = ("unbound", "binding_failed")

IDENTITY: Mapping[str, tuple[str, ...]] = {
    "instances": (),
    "instance_extra": (),
    "instance_metadata": ("key",),
    "instance_system_metadata": ("key",),
    "tags": ("tag",),
    "block_device_mapping": ("uuid",),
    "virtual_interfaces": ("uuid",),
    "instance_actions": ("request_id", "action"),
    "instance_id_mappings": (),
}
"""The tables whose rows are compared, and by which columns a row is found again in the other cell."""

ROW = ("id", "created_at", "updated_at", "deleted", "deleted_at")
"""Every table has them; they belong to the row, not to the server."""

OTHERWISE: Mapping[str, Mapping[str, str]] = {
    "instances": {
        **dict.fromkeys(("host", "node", "compute_id", "launched_on", "availability_zone"), "where it is now"),
        **dict.fromkeys(("vm_state", "task_state", "power_state", "progress", "launched_at"), "how the guest is"),
        "hidden": "the source's row is, the target's is not",
        **dict.fromkeys(("instance_type_id", "memory_mb", "vcpus", "root_gb", "ephemeral_gb"), "the flavor"),
        "display_name": "the owner's",
        "display_description": "the owner's",
        "hostname": "the owner's",
        "locked": "the owner's",
        "locked_by": "the owner's",
    },
    "instance_extra": {
        "flavor": "compared as a flavor",
        "migration_context": "each cell's own, until the move is confirmed",
        "numa_topology": "fitted to the new host; that there is one is compared",
        "device_metadata": "made by the new host; that there is some is compared",
        "vcpu_model": "the new host's",
        "vpmems": "the new host's",
        "resources": "the new host's",
    },
    "instance_system_metadata": {},
    "block_device_mapping": {
        **dict.fromkeys(("attachment_id", "connection_info"), "each cell's own; compared with cinder"),
    },
    "instance_actions": {"finish_time": "this move's own is ended here", "message": "this move's own"},
    "instance_id_mappings": {},
}
"""Columns that are not compared as they are, and why."""

THERE = ("numa_topology", "device_metadata")
OWNERS = {"display_name": "name", "display_description": "description", "hostname": "hostname", "locked": "lock"}
MOVES_OWN = ("old_vm_state",)
"""System metadata that the move itself wrote; ours (``cellmove*``) besides."""


def examine(arrival: Arrival) -> tuple[CheckResult, ...]:
    """Return each difference from the state before the move, and a line for each area without one."""
    found: list[CheckResult] = []
    for code, ok, check in (
        ("guest", _guest_words, check_guest),
        ("records", _counted, check_records),
        ("flavor", lambda it: f"its flavor is {_flavor_name(it)}", check_flavor),
        ("disk", disk_words, check_disk),
        ("network", lambda it: f"{_count(len(it.ports), 'port')} bound to {it.target_host}", check_ports),
        ("volumes", lambda it: f"{_count(len(it.volumes), 'volume')} attached to it there", check_volumes),
        ("group", lambda it: f"the server is in its server group {it.group.name}" if it.group else "", check_group),
    ):
        results = list(check(arrival))
        words = "" if any(each.level is Level.REFUSAL for each in results) else ok(arrival)
        found += [*results, *([CheckResult(code, Level.OK, words)] if words else [])]
    return tuple(found)


def _guest_words(arrival: Arrival) -> str:
    return f"the guest {'runs' if arrival.active else 'is off, as it was,'} on {arrival.target_host}"


def _flavor_name(arrival: Arrival) -> str:
    return str(_flavors(arrival.row("instance_extra"))["cur"].get("name"))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _counted(arrival: Arrival) -> str:
    rows = sum(len(arrival.before.get(table, ())) for table in IDENTITY)
    tables = sum(1 for table in IDENTITY if arrival.before.get(table))
    return f"{_count(rows, 'row')} of {_count(tables, 'table')} as they were"


def check_guest(arrival: Arrival) -> CheckResults:
    """Check mapping, state, host and power state."""
    instance = arrival.row("instances")
    if not arrival.mapped:
        yield refusal(
            "mapping",
            f"the instance mapping does not point at {arrival.target_cell}",
            "look at the move: cellmove show",
        )
    if (instance.get("vm_state"), instance.get("task_state")) != ("resized", None) or instance.get("hidden"):
        yield refusal(
            "state",
            f"the server is {instance.get('vm_state')}, with task {instance.get('task_state') or 'none'}",
            "the server has to be in VERIFY_RESIZE: openstack server show",
        )
    if instance.get("host") != arrival.target_host:
        yield refusal(
            "host",
            f"the server is on {instance.get('host')}, not on {arrival.target_host}",
            "find out who moved the server",
        )
    wanted = RUNNING if arrival.active else SHUT_DOWN
    if instance.get("power_state") != wanted:
        yield refusal(
            "power",
            f"the guest {'ran' if arrival.active else 'was off'} before, and its power state is "
            f"{instance.get('power_state')} now",
            "look at its console and at nova-compute's log; revert brings the old guest back",
        )


def check_records(arrival: Arrival) -> CheckResults:
    """Compare every column of every row that has to be the same in both cells."""
    for table, identity in IDENTITY.items():
        old, new = (_by_key(rows.get(table, []), identity) for rows in (arrival.before, arrival.after))
        for key, row in old.items():
            if table == "instance_system_metadata" and _is_moves_own(key):
                continue
            named = f"{table} {' '.join(str(part) for part in key)}".strip()
            if key in new:
                yield from _compare_row(table, named, row, new[key])
            elif not (table == "block_device_mapping" and row["uuid"] in arrival.detached):
                yield refusal("row-lost", f"{named} is not in {arrival.target_cell}", REVERT)
    yield from _check_order(arrival)
    yield from _check_faults(arrival)


REVERT = "revert (data that the guest has written to local disks since then is lost), or restore the value by hand and use --force"


def _is_moves_own(key: tuple[object, ...]) -> bool:
    return key[0] in MOVES_OWN or str(key[0]).startswith("cellmove")


def _by_key(rows: list[dict[str, object]], identity: tuple[str, ...]) -> dict[tuple[object, ...], dict[str, object]]:
    return {tuple(row[column] for column in identity): row for row in rows}


def _compare_row(table: str, named: str, old: Mapping[str, object], new: Mapping[str, object]) -> CheckResults:
    otherwise = OTHERWISE.get(table, {})
    for column, value in old.items():
        if column in ROW or column not in new:
            continue
        if column in OWNERS and table == "instances" and new[column] != value:
            yield warning("owner-changed", f"the owner changed the {OWNERS[column]} since the move: {new[column]!r}")
        elif column == "keypairs":
            yield from _compare_keypairs(named, value, new[column])
        elif column in THERE and bool(value) and not new[column]:
            yield refusal("value-lost", f"{named}: {column} is empty, and was not before", REVERT)
        elif column == "address" and str(new[column]) == str(value).partition("/")[0] != value:
            yield warning("vif-address", f"{named}: its address lost its second half (the moves of nova's own lose it)")
        elif column not in otherwise and _plain(new[column]) != _plain(value):
            yield refusal("value-changed", f"{named}: {column} differs from its value before the move", REVERT)


def _compare_keypairs(named: str, old: object, new: object) -> CheckResults:
    """Keypairs as recorded with a server; an empty list and nothing at all are the same."""
    before, after = (_plain(value) if has_keypairs(value) else None for value in (old, new))
    if before is not None and after is None:
        yield warning(
            "keypairs-lost",
            f"{named}: the server's keypair is not recorded with it; nova up to 33 loses it on the way (bug 2108974)",
            "confirm takes it from the source's record",
        )
    elif before is not None and before != after:
        yield refusal("value-changed", f"{named}: keypairs differs from its value before the move", REVERT)


def has_keypairs(value: object) -> bool:
    """Whether a column ``instance_extra.keypairs`` holds any keypair."""
    stored = _plain(value)
    if isinstance(stored, dict) and "nova_object.data" in stored:
        return bool(stored["nova_object.data"].get("objects"))
    return bool(stored)


def _plain(value: object) -> object:
    """JSON by its meaning, empty as empty: two schemas may keep nothing in different ways."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value or None


def _check_order(arrival: Arrival) -> Iterator[CheckResult]:
    """Compare the order of the disks, by which a guest may find them."""
    old, new = (
        [row["uuid"] for row in rows.get("block_device_mapping", ())] for rows in (arrival.before, arrival.after)
    )
    kept = [uuid for uuid in old if uuid in new]
    if [uuid for uuid in new if uuid in old] != kept:
        yield refusal("disk-order", "the disks are in another order", REVERT)
    for uuid in new:
        if uuid not in old:
            yield warning("volume-attached", "a volume was attached since")
    for uuid in old:
        if uuid not in new and uuid in arrival.detached:
            yield warning("volume-detached", "a volume was detached since")


def _check_faults(arrival: Arrival) -> Iterator[CheckResult]:
    old, new = (len(rows.get("instance_faults", ())) for rows in (arrival.before, arrival.after))
    if new < old:
        yield warning("faults-lost", f"{old - new} of its {old} recorded faults did not travel")


def check_flavor(arrival: Arrival) -> CheckResults:
    """Check the flavor: the requested one of a resize, the present one of a migration."""
    old, new = (_flavors(next(iter(rows.get("instance_extra", ())), {})) for rows in (arrival.before, arrival.after))
    current = new.get("cur", {})
    if current.get("flavorid") != arrival.flavor_id:
        yield refusal("flavor", f"its flavor is {current.get('name')}, not {arrival.flavor_id}", "revert")
    elif arrival.kind == "migration" and current != old.get("cur"):
        yield refusal("flavor", "the flavor differs from the one before the move", "revert")
    row, row_before = arrival.row("instances"), next(iter(arrival.before.get("instances", ())), {})
    for column, name in (("vcpus", "vcpus"), ("memory_mb", "memory_mb"), ("instance_type_id", "id")):
        if current and row.get(column) != current.get(name):
            yield refusal(
                "flavor", f"the instance row has {row.get(column)} {column}, the flavor {current.get(name)}", "revert"
            )
    for column in ("root_gb", "ephemeral_gb"):  # only a resize writes them anew
        wanted = row_before.get(column) if arrival.kind == "migration" else current.get(column)
        if current and row.get(column) != wanted:
            yield refusal(
                "flavor", f"the instance row has {row.get(column)} {column}, and should have {wanted}", "revert"
            )


def _flavors(extra: Record) -> dict[str, dict[str, object]]:
    """The flavors that a row names; none when it cannot be read, and then the check finds another one than wanted."""
    stored = parse_json(extra.get("flavor"))
    if not isinstance(stored, dict):
        return {}
    fields = {name: object_fields(flavor) for name, flavor in stored.items()}
    return {name: values for name, values in fields.items() if values}


def check_ports(arrival: Arrival) -> CheckResults:
    """Check that each port is bound to the target host, has its addresses, and is up when the guest is."""
    ports = {port.id: port for port in arrival.ports}
    known = _addresses(next(iter(arrival.before.get("instance_info_caches", ())), {}))
    for interface in arrival.before.get("virtual_interfaces", ()):
        port = ports.get(interface["uuid"])
        if port is None:
            yield refusal(
                "port-lost",
                f"port {interface['uuid']} does not belong to the server any more",
                "look at the port in neutron",
            )
            continue
        if port.host != arrival.target_host or port.vif_type in UNBOUND:
            yield refusal(
                "port-binding", f"port {port.id} is bound to {port.host or 'no host'} ({port.vif_type})", "revert"
            )
        elif arrival.active and port.status != "ACTIVE":
            yield refusal(
                "port-down", f"port {port.id} is {port.status}", "look at its neutron agent, then verify again"
            )
        mac = str(interface["address"]).partition("/")[0]
        if port.mac_address != mac:
            yield refusal("mac-changed", f"port {port.id} has the MAC address {port.mac_address}, not {mac}", "revert")
        if port.id in known and set(port.addresses) != known[port.id]:
            yield refusal(
                "address-changed",
                f"port {port.id} has the addresses {', '.join(port.addresses) or 'none'}, "
                f"not {', '.join(sorted(known[port.id]))}",
                "find out who changed them",
            )


def _addresses(cache: Record) -> dict[str, set[str]]:
    """The fixed addresses of each port, as nova had them cached; none of what cannot be read."""
    found = {}
    stored = parse_json(cache.get("network_info"))
    for vif in stored if isinstance(stored, list) else ():
        try:
            found[str(vif["id"])] = {
                str(ip["address"])
                for subnet in vif["network"]["subnets"]
                for ip in subnet["ips"]
                if ip.get("type") != "floating"
            }
        except (TypeError, KeyError, AttributeError):
            continue
    return found


def check_volumes(arrival: Arrival) -> CheckResults:
    """Check that each volume is in use through the attachment that the target's record names."""
    attached = {attachment.id: attachment.status for attachment in arrival.attachments}
    for device in arrival.after.get("block_device_mapping", ()):
        if device["destination_type"] != "volume":
            continue
        volume = device["volume_id"]
        status = arrival.volumes.get(volume)
        if status != "in-use":
            yield refusal("volume-state", f"volume {volume} is {status or 'gone'}", f"openstack volume show {volume}")
        elif attached.get(device["attachment_id"]) != "attached":
            yield refusal(
                "attachment",
                f"the attachment of volume {volume} is {attached.get(device['attachment_id'], 'unknown to cinder')}",
                f"openstack volume attachment list --volume-id {volume}",
            )


def check_group(arrival: Arrival) -> CheckResults:
    """Check the server group, and whether its policy holds on the present host."""
    if arrival.group_wanted and (arrival.group is None or arrival.group.uuid != arrival.group_wanted):
        yield refusal("group-lost", f"the server is not in its server group {arrival.group_wanted} any more", REVERT)
    elif arrival.group is not None:
        together = arrival.target_host in arrival.group_hosts
        if arrival.group.policy == "anti-affinity" and together:
            yield warning("group-policy", f"another member of its group {arrival.group.name} is on the same host")
        if arrival.group.policy == "affinity" and arrival.group_hosts and not together:
            yield warning("group-policy", f"the other members of its group {arrival.group.name} are on other hosts")
