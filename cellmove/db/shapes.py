"""What a look at the databases comes back with: plain values, and how some columns are read."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cellmove.core import ownership
from cellmove.core.errors import CallFailed
from cellmove.db.types import AnyRow, Json, NamedRow, Record, Values

IMAGE, VTPM_SECRET = "image_", "vtpm_secret_uuid"
"""What system metadata begins the keys of the image's properties with, and the key of a virtual TPM's secret."""


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
    :param mark: the value of ``cellmove.core.ownership.KEY``: which move of ours is working on it, and who records that
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
    pci_requests: tuple[Values, ...] = ()
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
    """A compute node: the resource provider ``uuid`` in placement.

    :param hypervisor: the type that nova's virt driver reports, in lower case; empty when unknown
    :param architecture: of the host's CPU; empty when unknown
    :param architectures: of the guests that it can run
    """

    uuid: str
    host: str
    name: str
    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int
    hypervisor: str = ""
    architecture: str = ""
    architectures: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Aggregate:
    """A host aggregate."""

    name: str
    hosts: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MigrationRow:
    """A migration record of a server."""

    uuid: str
    status: str
    migration_type: str
    source_compute: str
    dest_compute: str


def parse_json(text: str | None) -> Json:
    """What a JSON column holds; None when it is empty or no JSON."""
    try:
        return json.loads(text) if text else None
    except (ValueError, TypeError, RecursionError):
        return None


def read_object(text: str | None, column: str) -> Record:
    """What a column holds that nova keeps an object in.

    :param column: the table and the column, for the message
    :raises CallFailed: it is none; ``kind`` is ``unreadable``
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise unreadable(column)
    return found


def unreadable(column: str) -> CallFailed:
    """What is raised of a column whose value has another form than nova gives it."""
    return CallFailed(f"the value of {column} is not what nova writes there, and cannot be read", kind="unreadable")


def object_fields(stored: Any) -> Record:
    """The fields of an object as nova keeps it, parsed; none when it is not one."""
    fields = stored.get("nova_object.data") if isinstance(stored, dict) else None
    return fields if isinstance(fields, dict) else {}


def make_flavor(values: Values) -> Flavor:
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
        extra_specs={str(key): str(value) for key, value in dict(values.get("extra_specs") or {}).items()},
    )


@functools.lru_cache(maxsize=1024)  # servers of one flavor have one text, as a rule
def current_flavor(text: str | None, which: str = "cur") -> Flavor | None:
    """A flavor in ``instance_extra.flavor``: nova/objects/instance.py, _flavor_from_db.

    :param which: ``cur``, ``old`` or ``new``
    """
    stored = parse_json(text)
    try:
        return make_flavor(stored[which]["nova_object.data"])
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None


def _requests(text: str | None) -> tuple[Values, ...]:
    """The PCI requests in ``instance_extra.pci_requests``; a value that cannot be read counts as one request."""
    if (text or "null").strip() == "null":
        return ()
    stored = parse_json(text)
    listed = stored if isinstance(stored, list) else [stored]
    return tuple(each if isinstance(each, dict) else {} for each in listed)


def make_instance(row: NamedRow, metadata: Mapping[str, str]) -> Instance:
    """An instance from its row, joined with its extra.

    :param metadata: its system metadata, or what is needed of it
    """
    return Instance(
        uuid=row.uuid,
        display_name=row.display_name or "",
        project_id=row.project_id or "",
        user_id=row.user_id or "",
        vm_state=row.vm_state or "",
        task_state=row.task_state or "",
        host=row.host or "",
        node=row.node or "",
        availability_zone=row.availability_zone or "",
        image_ref=row.image_ref or "",
        root_gb=row.root_gb or 0,
        locked=bool(row.locked),
        locked_by=row.locked_by or "",
        hidden=bool(row.hidden),
        config_drive=str(row.config_drive or "").lower() not in ("", "0", "false"),
        ephemeral_key=bool(row.ephemeral_key_uuid),
        flavor=current_flavor(row.flavor),
        has_numa_topology=bool(parse_json(row.numa_topology)),
        pci_requests=_requests(row.pci_requests),
        image={key.removeprefix(IMAGE): value for key, value in metadata.items() if key.startswith(IMAGE)},
        vtpm_secret=VTPM_SECRET in metadata,
        mark=metadata.get(ownership.KEY, ""),
    )


ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "i486": "i686", "i586": "i686"}


def canonical(architecture: object) -> str:
    """One name for each architecture (nova/objects/fields.py, ``Architecture.canonicalize``)."""
    name = str(architecture or "").strip().lower()
    return ALIASES.get(name, name)


def make_node(row: NamedRow) -> Node:
    """A compute node from its row.

    Where ``cpu_info`` names no architecture (nova's fake driver), it is the one of the guests, if there is only one.
    """
    cpu, supported = parse_json(row.cpu_info), parse_json(row.supported_instances)
    guests = frozenset(canonical(each[0]) for each in supported or () if each)
    own = canonical(cpu.get("arch")) if isinstance(cpu, dict) else ""
    return Node(
        uuid=row.uuid or "",
        host=row.host or "",
        name=row.hypervisor_hostname or "",
        vcpus=row.vcpus or 0,
        vcpus_used=row.vcpus_used or 0,
        memory_mb=row.memory_mb or 0,
        memory_mb_used=row.memory_mb_used or 0,
        hypervisor=(row.hypervisor_type or "").lower(),
        architecture=own or (next(iter(guests)) if len(guests) == 1 else ""),
        architectures=guests,
    )


def make_device(row: NamedRow) -> BlockDevice:
    """A block device mapping from its row."""
    return BlockDevice(
        uuid=row.uuid or "",
        source_type=row.source_type or "",
        destination_type=row.destination_type or "",
        boot_index=row.boot_index,
        guest_format=row.guest_format or "",
        device_name=row.device_name or "",
        volume_id=row.volume_id or "",
        attachment_id=row.attachment_id or "",
        encrypted=bool(row.encrypted),
    )


def make_migration(row: AnyRow) -> MigrationRow:
    """A migration record from its row, which begins with the server's id."""
    return MigrationRow(*(value or "" for value in row[1:]))
