"""Rebuilds the journal of a move whose journal is lost, from what the cloud shows, or says why it cannot.

Looks at the databases, placement, neutron, cinder and glance, and writes only to the journal. What it
writes is what a run that died would have left: after that ``resume`` and ``rollback`` are as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cellmove.cloud import servers
from cellmove.core import ownership
from cellmove.core.errors import CallError, CannotConnect, Refused, Usage, before_writing
from cellmove.core.move import Entry, Move, Phase, State, Step, next_commands
from cellmove.core.move_plan import plan_document
from cellmove.core.ownership import OwnershipMark
from cellmove.core.reference import is_uuid
from cellmove.core.shell import command_line, resume_elsewhere
from cellmove.db import look, move_records, state
from cellmove.engine.action import Context
from cellmove.engine.executor import busy_step
from cellmove.engine.locks import server_lock
from cellmove.engine.record import record_of
from cellmove.operations import adopt_native
from cellmove.operations.adopt_inspect import (
    ENDED,
    Adopted,
    CellPair,
    Found,
    arrival_of,
    contradiction,
    end_of,
    half_made,
    plan_from,
)
from cellmove.operations.execute import is_older
from cellmove.steps import rebuild
from cellmove.steps.duplicates import distinct

if TYPE_CHECKING:
    from cellmove.db.types import Record
    from cellmove.operations.context import Session


def adopt(session: Session, server: str, *, journal_is_lost: bool, nova_is_dead: bool = False) -> Move:
    """Write into this journal the move that the cloud shows to be under way.

    :param server: name or UUID
    :param journal_is_lost: the operator's word that the journal named by the mark is gone for good and
        that nobody works with it; without it only the mark of this very journal is taken
    :param nova_is_dead: the operator's word that the conductor which began it was restarted or is gone
    :returns: the move as ``resume`` and ``rollback`` will find it
    :raises Refused: there is nothing to adopt, somebody may be at work on it, or its traces contradict
        each other; the message says what to do instead
    :raises Locked: another run is working on the server here
    :raises Unreachable: something cannot be looked at
    """
    with _reading():
        server_id, name = _server(session, server)
    with (
        server_lock(session.lock_directory, server_id, name),
        session.journal.server_lock(server_id, name),
    ):
        old = session.journal.open_move_of(server_id)
        if old is not None and (old.is_repair or not is_older(session, old)):
            raise _known(session, old)
        with _reading():
            found = _find(session, server_id, name)
            try:
                adopted = _adopted(session, found, old, journal_is_lost=journal_is_lost, nova_is_dead=nova_is_dead)
            except NothingToAdopt:
                if old is None:
                    raise
                return session.journal.set_state(old.id, State.SUPERSEDED)
            lines = _entries(adopted, session.clock.text())
            move = replace(adopted.move, generations=_generations(session, adopted.move, lines))
        return session.journal.replace(old, move, lines) if old is not None else session.journal.adopt(move, lines)


def _adopted(session: Session, found: Found, old: Move | None, *, journal_is_lost: bool, nova_is_dead: bool) -> Adopted:
    """The move that the cloud shows.

    :param old: an open move of this journal, which is older than the move in the cloud
    """
    mark = found.mark
    if mark is None:
        return _unmarked(session, found, nova_is_dead=nova_is_dead)
    there = session.journal.move(mark.move_id)
    if there is not None and there != old:
        raise _known(session, there)
    _require_lost(session, found, mark, journal_is_lost)
    if mark.request_id:
        return half_made(session, found, mark)
    # The mark of a confirm or a revert; it may be all that there is of it yet.
    begun = adopt_native.unended(session, found)
    if begun is None or begun.action in move_records.MOVES:
        return _finished(session, found, mark.move_id)
    return adopt_native.adopted(session, found, begun, mark.move_id)


def _generations(session: Session, move: Move, lines: list[Entry]) -> tuple[str, ...]:
    """What this journal knows of the mark from now on: what the cloud has."""
    from cellmove.steps.fence import known_anew

    busy = busy_step(lines, move)
    step = None if move.state is State.FINISHED and busy is None else busy or Step.PREP_DEST
    context = Context(move, record_of(move, lines), session.gateway, session.clock, note=lambda _text: None)
    return known_anew(context, step)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except CallError as error:
        raise before_writing(error) from None


def _entries(adopted: Adopted, now: str) -> list[Entry]:
    return [
        Entry(
            adopted.move.id,
            number,
            line.step.value,
            line.action,
            line.phase,
            line.intent,
            line.result,
            "",
            now,
            "" if line.phase is Phase.INTENT else now,
        )
        for number, line in enumerate(adopted.lines, start=1)
    ]


# what there is


def _server(session: Session, server: str) -> tuple[str, str]:
    """A server's UUID and name; one that its owner deleted meanwhile is known by its UUID alone."""
    session.journal.require_no_move_id(server)
    try:
        found = servers.find_server(session.gateway.admin, server)
    except Usage:
        if not is_uuid(server):
            raise
        return server.lower(), server
    return str(found["id"]), str(found.get("name") or found["id"])


def _find(session: Session, server_id: str, name: str) -> Found:
    gateway = session.gateway
    rows, found = {}, {}
    reachable, why = gateway.reachable(gateway.cells)
    mapped = state.mapped_cell(gateway.api_engine, server_id)
    home = next((cell for cell in gateway.cells if cell.id == mapped), None)
    for cell in distinct(gateway, reachable, home):
        database = gateway.database(cell)
        row = state.read_instance(database, server_id)
        if row is None:
            continue
        rows[cell] = row
        name = row["display_name"] or name
        mark = ownership.mark_of(state.read_system_metadata(database, server_id))
        if mark is not None:
            found[cell] = mark
    if why and len(rows) < 2:  # the other end of its move may be there
        raise CannotConnect("; ".join(why))
    if home is None or not rows:
        raise Refused(f"{name} is in no cell: there is nothing to adopt", state="nothing was written")
    if len({mark.move_id for mark in found.values()}) > 1:
        raise contradiction(name, "the cells' rows name different moves")
    return Found(server_id, name, home, rows, found)


def _known(session: Session, move: Move) -> Refused:
    """A move that this journal knows needs no rebuilding."""
    entries = session.journal.entries_of(move.id)
    commands = next_commands(move, busy_step(entries, move))
    return Refused(
        f"{move.id} of {move.server_name} is in this journal: there is nothing to adopt",
        state=f"that move is {move.state}; nothing was written",
        next_command=commands[0] if commands else f"cellmove show {move.id}",
    )


def _require_lost(session: Session, found: Found, mark: OwnershipMark, journal_is_lost: bool) -> None:
    here = ownership.owner_of_journal(session.settings.journal)
    if journal_is_lost or ownership.is_same_owner(mark.owner, here, mark.move_id):
        return
    adopt_anyway = f"cellmove adopt {found.server_id} --journal-is-lost"
    raise Refused(
        f"{mark.move_id} of {found.name} is recorded in another journal: {mark.owner or 'its mark does not say where'}; "
        "whether a command works with it now cannot be seen from here",
        state="nothing was written. Two journals of one move would undo each other's work. "
        f"Only when that journal is gone for good: {adopt_anyway}",
        next_command=f"{resume_elsewhere(mark.owner, mark.move_id)}  # on the machine where that journal is"
        if mark.owner
        else adopt_anyway,
    )


# a server that waits for confirm or revert


class NothingToAdopt(Refused):
    """No move of the server is under way."""


def _finished(session: Session, found: Found, move_id: str = "") -> Adopted:
    """A finished move, ours or nova's own: its records say everything that confirm and revert need.

    :param move_id: that its mark names; empty without a mark
    :raises Refused: it is not that
    """
    gateway, server_id, there = session.gateway, found.server_id, found.home
    row = found.rows.get(there)
    database = gateway.database(there)
    migrations = move_records.cross_cell_migrations(database, server_id)
    if row is None:
        raise contradiction(found.name, f"it is mapped to {there.label}, which has no row of it")
    finished = [migration for migration in migrations if migration["status"] == "finished"]
    if row["vm_state"] != "resized" or row["task_state"] is not None or len(finished) != 1:
        raise _nothing_to_adopt(found, row, migrations)
    migration = finished[0]
    by_uuid = {cell.uuid: cell for cell in gateway.cells}
    source = by_uuid.get(look.host_cells(gateway.api_engine).get(migration["source_compute"], ""))
    old = found.rows.get(source) if source is not None else None
    if source is None or source is there or old is None or not old["hidden"] or old["task_state"] != "resize_migrated":
        raise _not_ours(found, migration)
    ends = CellPair(source, there, there)
    ours, theirs = gateway.database(source), database
    action = next(reversed(move_records.move_actions(theirs, server_id)), None)
    kind = str(migration["migration_type"])
    mark = OwnershipMark(
        move_id=move_id or f"move-{session.clock.new_token()}",
        request_id=action["request_id"] if action is not None else "",
    )
    source_end = end_of(ours, old, server_id, migration["uuid"], mark.request_id)
    target_end = end_of(theirs, row, server_id, migration["uuid"], mark.request_id)
    if source_end is None or source_end.migration is None or source_end.migration["status"] != "post-migrating":
        raise _not_ours(found, migration)
    arrival = arrival_of(session, found, ends, target_end)
    plan, _numa = plan_from(session, found, ends, mark, kind, source_end, target_end, arrival)
    if arrival is None:
        raise contradiction(found.name, "where it was moved to is not recorded")
    now = session.clock.text()
    move = Move(mark.move_id, server_id, found.name, kind, State.FINISHED, now, now, plan_document(plan))
    return Adopted(move, rebuild.finished_lines(plan, arrival, str(migration["uuid"])))


def _nothing_to_adopt(found: Found, row: Record, migrations: list[Record]) -> Refused:
    under_way = [migration for migration in migrations if migration["status"] not in ENDED]
    if under_way:
        return _not_ours(found, under_way[-1])
    how = (
        "was resized within its cell" if row["vm_state"] == "resized" else f"is {row['vm_state']} in {found.home.label}"
    )
    command = f"openstack server resize confirm {found.server_id}" if row["vm_state"] == "resized" else ""
    return NothingToAdopt(
        f"{found.name} {how}, and no move of it is under way: there is nothing to adopt",
        state="nothing was written",
        next_command=command or command_line("plan", found.server_id),
    )


def _not_ours(found: Found, migration: Record) -> Refused:
    """Under way by its migration, and nobody's by the server's history."""
    ends = f"from {migration['source_compute'] or '?'} to {migration['dest_compute'] or 'a host not chosen yet'}"
    return Refused(
        f"the migration of {found.name} {ends} is {migration['status']}, and its history names nobody who is at work "
        "on it: such a one cannot be adopted",
        state="nothing was written",
        next_command=f"openstack server event list {found.server_id}  # it names who ended it, and how",
    )


# a server without our mark


def _unmarked(session: Session, found: Found, *, nova_is_dead: bool) -> Adopted:
    """What nova began (or a confirm or revert of ours), or a server that waits for confirm or revert."""
    begun = adopt_native.unended(session, found)
    if begun is None:
        return _finished(session, found)
    adopt_native.require_dead(session, found, begun, nova_is_dead=nova_is_dead)
    return adopt_native.adopted(session, found, begun)
