"""Compare the root disk of a moved server with the one that its source keeps until the move is confirmed or reverted.

Both are read as their guests see them, at places where the guest had written something: the files differ where a disk
went through an image. The target's guest runs meanwhile, and overwrites a little of it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellmove.checks.arrival import RootDisk
from cellmove.core.errors import CallError, CallFailed
from cellmove.hosts.disk_survey import ROOT
from cellmove.steps.endpoints import chosen_host
from cellmove.steps.plan_disks import NOT_CONFIGURED

if TYPE_CHECKING:
    from cellmove.engine.record import MoveRecord
    from cellmove.gateway import Gateway
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disks import Entry


def compare_root_disks(gateway: Gateway, record: MoveRecord) -> RootDisk:
    """Read samples of both. That it cannot be done is an answer, and no error."""
    from cellmove.hosts.disks import sample

    move = record.move
    if gateway.settings.ssh is None:
        return RootDisk(why=NOT_CONFIGURED)
    path = f"{move.server_id}/{ROOT}"
    try:
        source, target = (
            gateway.links.to(host, move.server_id, move.id)
            for host in (record.plan.source_host, chosen_host(record).target_host)
        )
        before = sample(source, path, _format(source, move.server_id))
        after = sample(target, path, _format(target, move.server_id), places=before.places)
    except CallError as error:
        return RootDisk(why=str(error))
    finally:
        gateway.links.close(move.server_id)
    same = sum(one == other for one, other in zip(before.digests, after.digests, strict=True))
    return RootDisk(len(before.places), same, before.virtual_size, after.virtual_size)


def _format(link: Link, server_id: str) -> str:
    """What nova believes the root disk to be; where it wrote nothing down, what the disk says of itself.

    :raises CallFailed: there is no such file
    """
    from cellmove.hosts.disks import look

    entries = look(link, server_id)
    disk = next((entry for entry in entries if entry.name == ROOT), None)
    if disk is None or disk.image is None:
        raise CallFailed(f"{link.host} has no file {ROOT} of it: its root disk is not a file there", kind="absent")
    return _told(entries) or disk.image.format


def _told(entries: Sequence[Entry]) -> str:
    text = next((entry.text for entry in entries if entry.name == "disk.info"), "")
    try:
        told = json.loads(text) if text else {}
    except ValueError:
        return ""
    found = told.items() if isinstance(told, dict) else ()
    return next((str(form) for path, form in found if posixpath.basename(path) == ROOT), "")
