"""The entry point: a group whose commands are imported when they are needed.

Only click is imported here. Each command is in a module of :mod:`cellmove.ui.commands`, which imports what reaches a
database, a bus or an API when it runs; so ``cellmove --help`` answers at once.
"""

from __future__ import annotations

import click

from cellmove.ui.group import Commands
from cellmove.ui.invocation import Options
from cellmove.ui.options import output_options, pass_options

COMMANDS = {
    "plan": "moves:plan",
    "prep-dest": "steps:prep_dest",
    "prep-source": "steps:prep_source",
    "finish": "steps:finish",
    "verify": "steps:verify",
    "confirm": "steps:confirm",
    "revert": "steps:revert",
    "resize": "moves:resize",
    "migrate": "moves:migrate",
    "resume": "moves:resume",
    "rollback": "moves:rollback",
    "adopt": "moves:adopt",
    "audit": "records:audit",
    "list": "records:list_moves",
    "show": "records:show",
    "drain-cell": "drain_cell:drain_cell",
    "drain": "drain:drain",
    "journal": "journal:journal",
    "metrics": "metrics:metrics",
    "schema": "schema:schema",
    "demo": "demo:demo",
}
"""The commands in the order of their use: for each name, its module in :mod:`cellmove.ui.commands` and its function."""


@click.group(
    cls=Commands,
    commands_at=COMMANDS,
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
    one rolls it back (rollback).

    \b
    Example:
      cellmove plan web-1 --cell cell2 --dry-run
      cellmove migrate web-1 --cell cell2
      cellmove confirm web-1
    """
    for name, value in given.items():
        setattr(options, name, value)


def main() -> None:
    """Run the command line of this process."""
    cli()
