"""Moves, confirms and reverts that nova's own conductor began, and left when it died.

nova keeps no journal: how far it has come is known to one conductor process alone, and when that dies
nobody goes on. What it has begun and not ended shows in the event that it keeps open in the server's
history. That it is dead does not show, unless its service is down; so it takes the operator's word.

A confirm or revert of our own leaves the same traces, and is taken on here as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cellmove.cloud import volume
from cellmove.core.errors import CallError, CellmoveError, Refused
from cellmove.core.move import Move, State
from cellmove.core.move_plan import ChosenHost, plan_document
from cellmove.core.ownership import OwnershipMark
from cellmove.db import look, move_records, state
from cellmove.db.look import CONDUCTOR
from cellmove.hosts import bus as bus_module
from cellmove.operations import adopt_inspect
from cellmove.operations.adopt_inspect import Adopted, CellPair, Found
from cellmove.steps import rebuild
from cellmove.steps.rebuild_end_steps import Ending, confirm_lines, revert_lines

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.db.move_records import Conducted
    from cellmove.db.types import Record
    from cellmove.operations.context import Session

CONDUCTOR_TOPIC = "conductor"
UNDER_WAY = ("pre-migrating", "migrating", "post-migrating", "finished", "confirming", "reverting")


def unended(session: Session, found: Found) -> Conducted | None:
    """What nova (or a confirm or revert of ours) began with this server and has not ended; None when there is nothing.

    An end in any cell counts: nova closes the events of a move in the source cell alone.
    """
    known = {cell: move_records.last_conducted(session.gateway.database(cell), found.server_id) for cell in found.rows}
    newest = max(
        (each for each in known.values() if each is not None),
        key=lambda each: (each.at, each.action not in move_records.MOVES, bool(each.how)),
        default=None,
    )
    if newest is None:
        return None
    same = [each for each in known.values() if each is not None and each.request_id == newest.request_id]
    if any(each.how not in ("", "running") for each in same):
        return None
    begun = next((each for each in same if each.how), newest)
    return begun if _has_traces(session, found, begun) else None


def _has_traces(session: Session, found: Found, begun: Conducted) -> bool:
    """Whether the server's records say the same: a same-cell confirm, for one, needs no conductor."""
    database, row = session.gateway.database(found.home), found.rows.get(found.home)
    if row is None:
        return False
    if begun.action in move_records.MOVES and not begun.how:
        return bool(row["task_state"] == "resize_prep")
    migrations = move_records.cold_migrations(database, found.server_id)
    if begun.action in move_records.MOVES:
        return row["task_state"] is not None or any(each["status"] in UNDER_WAY for each in migrations)
    return _ended_one(row, migrations, begun) is not None


def _ended_one(row: Record, migrations: list[Record], begun: Conducted) -> Record | None:
    """The cross-cell migration that is being confirmed or reverted, if one is."""
    newest = max(migrations, key=lambda each: (each["created_at"], each["status"] in UNDER_WAY), default=None)
    if newest is None or not newest["cross_cell_move"]:
        return None
    # nova's last two saves of a confirm are the migration's and then the server's.
    half = newest["status"] == "confirmed" and row["vm_state"] == "resized"
    # The guest is back, and the conductor has not said so.
    back = newest["status"] == "reverted" and begun.action == "revertResize" and begun.how == "running"
    return newest if newest["status"] in ("confirming", "reverting") or half or back else None


def require_dead(session: Session, found: Found, begun: Conducted, *, nova_is_dead: bool) -> None:
    """Make sure that no living conductor goes on with it, now or when it takes it from its queue.

    :param nova_is_dead: the operator's word that the conductor which began it was restarted or is gone
    :raises Refused: it may be alive; the message has the exact command for who knows better
    """
    since = f"{begun.at:%Y-%m-%d %H:%M:%S} UTC"
    if not begun.how:
        _require_taken(session, found, begun, since, nova_is_dead=nova_is_dead)
        return
    if nova_is_dead or _is_down(session, begun.host):
        return
    raise Refused(
        f"{begun.action} of {found.name} was begun at {since} by nova-conductor on {begun.host}, which is up; "
        "whether it is still at work on it cannot be seen from outside",
        state="nothing was written. Two that go on with one move undo each other's work",
        next_command=f"cellmove adopt {found.server_id} --nova-is-dead"
        f"  # only when nova-conductor on {begun.host}, or the cellmove that began it there, has ended since then",
    )


def _require_taken(session: Session, found: Found, begun: Conducted, since: str, *, nova_is_dead: bool) -> None:
    """No conductor has begun it. One that starts takes the request from the queue, if it is there."""
    if nova_is_dead and bus_module.ping(session.gateway.api_bus, CONDUCTOR_TOPIC, ""):
        return  # queues keep their order: what was sent before the ping was taken
    raise Refused(
        f"{begun.action} of {found.name} was asked for at {since}, and no nova-conductor has begun it"
        + ("; none answers now" if nova_is_dead else ""),
        state="nothing was written. The request may wait in the queue: the next superconductor that starts takes it",
        next_command=f"cellmove adopt {found.server_id} --nova-is-dead  # when a superconductor runs and still nothing happens",
    )


def _is_down(session: Session, host: str) -> bool:
    """Whether the superconductor's own record of itself says that it is down; False when it has none."""
    cell0 = session.gateway.cell0
    if cell0 is None:
        return False
    try:
        service = state.read_service(session.gateway.database(cell0), host, CONDUCTOR)
    except (CallError, CellmoveError):
        return False
    moment = session.clock.heartbeat_time()
    return service is not None and not look.is_up(service, moment, session.gateway.settings.service_down_time)


def adopted(session: Session, found: Found, begun: Conducted, move_id: str = "") -> Adopted:
    """The move whose move, confirm or revert was begun, as far as it has come.

    :param move_id: that the mark of a confirm or a revert names; empty without a mark
    """
    if begun.action in move_records.MOVES:
        mark = OwnershipMark(move_id=f"move-{session.clock.new_token()}", request_id=begun.request_id)
        return adopt_inspect.half_made(session, found, mark, by_nova=True)
    return _ending(session, found, begun, move_id or f"move-{session.clock.new_token()}")


def _ending(session: Session, found: Found, begun: Conducted, move_id: str) -> Adopted:
    gateway, server_id = session.gateway, found.server_id
    home = gateway.database(found.home)
    migration = _ended_one(found.rows[found.home], move_records.cold_migrations(home, server_id), begun)
    source = adopt_inspect.cell_of_host(session, migration["source_compute"]) if migration is not None else None
    target = adopt_inspect.cell_of_host(session, migration["dest_compute"]) if migration is not None else None
    if migration is None or source is None or target is None or source is target or found.home not in (source, target):
        raise adopt_inspect.contradiction(
            found.name, f"{begun.action} was begun, and its migration does not say between which cells"
        )
    ends, kind = CellPair(source, target, found.home), str(migration["migration_type"])
    action = next(reversed(move_records.move_actions(home, server_id)), None)
    mark = OwnershipMark(move_id, request_id=action["request_id"] if action is not None else "")
    both = {cell: _end(session, found, cell, str(migration["uuid"]), begun.request_id) for cell in (source, target)}
    origin = both[source] or both[target]
    if origin is None or (begun.action == "revertResize" and both[source] is None):
        raise adopt_inspect.contradiction(found.name, f"{source.label} has no row of it any more")
    flavors = (both[target] or origin).flavors
    arrival = ChosenHost(
        target_cell=target.label,
        target_cell_uuid=target.uuid,
        target_host=migration["dest_compute"],
        target_node=migration["dest_node"],
        new_flavor=flavors.get("new") or flavors["cur"],
    )
    plan, _numa = adopt_inspect.plan_from(session, found, ends, mark, kind, origin, both[target], arrival)
    plan = replace(plan, source_host=migration["source_compute"], source_node=migration["source_node"])
    ending = Ending(
        begun.request_id,
        both[source],
        both[target],
        found.home is target,
        tuple(volume.attachments_of(gateway.admin, server_id)),
    )
    lines = confirm_lines(ending) if begun.action == "confirmResize" else revert_lines(ending)
    finished = rebuild.finished_lines(plan, arrival, str(migration["uuid"]))
    now = session.clock.text()
    move = Move(mark.move_id, server_id, found.name, kind, State.FINISHED, now, now, plan_document(plan))
    return Adopted(move, (*finished, *lines))


def _end(session: Session, found: Found, cell: Cell, migration_uuid: str, request_id: str) -> rebuild.CellState | None:
    return adopt_inspect.end_of(
        session.gateway.database(cell), found.rows.get(cell), found.server_id, migration_uuid, request_id
    )
