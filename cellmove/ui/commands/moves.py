"""The commands that open a move, run it whole, resume it, roll it back or rebuild its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cellmove.engine.events import Event, EventKind
from cellmove.ui.answers import answer_move, answer_moves, answer_plan
from cellmove.ui.commands.drain_cell import dry_plan
from cellmove.ui.invocation import Options
from cellmove.ui.options import (
    confirm_option,
    hold_options,
    host_restarted_option,
    move_argument,
    output_options,
    pass_options,
    probe_option,
    probes_of,
    request_from,
    target_options,
    yes_option,
)
from cellmove.ui.running import running

if TYPE_CHECKING:
    from cellmove.core.request import MoveRequest
    from cellmove.operations.context import Session
    from cellmove.operations.hold import Hold


@click.command(short_help="Check a move, show what would happen, open it.")
@click.argument("server", metavar="SERVER", required=False)
@click.argument("flavor", metavar="[FLAVOR]", required=False)
@click.option("--dry-run", is_flag=True, help="Only look: record nothing, in the journal either.")
@target_options
@output_options
@pass_options
def plan(options: Options, /, server: str | None, flavor: str | None, dry_run: bool, **given: Any) -> None:
    """Check whether a server can be moved, show what would happen, and open the move.

    SERVER is a name or UUID. With FLAVOR the server is resized on its way. All reasons against the move
    are shown at once, each with what to do about it. Nothing in the cloud is changed. Without SERVER the
    whole cell that --cell names is looked at, as drain-cell --dry-run does it.

    \b
    Example:
      cellmove plan web-1 --cell cell2
      cellmove plan web-1 m1.large --host compute-11 --dry-run
      cellmove plan --cell cell1
    """
    if server is None:
        if not given["cell"]:
            raise click.UsageError(
                "Missing argument 'SERVER'; or name the --cell whose servers are all to be looked at"
            )
        dry_plan(options, given["cell"])
        return
    request = request_from(server, flavor, is_stepwise=True, **given)
    with running(options, only_reads=dry_run) as session:
        from cellmove.operations import planning

        report = planning.plan(session, request, open_move=not dry_run)
        request = report.request or request
    answer_plan(options, session, report, request.command)


def _holding(session: Session, hold: bool, cutover_at: str) -> Hold | None:
    """Whether the move is to be held, and until when.

    :raises Usage: no time of day
    """
    if not hold and not cutover_at:
        return None
    from cellmove.drain.window import next_time
    from cellmove.operations.hold import Hold

    now = session.clock.utc_now().astimezone()
    return Hold(next_time(cutover_at, "--cutover-at", now) if cutover_at else None)


def _run_to_finish(options: Options, request: MoveRequest) -> None:
    probes_of(request.probes)  # one that is none is refused before anything is looked at
    with running(options) as session:
        from cellmove.operations import planning
        from cellmove.operations.run import run_to_finish

        holding = _holding(session, request.hold, request.cutover_at)
        report = planning.move_for(session, request)
        request = report.request or request
        if report.move is not None and not report.refused:
            for check in report.checks:
                if check.level.value == "warning":
                    text = f"warning: {check.text}"
                    session.observer(Event(EventKind.NOTE, report.move.id, report.move.server_name, text=text))
            move = run_to_finish(session, report.move, confirm=request.confirm, hold=holding, request=request)
    if report.move is None or report.refused:
        answer_plan(options, session, report, request.command)
    else:
        answer_move(options, session, move)


@click.command(short_help="Move to another cell and flavor in one go.")
@click.argument("server", metavar="SERVER")
@click.argument("flavor", metavar="FLAVOR")
@confirm_option
@probe_option
@hold_options
@target_options
@yes_option
@output_options
@pass_options
def resize(options: Options, /, server: str, flavor: str, **given: Any) -> None:
    """Move a server to another cell and another flavor: plan, prep-dest, prep-source and finish in one go.

    SERVER is a name or UUID. When something fails, everything is rolled back. After an interruption the
    same command goes on where it stopped.

    \b
    Example:
      cellmove resize web-1 m1.large --cell cell2
    """
    _run_to_finish(options, request_from(server, flavor, **given))


@click.command(short_help="Move to another cell in one go.")
@click.argument("server", metavar="SERVER")
@confirm_option
@probe_option
@hold_options
@target_options
@yes_option
@output_options
@pass_options
def migrate(options: Options, /, server: str, **given: Any) -> None:
    """Move a server to another cell: plan, prep-dest, prep-source and finish in one go.

    SERVER is a name or UUID. When something fails, everything is rolled back. After an interruption the
    same command goes on where it stopped.

    \b
    Example:
      cellmove migrate web-1 --cell cell2 --confirm
    """
    _run_to_finish(options, request_from(server, None, **given))


@click.command(short_help="Go on with a move where it stopped.")
@click.argument("reference", metavar="[MOVE]", required=False)
@click.option("--all", "everything", is_flag=True, help="Go on with every move that was interrupted.")
@host_restarted_option
@output_options
@pass_options
def resume(options: Options, reference: str | None, everything: bool, host_restarted: bool) -> None:
    """Go on with a move where it stopped, forwards or backwards as it was going.

    MOVE is a move's id, or the name or UUID of its server. What is under way is looked at before anything
    is done; nothing is done twice.

    \b
    Example:
      cellmove resume web-1
      cellmove resume --all
    """
    if everything == bool(reference):
        raise click.UsageError("name a move, or give --all: one of them")
    if everything and host_restarted:
        raise click.UsageError("--host-restarted is said of one move")
    with running(options) as session:
        from cellmove.operations import recover as recover_module
        from cellmove.operations.find import find_move

        if reference is None:
            moves = recover_module.resume_all(session)
        else:
            move = find_move(session, reference)
            move = recover_module.resume(session, move, host_restarted=host_restarted)
    if reference is None:
        answer_moves(options, session, moves)
    else:
        answer_move(options, session, move)


@click.command(short_help="Roll a move back, whatever it takes.")
@move_argument
@host_restarted_option
@output_options
@pass_options
def rollback(options: Options, reference: str, host_restarted: bool) -> None:
    """Roll a move back, whatever it takes: the server is in its source cell again.

    MOVE is a move's id, or the name or UUID of its server. What was done is undone, newest first; a move
    that is finished already is reverted. Only a confirmed move cannot be rolled back.

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


@click.command(short_help="Rebuild the journal of a move that lost it.")
@click.argument("server", metavar="SERVER")
@click.option(
    "--journal-is-lost", is_flag=True,
    help="The journal that the server's mark names is gone for good, and nobody works with it.",
)  # fmt: skip
@click.option(
    "--nova-is-dead", is_flag=True,
    help="The nova-conductor that began it was restarted since, or is gone for good.",
)  # fmt: skip
@output_options
@pass_options
def adopt(options: Options, server: str, journal_is_lost: bool, nova_is_dead: bool) -> None:
    """Rebuild the journal of a move whose journal is lost, from what the cloud shows.

    SERVER is a name or UUID. Only the journal is written. Afterwards resume and rollback work as ever. A
    move of which this journal is an older copy is rebuilt in the place of that copy.

    A server in VERIFY_RESIZE, also one that nova itself moved, is taken as a finished move, for confirm and
    revert. A move, confirm or revert that nova began and left when its superconductor died is taken on
    where it stands; while that nova-conductor counts as up, only with your word that it died. What cannot
    be adopted, or not with certainty, is refused with the reason.

    \b
    Example:
      cellmove adopt web-1
      cellmove adopt web-1 --journal-is-lost
      cellmove adopt web-1 --nova-is-dead
    """
    with running(options) as session:
        from cellmove.operations import adopt as adopting

        move = adopting.adopt(
            session, server, journal_is_lost=journal_is_lost, nova_is_dead=nova_is_dead
        )  # fmt: skip
    answer_move(options, session, move)
