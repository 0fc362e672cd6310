"""Check the root disk of a moved server: by samples of its content, or by what both cells' records say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.checks.arrival import Arrival, RootDisk
from cellmove.checks.result import CheckResults, refusal, warning
from cellmove.checks.suitability import STARTS_FROM_SNAPSHOT, too_old
from cellmove.core.transfer import STREAM, VOLUMES

if TYPE_CHECKING:
    from cellmove.db.records import Rows

LEAST_SAMPLES = 4
"""Fewer places say nothing of a disk."""


def _is_compared(arrival: Arrival) -> bool:
    return arrival.disk is not None and arrival.disk.samples >= LEAST_SAMPLES


def disk_words(arrival: Arrival) -> str:
    disk = arrival.disk
    if disk is not None and _is_compared(arrival):
        since = " (its guest has been running since)" if disk.same < disk.samples else ""
        return f"{disk.same} of {disk.samples} samples of the root disk equal those of the source{since}"
    return "the disks were streamed, and read back before the guest started" if arrival.transfer == STREAM else ""


def check_disk(arrival: Arrival) -> CheckResults:
    """The root disk of an image-backed server: whether it is its own, as far as that can be seen."""
    disk, old = arrival.disk or RootDisk(), arrival.target_version < STARTS_FROM_SNAPSHOT
    if arrival.transfer == VOLUMES:
        return
    if _is_compared(arrival):
        yield from _compare_disk(arrival, disk)
        return
    if arrival.transfer == STREAM:
        return
    yield from _compare_recorded_disk(arrival)
    if old:
        yield refusal(
            "root-disk-lost",
            f"nova-compute on {arrival.target_host} {too_old(arrival.target_version)}; "
            f"the disks were not compared: {_why_not(disk)}",
            "cellmove revert: the source still has its disk. If it was streamed and you know its disk to be right: --force",
        )
    else:
        yield warning(
            "disk-not-compared",
            f"the root disk came through an image. Compared: {_recorded_words(arrival)}. "
            f"Not compared: its content, its backing file and its size in bytes ({_why_not(disk)})",
        )


BASE_IMAGE = "image_base_image_ref"
"""The system metadata with the image that libvirt's root disk stands on (nova/virt/libvirt/driver.py)."""


def _compare_recorded_disk(arrival: Arrival) -> CheckResults:
    """What both cells' records say of the root disk: no API shows its content, its backing file or its size in bytes.

    That ``image_ref`` and the base image are as before, :func:`cellmove.checks.arrival_checks.check_records` finds: a nova-compute
    that fails in finish_snapshot_based_resize_at_dest leaves the id of the temporary image in ``image_ref``.
    """
    before, after = _recorded(arrival.before), _recorded(arrival.after)
    if after.gigabytes < before.gigabytes:
        yield refusal(
            "disk-smaller",
            f"the root disk has {after.gigabytes} GB by its record, and had {before.gigabytes} GB",
            "cellmove revert: the source still has its disk",
        )


@dataclass(frozen=True)
class _RecordedDisk:
    """A root disk by the records of a cell.

    :param image: the image that the server was built from
    :param base: the image that the disk stands on; empty where the record does not say it
    :param gigabytes: its size by the flavor (``root_gb``)
    """

    image: str
    base: str
    gigabytes: int


def _recorded(rows: Rows) -> _RecordedDisk:
    instance = next(iter(rows.get("instances", ())), {})
    metadata = {row["key"]: row["value"] for row in rows.get("instance_system_metadata", ())}
    image, base = str(instance.get("image_ref") or ""), str(metadata.get(BASE_IMAGE) or "")
    return _RecordedDisk(image, base, int(instance.get("root_gb") or 0))


def _recorded_words(arrival: Arrival) -> str:
    """What of the root disk was compared by the records, for a person."""
    before, after = _recorded(arrival.before), _recorded(arrival.after)
    base = " and its base image" if before.base and before.base == after.base else ""
    return (
        f"the image{base} in its record; its recorded size ({before.gigabytes} GB, now {after.gigabytes} GB); the release of "
        f"nova-compute on {arrival.target_host}, which starts a guest from the snapshot of its disk"
    )


def _why_not(disk: RootDisk) -> str:
    return disk.why or "the guest had written too little to compare"


def _compare_disk(arrival: Arrival, disk: RootDisk) -> CheckResults:
    """A guest that runs overwrites a little within minutes; a disk that was made anew shares next to nothing."""
    found = f"{disk.same} of {disk.samples} samples of the root disk equal those of the source"
    if disk.same * 2 < disk.samples:
        bug = " (nova bug 1906428)" if arrival.target_version < STARTS_FROM_SNAPSHOT else ""
        yield refusal(
            "root-disk-lost",
            f"only {found}: this is not the server's disk{bug}",
            "cellmove revert: the source still has its disk",
        )
    elif not arrival.active and disk.same < disk.samples:
        yield refusal(
            "disk-differs", f"the guest is off, and only {found}", "cellmove revert, or find out who wrote to it"
        )
    if disk.target_size < disk.source_size:
        yield refusal(
            "disk-smaller",
            f"the root disk has {disk.target_size} bytes, and had {disk.source_size}",
            "cellmove revert: the source still has its disk",
        )
