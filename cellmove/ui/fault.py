"""What ends a command that met an error nobody handled, and what to type then.

The last resort of every command: whatever happens, the operator learns where the move stands and what to type.
"""

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
    from cellmove.ui.invocation import Options


NOTHING = "nothing was written"


class EarlyExit(BaseException):
    """A signal arrived before any action started, so the command ends at once."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def consequence(error: BaseException, options: Options | None = None) -> CellmoveError:
    """What ends a command, as one of the errors that it is reported by.

    :param options: of the command; None where none is at hand
    """
    if isinstance(error, CellmoveError):
        return error
    if isinstance(error, click.ClickException):
        return CellmoveError(error.format_message())
    if isinstance(error, EarlyExit):
        return CellmoveError(f"{signal.Signals(error.number).name} before any action started")
    if isinstance(error, CannotConnect):
        return consequence_of_call(error)
    state, command = where_it_stands(options) if options is not None else ("", "cellmove list")
    if isinstance(error, CallError):
        return consequence_of_call(error, state=state, next_command=command)
    if os.environ.get("CELLMOVE_DEBUG"):
        sys.stderr.write(scrub("".join(traceback.format_exception(error))))
    message = f"this is a fault in cellmove: {type(error).__name__}{_place(error)}; CELLMOVE_DEBUG=1 shows more"
    return Stopped(message, state=state, next_command=command)


def _place(error: BaseException) -> str:
    """Where in cellmove it happened. The error's own text is not shown: it might hold a password."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if f"{os.sep}cellmove{os.sep}" in code.co_filename:
            place = f" at {Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def where_it_stands(options: Options) -> tuple[str, str]:
    """In what state the move of a command is, as far as the journal can be asked, and what to type next.

    Without a move that is the command itself: the same command again goes on.
    """
    try:
        move = _move(options)
        if move is not None:
            return f"{move.id} of {move.server_name} is {_standing(options, move)}", _next_command(options, move)
    except Exception:  # noqa: BLE001 - this reports an error; a second one must not hide the first
        return "", options.again
    if options.session is not None and options.reference and not options.is_about_many:
        return f"the journal has no move of {options.reference}", options.again
    return "", options.again


def _standing(options: Options, move: Move) -> str:
    from cellmove.core.move import standing
    from cellmove.engine.executor import busy_step

    return standing(move, busy_step(options.session.journal.entries_of(move.id), move) if move.is_open else None)


def with_standing(options: Options, state: str) -> str:
    """What is said of the state when a command wrote nothing, of a server that an earlier command has begun to move.

    "Nothing was written" would be taken for a word about the server, whose records are half moved then.
    """
    if NOTHING not in state:
        return state
    try:
        move = _move(options)
        words = _standing(options, move) if move is not None and move.is_open else ""
    except Exception:  # noqa: BLE001 - this reports an error; a second one must not hide the first
        return state
    if move is None or words in ("", "planned", "repairing"):
        return state
    own = state.replace(f"{NOTHING} by this run", NOTHING).replace(NOTHING, f"{NOTHING} by this run")
    return own if words in own else f"{own}; {move.id} is {words}"


def _move(options: Options) -> Move | None:
    """The move of the command at hand: the one that was last heard of, or the one that the journal knows."""
    if options.session is None or options.is_about_many:
        return None
    journal = options.session.journal
    if options.move_id:
        found: Move | None = journal.move(options.move_id)
        return found
    moves: list[Move] = journal.find(options.reference) if options.reference else []
    return moves[-1] if len({move.server_id for move in moves}) == 1 else None


def _next_command(options: Options, move: Move) -> str:
    from cellmove.core.move import State, Step, is_held, next_commands
    from cellmove.core.request import request_of
    from cellmove.engine.executor import busy_step

    request = request_of(move)
    if is_held(move) and request is not None and (request.hold or request.cutover_at):
        return request.command
    wants_back = options.verb in ("rollback", "revert")
    busy = busy_step(options.session.journal.entries_of(move.id), move)
    if options.verb == "rollback" and move.is_open and move.state is not State.SWEEPING:
        return f"cellmove rollback {move.id}"
    commands = next_commands(move, busy, Step.REVERT if wants_back else None)
    return commands[0] if commands else f"cellmove show {move.id}"
