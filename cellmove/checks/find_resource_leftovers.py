"""Find leftovers among bindings, attachments, volumes, allocations and images."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from cellmove.checks.audit_snapshot import ENDED, Allocation, Attachment, AuditSnapshot, Binding, Image, Server
from cellmove.checks.leftover import Leftover, LeftoverKind, Owner, RepairDetails
from cellmove.checks.server_owner import ago, ended_move, is_busy, is_recent

RESERVED = "reserved"
"""How cinder calls an attachment that no host uses."""


def binding_leftovers(binding: Binding, cloud: AuditSnapshot) -> Iterable[Leftover]:
    server = cloud.servers.get(binding.server_id)
    home = server.at_rest if server else None
    text = f"port {binding.port_id} is also bound to {binding.host}, inactive; it is active on {binding.active_host or 'no host'}"
    remedy = (
        f"find out on which host its guest runs (virsh list --all on {binding.host} and {binding.active_host or 'its host'}), "
        "repair the server, then run cellmove audit again"
    )
    safe = home is not None and home.host == binding.active_host
    yield Leftover(
        LeftoverKind.BINDING,
        binding.server_id,
        binding.port_id,
        text,
        cloud.hosts.get(binding.host),
        binding.host,
        since=ended_move(server),
        safe=safe,
        remedy="delete the binding" if safe else remedy,
    )


def attachment_leftovers(attachment: Attachment, cloud: AuditSnapshot) -> Iterable[Leftover]:
    server = cloud.servers.get(attachment.server_id)
    using = next((row for row in server.live if attachment.id in row.attachments), None) if server else None
    if server is not None and using is not None and not using.hidden and using is server.home and not is_busy(server):
        return  # in use as it is: a shelved server keeps its volumes so, one that is being built as well
    if server is not None and not server.rows and server.is_mapped:
        return  # in cell0, or not in a cell yet
    gone = server is None or not server.live
    text = f"volume {attachment.volume_id} is reserved by an empty attachment" + (
        "; the server that it is for is gone" if gone else ""
    )
    unused = not attachment.users and (using is None or using.hidden)
    safe = server is not None and server.at_rest is not None and unused
    if safe:
        remedy = "delete the attachment"
    elif attachment.users:
        remedy = f"leave it: {', '.join(attachment.users)}"
    elif gone:
        remedy = (
            "no record in any cell names it. Unless another nova uses this cinder: "
            f"openstack --os-volume-api-version 3.27 volume attachment delete {attachment.id}"
        )
    else:
        remedy = "first repair the server, then run cellmove audit again"
    yield Leftover(
        LeftoverKind.ATTACHMENT,
        attachment.server_id,
        attachment.id,
        text,
        using.cell if using else None,
        since=ended_move(server),
        safe=safe,
        remedy=remedy,
    )


def volume_leftovers(server: Server, cloud: AuditSnapshot) -> Iterable[Leftover]:
    """Volumes that a server at rest has by its records, and that cinder has not attached to it.

    No repair: only the host knows whether the guest uses the volume. The remedy goes through nova-manage, which
    makes the attachment anew and refuses unless the server is stopped (nova/cmd/manage.py,
    VolumeAttachmentCommands, since 24.0 Xena).
    """
    home, known = server.at_rest, cloud.attached.get(server.id)
    if home is None or known is None:
        return
    for volume_id, attachment_id in home.volumes:
        there, status = known.get(attachment_id, ("", ""))
        same = [each for each, (volume, how) in known.items() if volume == volume_id and how != RESERVED]
        if there and status == RESERVED:
            kind = LeftoverKind.RESERVED
            text = f"volume {volume_id} is reserved for the server and connected to no host: its block device names the empty attachment {attachment_id}"
        elif not there and attachment_id:
            kind, text = (
                LeftoverKind.UNATTACHED,
                f"its block device of volume {volume_id} names attachment {attachment_id}, which cinder does not have",
            )
        elif not attachment_id and not same:
            kind, text = (
                LeftoverKind.UNATTACHED,
                f"its block device of volume {volume_id} names no attachment, and cinder has none",
            )
        else:
            continue
        remedy = (
            f"openstack server stop {server.id}; on {home.host}: nova-manage volume_attachment get_connector --json > connector.json;"
            f" then nova-manage volume_attachment refresh {server.id} {volume_id} connector.json  (nova 24 or newer)"
        )
        yield Leftover(kind, server.id, volume_id, text, home.cell, home.host, since=ended_move(server), remedy=remedy)


def allocation_leftovers(allocation: Allocation, cloud: AuditSnapshot) -> Iterable[Leftover]:
    """Of a migration that has ended: given up when the server holds its host itself, given back when it does not."""
    hosts = sorted(cloud.providers.get(each, each) for each in allocation.providers)
    migration, where = allocation.migration, ", ".join(hosts)
    if migration is None:
        text = f"{allocation.consumer} holds capacity on {where}; it is neither a server nor a migration that any cell knows"
        remedy = (
            "find out whose it is: another service may keep capacity here (blazar, zun, cyborg), or another nova. "
            "nova-manage placement audit --verbose lists what this nova does not know"
        )
        yield Leftover(
            LeftoverKind.ALLOCATION, "", allocation.consumer, text, cloud.hosts.get(hosts[0]), hosts[0], remedy=remedy
        )
        return
    if migration.status not in ENDED:
        return
    server = cloud.servers.get(migration.server_id)
    text = f"migration {allocation.consumer} ({migration.status}) still holds capacity on {where}"
    home = server.at_rest if server else None
    own = {cloud.providers.get(each) for each in allocation.of_server}
    how, remedy = "", "first find out where its guest is and repair the server, then run cellmove audit again"
    if server is not None and not server.live:
        how, remedy = "give-up", "delete it: its server is gone"
    elif home is not None and home.host in own:
        how, remedy = "give-up", "delete it: the server holds its host itself"
    elif home is not None and home.host in hosts:
        instead = (
            f" in place of what it holds on {', '.join(sorted(host for host in own if host))}" if own - {None} else ""
        )
        how, remedy = "give-back", f"move it to the server, which is on that host{instead}"
    elif home is not None and home.host not in hosts:
        remedy = (
            f"nova-manage placement heal_allocations --instance {migration.server_id}, then cellmove audit --repair"
        )
    recent = is_recent(migration.changed, cloud)
    owner = Owner("nova", f"it ended {ago(migration.changed, cloud)} ago; run audit again later") if recent else None
    yield Leftover(
        LeftoverKind.ALLOCATION,
        migration.server_id,
        allocation.consumer,
        text,
        cloud.hosts.get(hosts[0]),
        hosts[0],
        since=migration.changed,
        owner=owner,
        safe=bool(how) and owner is None,
        remedy="" if owner else remedy,
        details=RepairDetails(allocation=how),
    )


def image_leftovers(image: Image, cloud: AuditSnapshot) -> Iterable[Leftover]:
    """Only one that came while a cross-cell move of the server was made is surely none that its owner wanted."""
    server = cloud.servers.get(image.server_id)
    text = f"image {image.name} ({image.status})"
    used = [row for row in server.live if row.image_ref == image.id] if server else []
    second = datetime.timedelta(seconds=2)
    made_by = [
        m
        for m in (server.migrations() if server else ())
        if m.cross_cell
        and m.status in ENDED
        and image.created
        and m.created
        and m.changed
        and m.created - second <= image.created <= m.changed + second
    ]
    safe = server is not None and server.at_rest is not None and bool(made_by) and not used
    remedy = f"ask its owner: an owner may call a snapshot so (openstack image show {image.id})"
    if used:
        remedy = f"the server's row in {used[0].cell} names it as its image: see docs/audit.md"
    yield Leftover(
        LeftoverKind.IMAGE,
        image.server_id,
        image.id,
        text,
        since=image.created,
        safe=safe,
        remedy="delete the image: a move of this server made it, and has ended" if safe else remedy,
    )
