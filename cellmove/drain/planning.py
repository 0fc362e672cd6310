"""Plans a drain: resolves cells, takes the census and reads the capacity of the target cells. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cellmove.checks.duplicate import described
from cellmove.core.clock import seconds_of
from cellmove.core.errors import CannotConnect, Usage
from cellmove.core.move import Move, State, Step
from cellmove.core.move_plan import outline_of
from cellmove.drain import census, window
from cellmove.drain.capacity import cell_capacities
from cellmove.drain.plan import make_plan
from cellmove.drain.queue import open_queue
from cellmove.engine.record import record_of
from cellmove.operations import permission, probe
from cellmove.operations.context import before_anything_is_written
from cellmove.steps.action_types import SCHEDULE
from cellmove.steps.duplicates import distinct, duplicates
from cellmove.steps.plan import find_flavor

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.drain.item import Item
    from cellmove.drain.options import DrainOptions
    from cellmove.drain.plan import DrainPlan
    from cellmove.gateway import Gateway
    from cellmove.operations.context import Session

MAX_PAST_MOVES = 200
FORWARD_STEPS = (Step.PREP_DEST, Step.PREP_SOURCE, Step.FINISH)


def plan_drain(session: Session, cell: str, options: DrainOptions) -> DrainPlan:
    """Plan the drain of a cell. Nothing is written.

    :param cell: name or UUID
    :raises Unreachable: the cloud cannot be read
    """
    parse_probes_and_hours(session, options)
    with before_anything_is_written():
        return plan_of_cell(session, session.gateway.cell(cell), options)


def resolve_cells(session: Session, cell: str, options: DrainOptions) -> tuple[str, DrainOptions]:
    """Return the UUID of a cell, and the options with the UUIDs of the target cells.

    :raises Usage: a cell does not exist, or its name is not unique
    """
    with before_anything_is_written():
        find = session.gateway.cell
        return find(cell).uuid, replace(options, to=tuple(find(word).uuid for word in options.to))


def parse_probes_and_hours(session: Session, options: DrainOptions) -> tuple[list[probe.Probe], window.Hours]:
    """Parse the options about probes and about the time window.

    :raises Usage: an option has another form
    """
    now = session.clock.utc_now().astimezone()
    hours = window.parse(until=options.until, window=options.window, days=options.days, now=now)
    return [probe.parse(text) for text in options.probes], hours


def plan_of_cell(session: Session, source: Cell, options: DrainOptions) -> DrainPlan:
    """Take the census of a cell and make the plan of its drain."""
    gateway = session.gateway
    moves = [move for move in session.journal.all_moves() if not move.is_repair]
    with_open_move = {move.server_id for move in moves if move.is_open}
    taken = census.take(gateway, session.clock, source, options, with_open_move=with_open_move)
    _check_old_flavors(session, source, options, taken.items)
    capacities = cell_capacities(gateway, session.clock, target_cells(session, source, options))
    compared = [source, *map(gateway.cell, options.to)] if options.to else gateway.cells
    reachable, unreachable = gateway.reachable(compared)
    same_database = described(reachable, duplicates(gateway, reachable))
    past_moves = list(_past_moves(session, moves))
    plan = make_plan(taken, options, capacities, past_moves, permission.left_today(session))
    return replace(plan, excluded_cells=(*unreachable, *(duplicate.text for duplicate in same_database)))


def _check_old_flavors(session: Session, source: Cell, options: DrainOptions, items: Sequence[Item]) -> None:
    """Check that each OLD of --flavor-map exists: as a flavor, or as the deleted flavor of a server.

    :raises Usage: it does not
    """
    unseen = options.flavor_map.keys() - {name for item in items for name in (item.flavor, item.flavor_id)}
    if unseen and (record := open_record(session, source)) is not None:
        unseen -= {task.flavor for task in open_queue(session, record).tasks()}
    for old in sorted(unseen):
        try:
            find_flavor(session.gateway, old)
        except Usage as error:
            raise Usage(
                f"--flavor-map: no server of {source.label} has the flavor {old}, and {error.message}"
            ) from None


def open_record(session: Session, source: Cell) -> Move | None:
    """Return the open drain of a cell; None without one."""
    record = session.journal.open_move_of(source.uuid)
    return record if record is not None and record.is_drain else None


def target_cells(session: Session, source: Cell, options: DrainOptions) -> list[Cell]:
    """Return the target cells: those of --to, or every other enabled cell that can be reached.

    :raises CannotConnect: no cell can be reached
    """
    gateway = session.gateway
    named = [gateway.cell(name) for name in options.to]
    if any(cell.uuid == source.uuid for cell in named):
        raise Usage(f"--to {source.label}: this is the cell to drain")
    if named:
        return _other_databases(gateway, source, named)
    others = [cell for cell in gateway.cells if cell.uuid != source.uuid and not cell.disabled]
    reachable, unreachable = gateway.reachable(others)
    if unreachable and not reachable:
        raise CannotConnect("; ".join(unreachable))
    return _other_databases(gateway, source, reachable)


def _other_databases(gateway: Gateway, source: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with a database other than the source's, one cell for each database.

    :raises Usage: all are other mappings of the source's database
    """
    every = distinct(gateway, [source, *(cell for cell in cells if cell.uuid != source.uuid)], source)
    others = [cell for cell in cells if cell in every and cell.uuid != source.uuid]
    if cells and not others:
        labels = ", ".join(cell.label for cell in cells)
        raise Usage(f"{labels}: mapped to the database of {source.label}, where the servers are already")
    return others


def _past_moves(session: Session, moves: Sequence[Move]) -> Iterator[tuple[int, float]]:
    """Return the GiB and seconds of finished moves of this journal."""
    finished = [move for move in moves if move.state in (State.FINISHED, State.CONFIRMED)][-MAX_PAST_MOVES:]
    entries = session.journal.entries_of_moves([move.id for move in finished])
    for move in finished:
        own = [entry for entry in entries.get(move.id, ()) if entry.step in FORWARD_STEPS]
        if own and own[-1].finished_at and not outline_of(move).adopted:
            chosen = record_of(move, own).get(SCHEDULE)
            flavor = (chosen.new_flavor if chosen is not None else None) or {}
            root_gb = (flavor.get("nova_object.data") or {}).get("root_gb")
            gib = 0 if outline_of(move).volume_backed else int(root_gb or 0)
            yield gib, seconds_of(own[-1].finished_at) - seconds_of(own[0].started_at)
