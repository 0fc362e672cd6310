"""A snapshot without what only this run knows: words for ids in the order in which they appear, "time" for every time."""

from __future__ import annotations

import fnmatch
import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lab.snapshot import fields

Record = dict[str, Any]

DROPPED = {
    "*.number": "the id of a row; what refers to it is replaced by words",
    "mapping.cell_id": "the id of a cell; its name is compared",
    "instance_info_caches.network_info.active": "nova's idea of whether a port is up: neutron says so when it likes",
    "instance_actions_events.traceback": "paths and line numbers of the nova that ran",
    "instance_faults.details": "the same",
    "server.image.links": "URLs of this cloud",
    "server.OS-EXT-SRV-ATTR:instance_name": "made from the id of the row",
}
"""What is not compared, each with the reason; the only such list. An id that is a number is called ``number``.

Besides: the envelopes of versioned objects, which say how one travelled and not what it holds; and the compute
nodes, which are the same in every snapshot and only serve to name those that a row refers to.
"""

SORTED_BY = {
    "instance_system_metadata": "key",
    "instance_metadata": "key",
    "tags": "tag",
    "block_device_mapping": "device_name",
    "virtual_interfaces": "uuid",
}
"""Tables that are sets; the others are kept in the order of their ids, which is history."""

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
KINDS = {
    "time": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?",
    "request": rf"req-{UUID}",
    "id": UUID,
    "mac": r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])",
    "content": r"\b[0-9a-f]{64}\b",
    "digest": r"\b[0-9a-f]{32}\b",
    "reservation": r"\br-[0-9a-z]{8}\b",
    "address": r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?!/)",
    "tap": r"\btap[0-9a-f]{8}-[0-9a-f]{2}\b",
}
FINDER = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()))


class Words:
    """What is said instead of an id."""

    def __init__(self, literal: Mapping[str, str]) -> None:
        self.literal = {found: word for found, word in literal.items() if found}
        self.known: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def name(self, found: str | None, word: str) -> None:
        """Say this word for that id."""
        if found:
            self.known.setdefault(found, word)

    def of(self, match: re.Match[str]) -> str:
        """The word for what was found; a new one if it has none yet."""
        kind, found = str(match.lastgroup), match.group()
        if kind == "time":
            return "time"
        if found not in self.known:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.known[found] = f"{kind}{self.counts[kind]}"
        return self.known[found]

    def text(self, value: str) -> str:
        """A string with words in it."""
        for found, word in self.literal.items():
            value = value.replace(found, word)
        return FINDER.sub(self.of, value)


def name_everything(shot: Record, words: Words) -> None:
    """Words for all that has a name of its own, so that they do not depend on which id sorts first."""
    words.name(shot["id"], "server")
    for port_id, port in sorted(shot["ports"].items(), key=lambda pair: str(pair[1]["name"])):
        label = words.text(str(port["name"]))
        words.name(port_id, label)
        words.name(port["mac_address"], f"mac of {label}")
        words.name(f"tap{port_id[:11]}", f"tap of {label}")
        words.name(port["network_id"], "network")
        for number, address in enumerate(port["fixed_ips"]):
            words.name(address, f"address {number} of {label}")
    for volume_id, volume in sorted(shot["volumes"].items(), key=lambda pair: str(pair[1].get("name"))):
        label = words.text(str(volume.get("name")))
        words.name(volume_id, label)
        for each in in_order(volume)["attachments"]:
            words.name(each.get("id"), words.text(f"attachment of {label}: {each['attach_status']}"))
    for tables in shot["cells"].values():
        for row in tables.get("instances", []):
            words.name(row["image_ref"], "image")
            words.name(row["project_id"], "project")
            words.name(row["user_id"], "user")


def numbers(shot: Record, cell: str, tables: Mapping[str, list[Record]]) -> dict[str, dict[int, str]]:
    """Column -> number -> word, for the columns by which rows of one cell refer to others."""
    nodes = {node["id"]: f"node {host}" for host, node in shot["compute_nodes"].items() if node["cell"] == cell}
    return {
        "action_id": {row["id"]: f"{row['action']} {row['request_id']}" for row in tables.get("instance_actions", [])},
        "migration_id": {row["id"]: f"migration {row.get('uuid')}" for row in tables.get("migrations", [])},
        "compute_id": nodes,
    }


@functools.cache
def dropped(path: str) -> bool:
    """Whether this is not compared."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in DROPPED)


def refer(path: str, value: Any, names: Mapping[str, Mapping[int, str]]) -> Any:
    """The same with words for the numbers that refer to rows, and without what is dropped or NULL."""
    if isinstance(value, list):
        return [refer(path, each, names) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, each in value.items():
        inner = f"{path}.{'number' if name == 'id' and isinstance(each, int) else name}"
        if each is None or dropped(inner):
            continue
        if name == "deleted":
            each = bool(each)
        kept[name] = names[name].get(each, each) if name in names else refer(inner, each, names)
    return kept


def say(value: Any, words: Words) -> Any:
    """The same with words for ids."""
    if isinstance(value, dict):
        return {words.text(str(name)): say(each, words) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [say(each, words) for each in value]
    return words.text(value) if isinstance(value, str) else value


def ordered(table: str, rows: Iterable[Record], words: Words) -> list[Record]:
    """The rows of a set, in an order that does not depend on ids."""
    if table not in SORTED_BY:
        return list(rows)
    return sorted(rows, key=lambda row: words.text(str(row[SORTED_BY[table]])))


def settled(row: Record) -> Record:
    """A row with the roles of who booted the server in order: keystone gives them in another after each start."""
    if row.get("key") != "boot_roles":
        return row
    return row | {"value": ",".join(sorted(row["value"].split(",")))}


def in_order(volume: Record) -> Record:
    """A volume with its attachments in an order that does not depend on ids."""

    def key(attachment: Record) -> tuple[str, str]:
        return attachment["attach_status"], str(attachment.get("attached_host"))

    return volume | {"attachments": sorted(volume["attachments"], key=key)}


def normalised(shot: Record, literal: Mapping[str, str]) -> Record:
    """The snapshot as it must be in every run and in every cloud.

    :param literal: what is replaced wherever it stands: the server's name, hosts that a scheduler chose
    """
    words = Words(literal)
    name_everything(shot, words)
    found: Record = {
        "server": refer("server", shot["server"], {}),
        "mapping": refer("mapping", shot["api"]["mapping"], {}),
        "request_spec": refer("request_spec", fields(shot["api"]["request_spec"]), {}),
        "build_requests": len(shot["api"]["build_requests"]),
        "allocations": shot["allocations"],
        "guests": {
            host: {**guest, **{name: sorted(map(words.text, guest[name])) for name in ("ports", "volumes")}}
            for host, guest in shot["guests"].items()
        },
        "disks": shot["disks"],
        "images": refer("images", shot["images"], {}),
        "ports": refer("ports", shot["ports"], {}),
        "volumes": {volume_id: in_order(refer("volumes", volume, {})) for volume_id, volume in shot["volumes"].items()},
    }  # fmt: skip
    for cell, tables in shot["cells"].items():
        here = numbers(shot, cell, tables)
        there = numbers(shot, "cell2" if cell == "cell1" else "cell1", {})
        found[cell] = {table: [] for table in tables}
        for table, rows in tables.items():
            for row in ordered(table, rows, words):
                nodes = here if shot["compute_nodes"].get(row.get("dest_compute"), {}).get("cell") == cell else there
                names = here | {"dest_compute_id": nodes["compute_id"]}
                found[cell][table].append(refer(table, fields(settled(row)), names))
    return say(found, words)


def lines(shot: Record) -> str:
    """A snapshot as text: one line a row, so that a difference is a line."""
    said = []
    for part, content in sorted(shot.items()):
        if part.startswith("cell"):
            for table, rows in sorted(content.items()):
                said += [f'"{part}.{table} {number}": {flat(row)}' for number, row in enumerate(rows)]
        elif isinstance(content, dict) and part not in ("mapping",):
            said += [f'"{part}: {name}": {flat(each)}' for name, each in sorted(content.items())]
        else:
            said.append(f'"{part}": {flat(content)}')
    return "{\n" + ",\n".join(said) + "\n}\n"


def flat(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, sort_keys=True)


def differences(before: Record, after: Record) -> list[str]:
    """What differs between two snapshots that were read from their lines."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            for column in sorted({*old, *new}):
                if old.get(column) != new.get(column):
                    found.append(f"{name} {column}: {flat(old.get(column))} -> {flat(new.get(column))}")
        elif old != new:
            found.append(f"{name}: {flat(old)} -> {flat(new)}")
    return found
