"""The group of commands: import a command when it is used, and turn an error into lines and an exit code."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import click

from cellmove.core.errors import CellmoveError
from cellmove.ui.answers import answer_error
from cellmove.ui.fault import EarlyExit, as_cellmove_error, with_move_state
from cellmove.ui.invocation import Options
from cellmove.ui.streams import open_closed_streams

EXIT_CODES = {
    "0": "done, or already done",
    "1": "failed and rolled back; the message gives the state of the server as read after the rollback",
    "2": "the command line or the configuration is invalid",
    "3": "stopped part-way; the journal records where, and the next command is printed",
    "4": "a service cannot be reached or refuses the login; nothing was written",
    "5": "refused by a check; nothing was written",
    "6": "another run is working on this server or draining this cell",
    "7": "the rollback failed, or the server differs from its state before the move; the remaining work is printed",
    "8": "drain-cell: complete, but servers failed, were skipped or were refused",
    "9": "drain-cell: stopped by its window, a limit or a stop rule; servers wait for the next run",
    "10": "audit: leftovers remain",
    "130": "interrupted by SIGINT (143: by SIGTERM) after the journal was updated",
}
"""The meaning of each exit code, the same for every command."""


def subcommands(group: click.Group) -> dict[str, click.Command]:
    """Return the commands of a group by name, in the order in which they are listed; a lazy group imports them."""
    context = click.Context(group)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in commands.items() if command is not None}


class InOrder(click.Group):
    """A group that lists its commands in the order in which an operator needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the commands were added."""
        return list(self.commands)


class LazyGroup(InOrder):
    """A group whose commands are imported when they are used; the one place that turns errors into exit codes."""

    commands_at: ClassVar[Mapping[str, str]] = {}
    """For each command, a module of :mod:`cellmove.ui.commands` and a function in it, as ``moves:plan``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import its module if it was not used before."""
        location = self.commands_at.get(cmd_name)
        if location is None:
            return None
        module, _, function = location.partition(":")
        command: click.Command = getattr(importlib.import_module(f"cellmove.ui.commands.{module}"), function)
        return command

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:  # the signature is click's
        """Run a command line and exit with the code of its result."""
        options = extra.setdefault("obj", Options())
        extra.setdefault("prog_name", "cellmove")
        open_closed_streams()
        parse: Callable[..., object] = super().main
        code = _guarded(options, lambda: parse(*args, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def _guarded(options: Options, run: Callable[[], object]) -> int:
    try:
        code = run()
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        if _asks_for_json(sys.argv[1:]):
            options.output_format = "json"  # the mistake may precede the option that asks for it
        answer_error(options, as_cellmove_error(error, options), exit_code=2)
        return 2
    except click.Abort:
        return 130
    except EarlyExit as interrupt:
        return _report(options, as_cellmove_error(interrupt, options), 128 + interrupt.number)
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of cellmove must not read as exit code 1
        known = as_cellmove_error(error, options)
        return _report(options, known, known.exit_code)
    return code if isinstance(code, int) else 0


def _asks_for_json(words: Sequence[str]) -> bool:
    pairs = itertools.pairwise((*words, ""))
    return any(
        (word in ("-f", "--format") and after == "json") or word in ("-fjson", "--format=json") for word, after in pairs
    )


def _report(options: Options, error: CellmoveError, exit_code: int) -> int:
    from cellmove.ui.console import render_error

    insert = options.global_options.inserted
    error.message = insert(error.message)
    error.state = insert(with_move_state(options, error.state))
    error.next_command = insert(error.next_command)
    render_error(error, sys.stderr)
    answer_error(options, error, exit_code)
    return exit_code
