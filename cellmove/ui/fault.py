"""Turn any exception that ends a command into a :class:`CellmoveError` with the state of the move and a next command."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellmove.core.errors import CallError, CannotConnect, CellmoveError, Stopped, consequence_of_call, scrub

if TYPE_CHECKING:
    from cellmove.core.move import Move
    from cellmove.operations.context import Session
    from cellmove.ui.invocation import Options


NOTHING_WRITTEN = "nothing was written"


class EarlyExit(BaseException):
    """The first signal came before any action started, so the command ends at once."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def as_cellmove_error(error: BaseException, options: Options | None = None) -> CellmoveError:
    """Return the error that reports an exception.

    :param options: of the command; None if they are not known
    """
    if isinstance(error, CellmoveError):
        return error
    if isinstance(error, click.ClickException):
        return CellmoveError(error.format_message())
    if isinstance(error, EarlyExit):
        return CellmoveError(f"interrupted by {signal.Signals(error.number).name} before any action started")
    if isinstance(error, CannotConnect):
        return consequence_of_call(error)
    state, command = state_and_next_command(options) if options is not None else ("", "cellmove list")
    if isinstance(error, CallError):
        return consequence_of_call(error, state=state, next_command=command)
    if os.environ.get("CELLMOVE_DEBUG"):
        sys.stderr.write(scrub("".join(traceback.format_exception(error))))
    message = f"this is a fault in cellmove: {type(error).__name__}{_location(error)}; CELLMOVE_DEBUG=1 shows more"
    return Stopped(message, state=state, next_command=command)


def _location(error: BaseException) -> str:
    """The line of cellmove that raised the error. The error's own text is left out: it may hold a password."""
    frame = error.__traceback__
    location = ""
    while frame is not None:
        code = frame.tb_frame.f_code
        if f"{os.sep}cellmove{os.sep}" in code.co_filename:
            location = f" at {Path(code.co_filename).name}:{frame.tb_lineno}"
        frame = frame.tb_next
    return location


def state_and_next_command(options: Options) -> tuple[str, str]:
    """Return the state of the move of a command, as far as the journal can be read, and the command to type next.

    Without a move that is the same command again.
    """
    try:
        move = _move(options)
        if move is not None and options.session is not None:
            state = f"{move.id} of {move.server_name} is {_move_state(options.session, move)}"
            return state, _next_command(options, options.session, move)
    except Exception:  # noqa: BLE001 - this reports an error; a second one must not hide the first
        return "", options.retry_command
    if options.session is not None and options.reference and not options.is_about_many:
        return f"the journal has no move of {options.reference}", options.retry_command
    return "", options.retry_command


def _move_state(session: Session, move: Move) -> str:
    from cellmove.core.move import standing
    from cellmove.engine.executor import busy_step

    return standing(move, busy_step(session.journal.entries_of(move.id), move) if move.is_open else None)


def with_move_state(options: Options, state: str) -> str:
    """Add the state of the move to "nothing was written", if an earlier command has begun to move the server.

    The words alone would be read as a statement about the server, whose records are partly moved then.
    """
    if NOTHING_WRITTEN not in state or options.session is None:
        return state
    try:
        move = _move(options)
        move_state = _move_state(options.session, move) if move is not None and move.is_open else ""
    except Exception:  # noqa: BLE001 - this reports an error; a second one must not hide the first
        return state
    if move is None or move_state in ("", "planned", "repairing"):
        return state
    by_this_run = f"{NOTHING_WRITTEN} by this run"
    state = state.replace(by_this_run, NOTHING_WRITTEN).replace(NOTHING_WRITTEN, by_this_run)
    return state if move_state in state else f"{state}; {move.id} is {move_state}"


def _move(options: Options) -> Move | None:
    """The move of the latest event, or the one of the server that the command names."""
    if options.session is None or options.is_about_many:
        return None
    journal = options.session.journal
    if options.move_id:
        return journal.move(options.move_id)
    moves = journal.find(options.reference) if options.reference else []
    return moves[-1] if len({move.server_id for move in moves}) == 1 else None


def _next_command(options: Options, session: Session, move: Move) -> str:
    from cellmove.core.move import State, Step, is_held, next_commands
    from cellmove.core.request import request_of
    from cellmove.engine.executor import busy_step

    request = request_of(move)
    if is_held(move) and request is not None and (request.hold or request.cutover_at):
        return request.command
    if options.verb == "rollback" and move.is_open and move.state is not State.SWEEPING:
        return f"cellmove rollback {move.id}"
    is_backward = options.verb in ("rollback", "revert")
    busy = busy_step(session.journal.entries_of(move.id), move)
    commands = next_commands(move, busy, Step.REVERT if is_backward else None)
    return commands[0] if commands else f"cellmove show {move.id}"
