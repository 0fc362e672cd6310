"""Call the operator's hooks for the outcome of a run that held the lock of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.errors import (
    CallError,
    CellmoveError,
    RollbackFailed,
    RolledBack,
    Stopped,
    Unverified,
    consequence_of_call,
)
from cellmove.core.hook_settings import AFTER_MOVE, ON_FAILURE, Hooks
from cellmove.core.move import Move, State
from cellmove.engine.events import Event, EventKind
from cellmove.operations import hooks
from cellmove.operations.documents import Document, error_document, move_document

if TYPE_CHECKING:
    from cellmove.core.shell import GlobalOptions
    from cellmove.engine.events import Observer
    from cellmove.engine.journal import Journal

RESTING = frozenset({State.FINISHED, State.CONFIRMED, State.REVERTED, State.ROLLED_BACK, State.SERVER_GONE})
"""States in which a move may stay. ``after_move`` is called for a move that reached one."""

FAILURES = (RolledBack, Stopped, RollbackFailed, Unverified)
"""Errors for which ``on_failure`` is called. A refusal or an unreachable API does not change a move."""


@dataclass(frozen=True)
class HookRun:
    """The part of a session that calls of hooks need.

    :param options: the options before the command's name, for the commands in a hook's document
    """

    hooks: Hooks
    journal: Journal
    observer: Observer
    options: GlobalOptions


@contextmanager
def reported(run: HookRun, server_id: str, lock: AbstractContextManager[None]) -> Iterator[None]:
    """Run the block under the server's lock, then call the hooks for the outcome.

    Hooks are called after the lock was released, so they can run cellmove.

    :param lock: the lock of the server; entered here. The move is read after that, since the previous holder of the
        lock may have closed the move and called the hooks for it
    """
    if run.hooks == Hooks() or run.journal.is_read_only:
        with lock:
            yield
        return
    before = None
    try:
        with lock:
            before = run.journal.open_move_of(server_id)
            yield
    except Exception as error:
        known = _consequence(error)
        if before is not None and isinstance(known, FAILURES):
            _call(run, ON_FAILURE, before, known)
        raise
    if before is not None:
        _call(run, AFTER_MOVE, before, None)


def report_failure(run: HookRun, move: Move, error: CellmoveError) -> None:
    """Call ``on_failure`` for a failed server of a drain, whose command continues.

    :param error: the error that would end a command about this move alone
    """
    _call(run, ON_FAILURE, move, error)


def _consequence(error: Exception) -> CellmoveError:
    if isinstance(error, CellmoveError):
        return error
    if isinstance(error, CallError):
        return consequence_of_call(error)
    return Stopped(f"this is a fault in cellmove: {type(error).__name__}", next_command="cellmove list")


def _call(run: HookRun, event: str, before: Move, error: CellmoveError | None) -> None:
    """Call one hook. Its failure is a note and does not affect the move."""
    arguments = getattr(run.hooks, event)
    if not arguments or before.is_repair or before.is_drain:
        return
    try:
        move = run.journal.move(before.id)
        if move is None or (error is None and (move.state is before.state or move.state not in RESTING)):
            return
        document = _document(run, event, move, error)
        reason = hooks.call(arguments, document, run.hooks.timeout)
    except Exception as failure:  # noqa: BLE001 - nothing about a hook may look like a failure of the move
        reason = f"was not run: {failure.message if isinstance(failure, CellmoveError) else type(failure).__name__}"
    if reason:
        text = f"the hook {event} {reason}; this does not affect the move"
        run.observer(Event(EventKind.NOTE, before.id, before.server_name, text=text))


def _document(run: HookRun, event: str, move: Move, error: CellmoveError | None) -> Document:
    document = {"event": event, **move_document(move, run.journal.entries_of(move.id))}
    if error is not None:
        document |= error_document(error)
    inserted: Document = run.options.inserted_everywhere(document)
    return inserted
