"""What an owner did to a server through nova's own API while we had a move of it. Only looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import CallError, CellmoveError
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.db import state
from cellmove.engine.executor import busy_step, past_pivot
from cellmove.engine.record import MoveRecord, record_of
from cellmove.steps import endpoints

if TYPE_CHECKING:
    from cellmove.engine.executor import Runner
    from cellmove.gateway import Gateway


BEFORE_THE_SWITCH = (State.PLANNED, State.DEST_PREPARED, State.SOURCE_PREPARED)
"""The server lives in the source cell, and what a move has done can be rolled back."""


def owners_deed(runner: Runner, move: Move, entries: Sequence[Entry]) -> State | None:
    """The state that the owner brought the move to.

    :returns: CONFIRMED, REVERTED or SERVER_GONE when the owner ended it; SWEEPING when the server was
        deleted and something of the move is left; None when nothing was done, or the cloud cannot be
        asked (whoever needs it will say so)
    """
    busy = busy_step(entries, move)
    # A finish that died behind its pivot is an ordinary VERIFY_RESIZE to the owner as well.
    switched = busy is Step.FINISH and past_pivot(runner, entries, Step.FINISH)
    record = record_of(move, entries)
    try:
        if move.state in (*BEFORE_THE_SWITCH, State.ROLLED_BACK) and not switched:
            # nova keeps everybody out now, except from a deletion.
            home = runner.gateway.cell(record.plan.source_cell_uuid)
            if state.read_instance(runner.gateway.database(home), move.server_id) is not None:
                return None
            return None if _lives_elsewhere(runner.gateway, move.server_id, home.id) else State.SWEEPING
        if move.state is not State.FINISHED and not switched:
            return None
        found = _look(runner.gateway, record)
    except (CallError, CellmoveError):
        return None
    free = busy is None or switched or _has_only_announced(entries, busy)
    if found.mapped == "target" and not found.target and found.source:
        return None if free and "reverted" in found.ended else State.SWEEPING
    if found.mapped == "source" and not found.source and found.target:
        return State.SWEEPING if _was_back(entries) else None
    if not found.source and not found.target:
        return State.SERVER_GONE if free else State.SWEEPING
    # The owner may have gone on with another move since: then it is in two cells again, and the record tells.
    if free and ("confirmed" in found.at_home or (not found.source and "confirmed" in found.ended)):
        return State.CONFIRMED
    if free and ("reverted" in found.at_home or (not found.target and "reverted" in found.ended)):
        return State.REVERTED
    return None


def _has_only_announced(entries: Sequence[Entry], step: Step) -> bool:
    """Whether a step has nothing but its first intent: its owner may have been quicker, or a newer journal."""
    own = [entry for entry in entries if entry.step == step and entry.phase is not Phase.UNDONE]
    return [entry.phase for entry in own] == [Phase.INTENT]


def _lives_elsewhere(gateway: Gateway, server_id: str, source: int) -> bool:
    """Whether the server has a live row in another cell, its mapping's: a newer journal has moved it there."""
    mapped = state.mapped_cell(gateway.api_engine, server_id)
    there = next((cell for cell in gateway.cells if cell.id == mapped and cell.id != source), None)
    return there is not None and state.read_instance(gateway.database(there), server_id) is not None


def _was_back(entries: Sequence[Entry]) -> bool:
    """Whether our own revert had pointed the mapping at the source."""
    return any(entry.action == "switch_back" and entry.phase is Phase.DONE for entry in entries)


@dataclass(frozen=True)
class _Found:
    """Where the server is.

    :param source: whether the source cell has a live row of it; ``target`` the same
    :param mapped: the end that its mapping points at: "source", "target", or empty
    :param ended: the statuses of the move's migration records
    :param at_home: the status of the record in the cell that the mapping points at, if there is one
    """

    source: bool
    target: bool
    mapped: str
    ended: frozenset[str]
    at_home: frozenset[str]


def _look(gateway: Gateway, record: MoveRecord) -> _Found:
    server_id, chosen = record.move.server_id, endpoints.chosen_host(record)
    uuids = {"source": record.plan.source_cell_uuid, "target": chosen.target_cell_uuid}
    cells = {name: gateway.cell(uuid) for name, uuid in uuids.items()}
    uuid = endpoints.migration_uuid(record)
    databases = {name: gateway.database(cell) for name, cell in cells.items()}
    mapped = state.mapped_cell(gateway.api_engine, server_id)
    migrations = {name: state.read_migration(each, uuid) for name, each in databases.items()}
    home = next((name for name, cell in cells.items() if cell.id == mapped), "")
    live = {name: state.read_instance(database, server_id) is not None for name, database in databases.items()}
    statuses = {name: str(migration["status"]) for name, migration in migrations.items() if migration is not None}
    at_home = frozenset({statuses[home]} if home in statuses else ())
    return _Found(live["source"], live["target"], home, frozenset(statuses.values()), at_home)


def moved_by_others(gateway: Gateway, server: str) -> str:
    """How somebody who is not in this journal moves a server just now; empty when nobody does, or nobody knows.

    :param server: name or UUID
    """
    from cellmove.cloud.servers import find_server

    try:
        shown = find_server(gateway.admin, server)
    except (CallError, CellmoveError):
        return ""
    task = str(shown.get("OS-EXT-STS:task_state") or "")
    if shown.get("status") != "VERIFY_RESIZE" and not task.startswith("resize_"):
        return ""
    return f"nova itself, or a cellmove with another journal, moves the server ({task or 'VERIFY_RESIZE'})"
