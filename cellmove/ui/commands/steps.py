"""The commands that run one step of a move, and ``verify``."""

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
    """Claim a host in the target cell and prepare it.

    MOVE is a move's id, or the name or UUID of its server. The guest keeps running at the source.

    \b
    Example:
      cellmove prep-dest web-1
    """
    _run_step(options, reference, Step.PREP_DEST)


@click.command("prep-source", short_help="Stop the guest; hand over disks, volumes and ports.")
@move_argument
@yes_option
@output_options
@pass_options
def prep_source(options: Options, reference: str) -> None:
    """Stop the guest at the source and hand over its disks, volumes and ports.

    MOVE is a move's id, or the name or UUID of its server. The guest is down until finish.

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
    """Start the guest in the target cell and map the server to that cell.

    MOVE is a move's id, or the name or UUID of its server. If a run of resize or migrate holds the move
    (--hold), that run stops the guest and finishes the move. Afterwards the server is in VERIFY_RESIZE.
    Confirm or revert it, with cellmove or with nova.

    \b
    Example:
      cellmove finish web-1
    """
    _run_step(options, reference, Step.FINISH)


@click.command(short_help="Compare a moved server with its state before the move.")
@move_argument
@probe_option
@output_options
@pass_options
def verify(options: Options, reference: str, probes: tuple[str, ...]) -> None:
    """Compare a server in VERIFY_RESIZE with its state before the move.

    MOVE is a move's id, or the name or UUID of its server. verify compares the server's records in the
    target cell with those that nova keeps in the source cell, column by column. It also checks that the
    guest runs at the target (or is stopped, as before), that its ports are bound there and up, and that its
    volumes are attached there. Changes that the owner made since are reported and are no difference. Exit
    code 5 means that the server differs. verify writes nothing.

    A probe is repeated until the guest answers, for a minute at most. tcp and ping try its fixed addresses.
    The environment of a command has CELLMOVE_SERVER_ID, CELLMOVE_SERVER_NAME and CELLMOVE_ADDRESSES.

    \b
    Example:
      cellmove verify web-1
      cellmove verify web-1 --probe tcp:22 --probe 'cmd:/usr/local/bin/is-web-alive'
    """
    parsed_probes = probes_of(probes)
    with running(options, only_reads=True) as session:
        from cellmove.operations.find import find_move
        from cellmove.operations.verify import verify as verify_move

        verification = verify_move(session, find_move(session, reference), parsed_probes)
    answer_verification(options, session, verification)


@click.command(short_help="Keep the move; clean up at the source.")
@move_argument
@click.option("--force", is_flag=True, help="Confirm the move although verification fails.")
@probe_option
@yes_option
@output_options
@pass_options
def confirm(options: Options, reference: str, force: bool, probes: tuple[str, ...]) -> None:
    """Keep the server in the target cell and remove its remains at the source.

    MOVE is a move's id, or the name or UUID of its server. confirm first verifies the server as verify does.
    A server that differs from its state before the move is only confirmed with --force.

    \b
    Example:
      cellmove confirm web-1
      cellmove confirm web-1 --probe tcp:22
    """
    _run_step(options, reference, Step.CONFIRM, force=force, probes=probes_of(probes))


@click.command(short_help="Return the server to its source; clean up at the target.")
@move_argument
@yes_option
@output_options
@pass_options
def revert(options: Options, reference: str) -> None:
    """Return the server to its source cell and remove its remains at the target.

    MOVE is a move's id, or the name or UUID of its server.

    \b
    Example:
      cellmove revert web-1
    """
    _run_step(options, reference, Step.REVERT)
