"""Which move, or whether nova, works or waits with a server that an audit looks at."""

from __future__ import annotations

import datetime

from cellmove.checks.audit_snapshot import ENDED, AuditSnapshot, Server
from cellmove.checks.leftover import Owner
from cellmove.core.ownership import OwnershipMark, is_same_owner, number_of
from cellmove.core.shell import resume_elsewhere
from cellmove.db.survey import MOVE_TASKS, UNDER_WAY


def waits(server: Server) -> bool:
    """Return whether a server is in a complete VERIFY_RESIZE, which its owner or nova can confirm or revert."""
    home = server.home
    if home is None or home.vm_state != "resized" or home.task_state is not None or server.visible != (home,):
        return False
    return any(migration.status == "finished" for migration in home.migrations)


def is_busy(server: Server) -> bool:
    """Return whether a move of the server is in progress, or was interrupted."""
    home = server.home
    under = any(migration.cross_cell and migration.status in UNDER_WAY for migration in server.migrations())
    task = any(row.task_state in MOVE_TASKS for row in ((home,) if home else server.live))
    half = home is not None and home.vm_state == "resized" and not waits(server)
    return under or task or half


def other_work(server: Server) -> bool:
    """Return whether nova migrates the server in another way, such as a live migration, which binds ports to two hosts."""
    ended = (*ENDED, "finished")
    return any(migration.status not in ended and migration.status not in UNDER_WAY for migration in server.migrations())


def owner_of(server: Server, cloud: AuditSnapshot) -> Owner | None:
    """Return the move, or nova, that works or waits with a server; None when there is none."""
    if server.move is not None:
        text = f"{server.move.id} of this journal, {server.move.state}"
        return Owner("move", text, server.move.id, server.move.next_command)
    for _row, mark in server.marks:
        move = cloud.moves.get(mark.move_id)
        if move is None or (not move.is_open and number_of(mark.generation) > move.generation):
            where = mark.owner or "an unknown journal"
            text = f"{mark.move_id}, recorded in {'a lost journal' if _is_here(mark, cloud) else where}"
            here = _is_here(mark, cloud)
            again = f"cellmove adopt {server.id}" if here else resume_elsewhere(mark.owner, mark.move_id)
            return Owner("journal", text, mark.move_id, again)
    if waits(server):
        return Owner("nova", "nova: it waits to be confirmed or reverted")
    recent = is_recent(server.changed, cloud)
    if recent and (is_busy(server) or other_work(server) or len(server.visible) > 1):
        return Owner("nova", f"nova moves it: something changed {ago(server.changed, cloud)} ago")
    if recent:
        return Owner("nova", f"it changed {ago(server.changed, cloud)} ago; run audit again later")
    return None


def _is_here(mark: OwnershipMark, cloud: AuditSnapshot) -> bool:
    return is_same_owner(mark.owner, cloud.here, mark.move_id)


def is_recent(moment: datetime.datetime | None, cloud: AuditSnapshot) -> bool:
    """Return whether a change is so recent that its actor may still be at work."""
    return moment is not None and (cloud.now - moment).total_seconds() < cloud.patience


def ago(moment: datetime.datetime | None, cloud: AuditSnapshot) -> str:
    """Return the age of a time as text."""
    seconds = (cloud.now - moment).total_seconds() if moment else 0
    return f"{max(int(seconds), 0)} s" if seconds < 120 else f"{int(seconds / 60)} min"


def ended_move(server: Server | None) -> datetime.datetime | None:
    """Return the end of the newest cross-cell move of a server, which is about the age of its leftovers."""
    ends = [m.changed for m in (server.migrations() if server else ()) if m.cross_cell and m.changed]
    return max(ends, default=None)
