"""Moves and their entries as rows of the journal's tables, and the other way round; the journal's larger queries."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.move import AUDIT, DRAIN, Entry, Move, Phase, State
from cellmove.db import statements
from cellmove.engine import integrity

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, Row, Select, Table

Values = dict[str, object]
"""Columns of a row by name."""

Generations = Sequence[str] | None
"""The generations that a server's ownership mark may have from now on; None: as before."""

GOAL_COLUMN = "aim"
"""The column of a move's goal state; it keeps the name under which earlier versions wrote it."""


def move_values(move: Move) -> Values:
    """Return the columns of a move, without those that :mod:`cellmove.engine.integrity` adds."""
    return {
        "id": move.id,
        "server_id": move.server_id,
        "server_name": move.server_name,
        "kind": move.kind,
        "state": move.state.value,
        "open_server": move.server_id if move.is_open else None,
        "created_at": move.created_at,
        "updated_at": move.updated_at,
        "plan": json.dumps(dict(move.plan)),
        GOAL_COLUMN: move.goal_state,
        "generations": json.dumps(list(move.generations)) if move.generations else "",
    }


def move_of(row: Row[Any]) -> Move:
    """Return the move of a row.

    :raises Damaged: the row differs from what was written
    """
    values = integrity.verified("moves", row._mapping)
    return Move(
        id=values["id"],
        server_id=values["server_id"],
        server_name=values["server_name"],
        kind=values["kind"],
        state=State(values["state"]),
        created_at=values["created_at"],
        updated_at=values["updated_at"],
        plan=json.loads(values["plan"]),
        goal_state=values[GOAL_COLUMN],
        generations=tuple(json.loads(values["generations"] or "[]")),
    )


def entry_values(entry: Entry) -> Values:
    """Return the columns of an entry, without its checksum."""
    return {
        "move_id": entry.move_id,
        "sequence": entry.sequence,
        "step": entry.step,
        "action": entry.action,
        "phase": entry.phase.value,
        "intent": json.dumps(dict(entry.intent)),
        "result": json.dumps(dict(entry.result)),
        "error": entry.error,
        "started_at": entry.started_at,
        "finished_at": entry.finished_at,
    }


def entry_of(values: Mapping[str, Any]) -> Entry:
    """Return the entry of a row whose checksum was verified."""
    return Entry(
        move_id=values["move_id"],
        sequence=values["sequence"],
        step=values["step"],
        action=values["action"],
        phase=Phase(values["phase"]),
        intent=json.loads(values["intent"]),
        result=json.loads(values["result"]),
        error=values["error"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
    )


def generation_values(generations: Generations) -> dict[str, str]:
    """Return the column of a move's generations; nothing when they stay as they are."""
    return {} if generations is None else {"generations": json.dumps(list(generations))}


@functools.cache
def open_moves(moves: Table) -> Select[Any]:
    """Select the moves and repairs that are open, oldest first."""
    every = statements.rows(moves, order=("created_at", "id"))
    return every.where(moves.c.kind != DRAIN, moves.c.open_server > "")


@functools.cache
def moves_started_since(moves: Table, entries: Table) -> Select[Any]:
    """Count the moves whose first action started at or after the time bound to ``moment``."""
    from sqlalchemy import bindparam, func, select

    moment: BindParameter[str] = bindparam("moment")
    # A move that started since then is open, or was closed since then: the entries of all others are not read.
    late = (moves.c.open_server > "") | (moves.c.updated_at >= moment)
    recent = select(moves.c.id).where(moves.c.kind.not_in([AUDIT, DRAIN]), late)
    started = select(func.min(entries.c.started_at).label("started")).where(entries.c.move_id.in_(recent))
    firsts = started.group_by(entries.c.move_id).subquery()
    return select(func.count()).select_from(firsts).where(firsts.c.started >= moment)


@functools.cache
def last_sequence(entries: Table) -> Select[Any]:
    """Select the highest sequence number of the entries of a move."""
    from sqlalchemy import bindparam, func, select

    return select(func.max(entries.c.sequence)).where(entries.c.move_id == bindparam("move_id"))
