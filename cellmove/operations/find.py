"""Find the move that an operator names, and close one that its owner ended through nova's own API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cellmove.core.errors import (
    Locked,
    Usage,
)
from cellmove.core.move import Entry, Move, State, Step
from cellmove.core.reference import Kind, kind_of
from cellmove.core.shell import command_line
from cellmove.engine.events import EventKind
from cellmove.engine.executor import (
    busy_step,
)
from cellmove.engine.record import record_of
from cellmove.operations.context import Session, lock, make_runner
from cellmove.operations.execute import calls_to_consequences
from cellmove.steps.endpoints import chosen_host
from cellmove.steps.reconcile import moved_by_others, owners_deed


def find_move(session: Session, reference: str) -> Move:
    """Return the move that the id of a move, or the name or UUID of a server, refers to.

    A word in the form of an id is never taken for a name. An open move takes precedence over closed ones, a newer
    closed move over older ones.

    :raises Usage: no move fits, or moves of several servers of that name do
    """
    found = session.journal.find(reference)
    if not found:
        raise _unknown(session, reference)
    if len({move.server_id for move in found}) > 1:
        raise Usage(f"{reference!r} refers to several moves; use the id of one:\n{_listed(found)}")
    if found[-1].is_drain:
        cell = found[-1].server_name
        raise Usage(
            f"{found[-1].id} is not a move: it is the drain of {cell}", next_command=f"cellmove drain status {cell}"
        )
    return _reconciled(session, found[-1])


def _unknown(session: Session, reference: str) -> Usage:
    """Return the error for a reference that no move fits. A server that is moved by others can be adopted."""
    kind = kind_of(reference)
    if kind is not Kind.NAME:
        named_so = session.journal.moves_named(reference)
        if named_so:
            return Usage(
                f"{reference} has the form of an id, but the journal has no move with this id. There are servers of this name; "
                f"use the id of the move:\n{_listed(named_so)}",
                state="nothing was written",
            )
    if kind is Kind.MOVE_ID:
        return Usage(f"there is no move {reference} in the journal", next_command="cellmove list --all")
    unknown = f"there is no move of {reference!r} in the journal"
    how = moved_by_others(session.gateway, reference)
    if how:
        again = command_line("adopt", reference)
        return Usage(f"{unknown}; {how}", state="nothing was written", next_command=again)
    return Usage(unknown, next_command=command_line("plan", reference))


def _listed(moves: Sequence[Move]) -> str:
    return "\n".join(f"  {move.id}  {move.server_name}  {move.server_id}  {move.state}" for move in moves)


def reconcile_server(session: Session, server_id: str) -> None:
    """Close the open move of a server if the owner has ended it through nova's API."""
    move = session.journal.open_move_of(server_id)
    if move is not None:
        _reconciled(session, move)


def _reconciled(session: Session, move: Move) -> Move:
    """Close a finished move whose owner confirmed, reverted or deleted the server through nova's API."""
    runner, entries = make_runner(session), session.journal.entries_of(move.id)
    reached = owners_deed(runner, move, entries)
    if reached is None or reached is State.SWEEPING:
        return move
    if session.journal.is_read_only:
        return replace(move, state=reached)
    try:
        with lock(session, move.server_id, move.server_name):
            if busy_step(entries, move) in (Step.CONFIRM, Step.REVERT):
                _drop_marks(session, move, entries)
            move = session.journal.set_state(move.id, reached)
    except Locked:
        return move
    runner.tell(EventKind.NOTE, move, text=f"{move.id} was ended outside of cellmove: {reached}")
    return move


def _drop_marks(session: Session, move: Move, entries: Sequence[Entry]) -> None:
    """Remove the ownership mark of a confirm or revert that had only been announced when the owner ended the move."""
    from cellmove.db.survey import drop_mark

    record = record_of(move, entries)
    with calls_to_consequences(session, move):
        for uuid in (record.plan.source_cell_uuid, chosen_host(record).target_cell_uuid):
            drop_mark(session.gateway.database(session.gateway.cell(uuid)), move.server_id, move.id)
