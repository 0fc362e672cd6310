"""The command ``drain-cell``, and the options of a drain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import click

from cellmove.core.shell import command_line
from cellmove.drain.options import DrainOptions
from cellmove.ui.answers import answer
from cellmove.ui.drain_arguments import HEADINGS, DrainArguments, drain_option_decorators, drain_options_of
from cellmove.ui.fault import EarlyExit, as_cellmove_error
from cellmove.ui.invocation import Options
from cellmove.ui.options import Grouped, output_options, pass_options, typed_command, yes_option
from cellmove.ui.running import running
from cellmove.ui.signals import Signals

if TYPE_CHECKING:
    from cellmove.core.errors import CellmoveError
    from cellmove.drain.events import DrainEvent, DrainObserver
    from cellmove.drain.result import RunResult
    from cellmove.engine.events import Event
    from cellmove.operations.context import Session

MODES = ("dry_run", "aborts")
"""Parameters that a printed command does not have."""


@click.command("drain-cell", cls=Grouped, headings=HEADINGS, short_help="Move every server out of a cell.")
@click.argument("cell", metavar="CELL")
@click.option(
    "--dry-run", is_flag=True, help="Show which servers would move, which would not, and why. Writes nothing."
)
@click.option("--abort", "aborts", is_flag=True, help="Start no more servers and uncordon the cell, like drain abort.")
@drain_option_decorators
@yes_option
@output_options
@pass_options
def drain_cell(
    options: Options, /, cell: str, dry_run: bool, aborts: bool, **arguments: Unpack[DrainArguments]
) -> None:
    """Move every server out of a cell. Continue from the point that an earlier run reached.

    CELL is a name or UUID. The census gives each server a verdict: it is movable, is skipped (by a
    filter or its tag cellmove:skip), or is refused by a check. The cell is cordoned: closed to new
    servers. Then each server is checked again, moved, verified and confirmed.

    The same command continues the drain, also after a crash; moves in progress are completed first.
    A signal waits until no guest is down; a second signal ends the run immediately. Exit code 8: all
    servers were processed, but some failed, were skipped or refused. Exit code 9: servers wait for
    the next run.

    \b
    Example:
      cellmove drain-cell cell1 --dry-run
      cellmove drain-cell cell1 --to cell2 --parallel 4 --window 22:00-06:00 --days mon-thu
      cellmove drain-cell cell1 --include 'host=c1-old*' --limit 10 --soak 10m --probe tcp:22
      cellmove drain-cell cell1 --abort
    """
    context = click.get_current_context()
    if dry_run and aborts:
        raise click.UsageError("--dry-run and --abort exclude each other")
    if dry_run:
        dry_plan(options, cell, drain_options_of(arguments), context)
    elif aborts:
        from cellmove.ui.commands.drain import abort_and_answer

        abort_and_answer(options, cell)
    else:
        _drain(options, cell, arguments, context)


def _drain(options: Options, cell: str, arguments: DrainArguments, context: click.Context) -> None:
    with _errors_as_lines(options, cell):
        drain_options = drain_options_of(arguments)
        with _rendered_run(options, typed_command(context, without=MODES)) as (session, observe):
            from cellmove.drain.planning import resolve_cells
            from cellmove.drain.runs import run_drain

            uuid, drain_options = resolve_cells(session, cell, drain_options)
            command = typed_command(context, without=MODES, instead={"cell": uuid, "to": drain_options.to})
            result = run_drain(
                session, uuid, drain_options, observe, cordons=not arguments["no_cordon"], command=command
            )
    _answer_result(options, result, command)


def _answer_result(options: Options, result: RunResult, command: str) -> None:
    """Print the result of a run.

    :raises CellmoveError: servers failed, were not moved, or wait
    """
    if not result.had_work and not sys.stdout.isatty():
        return  # cron would mail it each night
    from cellmove.drain.result import error_of
    from cellmove.ui.console import is_same_file
    from cellmove.ui.drain_documents import result_document
    from cellmove.ui.drain_text import draw_result

    if options.output_format != "json":
        answer(options, result_document(result), draw_result)
    is_listed = options.output_format not in ("json", "value") and is_same_file(sys.stdout, sys.stderr)
    error = error_of(result, command, is_listed=is_listed)
    if error is not None:
        raise error


def dry_plan(
    options: Options, cell: str, drain_options: DrainOptions | None = None, context: click.Context | None = None
) -> None:
    """Show the plan of a drain. ``plan --cell CELL`` shows it as well.

    :param context: of ``drain-cell``, whose options the printed command has
    """
    with running(options, activity="reading every server of the cell", only_reads=True) as session:
        from cellmove.drain.planning import plan_drain, resolve_cells

        uuid, drain_options = resolve_cells(session, cell, drain_options or DrainOptions())
        plan = plan_drain(session, uuid, drain_options)
    from cellmove.ui.drain_documents import plan_document
    from cellmove.ui.drain_text import draw_plan

    command = command_line("drain-cell", uuid)
    if context is not None:
        command = typed_command(context, without=MODES, instead={"cell": uuid, "to": drain_options.to})
    answer(options, plan_document(plan, command), draw_plan)


@contextmanager
def _errors_as_lines(options: Options, cell: str) -> Iterator[None]:
    """With ``--format json``, write an error that ends the run as one more line."""
    try:
        yield
    except (Exception, EarlyExit) as failure:
        if options.output_format == "json":
            _write_error_line(options, cell, as_cellmove_error(failure, options))
        raise


def _write_error_line(options: Options, cell: str, error: CellmoveError) -> None:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.clock import Clock
    from cellmove.core.reference import is_uuid
    from cellmove.drain.events import DrainEvent, DrainEventKind
    from cellmove.ui.drain_progress import DrainJsonRenderer

    typed = CellRef(cell if is_uuid(cell) else "", cell)
    reason = "; ".join(part for part in (error.message, error.state) if part)
    event = DrainEvent(DrainEventKind.RUN_FAILED, Clock().text(), typed, reason=reason, next_command=error.next_command)
    options.has_answered = True
    DrainJsonRenderer(sys.stdout, sys.stderr)(_with_global_options(options, event))


def _with_global_options(options: Options, event: DrainEvent) -> DrainEvent:
    """Insert the global options into the commands of an event."""
    insert = options.global_options.inserted
    return replace(event, reason=insert(event.reason), next_command=insert(event.next_command))


@contextmanager
def _rendered_run(options: Options, command: str) -> Iterator[tuple[Session, DrainObserver]]:
    """Open a session, and show the events of the drain and of its moves.

    :param command: the command that continues the drain after a second signal
    """
    from cellmove.drain.events import DrainEvent
    from cellmove.ui.drain_progress import drain_renderer_for

    as_json = options.output_format == "json"
    with (
        drain_renderer_for(sys.stdout, sys.stderr, as_json=as_json, quiet=options.quiet) as render,
        running(options, observer=render, retry_command=command) as session,
    ):

        def observe(event: Event | DrainEvent) -> None:
            if not isinstance(event, DrainEvent):
                session.observer(event)
                return
            options.has_answered = options.has_answered or as_json  # stdout holds lines, so no document may follow
            if isinstance(session.interrupted, Signals):
                session.interrupted.busy = True  # a signal has to wait for the moves in progress
            render(_with_global_options(options, event))

        yield session, observe
