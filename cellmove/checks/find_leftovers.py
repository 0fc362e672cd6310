"""Find what moves have left behind: pure functions over the snapshot of an audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cellmove.checks.audit_snapshot import ENDED, AuditSnapshot, Migration, Row, Server
from cellmove.checks.duplicate import Duplicate
from cellmove.checks.find_resource_leftovers import (
    allocation_leftovers,
    attachment_leftovers,
    binding_leftovers,
    image_leftovers,
    volume_leftovers,
)
from cellmove.checks.leftover import Leftover, LeftoverKind, RepairDetails
from cellmove.checks.server_owner import ended_move, is_busy, owner_of, waits
from cellmove.db.survey import UNDER_WAY


def classify(cloud: AuditSnapshot) -> list[Leftover]:
    """Return all leftovers in the order of their repair: resources and values of a row before the row."""
    servers = cloud.servers.values()
    found = [
        *(_duplicate(each) for each in cloud.duplicates),
        *(one for server in servers for one in (*_stuck(server), *_misplaced(server))),
        *(one for each in cloud.bindings for one in binding_leftovers(each, cloud)),
        *(one for each in cloud.attachments for one in attachment_leftovers(each, cloud)),
        *(one for server in servers for one in volume_leftovers(server, cloud)),
        *(one for each in cloud.allocations for one in allocation_leftovers(each, cloud)),
        *(one for each in cloud.images for one in image_leftovers(each, cloud)),
        *(one for server in servers for one in (*_hidden(server, cloud), *_deleted(server))),
        *(one for server in servers for one in _old_migrations(server, cloud)),
        *(one for server in servers for one in (*_marks(server, cloud), *_keypairs(server, cloud), *_stash(server))),
    ]
    return [_owned(leftover, cloud) for leftover in found]


def _duplicate(duplicate: Duplicate) -> Leftover:
    """Return the second mapping of one database. nova lists each of its servers twice, but there is one row of each."""
    uuid = duplicate.cell.uuid
    return Leftover(LeftoverKind.DUPLICATE_CELL, "", uuid, duplicate.text, duplicate.cell, remedy=duplicate.remedy)


def _owned(leftover: Leftover, cloud: AuditSnapshot) -> Leftover:
    """Add the name of the server, and the owner. A leftover with an owner, or of a stuck move, is not repaired alone."""
    server = cloud.servers.get(leftover.server_id)
    if server is None:
        return leftover
    named = replace(leftover, server_name=server.name, project_id=server.project_id)
    owner = owner_of(server, cloud)
    if owner is not None:
        return replace(named, owner=owner, safe=False, remedy=owner.next_command)
    if leftover.kind is not LeftoverKind.STUCK and is_busy(server):
        return replace(named, safe=False, remedy=f"is repaired with the stuck move: {_adopt(server)}")
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
        "  # only after a restart of nova-conductor; it prints how to continue and how to roll back"
    )


def _stuck(server: Server) -> Iterable[Leftover]:
    if waits(server) or not is_busy(server):
        return
    home = server.home or server.live[0]
    states = ", ".join(sorted({f"{m.status} in {m.cell}" for m in server.migrations() if m.status in UNDER_WAY}))
    text = (
        f"in the middle of a move: {home.vm_state}, task state {home.task_state or 'none'}"
        f"{f', migration {states}' if states else ''}; "
        + " and ".join(f"{'hidden' if row.hidden else 'visible'} in {row.cell}" for row in server.live)
        + f", mapped to {server.mapped or 'no cell'}"
    )
    yield Leftover(
        LeftoverKind.STUCK,
        server.id,
        server.id,
        text,
        home.cell,
        home.host,
        since=server.changed,
        remedy=_adopt(server),
    )


def _misplaced(server: Server) -> Iterable[Leftover]:
    """Yield rows and mappings that contradict each other. Only the guest's host shows which of them is right."""
    if is_busy(server):
        return  # part of the stuck move, which says so
    home, visible = server.home, server.visible
    look = "find out on which host the guest runs (virsh list); "
    if len(visible) > 1:
        cells = " and ".join(row.cell.label for row in visible)
        remedy = f"{look}hide the row of the other cell, as docs/audit.md says"
        text = f"visible in {cells}; its mapping points at {server.mapped or 'no cell'}"
        yield Leftover(
            LeftoverKind.TWO_VISIBLE, server.id, server.id, text, visible[0].cell, since=server.changed, remedy=remedy
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
            LeftoverKind.MAPPING_HIDDEN,
            server.id,
            server.id,
            text,
            home.cell,
            home.host,
            since=server.changed,
            remedy=remedy,
        )
    elif home is None and visible:
        there = visible[0]
        points = f"points at {server.mapped}" if server.mapped else "points at none of the cells"
        text = f"its row is visible in {there.cell}, and its mapping {points if server.is_mapped else 'is missing'}"
        remedy = f"{look}on {there.host or 'no host'}: point the mapping at {there.cell}, as docs/audit.md says"
        yield Leftover(
            LeftoverKind.MAPPING_ELSEWHERE,
            server.id,
            server.id,
            text,
            there.cell,
            there.host,
            since=server.changed,
            remedy=remedy,
        )


def _hidden(server: Server, cloud: AuditSnapshot) -> Iterable[Leftover]:
    for row in server.live:
        if not row.hidden or row is server.home:
            continue
        empty = cloud.hosts.get(row.host) != row.cell
        text = f"a hidden copy in {row.cell}" + ("" if empty else f", of which {row.host} may keep a guest or its disk")
        if empty and server.at_rest is not None:
            remedy = f"delete the copy's records in {row.cell}; no host of that cell has it"
        elif empty:
            remedy = "first repair the other leftovers of this server, then run cellmove audit again"
        else:
            remedy = f"see that {row.host} has neither guest nor disk of it, then delete the copy as docs/audit.md says"
        yield Leftover(
            LeftoverKind.HIDDEN_ROW,
            server.id,
            server.id,
            text,
            row.cell,
            row.host,
            since=row.changed,
            safe=empty and server.at_rest is not None,
            remedy=remedy,
        )


def _deleted(server: Server) -> Iterable[Leftover]:
    for row in server.rows:
        if row.deleted and server.live:
            text = f"its row in {row.cell} is only soft-deleted: the server cannot move there"
            remedy = f"nova-manage db archive_deleted_rows --all-cells  # on a host that knows {row.cell}"
            yield Leftover(
                LeftoverKind.DELETED_ROW, server.id, server.id, text, row.cell, since=row.changed, remedy=remedy
            )


def _marks(server: Server, cloud: AuditSnapshot) -> Iterable[Leftover]:
    for row, mark in server.marks:
        move = cloud.moves.get(mark.move_id)
        state = f"which is {move.state}" if move else "which this journal does not know"
        remedy = "remove it"
        yield Leftover(
            LeftoverKind.MARK,
            server.id,
            mark.move_id,
            f"marked as moved by {mark.move_id}, {state}",
            row.cell,
            row.host,
            since=row.changed,
            safe=move is not None and not move.is_open,
            remedy=remedy,
        )


def _keypairs(server: Server, cloud: AuditSnapshot) -> Iterable[Leftover]:
    home = server.home
    if home is None or home.hidden or not home.key_name or home.keypairs:
        return
    other = next((row for row in server.live if row is not home and row.keypairs), None)
    key = cloud.keys.get((home.user_id, home.key_name))
    text = f"its keypair {home.key_name} is not recorded with it: nova lost it on the way here (bug 2108974)"
    source, remedy = (
        "",
        f"no record has the keypair {home.key_name} any more, only its owner; the guest's own keys are untouched",
    )
    if other is not None:
        source, remedy = other.cell.uuid, f"copy it from the hidden row in {other.cell}"
    elif key is not None and _same_key(key, home):
        source, remedy = "api", "copy it from its owner's keypairs, which have the same key"
    if home.task_state is not None:
        source, remedy = "", f"run audit again when the server is no longer {home.task_state}"
    yield Leftover(
        LeftoverKind.KEYPAIRS,
        server.id,
        home.key_name,
        text,
        home.cell,
        home.host,
        safe=bool(source),
        remedy=remedy,
        details=RepairDetails(keypair_from=source),
    )


def _stash(server: Server) -> Iterable[Leftover]:
    """Yield the migration context of a server at rest. A claim records it and the end of a move removes it."""
    home = server.at_rest
    if home is None or not home.stashed or any(m.status not in ENDED for m in server.migrations()):
        return
    text = "the context of a migration is recorded with it, and no migration is in progress"
    remedy = "delete it, and the flavors and state that are recorded with it"
    yield Leftover(
        LeftoverKind.STASH,
        server.id,
        server.id,
        text,
        home.cell,
        home.host,
        since=ended_move(server),
        safe=True,
        remedy=remedy,
    )


def _old_migrations(server: Server, cloud: AuditSnapshot) -> Iterable[Leftover]:
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
            LeftoverKind.OLD_MIGRATION,
            server.id,
            migration.subject,
            text,
            home.cell,
            home.host,
            since=migration.changed,
            safe=not why,
            remedy=remedy,
            details=RepairDetails(migration_number=migration.number, migration_status=migration.status),
        )


def _why_not_settled(server: Server, home: Row, migration: Migration, cloud: AuditSnapshot) -> str:
    """Return the remedy for a migration record that a repair must not settle; empty when it may."""
    if migration.kind == "evacuation":
        return (
            f"start nova-compute on {migration.source_host or 'the host that was evacuated'}: it removes the guest that it "
            "may still have, and ends the record"
        )
    if len(server.live) > 1:
        return "first repair the other leftovers of this server, then run cellmove audit again"
    if home.open_event:
        return f"wait until {home.open_event} of it has ended, then run cellmove audit again"
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


def _same_key(key: Mapping[str, object], row: Row) -> bool:
    """Return whether two keypairs of one name have the same key."""
    return bool(row.key_data) and str(key["public_key"] or "").strip() == row.key_data.strip()
