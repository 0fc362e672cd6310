"""What a server's local disks are on their host, and whether they can be streamed: only looked at, from both ends.

Follows how nova lays out ``instances_path`` (nova/virt/libvirt/driver.py, ``_create_images``; imagebackend.py,
``Image.cache``): ``<uuid>/disk``, ``disk.local`` and ``disk.ephN``, ``disk.swap``, ``disk.config``, and below ``_base``
the images that the overlays stand on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import NotFound

if TYPE_CHECKING:
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disks import Entry, Facts

CARRIED = re.compile(r"disk(\.(local|swap|config|eph\d+))?\Z")
MADE_ANEW = re.compile(r"(disk\.info|console\.log(\.\d+)?|kernel|ramdisk|libvirt\.xml|unrescue\.xml)\Z")
"""What nova makes at the target by itself."""

ROOT, CONFIG = "disk", "disk.config"
SPARE = 1 << 30
"""Bytes that have to stay free at the target."""


@dataclass(frozen=True)
class Disk:
    """One file that travels.

    :param name: in the server's directory
    :param allocated: bytes that it takes
    :param base: the image it stands on, below instances_path; empty without one
    :param base_format: of that image
    """

    name: str
    allocated: int
    base: str = ""
    base_format: str = ""

    @property
    def is_flattened(self) -> bool:
        """Whether it takes its base along: each host has made its own of that name, with other content."""
        return bool(self.base) and self.name != ROOT


@dataclass(frozen=True)
class Survey:
    """What a source host has of a server, and what a target host says to it.

    :param hindrances: why it cannot be streamed, a sentence each
    :param dangers: those of them for which it must not go there at all, whichever way its disks travel
    :param tells: whether the source tells what was written to a disk since a moment
    """

    disks: tuple[Disk, ...] = ()
    hindrances: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()
    tells: bool = False

    @property
    def allocated(self) -> int:
        """Bytes that all of it takes."""
        return sum(disk.allocated for disk in self.disks)


def survey_source(link: Link, server_id: str, image_ref: str) -> Survey:
    """Look at a server's directory where its guest is.

    :param image_ref: of the image it was built from; its base is named after it
    :raises CallError: the host does not answer
    """
    from cellmove.hosts.disks import look

    try:
        entries = look(link, server_id)
    except NotFound:
        return Survey(hindrances=(f"{link.host} has no directory {server_id} in {link.destination.instances_path}",))
    formats = _formats(entries)
    disks: list[Disk] = []
    hindrances: list[str] = []
    for entry in entries:
        if MADE_ANEW.match(entry.name):
            continue
        hindrance = _hindrance(entry, formats) if CARRIED.match(entry.name) else "no file that is known here"
        if hindrance:
            hindrances.append(f"{entry.name} on {link.host}: {hindrance}")
            continue
        base = _base_of(entry, link.destination.instances_path)
        if base is None:
            hindrances.append(f"{entry.name} on {link.host}: it stands on {entry.image.backing}, outside of _base")  # type: ignore[union-attr]
            continue
        base_format = entry.image.backing_format if entry.image and base else ""
        disks.append(Disk(entry.name, entry.file.allocated, base, base_format))
    hindrances += _of_root(disks, image_ref, link.host) if not hindrances else []
    return Survey(tuple(disks), tuple(hindrances))


def _formats(entries: Sequence[Entry]) -> dict[str, str]:
    """What nova believes each disk to be, by its file's name (``disk.info``)."""
    text = next((entry.text for entry in entries if entry.name == "disk.info"), "")
    try:
        formats = json.loads(text) if text else {}
    except ValueError:
        return {}
    return {posixpath.basename(path): str(name) for path, name in formats.items()} if isinstance(formats, dict) else {}


def _hindrance(entry: Entry, formats: Mapping[str, str]) -> str:
    """What speaks against streaming one disk; empty when nothing does."""
    image = entry.image
    if entry.file.kind != "file" or image is None:
        return f"a {entry.file.kind}, not a file"
    if entry.name == CONFIG:
        return ""  # a filesystem of nova's own making, whatever its bytes look like
    if image.format != "qcow2" or formats.get(entry.name, "qcow2") != "qcow2":
        return f"it is {formats.get(entry.name, image.format)}, and only qcow2 disks are streamed"
    if image.encrypted:
        return "it is encrypted"
    if image.data_file:
        return "its data is in another file"
    if image.snapshots or image.bitmaps:
        return "it has snapshots or bitmaps inside; a backup may be using them"
    if image.backing and not image.backing_format:
        return "the format of its base is not recorded"
    return ""


def _base_of(entry: Entry, instances_path: str) -> str | None:
    """The base, relative to instances_path; empty without one, None when it is not one of nova's."""
    backing = entry.image.backing if entry.image is not None and entry.name != CONFIG else ""
    if not backing:
        return ""
    relative = posixpath.relpath(backing, instances_path) if backing.startswith("/") else backing
    return relative if re.fullmatch(r"_base/[\w.-]+", relative) else None


def _of_root(disks: Sequence[Disk], image_ref: str, host: str) -> list[str]:
    root = next((disk for disk in disks if disk.name == ROOT), None)
    if root is None:
        return [f"{host} has no file {ROOT} of it: its root disk is not a file there"]
    expected = base_of_image(image_ref)
    if root.base != expected:
        return [f"its root disk stands on {root.base or 'no base'}, not on {expected}, the image it was built from"]
    return []


def base_of_image(image_ref: str) -> str:
    """Where a host keeps the image that overlays stand on (nova/virt/imagecache.py, ``get_cache_fname``)."""
    return f"_base/{hashlib.sha1(image_ref.encode(), usedforsecurity=False).hexdigest()}"


def survey_target(target: Link, source: Link, server_id: str, survey: Survey) -> Survey:
    """The same with what speaks against a target host.

    :raises CallError: a host does not answer
    """
    from cellmove.hosts import disks as hosts_disks

    facts, ours = hosts_disks.facts(target), hosts_disks.facts(source)
    found = [*_of_rights(source.host, ours, writes=False), *_of_rights(target.host, facts, writes=True)]
    if found:
        return dataclasses.replace(survey, hindrances=tuple(found))
    dangers = _dangers(target, source, server_id)
    if dangers:
        return dataclasses.replace(survey, hindrances=dangers, dangers=dangers)
    flattened = any(disk.is_flattened for disk in survey.disks)
    if not facts.qemu_img and (flattened or target.destination.instances_path != source.destination.instances_path):
        why = (
            "ephemeral and swap disks need it" if flattened else "instances_path is another one there, so it is needed"
        )
        found.append(f"qemu-img is missing on {target.host}; {why}")
    bases = {disk.base: _size(source, disk.base) for disk in survey.disks if disk.base}
    absent = sum(size for base, size in bases.items() if not hosts_disks.found(target, base))
    needed = survey.allocated + absent + sum(bases[disk.base] for disk in survey.disks if disk.is_flattened)
    if needed + SPARE > facts.free:
        found.append(f"{target.host} has {facts.free >> 20} MiB free, {(needed + SPARE) >> 20} MiB are needed")
    return dataclasses.replace(survey, hindrances=tuple(found), tells=ours.tells)


def _dangers(target: Link, source: Link, server_id: str) -> tuple[str, ...]:
    """What forbids a target. nova removes the server's directory there when a move is rolled back, asking nothing, and starts
    a guest from a disk that it finds (nova/compute/manager.py, ``_revert_snapshot_based_resize_at_dest``;
    nova/virt/libvirt/imagebackend.py, ``Qcow2.create_image``).
    """
    from cellmove.hosts.disks import found, share_storage

    if share_storage(source, target):
        return (
            f"{source.host} and {target.host} have the same instances_path (disk_stores says otherwise):"
            " ending the move, or rolling it back, would remove the disks of the guest that runs",
        )
    present = [entry.name for entry in found(target, server_id) if not is_ours(entry.name, target.move_id)]
    if present:
        names = ", ".join(sorted(present)[:5])
        return (f"{target.host} has files of this server already: {names}; the guest would start from those",)
    return ()


def _of_rights(host: str, facts: Facts, *, writes: bool) -> list[str]:
    if not facts.readable or (writes and not facts.writable):
        return [f"instances_path on {host} may not be {'written' if facts.readable else 'read'} (ssh.become?)"]
    return []


def is_ours(name: str, move_id: str) -> bool:
    """Whether a file's name carries the mark of a move."""
    return name.startswith(".") and name.endswith(f".cellmove-{move_id}")


def _size(link: Link, path: str) -> int:
    """Bytes that a base takes."""
    from cellmove.hosts.disks import look

    (entry,) = look(link, path)
    return entry.file.allocated
