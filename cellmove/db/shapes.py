"""What a look at the databases comes back with: plain values, and how some columns are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InstanceMapping:
    """Which cell the API believes a server to be in; ``cell_uuid`` is empty when not scheduled yet."""

    cell_uuid: str
    queued_for_delete: bool


@dataclass(frozen=True)
class Flavor:
    """A flavor, from the API database or as an instance carries it. ``swap`` is in MiB."""

    id: int
    flavorid: str
    name: str
    vcpus: int
    memory_mb: int
    root_gb: int
    ephemeral_gb: int = 0
    swap: int = 0
    disabled: bool = False
    extra_specs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A server group and the UUIDs of its members."""

    uuid: str
    name: str
    policy: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Instance:
    """What the planning needs of an instance's row and of its ``instance_extra``.

    :param flavor: None when ``instance_extra`` holds none that can be read
    :param image: what system metadata keeps of the image, without the prefix ``image_``
    :param mark: the value of ``cellmove.mark.KEY``: which move of ours is working on it, and who records that
    """

    uuid: str
    display_name: str
    project_id: str
    user_id: str
    vm_state: str
    task_state: str
    host: str
    node: str
    availability_zone: str = ""
    image_ref: str = ""
    root_gb: int = 0
    locked: bool = False
    locked_by: str = ""
    hidden: bool = False
    config_drive: bool = False
    ephemeral_key: bool = False
    flavor: Flavor | None = None
    has_numa_topology: bool = False
    pci_requests: tuple[Mapping[str, Any], ...] = ()
    image: Mapping[str, str] = field(default_factory=dict)
    vtpm_secret: bool = False
    mark: str = ""


@dataclass(frozen=True)
class BlockDevice:
    """One block device mapping."""

    uuid: str
    source_type: str
    destination_type: str
    boot_index: int | None
    guest_format: str = ""
    device_name: str = ""
    volume_id: str = ""
    attachment_id: str = ""
    encrypted: bool = False


@dataclass(frozen=True)
class Service:
    """A nova service of a cell and whether its heartbeat is fresh."""

    host: str
    binary: str
    version: int
    disabled: bool
    up: bool


@dataclass(frozen=True)
class Node:
    """A compute node: the resource provider ``uuid`` in placement."""

    uuid: str
    host: str
    name: str
    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int


@dataclass(frozen=True)
class MigrationRow:
    """A migration record of a server."""

    uuid: str
    status: str
    migration_type: str
    source_compute: str
    dest_compute: str


def parse_json(text: str | None) -> Any:
    """What a JSON column holds; None when it is empty or no JSON."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def make_flavor(values: Mapping[str, Any]) -> Flavor:
    """A flavor from a row or from the data of a Flavor object."""
    return Flavor(
        id=int(values["id"]),
        flavorid=str(values["flavorid"]),
        name=str(values["name"]),
        vcpus=int(values["vcpus"]),
        memory_mb=int(values["memory_mb"]),
        root_gb=int(values["root_gb"] or 0),
        ephemeral_gb=int(values.get("ephemeral_gb") or 0),
        swap=int(values.get("swap") or 0),
        disabled=bool(values.get("disabled")),
        extra_specs=dict(values.get("extra_specs") or {}),
    )


def current_flavor(text: str | None, which: str = "cur") -> Flavor | None:
    """A flavor in ``instance_extra.flavor``: nova/objects/instance.py, _flavor_from_db.

    :param which: ``cur``, ``old`` or ``new``
    """
    stored = parse_json(text)
    try:
        return make_flavor(stored[which]["nova_object.data"])
    except (TypeError, KeyError, ValueError):
        return None
