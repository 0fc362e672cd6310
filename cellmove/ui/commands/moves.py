"""The commands that open a move, run it whole, resume it, roll it back or rebuild its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import click

from cellmove.engine.events import Event, EventKind
from cellmove.ui.answers import answer_move, answer_moves, answer_plan
from cellmove.ui.commands.drain_cell import dry_plan
from cellmove.ui.invocation import Options
from cellmove.ui.options import (
    RunArguments,
    TargetArguments,
    confirm_option,
    hold_options,
    host_restarted_option,
    move_argument,
    output_options,
    pass_options,
    plan_request,
    probe_option,
    probes_of,
    run_request,
    target_options,
    yes_option,
)
from cellmove.ui.running import running

if TYPE_CHECKING:
    from cellmove.core.request import MoveRequest
    from cellmove.operations.context import Session
    from cellmove.operations.hold import Hold
    from cellmove.operations.planning import PlanReport


@click.command(short_help="Check a move, show its plan, and open it.")
@click.argument("server", metavar="SERVER", required=False)
@click.argument("flavor", metavar="[FLAVOR]", required=False)
@click.option("--dry-run", is_flag=True, help="Only check and show the plan. Write nothing, not even to the journal.")
@target_options
@output_options
@pass_options
def plan(
    options: Options, /, server: str | None, flavor: str | None, dry_run: bool, **given: Unpack[TargetArguments]
) -> None:
    """Check whether a server can be moved, show the plan, and open the move.

    SERVER is a name or UUID. With FLAVOR the move also resizes the server. The result lists all reasons
    against the move at once, each with its remedy. plan writes nothing to the cloud. Without SERVER, plan
    checks every server of the cell that --cell names, as drain-cell --dry-run does.

    \b
    Example:
      cellmove plan web-1 --cell cell2
      cellmove plan web-1 m1.large --host compute-11 --dry-run
      cellmove plan --cell cell1
    """
    if server is None:
        if not given["cell"]:
            raise click.UsageError("Missing argument 'SERVER'. To check all servers of a cell, give only --cell.")
        dry_plan(options, given["cell"])
        return
    request = plan_request(server, flavor, given)
    with running(options, only_reads=dry_run) as session:
        from cellmove.operations import planning

        report = planning.plan(session, request, open_move=not dry_run)
        request = report.request or request
    answer_plan(options, session, report, request.command)


def _hold(session: Session, request: MoveRequest) -> Hold | None:
    """Return whether the move is held, and until when.

    :raises Usage: ``--cutover-at`` is no time of day
    """
    if not request.hold and not request.cutover_at:
        return None
    from cellmove.drain.window import next_time
    from cellmove.operations.hold import Hold

    now = session.clock.utc_now().astimezone()
    return Hold(next_time(request.cutover_at, "--cutover-at", now) if request.cutover_at else None)


def _run_to_finish(options: Options, request: MoveRequest) -> None:
    probes_of(request.probes)  # an invalid probe is refused before anything is read
    with running(options) as session:
        from cellmove.operations import planning
        from cellmove.operations.run import run_to_finish

        hold = _hold(session, request)
        report = planning.move_for(session, request)
        request = report.request or request
        if report.move is not None and not report.refused:
            _show_warnings(session, report)
            move = run_to_finish(session, report.move, confirm=request.confirm, hold=hold, request=request)
    if report.move is None or report.refused:
        answer_plan(options, session, report, request.command)
    else:
        answer_move(options, session, move)


def _show_warnings(session: Session, report: PlanReport) -> None:
    move = report.move
    if move is None:
        return
    for check in report.checks:
        if check.level == "warning":
            session.observer(Event(EventKind.NOTE, move.id, move.server_name, text=f"warning: {check.text}"))


@click.command(short_help="Move a server to another cell and flavor.")
@click.argument("server", metavar="SERVER")
@click.argument("flavor", metavar="FLAVOR")
@confirm_option
@probe_option
@hold_options
@target_options
@yes_option
@output_options
@pass_options
def resize(options: Options, /, server: str, flavor: str, **given: Unpack[RunArguments]) -> None:
    """Move a server to another cell and another flavor: run plan, prep-dest, prep-source and finish.

    SERVER is a name or UUID. If a step fails, cellmove rolls the whole move back. After an interruption,
    the same command continues the move.

    \b
    Example:
      cellmove resize web-1 m1.large --cell cell2
    """
    _run_to_finish(options, run_request(server, flavor, given))


@click.command(short_help="Move a server to another cell.")
@click.argument("server", metavar="SERVER")
@confirm_option
@probe_option
@hold_options
@target_options
@yes_option
@output_options
@pass_options
def migrate(options: Options, /, server: str, **given: Unpack[RunArguments]) -> None:
    """Move a server to another cell: run plan, prep-dest, prep-source and finish.

    SERVER is a name or UUID. If a step fails, cellmove rolls the whole move back. After an interruption,
    the same command continues the move.

    \b
    Example:
      cellmove migrate web-1 --cell cell2 --confirm
    """
    _run_to_finish(options, run_request(server, None, given))


@click.command(short_help="Continue a move where it stopped.")
@click.argument("reference", metavar="[MOVE]", required=False)
@click.option("--all", "resumes_all", is_flag=True, help="Continue every interrupted move.")
@host_restarted_option
@output_options
@pass_options
def resume(options: Options, reference: str | None, resumes_all: bool, host_restarted: bool) -> None:
    """Continue a move where it stopped, forward or back.

    MOVE is a move's id, or the name or UUID of its server. cellmove first reads the state of the action
    that was in progress. It repeats no action that is complete.

    \b
    Example:
      cellmove resume web-1
      cellmove resume --all
    """
    if resumes_all == bool(reference):
        raise click.UsageError("give either a MOVE or --all")
    if resumes_all and host_restarted:
        raise click.UsageError("--host-restarted applies to one move, so it excludes --all")
    with running(options) as session:
        from cellmove.operations import recover
        from cellmove.operations.find import find_move

        if reference is None:
            moves = recover.resume_all(session)
        else:
            move = find_move(session, reference)
            move = recover.resume(session, move, host_restarted=host_restarted)
    if reference is None:
        answer_moves(options, session, moves)
    else:
        answer_move(options, session, move)


@click.command(short_help="Roll a move back.")
@move_argument
@host_restarted_option
@output_options
@pass_options
def rollback(options: Options, reference: str, host_restarted: bool) -> None:
    """Roll a move back, so that the server is in its source cell as before.

    MOVE is a move's id, or the name or UUID of its server. cellmove undoes the actions of the move, the
    latest first. It reverts a finished move. A confirmed move cannot be rolled back.

    \b
    Example:
      cellmove rollback web-1
    """
    with running(options) as session:
        from cellmove.operations.find import find_move
        from cellmove.operations.recover import rollback as roll_back

        move = find_move(session, reference)
        move = roll_back(session, move, host_restarted=host_restarted)
    answer_move(options, session, move)


@click.command(short_help="Rebuild the lost journal of a move.")
@click.argument("server", metavar="SERVER")
@click.option(
    "--journal-is-lost",
    is_flag=True,
    help="State that the journal that the server's ownership mark names is lost, and that no process uses it.",
)
@click.option(
    "--nova-is-dead",
    is_flag=True,
    help="State that the nova-conductor that started the move was restarted or removed since.",
)
@output_options
@pass_options
def adopt(options: Options, server: str, journal_is_lost: bool, nova_is_dead: bool) -> None:
    """Rebuild the journal of a move from the state of the cloud.

    SERVER is a name or UUID. adopt writes only to the journal. Afterwards resume and rollback work on the
    move. If this journal has an older copy of the move, adopt replaces the copy.

    adopt takes a server in VERIFY_RESIZE as a finished move, even if nova moved it. confirm and revert then
    complete the move. adopt also takes over a move, confirm or revert that nova-conductor started and abandoned.
    While that nova-conductor counts as up, adopt requires --nova-is-dead. If the state of the server does not
    show where the move stands, adopt refuses it with the reason.

    \b
    Example:
      cellmove adopt web-1
      cellmove adopt web-1 --journal-is-lost
      cellmove adopt web-1 --nova-is-dead
    """
    with running(options) as session:
        from cellmove.operations import adopt as operation

        move = operation.adopt(session, server, journal_is_lost=journal_is_lost, nova_is_dead=nova_is_dead)
    answer_move(options, session, move)
