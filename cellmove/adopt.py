"""Rebuilds the journal of a move whose journal is lost, from what the cloud shows, or says why it cannot.

Looks at the databases, placement, neutron, cinder and glance, and writes only to the journal. What it
writes is what a run that died would have left: after that ``resume`` and ``rollback`` are as ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove import mark as marks
from cellmove.cloud import image, network, placement, servers, volume
from cellmove.db import history, look, state, traces
from cellmove.db.shapes import make_flavor
from cellmove.errors import CallError, Refused, Unreachable, Usage
from cellmove.hosts import compute
from cellmove.locks import server_lock
from cellmove.mark import Mark
from cellmove.move import Entry, Move, Phase, State, next_commands
from cellmove.picture import Picture
from cellmove.pipeline import busy_step
from cellmove.steps import plan, rebuild
from cellmove.steps.rebuild import End, Line, Traces

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.db.shapes import Flavor
    from cellmove.db.tables import CellDatabase
    from cellmove.session import Session

METHODS = (
    compute.PREP_AT_DEST, compute.PREP_AT_SOURCE, compute.FINISH_AT_DEST, compute.REVERT_AT_DEST,
    compute.FINISH_REVERT_AT_SOURCE,
)  # fmt: skip
SETTLED = ("active", "stopped")
ENDED = ("error", "reverted", "confirmed", "failed", "completed", "done", "cancelled")
OURS = (None, "resize_prep", "resize_migrating", "resize_migrated", "resize_reverting")
"""Task states that the source cell's row may have while we move the server."""


@dataclass(frozen=True)
class Ends:
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
    rows: Mapping[Cell, Mapping[str, Any]]
    marks: Mapping[Cell, Mark]

    @property
    def mark(self) -> Mark | None:
        """The one mark; cells never disagree (see :func:`_find`)."""
        return next(iter(self.marks.values()), None)


@dataclass(frozen=True)
class Adopted:
    """A move and its lines, ready for the journal."""

    move: Move
    lines: tuple[Line, ...]


def adopt(session: Session, server: str, *, journal_is_lost: bool) -> Move:
    """Write into this journal the move that the cloud shows to be under way.

    :param server: name or UUID
    :param journal_is_lost: the operator's word that the journal named by the mark is gone for good and
        that nobody works with it; without it only the mark of this very journal is taken
    :returns: the move as ``resume`` and ``rollback`` will find it
    :raises Refused: there is nothing to adopt, it is not ours to adopt, or its traces contradict each
        other; the message says what to do instead
    :raises Locked: another run is working on the server here
    :raises Unreachable: something cannot be looked at
    """
    with _reading():
        server_id, name = _server(session, server)
    with (
        server_lock(session.lock_directory, server_id, name),
        session.journal.server_lock(server_id, name),
    ):
        _require_unknown(session, session.journal.open_move_of(server_id))
        with _reading():
            found = _find(session, server_id, name)
            if found.mark is not None:
                _require_unknown(session, session.journal.move(found.mark.move_id))
                _require_lost(session, found, found.mark, journal_is_lost)
                adopted = _half_made(session, found, found.mark)
            else:
                adopted = _finished(session, found)
        return session.journal.adopt(adopted.move, _entries(adopted, session.clock.text()))


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except CallError as error:
        raise Unreachable(str(error), state="nothing was written") from None


def _entries(adopted: Adopted, now: str) -> list[Entry]:
    return [
        Entry(
            adopted.move.id, number, line.step.value, line.action, line.phase, line.intent, line.result, "",
            now, "" if line.phase is Phase.INTENT else now,
        )
        for number, line in enumerate(adopted.lines, start=1)
    ]  # fmt: skip


# what there is


def _server(session: Session, server: str) -> tuple[str, str]:
    """A server's UUID and name; one that its owner deleted meanwhile is known by its UUID alone."""
    try:
        found = servers.find_server(session.gateway.admin, server)
    except Usage:
        if not servers.is_uuid(server):
            raise
        return server.lower(), server
    return str(found["id"]), str(found.get("name") or found["id"])


def _find(session: Session, server_id: str, name: str) -> Found:
    gateway = session.gateway
    rows, found = {}, {}
    for cell in gateway.cells:
        database = gateway.database(cell)
        row = state.read_instance(database, server_id)
        if row is None:
            continue
        rows[cell] = row
        name = row["display_name"] or name
        mark = marks.mark_of(state.read_system_metadata(database, server_id))
        if mark is not None:
            found[cell] = mark
    mapped = state.mapped_cell(gateway.api_engine, server_id)
    home = next((cell for cell in gateway.cells if cell.id == mapped), None)
    if home is None or not rows:
        raise Refused(f"{name} is in no cell: there is nothing to adopt", state="nothing was written")
    if len({mark.move_id for mark in found.values()}) > 1:
        raise _contradiction(name, "the cells' rows name different moves")
    return Found(server_id, name, home, rows, found)


def _require_unknown(session: Session, move: Move | None) -> None:
    """A move that this journal knows needs no rebuilding."""
    if move is None:
        return
    entries = session.journal.entries_of(move.id)
    commands = next_commands(move, busy_step(entries, move))
    raise Refused(
        f"{move.id} of {move.server_name} is in this journal: there is nothing to adopt",
        state=f"that move is {move.state}; nothing was written",
        next_command=commands[0] if commands else f"cellmove show {move.id}",
    )


def _require_lost(session: Session, found: Found, mark: Mark, journal_is_lost: bool) -> None:
    here = marks.holder_of(session.settings.journal)
    if journal_is_lost or marks.is_same_holder(mark.holder, here, mark.move_id):
        return
    raise Refused(
        f"{mark.move_id} of {found.name} is recorded in another journal: {mark.holder or 'it is not said where'}; "
        "whether somebody works with it right now cannot be seen from here",
        state="nothing was written. If that journal is there, use it: "
        f"cellmove resume {mark.move_id} on that machine. Two journals of one move would undo each other's work",
        next_command=f"cellmove adopt {found.server_id} --journal-is-lost  (only when it is gone for good)",
    )


def _contradiction(name: str, what: str) -> Refused:
    return Refused(
        f"the traces of the move of {name} contradict each other: {what}",
        state="nothing was written; no journal is better than a wrong one",
        next_command=f"openstack server migration list --server {name}  (and the server's rows in both cells)",
    )


# a move of ours that is under way


def _half_made(session: Session, found: Found, mark: Mark) -> Adopted:
    gateway, server_id = session.gateway, found.server_id
    known = {cell: traces.cross_cell_migrations(gateway.database(cell), server_id) for cell in found.rows}
    ends = _ends(session, found, known)
    source, target = gateway.database(ends.source), gateway.database(ends.target) if ends.target else None
    began = [a for a in traces.move_actions(source, server_id) if a["request_id"] == mark.request_id]
    if not mark.request_id or not began:
        raise _contradiction(found.name, f"{source.name} has no action with the mark's request id")
    kind = "resize" if began[0]["action"] == "resize" else "migration"
    migration = _migration(session, found, ends, known, began[0]["start_time"])
    uuid = migration["uuid"] if migration is not None else ""
    source_end = _end(source, found.rows.get(ends.source), server_id, uuid, mark.request_id)
    target_end = (
        _end(target, found.rows[ends.target], server_id, uuid, mark.request_id) if target and ends.target else None
    )
    arrival = _arrival(session, found, ends, target_end)
    origin = source_end or target_end
    if origin is None:
        raise _contradiction(found.name, "no cell has its row")
    volume_backed, needs_limits, facts = _facts(session, found, ends, mark, kind, origin, target_end, arrival)
    ports = tuple(network.ports_of(gateway.service, server_id))
    everything = Traces(
        before=_before(mark, origin),
        source=source_end,
        target=target_end,
        migration_uuid=uuid,
        mapped_to_target=ends.home is ends.target,
        holds=bool(uuid) and bool(placement.allocations_of(gateway.admin, uuid)["allocations"]),
        volume_backed=volume_backed,
        arrival=arrival,
        ports=ports,
        bound=frozenset(
            port.id
            for port in ports
            if arrival and network.binding_for(gateway.service, port.id, arrival["target_host"]) is not None
        ),
        attachments=tuple(volume.attachments_of(gateway.admin, server_id)),
        image_id=_image(session, found, volume_backed),
        needs_limits=needs_limits,
    )
    _require_sense(found, everything)
    reached, lines = rebuild.rebuild(everything)
    claimed = bool(everything.event(compute.PREP_AT_DEST))
    if needs_limits and arrival and not claimed:
        facts |= {"wanted_host": arrival["target_host"]}
    now = session.clock.text()
    aim = "" if reached is State.ROLLING_BACK else State.FINISHED.value
    move = Move(mark.move_id, server_id, found.name, kind, reached, now, now, facts, aim)
    return Adopted(move, lines)


def _ends(session: Session, found: Found, known: Mapping[Cell, list[dict[str, Any]]]) -> Ends:
    """Which cell is the source and which the target."""
    if len(found.rows) > 2:
        names = ", ".join(cell.name for cell in found.rows)
        raise _contradiction(found.name, f"it has rows in {names}")
    if len(found.rows) == 1 and found.home in found.rows:
        return Ends(found.home, None, found.home)
    shared = [
        {migration["uuid"]: migration["source_compute"] for migration in migrations} for migrations in known.values()
    ]
    hosts = {host for each in shared for uuid, host in each.items() if all(uuid in other for other in shared)}
    newest = next(reversed([m for m in next(iter(known.values())) if m["source_compute"] in hosts]), None)
    if newest is None:
        raise _contradiction(found.name, "two cells have its row, and no migration record is in both")
    by_uuid = {cell.uuid: cell for cell in session.gateway.cells}
    source = by_uuid.get(look.host_cells(session.gateway.api_engine).get(newest["source_compute"], ""))
    target = next((cell for cell in found.rows if cell is not source), None)
    if source is None or target is None or found.home not in (source, target):
        raise _contradiction(
            found.name, f"{newest['source_compute']}, where it comes from, is in none of the cells that know it"
        )
    return Ends(source, target, found.home)


def _migration(
    session: Session, found: Found, ends: Ends, known: Mapping[Cell, list[dict[str, Any]]], began: Any
) -> Mapping[str, Any] | None:
    """The move's record: the newest since it was begun, unless an attempt that was taken back left it."""
    here = known.get(ends.source, [])
    there = {migration["uuid"]: migration for migration in (known.get(ends.target, []) if ends.target else [])}
    candidates = [m for m in here if m["created_at"] >= began] if here else list(there.values())
    if not candidates:
        if ends.target is not None:
            raise _contradiction(
                found.name, f"{ends.target.name} has a copy and {ends.source.name} no migration record"
            )
        return None
    newest = candidates[-1]
    if ends.target is not None:
        if newest["uuid"] not in there:
            raise _contradiction(found.name, f"the copy in {ends.target.name} is of another migration")
        return newest
    if newest["status"] in ENDED:
        held = placement.allocations_of(session.gateway.admin, newest["uuid"])["allocations"]
        return newest if held else None
    return newest


def _end(
    database: CellDatabase, row: Mapping[str, Any] | None, server_id: str, migration_uuid: str, request_id: str
) -> End | None:
    if row is None:
        return None
    return End(
        instance=row,
        metadata=state.read_system_metadata(database, server_id),
        extra=state.read_extra(database, server_id),
        migration=state.read_migration(database, migration_uuid) if migration_uuid else None,
        volumes=tuple(state.volume_mappings(database, server_id)),
        events={m.event: history.event_state(database, server_id, request_id, m.event) for m in METHODS},
    )


def _arrival(session: Session, found: Found, ends: Ends, target: End | None) -> dict[str, Any]:
    """What the scheduler had chosen, from the claim's record or else from placement."""
    if target is None or ends.target is None:
        return {}
    record = target.migration or {}
    host, node = record.get("dest_compute"), record.get("dest_node")
    if not host:
        held = placement.allocations_of(session.gateway.admin, found.server_id)["allocations"]
        claimed = traces.node_of(session.gateway.database(ends.target), list(held))
        if claimed is None:
            raise _contradiction(found.name, f"placement holds nothing for it on any host of {ends.target.name}")
        host, node = claimed
    return {
        "target_cell": ends.target.name,
        "target_cell_uuid": ends.target.uuid,
        "target_host": host,
        "target_node": node,
        "limits": None,
        "alternates": [],
        "new_flavor": target.flavors.get("new") or target.flavors["cur"],
    }


def _before(mark: Mark, origin: End) -> dict[str, Any]:
    """The columns that taking the server changed; nova's own defaults where the mark has no room for them."""
    guess = {"progress": 0, "auto_disk_config": origin.instance["auto_disk_config"], "image_base_image_ref": None}
    known = {name: value for name, value in mark.before.items() if name in guess}
    return guess | {"image_base_image_ref": origin.metadata.get("image_base_image_ref")} | known


def _image(session: Session, found: Found, volume_backed: bool) -> str:
    if volume_backed:
        return ""
    images = image.temporary_images(session.gateway.admin, found.server_id)
    if len(images) > 1:
        names = ", ".join(str(each["id"]) for each in images)
        raise _contradiction(found.name, f"there are several temporary images of it: {names}")
    return str(images[0]["id"]) if images else ""


def _require_sense(found: Found, everything: Traces) -> None:
    source, target = everything.source, everything.target
    if source is not None and source.instance["task_state"] not in OURS:
        raise Refused(
            f"{found.name} is busy: task state {source.instance['task_state']}",
            state="nothing was written; when that has ended its traces can be read",
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


# the plan


def _facts(
    session: Session, found: Found, ends: Ends, mark: Mark, kind: str, origin: End, target: End | None,
    arrival: Mapping[str, Any],
) -> tuple[bool, bool, dict[str, Any]]:  # fmt: skip
    """What planning it once came to; and whether it is volume-backed, and has a NUMA topology."""
    gateway = session.gateway
    flavor = _new_flavor(session, found, mark, arrival) if kind == "resize" else None
    where = ends.source if ends.source in found.rows else ends.target
    if where is None:
        raise _contradiction(found.name, "no cell has its row")
    database = gateway.database(where)
    server = look.instance_of(database, found.server_id)
    if server is None:
        raise _contradiction(found.name, f"its row in {database.name} has just vanished")
    vm_state = _vm_state(found, origin, target)
    record = (target.migration if target is not None else None) or {}
    picture = Picture(
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
        source_cell=ends.source.name,
        source_services=tuple(
            look.services_of(
                gateway.database(ends.source), session.clock.database_time(), gateway.settings.service_down_time
            )
        ),
        devices=tuple(look.block_devices_of(database, found.server_id)),
        ports=tuple(network.ports_of(gateway.service, found.server_id)),
        wanted_cell=mark.cell,
        wanted_host=mark.host,
    )
    if not picture.is_complete:
        raise _contradiction(found.name, f"its row in {database.name} holds no readable flavor")
    command = plan.command_line(
        found.name, flavor.name if flavor else None, mark.host or None, mark.cell or None, force_locked=False
    )
    facts = plan.plan_facts(picture, ends.source, command)
    facts |= {"target_cells": _target_cells(session, ends, mark), "request_id": mark.request_id, "adopted": True}
    return picture.is_volume_backed, server.has_numa_topology, facts | dict(arrival)


def _vm_state(found: Found, origin: End, target: End | None) -> str:
    """What the server was before: an error on the way, or "resized", says nothing about that."""
    seen = (
        None if origin.stashed else origin.instance["vm_state"],
        origin.metadata.get("old_vm_state"),
        target.metadata.get("old_vm_state") if target is not None else None,
        origin.instance["vm_state"],
    )
    known = next((vm_state for vm_state in seen if vm_state in SETTLED), None)
    if known is None:
        raise _contradiction(found.name, "whether it was active or stopped is not to be found")
    return known


def _new_flavor(session: Session, found: Found, mark: Mark, arrival: Mapping[str, Any]) -> Flavor:
    if arrival:
        return make_flavor(arrival["new_flavor"]["nova_object.data"])
    flavors = look.find_flavors(session.gateway.api_engine, mark.flavor_id) if mark.flavor_id else []
    if not flavors:
        raise _contradiction(found.name, f"the new flavor {mark.flavor_id or '(not noted)'} is not to be found")
    return flavors[0]


def _target_cells(session: Session, ends: Ends, mark: Mark) -> list[str]:
    """Where the scheduler may send it: where it is on its way to, or else what the operator wanted."""
    if ends.target is not None:
        return [ends.target.name]
    if mark.cell:
        return [mark.cell]
    return [cell.name for cell in session.gateway.cells if cell is not ends.source and not cell.disabled]


# a server that waits for confirm or revert


def _finished(session: Session, found: Found) -> Adopted:
    """A finished move, ours or nova's own: its records say everything that confirm and revert need.

    :raises Refused: it is not that
    """
    gateway, server_id, there = session.gateway, found.server_id, found.home
    row = found.rows.get(there)
    database = gateway.database(there)
    migrations = traces.cross_cell_migrations(database, server_id)
    if row is None:
        raise _contradiction(found.name, f"it is mapped to {there.name}, which has no row of it")
    finished = [migration for migration in migrations if migration["status"] == "finished"]
    if row["vm_state"] != "resized" or row["task_state"] is not None or len(finished) != 1:
        raise _nothing_to_adopt(found, row, migrations)
    migration = finished[0]
    by_uuid = {cell.uuid: cell for cell in gateway.cells}
    source = by_uuid.get(look.host_cells(gateway.api_engine).get(migration["source_compute"], ""))
    old = found.rows.get(source) if source is not None else None
    if source is None or source is there or old is None or not old["hidden"] or old["task_state"] != "resize_migrated":
        raise _natively_begun(found, migration)
    ends = Ends(source, there, there)
    ours, theirs = gateway.database(source), database
    action = next(reversed(traces.move_actions(theirs, server_id)), None)
    kind = str(migration["migration_type"])
    mark = Mark(
        move_id=f"move-{session.clock.new_token()}", request_id=action["request_id"] if action is not None else ""
    )
    source_end = _end(ours, old, server_id, migration["uuid"], mark.request_id)
    target_end = _end(theirs, row, server_id, migration["uuid"], mark.request_id)
    if source_end is None or source_end.migration is None or source_end.migration["status"] != "post-migrating":
        raise _natively_begun(found, migration)
    arrival = _arrival(session, found, ends, target_end)
    volume_backed, _numa, facts = _facts(session, found, ends, mark, kind, source_end, target_end, arrival)
    reached = {**arrival, "migration_uuid": migration["uuid"]}
    now = session.clock.text()
    move = Move(mark.move_id, server_id, found.name, kind, State.FINISHED, now, now, facts)
    return Adopted(move, rebuild.finished_lines(volume_backed=volume_backed, kind=kind, facts=reached))


def _nothing_to_adopt(found: Found, row: Mapping[str, Any], migrations: list[dict[str, Any]]) -> Refused:
    under_way = [migration for migration in migrations if migration["status"] not in ENDED]
    if under_way:
        return _natively_begun(found, under_way[-1])
    how = (
        "was resized within its cell" if row["vm_state"] == "resized" else f"is {row['vm_state']} in {found.home.name}"
    )
    command = f"openstack server resize confirm {found.server_id}" if row["vm_state"] == "resized" else ""
    return Refused(
        f"{found.name} {how}, and no move of it is under way: there is nothing to adopt",
        state="nothing was written",
        next_command=command or f"cellmove plan {found.name}",
    )


def _natively_begun(found: Found, migration: Mapping[str, Any]) -> Refused:
    """A half-made move without our mark. Its superconductor may be at work, or dead for ever."""
    ends = f"from {migration['source_compute'] or '?'} to {migration['dest_compute'] or 'a host not chosen yet'}"
    return Refused(
        f"the move of {found.name} {ends} is {migration['status']} and carries no mark of cellmove: nova itself "
        "began it, or confirms or reverts it; such a one cannot be adopted half-way",
        state="nothing was written; nova may still be at work on it",
        next_command=f"openstack server migration list --server {found.server_id}  (adopt it when it is finished)",
    )
