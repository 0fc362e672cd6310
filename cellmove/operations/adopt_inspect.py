"""What a move has left in the cloud, looked at for a journal that has to be written anew.

Looks at the databases, placement, neutron, cinder and glance, and writes nothing. Traces that do not fit
together are refused: no journal is better than a wrong one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.checks.snapshot import ServerSnapshot
from cellmove.cloud import image, network, placement, volume
from cellmove.core.documents import structure, to_document
from cellmove.core.errors import Refused
from cellmove.core.move import Move, State
from cellmove.core.move_plan import ChosenHost, MovePlan, plan_document
from cellmove.core.ownership import OwnershipMark
from cellmove.core.reference import means
from cellmove.core.request import Destination, MoveRequest
from cellmove.core.shell import quote
from cellmove.db import history, look, move_records, state
from cellmove.db.shapes import make_flavor
from cellmove.hosts import compute
from cellmove.steps import plan, rebuild
from cellmove.steps.action_types import MarkedTransfer, ServerBefore
from cellmove.steps.duplicates import distinct
from cellmove.steps.endpoints import NOVA
from cellmove.steps.rebuild import CellState, Line, ObservedState

if TYPE_CHECKING:
    import datetime

    from cellmove.db.cells import Cell
    from cellmove.db.shapes import Flavor
    from cellmove.db.tables import CellDatabase
    from cellmove.db.types import Record
    from cellmove.operations.context import Session

METHODS = (
    compute.PREP_AT_DEST,
    compute.PREP_AT_SOURCE,
    compute.FINISH_AT_DEST,
    compute.REVERT_AT_DEST,
    compute.FINISH_REVERT_AT_SOURCE,
    compute.CONFIRM_AT_SOURCE,
)
SETTLED = ("active", "stopped")
ENDED = ("error", "reverted", "confirmed", "failed", "completed", "done", "cancelled")
OURS = (None, "resize_prep", "resize_migrating", "resize_migrated", "resize_reverting")
"""Task states that the source cell's row may have while we move the server."""


@dataclass(frozen=True)
class CellPair:
    """The cells that know a server, as they stand to its move.

    :param home: the cell that the server's mapping points at
    """

    source: Cell
    target: Cell | None
    home: Cell


@dataclass(frozen=True)
class Found:
    """What is known of a server before its move is looked at closely.

    :param rows: its row in each cell that has a live one
    :param marks: its mark in each cell that has one
    """

    server_id: str
    name: str
    home: Cell
    rows: Mapping[Cell, Record]
    marks: Mapping[Cell, OwnershipMark]

    @property
    def mark(self) -> OwnershipMark | None:
        """The one mark; cells never disagree (see ``adopt._find``)."""
        return next(iter(self.marks.values()), None)


@dataclass(frozen=True)
class Adopted:
    """A move and its lines, ready for the journal."""

    move: Move
    lines: tuple[Line, ...]


def contradiction(name: str, what: str) -> Refused:
    """Traces that do not fit together."""
    return Refused(
        f"the records of the move of {name} contradict each other: {what}",
        state="nothing was written; no journal is better than a wrong one",
        next_command=f"openstack server migration list --server {quote(name)}  # and look at its rows in both cells",
    )


# a move that is under way


def half_made(session: Session, found: Found, mark: OwnershipMark, *, by_nova: bool = False) -> Adopted:
    """A move that was begun and has not ended, and how far it has come.

    :param mark: what it carries; for one that nova began, what nova's own records say instead
    :param by_nova: nova's conductor began it
    """
    gateway, server_id = session.gateway, found.server_id
    read = move_records.cold_migrations if by_nova else move_records.cross_cell_migrations
    known = {cell: read(gateway.database(cell), server_id) for cell in found.rows}
    ends = ends_of(session, found, known)
    source, target = gateway.database(ends.source), gateway.database(ends.target) if ends.target else None
    began = [a for a in move_records.move_actions(source, server_id) if a["request_id"] == mark.request_id]
    if not mark.request_id or not began:
        raise contradiction(found.name, f"{source.name} has no action with the mark's request id")
    kind = "resize" if began[0]["action"] == "resize" else "migration"
    migration = _migration(session, found, ends, known, began[0]["start_time"], by_nova=by_nova)
    undecided = by_nova and (migration is None or not migration["cross_cell_move"])
    if migration is not None and undecided and migration["dest_compute"]:
        raise _within_its_cell(found, migration)
    uuid = migration["uuid"] if migration is not None else ""
    source_end = end_of(source, found.rows.get(ends.source), server_id, uuid, mark.request_id)
    target_end = (
        end_of(target, found.rows[ends.target], server_id, uuid, mark.request_id) if target and ends.target else None
    )
    origin = source_end or target_end
    if origin is None:
        raise contradiction(found.name, "no cell has its row")
    arrival = arrival_of(session, found, ends, target_end)
    claimed = target_end is not None and bool(target_end.events.get(compute.PREP_AT_DEST.event))
    if by_nova:
        mark = _wish_of_nova(session, found, ends, mark, migration, arrival)
    plan, has_numa = plan_from(session, found, ends, mark, kind, origin, target_end, arrival, going_back=undecided)
    ports = tuple(network.ports_of(gateway.service, server_id))
    image_id = _image(session, found, plan.volume_backed)
    streamed = bool(mark.transfer) and not by_nova and not image_id
    if streamed:
        plan = _with_transfer(plan, mark)
    everything = ObservedState(
        before=_before(mark, origin),
        source=source_end,
        target=target_end,
        migration_uuid=uuid,
        mapped_to_target=ends.home is ends.target,
        holds=bool(uuid) and bool(placement.allocations_of(gateway.admin, uuid)["allocations"]),
        volume_backed=plan.volume_backed,
        arrival=arrival,
        ports=ports,
        bound=frozenset(
            port.id
            for port in ports
            if arrival and network.binding_for(gateway.service, port.id, arrival.target_host) is not None
        ),
        attachments=tuple(volume.attachments_of(gateway.admin, server_id)),
        image_id=image_id,
        # Before the claim nova's copy may be half made, and does not name the new flavor.
        needs_limits=has_numa or (by_nova and not claimed),
        by_nova=by_nova,
        undecided=undecided,
        streamed=streamed,
    )
    _require_sense(found, everything)
    reached, lines = rebuild.rebuild(everything)
    if everything.needs_limits and arrival and not claimed:
        plan = dataclasses.replace(plan, wanted_host=arrival.target_host)
    if by_nova:
        plan = dataclasses.replace(plan, begun_by=NOVA)
    now = session.clock.text()
    goal = "" if reached is State.ROLLING_BACK else State.FINISHED.value
    move = Move(mark.move_id, server_id, found.name, kind, reached, now, now, plan_document(plan), goal)
    return Adopted(move, lines)


def ends_of(session: Session, found: Found, known: Mapping[Cell, list[Record]]) -> CellPair:
    """Which cell is the source and which the target."""
    if len(found.rows) > 2:
        names = ", ".join(cell.label for cell in found.rows)
        raise contradiction(found.name, f"it has rows in {names}")
    if len(found.rows) == 1 and found.home in found.rows:
        return CellPair(found.home, None, found.home)
    shared = [
        {migration["uuid"]: migration["source_compute"] for migration in migrations} for migrations in known.values()
    ]
    # Each cell numbers its records anew, and nova copies the newest first.
    candidates = sorted(
        (m for m in next(iter(known.values())) if all(m["uuid"] in other for other in shared)), key=_age
    )
    newest = candidates[-1] if candidates else None
    fresh = [m for m in known.get(found.home, []) if newest is None or _age(m) > _age(newest)]
    copies = [cell for cell in found.rows if cell is not found.home]
    if fresh and copies and all(found.rows[cell]["hidden"] for cell in copies):
        # nova copies its migrations last: this copy was not made to its end.
        return CellPair(found.home, copies[0], found.home)
    if newest is None:
        raise contradiction(found.name, "two cells have its row, and no migration record is in both")
    source = cell_of_host(session, newest["source_compute"])
    target = next((cell for cell in found.rows if cell is not source), None)
    if source is None or target is None or found.home not in (source, target):
        raise contradiction(
            found.name, f"{newest['source_compute']}, where it comes from, is in none of the cells that know it"
        )
    return CellPair(source, target, found.home)


def _age(migration: Record) -> tuple[datetime.datetime, int]:
    """What to sort records of one cell by, oldest first; of two of one second the live one is the newer."""
    return migration["created_at"], int(migration["status"] not in ENDED)


def cell_of_host(session: Session, host: str | None) -> Cell | None:
    """The cell that a compute host is mapped to."""
    by_uuid = {cell.uuid: cell for cell in session.gateway.cells}
    return by_uuid.get(look.host_cells(session.gateway.api_engine).get(host or "", ""))


def _migration(
    session: Session,
    found: Found,
    ends: CellPair,
    known: Mapping[Cell, list[Record]],
    began: datetime.datetime,
    *,
    by_nova: bool,
) -> Record | None:
    """The move's record: the newest since it was begun, unless an attempt that was rolled back left it."""
    here = known.get(ends.source, [])
    there = {migration["uuid"]: migration for migration in (known.get(ends.target, []) if ends.target else [])}
    candidates = [m for m in here if m["created_at"] >= began] if here else list(there.values())
    if not candidates:
        if ends.target is not None:
            raise contradiction(
                found.name, f"{ends.target.label} has a copy and {ends.source.label} no migration record"
            )
        return None
    newest = candidates[-1]
    if ends.target is not None:
        if newest["uuid"] not in there and not by_nova:
            raise contradiction(found.name, f"the copy in {ends.target.label} is of another migration")
        return newest
    if newest["status"] in ENDED:
        held = placement.allocations_of(session.gateway.admin, newest["uuid"])["allocations"]
        return newest if held else None
    return newest


def _within_its_cell(found: Found, migration: Record) -> Refused:
    return Refused(
        f"nova moves {found.name} to {migration['dest_compute']}, within its cell: the computes end that by themselves",
        state=f"its migration is {migration['status']}; nothing was written",
        next_command=f"openstack server show {found.server_id}",
    )


def _wish_of_nova(
    session: Session,
    found: Found,
    ends: CellPair,
    mark: OwnershipMark,
    migration: Record | None,
    arrival: ChosenHost | None,
) -> OwnershipMark:
    """The new flavor and, when nova's scheduler had chosen, the host that it claimed."""
    flavor_id = ""
    if migration is not None:
        flavor = look.flavor_of_row(session.gateway.api_engine, migration["new_instance_type_id"])
        flavor_id = flavor.flavorid if flavor is not None else ""
    host, cell = (arrival.target_host, arrival.target_cell_uuid) if arrival is not None else ("", "")
    if not host and migration is not None and migration["cross_cell_move"]:
        held = placement.allocations_of(session.gateway.admin, found.server_id)["allocations"]
        others = session.gateway.reachable(each for each in session.gateway.cells if each is not ends.source)[0]
        for other in distinct(session.gateway, others):
            claimed = move_records.node_of(session.gateway.database(other), list(held))
            if claimed is not None:
                host, cell = claimed[0], other.uuid
    return dataclasses.replace(mark, flavor_id=flavor_id, cell=cell, host=host)


def end_of(
    database: CellDatabase, row: Record | None, server_id: str, migration_uuid: str, request_id: str
) -> CellState | None:
    if row is None:
        return None
    return CellState(
        instance=row,
        metadata=state.read_system_metadata(database, server_id),
        extra=state.read_extra(database, server_id),
        migration=state.read_migration(database, migration_uuid) if migration_uuid else None,
        volumes=tuple(state.volume_mappings(database, server_id)),
        events={m.event: history.event_state(database, server_id, request_id, m.event) for m in METHODS},
    )


def arrival_of(session: Session, found: Found, ends: CellPair, target: CellState | None) -> ChosenHost | None:
    """What the scheduler had chosen, from the claim's record or else from placement."""
    if target is None or ends.target is None:
        return None
    record = target.migration or {}
    host, node = record.get("dest_compute"), record.get("dest_node")
    flavors = target.flavors
    changes = record.get("old_instance_type_id") != record.get("new_instance_type_id")
    unnamed = not record or (changes and record["status"] == "pre-migrating")
    if not host:
        held = placement.allocations_of(session.gateway.admin, found.server_id)["allocations"]
        claimed = move_records.node_of(session.gateway.database(ends.target), list(held))
        if claimed is None:
            raise contradiction(found.name, f"placement holds nothing for it on any host of {ends.target.label}")
        host, node = claimed
    return ChosenHost(
        target_cell=ends.target.label,
        target_cell_uuid=ends.target.uuid,
        target_host=str(host),
        target_node=str(node),
        # nova's own copy does not name it before the claim: then the scheduler is asked again, and says it.
        new_flavor=flavors.get("new") or (None if unnamed else flavors["cur"]),
    )


def _before(mark: OwnershipMark, origin: CellState) -> ServerBefore:
    """The columns that taking the server changed; nova's own defaults where the mark has no room for them."""
    guess = ServerBefore(
        progress=0,
        auto_disk_config=origin.instance["auto_disk_config"],
        image_base_image_ref=origin.metadata.get("image_base_image_ref"),
    )
    return structure(ServerBefore, to_document(guess) | dict(mark.before), "the mark")


def _image(session: Session, found: Found, volume_backed: bool) -> str:
    if volume_backed:
        return ""
    images = image.temporary_images(session.gateway.admin, found.server_id)
    if len(images) > 1:
        names = ", ".join(str(each["id"]) for each in images)
        raise contradiction(found.name, f"there are several temporary images of it: {names}")
    return str(images[0]["id"]) if images else ""


def _require_sense(found: Found, everything: ObservedState) -> None:
    source, target = everything.source, everything.target
    if source is not None and source.instance["task_state"] not in OURS:
        raise Refused(
            f"{found.name} is busy: task state {source.instance['task_state']}",
            state="nothing was written; when that has ended, its records can be read",
            next_command=f"cellmove adopt {found.server_id}",
        )
    record = target.migration if target is not None else None
    if everything.mapped_to_target and (record is None or record["status"] != "finished"):
        how = record["status"] if record is not None else "gone"
        raise Refused(
            f"somebody else went on with the move of {found.name}: its migration is {how}",
            state="it is a resize of nova's own now; nothing was written",
            next_command=f"openstack server show {found.server_id}",
        )


# what planning it once came to


def plan_from(
    session: Session,
    found: Found,
    ends: CellPair,
    mark: OwnershipMark,
    kind: str,
    origin: CellState,
    target: CellState | None,
    arrival: ChosenHost | None,
    *,
    going_back: bool = False,
) -> tuple[MovePlan, bool]:
    """The plan that the move was made with, and whether the server has a NUMA topology.

    :param going_back: where to is not known, and does not matter any more
    """
    gateway = session.gateway
    flavor = _new_flavor(session, found, mark, arrival) if kind == "resize" and not going_back else None
    where = ends.source if ends.source in found.rows else ends.target
    if where is None:
        raise contradiction(found.name, "no cell has its row")
    database = gateway.database(where)
    server = look.instance_of(database, found.server_id)
    if server is None:
        raise contradiction(found.name, f"its row in {database.name} has just vanished")
    vm_state = _vm_state(found, origin, target)
    record = (target.migration if target is not None else None) or {}
    wanted = _marked_cells(session, mark)
    snapshot = ServerSnapshot(
        server_id=found.server_id,
        server_name=found.name,
        kind=kind,
        mapping=None,
        server=dataclasses.replace(
            server,
            vm_state=vm_state,
            host=record.get("source_compute") or server.host,
            node=record.get("source_node") or server.node,
        ),
        request_spec=plan.request_spec(gateway, found.server_id),
        new_flavor=flavor,
        source_cell=ends.source.label,
        source_services=tuple(
            look.services_of(
                gateway.database(ends.source), session.clock.heartbeat_time(), gateway.settings.service_down_time
            )
        ),
        devices=tuple(look.block_devices_of(database, found.server_id)),
        ports=tuple(network.ports_of(gateway.service, found.server_id)),
        wanted_cell=wanted[0].label if len(wanted) == 1 else mark.cell,
        wanted_cell_uuid=wanted[0].uuid if len(wanted) == 1 else "",
        wanted_host=mark.host,
    )
    request = MoveRequest(
        found.server_id,
        flavor.name if flavor else "",
        Destination(cell=snapshot.wanted_cell_uuid or mark.cell, host=mark.host),
        is_stepwise=True,
    )
    made = plan.make_plan(snapshot, ends.source, request)
    if made is None:
        raise contradiction(found.name, f"its row in {database.name} holds no readable flavor")
    uuids, names = _target_cells(session, ends, mark, wanted)
    made = dataclasses.replace(
        made, target_cell_uuids=uuids, target_cells=names, request_id=mark.request_id, adopted=True, arrival=arrival
    )
    return made, server.has_numa_topology


def _with_transfer(plan: MovePlan, mark: OwnershipMark) -> MovePlan:
    """The plan of a move whose disks are streamed, as the mark says."""
    told = structure(MarkedTransfer, mark.transfer, "the mark")
    return dataclasses.replace(
        plan,
        transfer=told.transfer,
        transfer_wish=told.transfer_wish,
        only_streamed=told.only_streamed,
        bwlimit=told.bwlimit,
    )


def _vm_state(found: Found, origin: CellState, target: CellState | None) -> str:
    """What the server was before: an error on the way, or "resized", says nothing about that."""
    seen = (
        None if origin.stashed else origin.instance["vm_state"],
        origin.metadata.get("old_vm_state"),
        target.metadata.get("old_vm_state") if target is not None else None,
        origin.instance["vm_state"],
    )
    known = next((vm_state for vm_state in seen if vm_state in SETTLED), None)
    if known is None:
        raise contradiction(found.name, "whether it was active or stopped is not to be found")
    return known


def _new_flavor(session: Session, found: Found, mark: OwnershipMark, arrival: ChosenHost | None) -> Flavor:
    if arrival is not None and arrival.new_flavor:
        return make_flavor(arrival.new_flavor["nova_object.data"])
    flavors = look.find_flavors(session.gateway.api_engine, mark.flavor_id) if mark.flavor_id else []
    if not flavors:
        raise contradiction(found.name, f"the new flavor {mark.flavor_id or '(not noted)'} is not to be found")
    return flavors[0]


def _marked_cells(session: Session, mark: OwnershipMark) -> list[Cell]:
    """The cells that a mark can mean: one, unless an earlier version has written a name that several have now."""
    cells = session.gateway.cells
    return [cell for cell in cells if mark.cell and means(mark.cell, cell.uuid, cell.nova_name or "")]


def _target_cells(
    session: Session, ends: CellPair, mark: OwnershipMark, wanted: Sequence[Cell]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The cells where the scheduler may send it, by UUID and by name: where it is on its way to, or what the operator wanted."""
    others = (cell for cell in session.gateway.cells if cell is not ends.source and not cell.disabled)
    cells = [ends.target] if ends.target is not None else list(wanted or others)
    if mark.cell and not wanted and ends.target is None:
        return (), (mark.cell,)  # renamed since: a resume says so, a rollback works
    return tuple(cell.uuid for cell in cells), tuple(cell.label for cell in cells)
