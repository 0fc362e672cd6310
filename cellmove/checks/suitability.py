"""Decide which compute hosts can serve a cross-cell move, and say why the others cannot.

Three things rule a host out: nova's virt driver there, the architecture of its CPU, and a nova-compute that loses
root disks. Plain functions over plain data: the checks of a plan and the choice of a host ask the same questions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellmove.db.shapes import Node

STARTS_FROM_SNAPSHOT = 56
"""The service version (Wallaby) from which nova-compute starts a moved guest from the snapshot of its disk.

Older ones build the root disk from ``instance.image_ref``, which still names the image that the server was built from
(nova/compute/manager.py, ``_finish_snapshot_based_resize_at_dest``; bug 1906428). The version of the target decides:
the source's nova-compute makes the snapshot in all releases, and ``finish_revert_migration`` uses the disk it kept.
"""

BARE_METAL = "ironic"
UNABLE: Mapping[str, str] = {
    BARE_METAL: "is bare metal: nova's ironic driver tears the deployment down when a server is stopped for a move",
    "vmware": "runs nova's VMware driver, which unregisters a stopped guest and cannot register it again to revert",
    "hyperv": "runs nova's Hyper-V driver, which reverts only what a resize within a cell has put aside",
    "xenserver": "runs nova's XenServer driver, which reverts only what a resize within a cell has put aside",
    "zvm": "runs nova's z/VM driver, which deletes the guest with its disks when it is stopped for a move",
    "phyp": "runs nova's PowerVM driver, which has no revert of a resize",
    "lxc": "runs LXC containers, of which nova's libvirt driver makes no snapshots",
}
"""What keeps a hypervisor type from serving a move; the key is what the type begins with, in lower case.

By the drivers in nova/virt of Ussuri to 2026.1: the six calls need ``snapshot``, ``destroy`` without disks, ``spawn``,
``cleanup`` and ``finish_revert_migration``.
"""

ABLE = ("qemu", "kvm", "xen", "parallels", "vz", "fake", "test")
"""Beginnings of the hypervisor types that serve a move: libvirt's, and nova's own for tests."""


@dataclass(frozen=True)
class Needs:
    """What a move needs of the host that it goes to.

    :param imaged: whether its root disk goes through a temporary image
    :param architecture: for which its guest was built; empty when any will do
    :param named: whether its image names that architecture; else it is the source host's
    :param volume_zones: the availability zones of its volumes, where a host has to be in the same one
    """

    imaged: bool = False
    architecture: str = ""
    named: bool = False
    volume_zones: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Unsuitable:
    """Why a host cannot serve a move.

    :param code: ``target-hypervisor``, ``target-architecture``, ``root-disk-lost`` or ``volume-zone``
    :param text: to be read after the host's name
    """

    code: str
    text: str


@functools.cache  # a handful of types, asked for every server of a drain
def why_unable(hypervisor: str) -> str:
    """Say what keeps a hypervisor type from serving a move; empty when nothing does, or nothing is known of it.

    To be read after the name of a host.
    """
    if hypervisor.startswith(("xenserver", "xenapi")):  # not libvirt's "Xen"
        return UNABLE["xenserver"]
    return next((why for begin, why in UNABLE.items() if hypervisor.startswith(begin)), "")


def is_unknown(hypervisor: str) -> bool:
    """Whether a hypervisor type is reported, and is none that nova's own drivers have."""
    return bool(hypervisor) and not why_unable(hypervisor) and not hypervisor.startswith(ABLE)


def why_unsuitable(node: Node, version: int, needs: Needs) -> Unsuitable | None:
    """Say why a compute node cannot serve a move; None when nothing known speaks against it.

    :param version: the service version of its nova-compute
    """
    unable = why_unable(node.hypervisor)
    if unable:
        return Unsuitable("target-hypervisor", unable)
    known = {node.architecture} | (node.architectures if needs.named else frozenset()) - {""}
    if needs.architecture and node.architecture and needs.architecture not in known:
        text = f"has {node.architecture} CPUs, and the guest was built for {needs.architecture}"
        return Unsuitable("target-architecture", text)
    if needs.imaged and version < STARTS_FROM_SNAPSHOT:
        return Unsuitable("root-disk-lost", too_old(version))
    return None


def too_old(version: int) -> str:
    """Say why a nova-compute loses root disks that go through an image; to be read after the name of a host."""
    return (
        f"is older than Wallaby (service version {version} < {STARTS_FROM_SNAPSHOT}): it would start the guest from the "
        "image that the server was built from, not from the server's own disk (nova bug 1906428)"
    )


def in_another_zone(zone: str, needs: Needs) -> Unsuitable | None:
    """Say why a host cannot use the server's volumes; None when it can.

    nova compares zones where it attaches (nova/volume/cinder.py, ``check_availability_zone``), though not in a resize:
    with ``[cinder]cross_az_attach`` off, storage of one zone is out of reach in another.

    :param zone: the host's
    """
    if needs.volume_zones <= {zone}:
        return None
    zones = " and ".join(sorted(needs.volume_zones))
    text = f"is in the availability zone {zone}, and the server has volumes in {zones} ([cinder]cross_az_attach is off)"
    return Unsuitable("volume-zone", text)


def unsuitable_hosts(
    nodes: Iterable[Node], versions: Mapping[str, int], needs: Needs, zones: Mapping[str, str]
) -> dict[str, Unsuitable]:
    """The hosts none of whose nodes can serve a move, and why.

    :param versions: service version of nova-compute by host; hosts without one are left out
    :param zones: availability zone by host
    """
    found: dict[str, Unsuitable] = {}
    able: set[str] = set()
    for node in nodes:
        if node.host not in versions:
            continue
        why = why_unsuitable(node, versions[node.host], needs) or in_another_zone(zones.get(node.host, ""), needs)
        if why is None:
            able.add(node.host)
        else:
            found.setdefault(node.host, why)
    return {host: why for host, why in found.items() if host not in able}
