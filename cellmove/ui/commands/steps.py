"""The commands that run one step of a move, and ``verify`` between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cellmove.core.move import Step
from cellmove.ui.answers import answer_move, answer_verification
from cellmove.ui.invocation import Options
from cellmove.ui.options import (
    move_argument,
    output_options,
    pass_options,
    probe_option,
    probes_of,
    yes_option,
)
from cellmove.ui.running import running

if TYPE_CHECKING:
    from cellmove.operations.probe import Probe


def _run_step(
    options: Options, reference: str, step: Step, *, force: bool = False, probes: Sequence[Probe] = ()
) -> None:
    with running(options) as session:
        from cellmove.operations.find import find_move
        from cellmove.operations.run import run_step

        move = find_move(session, reference)
        move = run_step(session, move, step, force=force, probes=probes)
    answer_move(options, session, move)


@click.command("prep-dest", short_help="Claim and prepare a host in the target cell.")
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
    _run_step(options, reference, Step.PREP_DEST)


@click.command("prep-source", short_help="Stop the guest; hand over disks, volumes, ports.")
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
    _run_step(options, reference, Step.PREP_SOURCE)


@click.command(short_help="Start the guest in the target cell.")
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
    _run_step(options, reference, Step.FINISH)


@click.command(short_help="Compare a moved server with what it was.")
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
    asked = probes_of(probes)
    with running(options, only_reads=True) as session:
        from cellmove.operations import verify as verifying
        from cellmove.operations.find import find_move

        move = find_move(session, reference)
        found = verifying.verify(session, move, asked)
    answer_verification(options, session, found)


@click.command(short_help="Keep the move; clean up at the source.")
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
    _run_step(options, reference, Step.CONFIRM, force=force, probes=probes_of(probes))


@click.command(short_help="Bring the server back; clean up at the target.")
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
    _run_step(options, reference, Step.REVERT)
