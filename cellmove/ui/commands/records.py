"""The commands that read what the journal and the cloud hold: ``list``, ``show``, ``audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    pass


@click.command("list", short_help="List the open moves and what to type next.")
@click.option("--all", "everything", is_flag=True, help="Also the moves that are over.")
@output_options
@pass_options
def list_moves(options: Options, everything: bool) -> None:
    """List the open moves, each with what to type next.

    \b
    Example:
      cellmove list
      cellmove list --all -f json
    """
    with running(options, activity="", only_reads=True) as session:
        record = session.journal
        moves = record.all_moves() if everything else record.open_moves()
    answer_moves(options, session, moves)


@click.command(short_help="Show what the journal knows about a move.")
@move_argument
@output_options
@pass_options
def show(options: Options, reference: str) -> None:
    """Show what the journal knows about a move: its steps, their actions, times and errors.

    MOVE is a move's id, or the name or UUID of its server.

    \b
    Example:
      cellmove show web-1
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.operations.find import find_move

        move = find_move(session, reference)
    answer_move(options, session, move, detailed=True)


@click.command(short_help="Find what moves left behind, and mend it.")
@click.option("--cell", "cells", metavar="CELL", multiple=True, help="Look at this cell only; may be given again.")
@click.option("--server", "servers", metavar="SERVER", multiple=True, help="Only what is found of this server.")
@click.option("--repair", is_flag=True, help="Mend what is safe, each leftover by one action in the journal.")
@click.option("--dry-run", is_flag=True, help="With --repair: say what it would do, and write nothing.")
@click.option(
    "--older-than", type=FiniteRange(0), metavar="MINUTES",
    help="What changed within this time may be somebody's at work. Default: nova's long_rpc_timeout, 30 minutes.",
)  # fmt: skip
@yes_option
@output_options
@pass_options
def audit(
    options: Options, cells: tuple[str, ...], servers: tuple[str, ...], repair: bool, dry_run: bool,
    older_than: float | None,
) -> None:  # fmt: skip
    """Find what moves left behind, cellmove's own and nova's, in the whole cloud.

    For each leftover: what it is, how old, whose it is, and what mends it. What belongs to a move that is
    under way, or waits to be confirmed, is listed as owned and left alone. --repair mends what is safe
    and looks again before each; what is not safe is named with what a person can type. Exit code 10 says
    that leftovers are still there, 4 that a cell could not be looked at.

    \b
    Example:
      cellmove audit
      cellmove audit --cell cell1 -f json
      cellmove audit --repair --dry-run
      cellmove audit --repair --server web-1
    """
    if dry_run and not repair:
        raise click.UsageError("--dry-run goes with --repair; without it nothing is mended anyway")
    request = AuditRequest(cells, servers, repair, dry_run, older_than)
    with running(options, only_reads=dry_run or not repair) as session:
        from cellmove.operations import audit as auditing

        report = auditing.audit(session, request)
    answer_audit(options, report, report.command)
