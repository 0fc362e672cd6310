"""The commands: parse, call, render; no logic of their own.

Only click is imported here at once. Whatever reaches a database, a bus or an API is imported when a
command needs it, so that ``cellmove --help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cellmove.core.request import AuditRequest
from cellmove.engine.events import Event, EventKind
from cellmove.ui.command import (
    Commands,
    Options,
    answer_audit,
    answer_move,
    answer_moves,
    answer_plan,
    answer_verification,
    install_signals,
    running,
)
from cellmove.ui.commands.drain import drain, drain_cell, dry_plan
from cellmove.ui.commands.journal import journal
from cellmove.ui.commands.metrics import metrics
from cellmove.ui.commands.schema import schema
from cellmove.ui.options import (
    FiniteRange,
    confirm_option,
    hold_options,
    host_restarted_option,
    move_argument,
    output_options,
    pass_options,
    probe_option,
    request_from,
    target_options,
    yes_option,
)

if TYPE_CHECKING:
    from cellmove.core.request import MoveRequest

# the commands


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command prints what to type next. Exit codes are the same for all: see the man page, cellmove(1).",
)
@click.option("--nova-conf", metavar="FILE", help="nova's configuration of a superconductor.")
@click.option("--os-cloud", metavar="NAME", help="The entry of clouds.yaml with the operator's admin rights.")
@click.option("--os-region-name", metavar="NAME", help="The region of nova's APIs, where keystone has several.")
@click.option("--journal", metavar="PATH", help="Where the moves are recorded: a file, or an SQLAlchemy URL.")
@click.option(
    "--config", metavar="FILE", help="cellmove's own configuration: settings, [policy], [hooks], disk_stores."
)
@output_options
@click.version_option(package_name="cellmove", prog_name="cellmove", message="%(prog)s %(version)s")
@pass_options
def cli(options: Options, /, **given: str | None) -> None:
    """Move servers between the cells of an OpenStack nova cloud.

    A move goes through five steps: plan, prep-dest, prep-source, finish, and then confirm or revert.
    Every step can be run on its own; resize and migrate run them in one go. Every side effect stands in
    the journal before it happens, so that after any crash one command finishes the move (resume) and
    one takes it back (rollback).

    \b
    Example:
      cellmove plan web-1 --cell cell2 --dry-run
      cellmove migrate web-1 --cell cell2
      cellmove confirm web-1
    """
    for name, value in given.items():
        setattr(options, name, value)


@cli.command(short_help="Check a move, show what would happen, open it.")
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
    with running(options, only_reads=dry_run) as run:
        from cellmove.operations import planning

        report = planning.plan(run.session, request, open_move=not dry_run)
        request = report.request or request
    answer_plan(options, run, report, request.command)


def _run_step(options: Options, reference: str, verb: str, **more: Any) -> None:
    from cellmove.core.move import Step

    with running(options) as run:
        move = run.functions.find_move(run.session, reference)
        move = run.functions.run_step(run.session, move, Step(verb), **more)
    answer_move(options, run, move)


@cli.command("prep-dest", short_help="Claim and prepare a host in the target cell.")
@move_argument
@yes_option
@output_options
@pass_options
def prep_dest(options: Options, reference: str) -> None:
    """Claim a host in the target cell and prepare it; the guest goes on running at the source.

    MOVE is a move's id, or the name or UUID of its server.

    \b
    Example:
      cellmove prep-dest web-1
    """
    _run_step(options, reference, "prep-dest")


@cli.command("prep-source", short_help="Stop the guest; hand over disks, volumes, ports.")
@move_argument
@yes_option
@output_options
@pass_options
def prep_source(options: Options, reference: str) -> None:
    """Stop the guest at the source and hand over its disks, volumes and ports.

    MOVE is a move's id, or the name or UUID of its server. From here until finish the guest is down.

    \b
    Example:
      cellmove prep-source web-1
    """
    _run_step(options, reference, "prep-source")


@cli.command(short_help="Start the guest in the target cell.")
@move_argument
@yes_option
@output_options
@pass_options
def finish(options: Options, reference: str) -> None:
    """Start the guest in the target cell and make that cell the server's home.

    MOVE is a move's id, or the name or UUID of its server. One that is held (resize or migrate --hold) is
    stopped and finished, by the run that holds it. Afterwards the server is in VERIFY_RESIZE:
    confirm or revert it, with cellmove or as any resize.

    \b
    Example:
      cellmove finish web-1
    """
    _run_step(options, reference, "finish")


@cli.command(short_help="Compare a moved server with what it was.")
@move_argument
@probe_option
@output_options
@pass_options
def verify(options: Options, reference: str, probes: tuple[str, ...]) -> None:
    """Compare a server between finish and confirm with what it was before the move.

    MOVE is a move's id, or the name or UUID of its server. Its records in the target cell are compared
    with those that nova keeps in the source cell, column by column; besides, the guest has to run (or be
    stopped) at the target, its ports to be bound there and up, its volumes to be attached there. What its
    owner changed since is only told. Exit code 5 when anything is not as it was. Nothing is written.

    A probe is asked of the guest until it answers, for a minute at most; tcp and ping try its fixed
    addresses, a command finds CELLMOVE_SERVER_ID, CELLMOVE_SERVER_NAME and CELLMOVE_ADDRESSES.

    \b
    Example:
      cellmove verify web-1
      cellmove verify web-1 --probe tcp:22 --probe 'cmd:/usr/local/bin/is-web-alive'
    """
    asked = _probes(probes)
    with running(options, only_reads=True) as run:
        from cellmove.operations import verify as verifying

        move = run.functions.find_move(run.session, reference)
        found = verifying.verify(run.session, move, asked)
    answer_verification(options, run, found)


@cli.command(short_help="Keep the move; clean up at the source.")
@move_argument
@click.option("--force", is_flag=True, help="Confirm also when the server is not what it was.")
@probe_option
@yes_option
@output_options
@pass_options
def confirm(options: Options, reference: str, force: bool, probes: tuple[str, ...]) -> None:
    """Keep the server in the target cell and remove what is left at the source.

    MOVE is a move's id, or the name or UUID of its server. Before, all that verify looks at has to be as
    it was; otherwise nothing is done, unless --force says to confirm it as it is.

    \b
    Example:
      cellmove confirm web-1
      cellmove confirm web-1 --probe tcp:22
    """
    _run_step(options, reference, "confirm", force=force, probes=_probes(probes))


def _probes(texts: tuple[str, ...]) -> list[Any]:
    from cellmove.operations.probe import parse

    return [parse(text) for text in texts]


@cli.command(short_help="Bring the server back; clean up at the target.")
@move_argument
@yes_option
@output_options
@pass_options
def revert(options: Options, reference: str) -> None:
    """Bring the server back to the source cell and remove what is left at the target.

    MOVE is a move's id, or the name or UUID of its server.

    \b
    Example:
      cellmove revert web-1
    """
    _run_step(options, reference, "revert")


def _holding(session: Any, hold: bool, cutover_at: str) -> Any:
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
    _probes(request.probes)  # one that is none is refused before anything is looked at
    with running(options) as run:
        from cellmove.operations import planning

        holding = _holding(run.session, request.hold, request.cutover_at)
        report = planning.move_for(run.session, request)
        request = report.request or request
        if report.move is not None and not report.refused:
            for check in report.checks:
                if check.level.value == "warning":
                    text = f"warning: {check.text}"
                    run.observe(Event(EventKind.NOTE, report.move.id, report.move.server_name, text=text))
            move = run.functions.run_to_finish(
                run.session, report.move, confirm=request.confirm, hold=holding, request=request
            )
    if report.move is None or report.refused:
        answer_plan(options, run, report, request.command)
    else:
        answer_move(options, run, move)


@cli.command(short_help="Move to another cell and flavor in one go.")
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

    SERVER is a name or UUID. When something fails, everything is taken back. After an interruption the
    same command goes on where it stopped.

    \b
    Example:
      cellmove resize web-1 m1.large --cell cell2
    """
    _run_to_finish(options, request_from(server, flavor, **given))


@cli.command(short_help="Move to another cell in one go.")
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

    SERVER is a name or UUID. When something fails, everything is taken back. After an interruption the
    same command goes on where it stopped.

    \b
    Example:
      cellmove migrate web-1 --cell cell2 --confirm
    """
    _run_to_finish(options, request_from(server, None, **given))


@cli.command(short_help="Go on with a move where it stopped.")
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
    with running(options) as run:
        if everything:
            moves = run.functions.resume_all(run.session)
        else:
            move = run.functions.find_move(run.session, reference)
            move = run.functions.resume(run.session, move, host_restarted=host_restarted)
    if everything:
        answer_moves(options, run, moves)
    else:
        answer_move(options, run, move)


@cli.command(short_help="Take a move back, whatever it takes.")
@move_argument
@host_restarted_option
@output_options
@pass_options
def rollback(options: Options, reference: str, host_restarted: bool) -> None:
    """Take a move back, whatever it takes: the server is in its source cell again.

    MOVE is a move's id, or the name or UUID of its server. What was done is undone, newest first; a move
    that is finished already is reverted. Only a confirmed move cannot be taken back.

    \b
    Example:
      cellmove rollback web-1
    """
    with running(options) as run:
        move = run.functions.find_move(run.session, reference)
        move = run.functions.rollback(run.session, move, host_restarted=host_restarted)
    answer_move(options, run, move)


@cli.command(short_help="Rebuild the journal of a move that lost it.")
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
    with running(options) as run:
        from cellmove.operations import adopt as adopting

        move = adopting.adopt(
            run.session, server, journal_is_lost=journal_is_lost, nova_is_dead=nova_is_dead
        )  # fmt: skip
    answer_move(options, run, move)


@cli.command(short_help="Find what moves left behind, and mend it.")
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
    with running(options, only_reads=dry_run or not repair) as run:
        from cellmove.operations import audit as auditing

        report = auditing.audit(run.session, request)
    answer_audit(options, report, report.command)


@cli.command("list", short_help="List the open moves and what to type next.")
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
    with running(options, activity="", only_reads=True) as run:
        record = run.session.journal
        moves = record.all_moves() if everything else record.open_moves()
    answer_moves(options, run, moves)


@cli.command(short_help="Show what the journal knows about a move.")
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
    with running(options, activity="", only_reads=True) as run:
        move = run.functions.find_move(run.session, reference)
    answer_move(options, run, move, detailed=True)


cli.add_command(drain_cell)
cli.add_command(drain)
cli.add_command(journal)
cli.add_command(metrics)
cli.add_command(schema)


@cli.command(short_help="Show what cellmove does, in an embedded cloud.")
@click.option(
    "--pace", type=FiniteRange(0.05, 5.0), default=0.2, show_default=True, metavar="SECONDS",
    help="How long a host of the embedded cloud takes between two of its writes.",
)  # fmt: skip
def demo(pace: float) -> None:
    """Show what cellmove does: move servers through an embedded two-cell cloud, with a kill -9 in the middle.

    Needs no OpenStack, no configuration and no rights, and leaves nothing behind. Every command is shown
    and is a real one. In the end the embedded cloud is asked whether all is as it should be.

    \b
    Example:
      cellmove demo
    """
    from cellmove.ui import demo as demonstration

    with install_signals("cellmove demo"):
        demonstration.show(pace)


def main() -> None:
    """The entry point of the command ``cellmove``."""
    cli()
