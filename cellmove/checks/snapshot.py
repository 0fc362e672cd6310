"""What planning gathered about a server and the cells around it: the one input of every check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cellmove.checks.suitability import Needs, Unsuitable, unsuitable_hosts
from cellmove.core.policy import Policy, Subject
from cellmove.core.transfer import IMAGE, STREAM, VOLUMES
from cellmove.db.look import COMPUTE, CONDUCTOR
from cellmove.db.shapes import canonical

if TYPE_CHECKING:
    from cellmove.checks.duplicate import Duplicate
    from cellmove.cloud.network import Port
    from cellmove.cloud.quota import Quota
    from cellmove.cloud.volume import Attachment
    from cellmove.db.rights import Rights
    from cellmove.db.shapes import (
        Aggregate,
        BlockDevice,
        Flavor,
        Group,
        Instance,
        InstanceMapping,
        MigrationRow,
        Node,
        Service,
    )
    from cellmove.hosts.disk_survey import Survey

OLDEST_COMPUTE = 47
"""The service version from which nova-compute has all six snapshot-based resize calls (Ussuri)."""


@dataclass(frozen=True)
class Target:
    """A cell that the server may go to.

    :param cell: its display name
    :param unreachable: why its database cannot be read; everything below is empty then
    :param duplicate: set where the cell is one of several mappings of one database, and does not count
    :param is_source_database: its database is that of the cell where the server is
    :param bus_error: why its message bus cannot be used; empty when it was logged in to, or was not asked
    :param rights: what a move writes there and our database user may not; None: nothing
    :param leftovers: rows there that the server's own would meet, by table
    :param missing: columns that hold data of the server and that its schema lacks
    :param needed: columns that want a value there and that the source's schema lacks
    :param unfit: columns that data of the server does not fit in
    :param disk_store: whether its computes and those of the source keep local disks in one store, as the
        operator said: ``shared``, ``separate`` or ``unknown``
    """

    cell: str
    uuid: str
    disabled: bool = False
    unreachable: str = ""
    duplicate: Duplicate | None = None
    is_source_database: bool = False
    bus_error: str = ""
    rights: Rights | None = None
    services: tuple[Service, ...] = ()
    nodes: tuple[Node, ...] = ()
    leftovers: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    disk_store: str = "unknown"

    @cached_property
    def ruled_out(self) -> dict[tuple[str, Needs], dict[str, Unsuitable]]:
        """What :func:`unsuitable` found, by the wanted host and what a move needs: the same for nearly all of a drain."""
        return {}


@dataclass(frozen=True)
class NoHost:
    """That nova's scheduler gave no host of a cell.

    :param words: what it said
    :param request_id: by which its log is searched
    :param is_certain: it found no valid host; otherwise it failed, and nothing is known
    """

    words: str
    request_id: str
    is_certain: bool = True


@dataclass(frozen=True)
class ServerSnapshot:
    """Everything the checks look at. Without ``server`` only its records can be judged.

    :param kind: nova's migration type, ``resize`` or ``migration``
    :param new_flavor: of a resize; None for a migration
    :param source_cell: the display name of the cell where the server is; empty when it is in cell0 or in none
    :param bus_errors: why the API-level bus and the source cell's cannot be used, by API or the cell's UUID
    :param rights: what the user may not write to the API database and the source cell's, by API or the cell's UUID
    :param rows: how many rows of the server the source cell has, by table
    :param wanted_cell: the display name of the cell that the operator named; empty: none was named
    :param wanted_cell_uuid: its UUID
    :param target_is_source: the operator named the cell (or a host of the cell) where the server is
    :param ports: those that are its interfaces; ``stray_ports`` carry its id, and nova does not know them
    :param interfaces: the ports that nova knows as its interfaces; None when that was not looked up
    :param other_bindings: hosts that a port has a binding for besides the source, by port id
    :param volume_states: cinder's status by volume id; volumes that do not exist are left out
    :param volume_zones: the availability zones of its volumes, where nova lets no server use one of another zone
    :param attachment_users: who uses an attachment that the server's record does not name, by its id
    :param allocations: resource providers that hold the server's allocations
    :param candidates: compute nodes that placement offers; None when it was not asked
    :param zones: availability zone by host
    :param stores: compute nodes that use one store for their disks, by the store's name, as placement shows it
    :param narrowed: compute nodes that can satisfy what the flavor asks for beyond size, by what that is
    :param no_host: what the scheduler said where it gave no host, by the cell's UUID
    :param aggregates: all host aggregates, when the scheduler gave no host
    :param quotas: of the server's project and user, when it grows
    :param subject: what the operator's rules are held against
    :param transfer_wish: how local disks are to travel: one of :data:`cellmove.core.transfer.TRANSFERS`
    :param survey: what the source host has of them; None when it was not asked
    :param bwlimit: bytes a second that are sent at most; 0: as fast as it goes
    """

    server_id: str
    server_name: str
    kind: str
    mapping: InstanceMapping | None
    server: Instance | None = None
    build_request: bool = False
    request_spec: Mapping[str, object] = field(default_factory=dict)
    force_locked: bool = False
    new_flavor: Flavor | None = None
    source_cell: str = ""
    source_services: tuple[Service, ...] = ()
    source_nodes: tuple[Node, ...] = ()
    bus_errors: Mapping[str, str] = field(default_factory=dict)
    rights: Mapping[str, Rights] = field(default_factory=dict)
    migrations: tuple[MigrationRow, ...] = ()
    devices: tuple[BlockDevice, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    shares: int = 0
    group: Group | None = None
    group_hosts: tuple[str, ...] = ()
    extended_binding: bool = True
    ports: tuple[Port, ...] = ()
    stray_ports: tuple[Port, ...] = ()
    interfaces: frozenset[str] | None = None
    other_bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    volume_states: Mapping[str, str] = field(default_factory=dict)
    volume_zones: frozenset[str] = frozenset()
    attachments: tuple[Attachment, ...] = ()
    attachment_users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    allocations: frozenset[str] = frozenset()
    candidates: frozenset[str] | None = None
    zones: Mapping[str, str] = field(default_factory=dict)
    wanted_cell: str = ""
    wanted_cell_uuid: str = ""
    wanted_host: str = ""
    target_is_source: bool = False
    targets: tuple[Target, ...] = ()
    stores: Mapping[str, frozenset[str]] = field(default_factory=dict)
    narrowed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    no_host: Mapping[str, NoHost] = field(default_factory=dict)
    aggregates: tuple[Aggregate, ...] = ()
    quotas: tuple[Quota, ...] = ()
    accepted_losses: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    subject: Subject = field(default_factory=Subject)
    transfer_wish: str = IMAGE
    survey: Survey | None = None
    bwlimit: int = 0

    @property
    def instance(self) -> Instance:
        """The server's row, for those who know that it is there."""
        if self.server is None:
            raise ValueError("the server's row was not found")
        return self.server

    @property
    def flavor(self) -> Flavor:
        """The flavor the server has now, for those who know that it is there."""
        if self.instance.flavor is None:
            raise ValueError("the server's flavor was not found")
        return self.instance.flavor

    @property
    def is_complete(self) -> bool:
        """Whether the server's row and its flavor were found."""
        return self.server is not None and self.server.flavor is not None

    @property
    def spec(self) -> Mapping[str, object]:
        """The fields of the request spec."""
        fields = self.request_spec.get("nova_object.data")
        return fields if isinstance(fields, dict) else {}

    @property
    def volumes(self) -> tuple[BlockDevice, ...]:
        """The devices that are cinder volumes."""
        return tuple(device for device in self.devices if device.destination_type == "volume")

    @property
    def is_volume_backed(self) -> bool:
        """Whether the root disk is a volume."""
        return is_volume_backed(self.devices, self.spec, self.instance.image_ref)

    @property
    def transfer(self) -> str:
        """How its local disks will travel: ``volumes`` when there is no root disk among them."""
        if self.is_volume_backed:
            return VOLUMES
        possible = self.survey is not None and not self.survey.hindrances
        return STREAM if possible or self.transfer_wish == STREAM else IMAGE

    @cached_property
    def source_node(self) -> Node | None:
        """The compute node where the server is."""
        here = [node for node in self.source_nodes if node.host == self.instance.host]
        return next((node for node in here if node.name == self.instance.node), next(iter(here), None))

    @cached_property
    def needs(self) -> Needs:
        """What the move needs of the host that it goes to."""
        named, emulated = guest_architecture(self.instance.image)
        here = self.source_node.architecture if self.source_node else ""
        architecture = "" if emulated else named or here
        return Needs(self.transfer == IMAGE, architecture, bool(named), self.volume_zones)

    @property
    def source_compute(self) -> Service | None:
        """The service of the compute host where the server is."""
        return next(
            (each for each in self.source_services if each.binary == COMPUTE and each.host == self.instance.host),
            None,
        )


def guest_architecture(image: Mapping[str, str]) -> tuple[str, bool]:
    """The architecture that an image names, and whether nova emulates it; empty when it names none.

    nova/virt/libvirt/driver.py, ``_check_emulation_arch``; nova/virt/libvirt/utils.py, ``get_arch``.
    """
    emulated = canonical(image.get("hw_emulation_architecture"))
    named = emulated or canonical(image.get("hw_architecture")) or canonical(image.get("architecture"))
    return named, bool(emulated)


def is_volume_backed(devices: Iterable[BlockDevice], spec: Mapping[str, object], image_ref: str) -> bool:
    """Whether the root disk of a server is a volume (nova/compute/utils.py, is_volume_backed_instance).

    :param spec: the fields of its request spec
    """
    root = next((device for device in devices if device.boot_index == 0), None)
    if root is not None:
        return root.destination_type == "volume"
    if spec.get("is_bfv") is not None:
        return bool(spec["is_bfv"])
    return not image_ref


def conductors_up(services: tuple[Service, ...]) -> bool:
    """Whether any conductor of a cell is alive."""
    return any(service.binary == CONDUCTOR and service.up for service in services)


def computes_of(target: Target, snapshot: ServerSnapshot) -> list[Service]:
    """The computes of a target cell that the scheduler may choose from: enabled, and the wanted one if any."""
    return [
        service
        for service in target.services
        if service.binary == COMPUTE and not service.disabled and snapshot.wanted_host in ("", service.host)
    ]


def zone_wanted(snapshot: ServerSnapshot) -> str:
    """The availability zone that the server was booted into; empty when it may be anywhere."""
    return str(snapshot.spec.get("availability_zone") or "")


def unsuitable(target: Target, snapshot: ServerSnapshot) -> dict[str, Unsuitable]:
    """The computes of a target cell, up and to be chosen from, that cannot serve this move, and why."""
    key = snapshot.wanted_host, snapshot.needs
    if key not in target.ruled_out:
        versions = {service.host: service.version for service in computes_of(target, snapshot) if service.up}
        target.ruled_out[key] = unsuitable_hosts(target.nodes, versions, snapshot.needs, snapshot.zones)
    return target.ruled_out[key]


def likely_nodes(target: Target, snapshot: ServerSnapshot) -> list[Node]:
    """The compute nodes of a target cell that nothing known here speaks against."""
    zone, ruled_out = zone_wanted(snapshot), unsuitable(target, snapshot)
    hosts = {
        service.host
        for service in computes_of(target, snapshot)
        if service.up and zone in ("", snapshot.zones.get(service.host)) and service.host not in ruled_out
    }
    return [
        node
        for node in target.nodes
        if node.host in hosts and (snapshot.candidates is None or node.uuid in snapshot.candidates)
    ]
