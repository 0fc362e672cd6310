"""The commands that show the records of moves and the leftovers in the cloud: ``list``, ``show``, ``audit``."""

from __future__ import annotations

import click

from cellmove.core.request import AuditRequest
from cellmove.ui.answers import answer_audit, answer_move, answer_moves
from cellmove.ui.invocation import Options
from cellmove.ui.options import (
    FiniteRange,
    move_argument,
    output_options,
    pass_options,
    yes_option,
)
from cellmove.ui.running import running


@click.command("list", short_help="List the open moves and what to type next.")
@click.option("--all", "includes_closed", is_flag=True, help="Include closed moves.")
@output_options
@pass_options
def list_moves(options: Options, includes_closed: bool) -> None:
    """List the open moves, each with the command to type next.

    \b
    Example:
      cellmove list
      cellmove list --all -f json
    """
    with running(options, activity="", only_reads=True) as session:
        moves = session.journal.all_moves() if includes_closed else session.journal.open_moves()
    answer_moves(options, session, moves)


@click.command(short_help="Show what the journal records about a move.")
@move_argument
@output_options
@pass_options
def show(options: Options, reference: str) -> None:
    """Show what the journal records about a move: its steps, their actions, times and errors.

    MOVE is a move's id, or the name or UUID of its server.

    \b
    Example:
      cellmove show web-1
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.operations.find import find_move

        move = find_move(session, reference)
    answer_move(options, session, move, detailed=True)


@click.command(short_help="Find and repair leftovers of moves.")
@click.option(
    "--cell", "cells", metavar="CELL", multiple=True, help="Audit only this cell. May be given more than once."
)
@click.option(
    "--server",
    "servers",
    metavar="SERVER",
    multiple=True,
    help="Report only leftovers of this server. May be given more than once.",
)
@click.option("--repair", is_flag=True, help="Repair what is safe, each leftover by one action in the journal.")
@click.option("--dry-run", is_flag=True, help="With --repair: show what it would do, and write nothing.")
@click.option(
    "--older-than",
    type=FiniteRange(0),
    metavar="MINUTES",
    help="Regard what changed in the last MINUTES as in use. Default: nova's long_rpc_timeout, 30 minutes.",
)
@yes_option
@output_options
@pass_options
def audit(
    options: Options,
    cells: tuple[str, ...],
    servers: tuple[str, ...],
    repair: bool,
    dry_run: bool,
    older_than: float | None,
) -> None:
    """Find the leftovers of moves in the whole cloud, those of cellmove and those of nova.

    For each leftover, audit shows its kind, its age, its owner and its repair. A record that belongs to a move
    in progress, or to one that is not confirmed yet, is listed as owned and not changed. --repair repairs what
    is safe, and reads the state again before each repair. For the rest, audit shows the command to type. Exit
    code 10 means that leftovers remain, 4 that a cell could not be read.

    \b
    Example:
      cellmove audit
      cellmove audit --cell cell1 -f json
      cellmove audit --repair --dry-run
      cellmove audit --repair --server web-1
    """
    if dry_run and not repair:
        raise click.UsageError("--dry-run needs --repair; without --repair, audit writes nothing")
    request = AuditRequest(cells, servers, repair, dry_run, older_than)
    with running(options, only_reads=dry_run or not repair) as session:
        from cellmove.operations.audit import audit as audit_cloud

        report = audit_cloud(session, request)
    answer_audit(options, report)
