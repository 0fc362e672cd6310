"""What moves have left behind: pure functions over what an audit gathered. Plain data in, leftovers out."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cellmove.checks.duplicate import Duplicate
from cellmove.checks.leftover import (
    ENDED,
    Allocation,
    Attachment,
    Binding,
    Cloud,
    Image,
    Kind,
    Leftover,
    Migration,
    Owner,
    RepairDetails,
    Row,
    Server,
    ago,
    is_busy,
    is_recent,
    owner_of,
    waits,
)
from cellmove.db.survey import UNDER_WAY

RESERVED = "reserved"
"""How cinder calls an attachment that no host uses."""


def classify(cloud: Cloud) -> list[Leftover]:
    """All leftovers, in the order in which they are best mended: what hangs on a row goes before the row."""
    servers = cloud.servers.values()
    found = [
        *(_duplicate(each) for each in cloud.duplicates),
        *(one for server in servers for one in (*_stuck(server), *_misplaced(server))),
        *(one for each in cloud.bindings for one in _binding(each, cloud)),
        *(one for each in cloud.attachments for one in _attachment(each, cloud)),
        *(one for server in servers for one in _volumes(server, cloud)),
        *(one for each in cloud.allocations for one in _allocation(each, cloud)),
        *(one for each in cloud.images for one in _image(each, cloud)),
        *(one for server in servers for one in (*_hidden(server, cloud), *_deleted(server))),
        *(one for server in servers for one in _old_migrations(server, cloud)),
        *(one for server in servers for one in (*_marks(server, cloud), *_keypairs(server, cloud), *_stash(server))),
    ]
    return [_owned(leftover, cloud) for leftover in found]


def _duplicate(duplicate: Duplicate) -> Leftover:
    """A second mapping of one database: nova lists each of its servers twice, and there is only one row of each."""
    uuid = duplicate.cell.uuid
    return Leftover(Kind.DUPLICATE_CELL, "", uuid, duplicate.text, duplicate.cell, remedy=duplicate.remedy)


def _owned(leftover: Leftover, cloud: Cloud) -> Leftover:
    """The leftover with its server's name and owner. What belongs to somebody, or to a stuck move, is not mended here."""
    server = cloud.servers.get(leftover.server_id)
    if server is None:
        return leftover
    named = replace(leftover, server_name=server.name, project_id=server.project_id)
    owner = owner_of(server, cloud)
    if owner is not None:
        return replace(named, owner=owner, safe=False, remedy=owner.next_command)
    if leftover.kind is not Kind.STUCK and is_busy(server):
        return replace(named, safe=False, remedy=f"goes with the stuck move: {_adopt(server)}")
    return named


def _adopt(server: Server) -> str:
    pending = [migration for migration in server.migrations() if migration.status not in ENDED]
    if pending and not any(migration.cross_cell for migration in pending):
        host = (server.home or server.live[0]).host or "its host"
        return (
            f"a resize within its cell: restart nova-compute on {host}, which settles it when it starts. Its disk may be in "
            f"{server.id}_resize on the source, so its state is not to be reset before it was found"
        )
    return (
        f"cellmove adopt {server.id} --nova-is-dead"
        "  # only after a restart of nova-conductor; it prints how to go on and how to go back"
    )


def _stuck(server: Server) -> Iterable[Leftover]:
    if waits(server) or not is_busy(server):
        return
    home = server.home or server.live[0]
    states = ", ".join(sorted({f"{m.status} in {m.cell}" for m in server.migrations() if m.status in UNDER_WAY}))
    text = (
        f"half-way through a move: {home.vm_state}, task state {home.task_state or 'none'}"
        f"{f', migration {states}' if states else ''}; "
        + " and ".join(f"{'hidden' if row.hidden else 'visible'} in {row.cell}" for row in server.live)
        + f", mapped to {server.mapped or 'no cell'}"
    )
    yield Leftover(
        Kind.STUCK, server.id, server.id, text, home.cell, home.host, since=server.changed, remedy=_adopt(server)
    )


def _misplaced(server: Server) -> Iterable[Leftover]:
    """Which row counts cannot be told from the rows: a person has to see where the guest is."""
    if is_busy(server):
        return  # part of the stuck move, which says so
    home, visible = server.home, server.visible
    look = "find out on which host the guest runs (virsh list); "
    if len(visible) > 1:
        cells = " and ".join(row.cell.label for row in visible)
        remedy = f"{look}hide the row of the other cell, as docs/audit.md says"
        text = f"visible in {cells}; its mapping points at {server.mapped or 'no cell'}"
        yield Leftover(
            Kind.TWO_VISIBLE, server.id, server.id, text, visible[0].cell, since=server.changed, remedy=remedy
        )
    elif home is not None and home.hidden:
        if visible:
            seen = f"it is visible in {visible[0].cell}"
            remedy = f"{look}in {visible[0].cell}: point the mapping there, as docs/audit.md says"
        else:
            seen = "it is visible nowhere, so its owner sees no server"
            remedy = f"{look}show the row in {home.cell}, as docs/audit.md says"
        text = f"its mapping points at {home.cell}, where its row is hidden; {seen}"
        yield Leftover(
            Kind.MAPPING_HIDDEN, server.id, server.id, text, home.cell, home.host, since=server.changed, remedy=remedy
        )
    elif home is None and visible:
        there = visible[0]
        points = f"points at {server.mapped}" if server.mapped else "points at none of the cells"
        text = f"its row is visible in {there.cell}, and its mapping {points if server.is_mapped else 'is missing'}"
        remedy = f"{look}on {there.host or 'no host'}: point the mapping at {there.cell}, as docs/audit.md says"
        yield Leftover(
            Kind.MAPPING_ELSEWHERE,
            server.id,
            server.id,
            text,
            there.cell,
            there.host,
            since=server.changed,
            remedy=remedy,
        )


def _hidden(server: Server, cloud: Cloud) -> Iterable[Leftover]:
    for row in server.live:
        if not row.hidden or row is server.home:
            continue
        empty = cloud.hosts.get(row.host) != row.cell
        text = f"a hidden copy in {row.cell}" + ("" if empty else f", of which {row.host} may keep a guest or its disk")
        if empty and server.at_rest is not None:
            remedy = f"delete the copy's records in {row.cell}; no host of that cell ever took it"
        elif empty:
            remedy = "first repair the other leftovers of this server, then cellmove audit again"
        else:
            remedy = f"see that {row.host} has neither guest nor disk of it, then delete the copy as docs/audit.md says"
        yield Leftover(
            Kind.HIDDEN_ROW, server.id, server.id, text, row.cell, row.host, since=row.changed,
            safe=empty and server.at_rest is not None, remedy=remedy,
        )  # fmt: skip


def _deleted(server: Server) -> Iterable[Leftover]:
    for row in server.rows:
        if row.deleted and server.live:
            text = f"its row in {row.cell} is deleted and not gone: it keeps the server from moving there"
            remedy = f"nova-manage db archive_deleted_rows --all-cells  # on a host that knows {row.cell}"
            yield Leftover(Kind.DELETED_ROW, server.id, server.id, text, row.cell, since=row.changed, remedy=remedy)


def _marks(server: Server, cloud: Cloud) -> Iterable[Leftover]:
    for row, mark in server.marks:
        move = cloud.moves.get(mark.move_id)
        state = f"which is {move.state}" if move else "which this journal does not know"
        remedy = "remove it"
        yield Leftover(
            Kind.MARK, server.id, mark.move_id, f"marked as moved by {mark.move_id}, {state}", row.cell, row.host,
            since=row.changed, safe=move is not None and not move.is_open, remedy=remedy,
        )  # fmt: skip


def _keypairs(server: Server, cloud: Cloud) -> Iterable[Leftover]:
    home = server.home
    if home is None or home.hidden or not home.key_name or home.keypairs:
        return
    other = next((row for row in server.live if row is not home and row.keypairs), None)
    key = cloud.keys.get((home.user_id, home.key_name))
    text = f"its keypair {home.key_name} is not recorded with it: nova lost it on the way here (bug 2108974)"
    source, remedy = (
        "",
        f"nobody has the keypair {home.key_name} any more, only its owner; the guest's own keys are untouched",
    )
    if other is not None:
        source, remedy = other.cell.uuid, f"take it from the hidden row in {other.cell}"
    elif key is not None and _same_key(key, home):
        source, remedy = "api", "take it from its owner's keypairs, which have the very same key"
    if home.task_state is not None:
        source, remedy = "", f"look again when it is no longer {home.task_state}"
    yield Leftover(
        Kind.KEYPAIRS, server.id, home.key_name, text, home.cell, home.host, safe=bool(source), remedy=remedy,
        details=RepairDetails(keypair_from=source),
    )  # fmt: skip


def _stash(server: Server) -> Iterable[Leftover]:
    """What a claim notes and the end of a move forgets; a server that is at rest has none."""
    home = server.at_rest
    if home is None or not home.stashed or any(m.status not in ENDED for m in server.migrations()):
        return
    text = "the context of a migration is recorded with it, and none is under way"
    remedy = "forget it, and the flavors and state that are stashed with it"
    yield Leftover(
        Kind.STASH,
        server.id,
        server.id,
        text,
        home.cell,
        home.host,
        since=_ended_move(server),
        safe=True,
        remedy=remedy,
    )


def _old_migrations(server: Server, cloud: Cloud) -> Iterable[Leftover]:
    """Records of migrations that have not ended, of a server on which nothing works: nova never ends them.

    nova-compute sets the end. One that died before leaves the record, and ``nova-manage`` has no command for it. The
    status error is an end that says nothing of the server: nova/compute/resource_tracker.py
    (``_update_usage_from_migrations``) then leaves out a server that is neither resized nor migrated.
    """
    home = server.at_rest
    if home is None or is_busy(server):
        return
    for migration in home.migrations:
        if migration.status in ENDED:
            continue
        kind = migration.kind or "migration"
        source, target = (
            host or "a host that is not recorded" for host in (migration.source_host, migration.target_host)
        )
        text = f"the record of its {kind} from {source} to {target} never ended: its status is {migration.status}"
        why = _why_not_settled(server, home, migration, cloud)
        remedy = why or "set its status to error: the server is at rest, and nothing works on it"
        yield Leftover(
            Kind.OLD_MIGRATION, server.id, migration.subject, text, home.cell, home.host, since=migration.changed,
            safe=not why, remedy=remedy, details=RepairDetails(migration_number=migration.number, migration_status=migration.status),
        )  # fmt: skip


def _why_not_settled(server: Server, home: Row, migration: Migration, cloud: Cloud) -> str:
    """What a person is to do about the record of a migration that is not to be settled; empty when it is."""
    if migration.kind == "evacuation":
        return (
            f"start nova-compute on {migration.source_host or 'the host that was evacuated'}: it removes the guest that it "
            "may still have, and ends the record"
        )
    if len(server.live) > 1:
        return "first repair the other leftovers of this server, then cellmove audit again"
    if home.open_event:
        return f"wait until {home.open_event} of it has ended, then cellmove audit again"
    if cloud.hosts.get(home.host) != home.cell:
        return f"{home.host or 'no host'} is no host of {home.cell}: find out where its guest runs (virsh list) first"
    later = (m for m in home.migrations if m.status in ENDED and m.number > migration.number)
    ends = {migration.source_host, migration.target_host, *(m.target_host for m in later)}
    if home.host not in ends:
        return (
            f"it is on {home.host}, which is neither end of that record: find out where its guest runs (virsh list) first, "
            f"then openstack server show {server.id}"
        )
    return ""


def _same_key(key: Mapping[str, Any], row: Row) -> bool:
    """One of the same name may have been made anew with another key."""
    return bool(row.key_data) and str(key["public_key"] or "").strip() == row.key_data.strip()


def _binding(binding: Binding, cloud: Cloud) -> Iterable[Leftover]:
    server = cloud.servers.get(binding.server_id)
    home = server.at_rest if server else None
    text = f"port {binding.port_id} is also bound to {binding.host}, inactive; it is active on {binding.active_host or 'no host'}"
    remedy = (
        f"find out on which host its guest runs (virsh list --all on {binding.host} and {binding.active_host or 'its host'}), "
        "settle the server, then cellmove audit again"
    )
    safe = home is not None and home.host == binding.active_host
    yield Leftover(
        Kind.BINDING, binding.server_id, binding.port_id, text, cloud.hosts.get(binding.host), binding.host,
        since=_ended_move(server), safe=safe, remedy="delete the binding" if safe else remedy,
    )  # fmt: skip


def _ended_move(server: Server | None) -> datetime.datetime | None:
    """When the newest cross-cell move of a server ended: about then it left something."""
    ends = [m.changed for m in (server.migrations() if server else ()) if m.cross_cell and m.changed]
    return max(ends, default=None)


def _attachment(attachment: Attachment, cloud: Cloud) -> Iterable[Leftover]:
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
        remedy = "first settle the server, then cellmove audit again"
    yield Leftover(
        Kind.ATTACHMENT, attachment.server_id, attachment.id, text, using.cell if using else None,
        since=_ended_move(server), safe=safe, remedy=remedy,
    )  # fmt: skip


def _volumes(server: Server, cloud: Cloud) -> Iterable[Leftover]:
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
            kind = Kind.RESERVED
            text = f"volume {volume_id} is reserved for the server and connected to no host: its block device names the empty attachment {attachment_id}"
        elif not there and attachment_id:
            kind, text = (
                Kind.UNATTACHED,
                f"its block device of volume {volume_id} names attachment {attachment_id}, which cinder does not have",
            )
        elif not attachment_id and not same:
            kind, text = (
                Kind.UNATTACHED,
                f"its block device of volume {volume_id} names no attachment, and cinder has none",
            )
        else:
            continue
        remedy = (
            f"openstack server stop {server.id}; on {home.host}: nova-manage volume_attachment get_connector --json > connector.json;"
            f" then nova-manage volume_attachment refresh {server.id} {volume_id} connector.json  (nova 24 or newer)"
        )
        yield Leftover(kind, server.id, volume_id, text, home.cell, home.host, since=_ended_move(server), remedy=remedy)


def _allocation(allocation: Allocation, cloud: Cloud) -> Iterable[Leftover]:
    """Of a migration that has ended: given up when the server holds its host itself, given back when it does not."""
    hosts = sorted(cloud.providers.get(each, each) for each in allocation.providers)
    migration, where = allocation.migration, ", ".join(hosts)
    if migration is None:
        text = (
            f"{allocation.consumer} holds room on {where}; it is neither a server nor a migration that any cell knows"
        )
        remedy = (
            "find out whose it is: another service may keep room here (blazar, zun, cyborg), or another nova. "
            "nova-manage placement audit --verbose lists what this nova does not know"
        )
        yield Leftover(
            Kind.ALLOCATION, "", allocation.consumer, text, cloud.hosts.get(hosts[0]), hosts[0], remedy=remedy
        )
        return
    if migration.status not in ENDED:
        return
    server = cloud.servers.get(migration.server_id)
    text = f"migration {allocation.consumer} ({migration.status}) still holds room on {where}"
    home = server.at_rest if server else None
    own = {cloud.providers.get(each) for each in allocation.of_server}
    how, remedy = "", "first find out where its guest is and settle the server, then cellmove audit again"
    if server is not None and not server.live:
        how, remedy = "give-up", "give it up: its server is gone"
    elif home is not None and home.host in own:
        how, remedy = "give-up", "give it up: the server holds its host itself"
    elif home is not None and home.host in hosts:
        instead = (
            f" in place of what it holds on {', '.join(sorted(host for host in own if host))}" if own - {None} else ""
        )
        how, remedy = "give-back", f"give it back to the server, whose host it is{instead}"
    elif home is not None and home.host not in hosts:
        remedy = (
            f"nova-manage placement heal_allocations --instance {migration.server_id}, then cellmove audit --repair"
        )
    recent = is_recent(migration.changed, cloud)
    owner = Owner("nova", f"it ended {ago(migration.changed, cloud)} ago; look again later") if recent else None
    yield Leftover(
        Kind.ALLOCATION, migration.server_id, allocation.consumer, text, cloud.hosts.get(hosts[0]), hosts[0],
        since=migration.changed, owner=owner, safe=bool(how) and owner is None, remedy="" if owner else remedy,
        details=RepairDetails(allocation=how),
    )  # fmt: skip


def _image(image: Image, cloud: Cloud) -> Iterable[Leftover]:
    """Only one that came while a cross-cell move of the server was made is surely none that its owner wanted."""
    server = cloud.servers.get(image.server_id)
    text = f"image {image.name} ({image.status})"
    used = [row for row in server.live if row.image_ref == image.id] if server else []
    second = datetime.timedelta(seconds=2)
    made_by = [
        m for m in (server.migrations() if server else ())
        if m.cross_cell and m.status in ENDED and image.created and m.created and m.changed
        and m.created - second <= image.created <= m.changed + second
    ]  # fmt: skip
    safe = server is not None and server.at_rest is not None and bool(made_by) and not used
    remedy = f"ask its owner: an owner may call a snapshot so (openstack image show {image.id})"
    if used:
        remedy = f"the server's row in {used[0].cell} names it as its image: see docs/audit.md"
    yield Leftover(
        Kind.IMAGE, image.server_id, image.id, text, since=image.created, safe=safe,
        remedy="delete the image: a move of this server made it, and has ended" if safe else remedy,
    )  # fmt: skip
