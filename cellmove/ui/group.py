"""The group of commands: lazy imports, and how an error becomes lines and an exit code."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cellmove.core.errors import CellmoveError
from cellmove.ui.answers import answer_error
from cellmove.ui.fault import EarlyExit, consequence, with_standing
from cellmove.ui.invocation import Options
from cellmove.ui.streams import open_closed_streams

if TYPE_CHECKING:
    pass


EXIT_CODES = {
    "0": "done, or already done",
    "1": "failed and was rolled back; the message says what a look at the server showed",
    "2": "the command line or the configuration makes no sense",
    "3": "stopped part-way; the journal records where, and the next command is printed",
    "4": "something cannot be reached or does not let us in; nothing was written",
    "5": "refused by a check; nothing was written",
    "6": "another run is working on this server, or emptying this cell",
    "7": "rolling back failed as well; what is left to do is printed",
    "8": "drain-cell: through, but servers failed, or were skipped or refused",
    "9": "drain-cell: stopped by its window, a limit or a stop rule; servers wait for the next run",
    "10": "audit: leftovers were found that are still there",
    "130": "interrupted by SIGINT (143: by SIGTERM) after the journal was brought up to date",
}
"""What a command's exit code means, the same for every command."""


def subcommands(group: click.Group) -> dict[str, click.Command]:
    """Return the commands of a group by name, in the order in which they are listed; a lazy group imports them."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


class InOrder(click.Group):
    """A group whose commands are listed in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        return list(self.commands)


class Commands(InOrder):
    """The group of commands; the one place where errors become lines and exit codes.

    :param commands_at: for each command, where it is: a module in :mod:`cellmove.ui.commands` and a function of it, as
        ``moves:plan``. The module is imported when the command is asked for
    """

    def __init__(self, *arguments: Any, commands_at: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._commands_at = commands_at or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import its module if it was not used before."""
        where = self._commands_at.get(cmd_name)
        if where is None:
            return None
        module, _, function = where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"cellmove.ui.commands.{module}"), function)
        return command

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit with the code of its consequence."""
        options = extra.setdefault("obj", Options())
        extra.setdefault("prog_name", "cellmove")
        open_closed_streams()
        parse: Callable[..., Any] = super().main
        code = _guarded(options, lambda: parse(*args, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def _guarded(options: Options, run: Callable[[], Any]) -> int:
    try:
        code = run()
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        if _asks_for_json(sys.argv[1:]):
            options.form = "json"  # the mistake may stand before the option that says so
        answer_error(options, consequence(error, options), exit_code=2)
        return 2
    except click.Abort:
        return 130
    except EarlyExit as early_exit:
        return _report(options, consequence(early_exit, options), 128 + early_exit.number)
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours must not read as exit code 1
        known = consequence(error, options)
        return _report(options, known, known.exit_code)
    return code if isinstance(code, int) else 0


def _asks_for_json(words: Sequence[str]) -> bool:
    pairs = itertools.pairwise((*words, ""))
    return any(
        (word in ("-f", "--format") and after == "json") or word in ("-fjson", "--format=json") for word, after in pairs
    )


def _report(options: Options, error: CellmoveError, exit_code: int) -> int:
    from cellmove.ui.console import render_error

    error.state = with_standing(options, error.state)
    error.message, error.state, error.next_command = (
        options.in_front.inserted(text) for text in (error.message, error.state, error.next_command)
    )
    render_error(error, sys.stderr)
    answer_error(options, error, exit_code)
    return exit_code
