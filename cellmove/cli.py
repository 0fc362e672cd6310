"""The entry point: a group whose commands are imported when they are used.

Only click is imported here. Each command is in a module of :mod:`cellmove.ui.commands`, which imports clients of
databases, buses and APIs when it runs. So ``cellmove --help`` starts fast.
"""

from __future__ import annotations

import click

from cellmove.ui.group import LazyGroup
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
"""For each command, in the order of use, its module in :mod:`cellmove.ui.commands` and its function."""


class CellmoveGroup(LazyGroup):
    """The commands of cellmove."""

    commands_at = COMMANDS


@click.group(
    cls=CellmoveGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command prints the command to type next. Exit codes are the same for all commands; the man page "
    "cellmove(1) lists them.",
)
@click.option("--nova-conf", metavar="FILE", help="The nova.conf of a superconductor.")
@click.option("--os-cloud", metavar="NAME", help="The entry of clouds.yaml that has administrator rights.")
@click.option("--os-region-name", metavar="NAME", help="The region of nova's API, if keystone has several regions.")
@click.option("--journal", metavar="PATH", help="The journal of all moves: a file, or an SQLAlchemy URL.")
@click.option(
    "--config", metavar="FILE", help="The configuration of cellmove: settings, [policy], [hooks], disk_stores."
)
@output_options
@click.version_option(package_name="cellmove", prog_name="cellmove", message="%(prog)s %(version)s")
@pass_options
def cli(
    options: Options,
    /,
    nova_conf: str | None,
    os_cloud: str | None,
    os_region_name: str | None,
    journal: str | None,
    config: str | None,
) -> None:
    """Move servers between the cells of an OpenStack nova cloud.

    A move has five steps: plan, prep-dest, prep-source, finish, and then confirm or revert. Each step is
    a command. The commands resize and migrate run all steps up to finish. cellmove writes each side
    effect to the journal before it happens. So after any crash, resume completes the move, and rollback
    rolls it back.

    \b
    Example:
      cellmove plan web-1 --cell cell2 --dry-run
      cellmove migrate web-1 --cell cell2
      cellmove confirm web-1
    """
    options.nova_conf = nova_conf
    options.os_cloud = os_cloud
    options.os_region_name = os_region_name
    options.journal = journal
    options.config = config


def main() -> None:
    """Run the command line of this process."""
    cli()
