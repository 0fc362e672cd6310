"""The command ``demo``."""

from __future__ import annotations

import click

from cellmove.ui.options import FiniteRange
from cellmove.ui.signals import install_signals


@click.command(short_help="Show cellmove at work in an embedded cloud.")
@click.option(
    "--pace",
    type=FiniteRange(0.05, 5.0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="The time that a host of the embedded cloud takes between two writes.",
)
def demo(pace: float) -> None:
    """Show cellmove at work: move servers through an embedded two-cell cloud, with a kill -9 in the middle.

    demo needs no OpenStack, no configuration and no root rights, and removes all its files. Every command is
    shown and is a real one. At the end, demo checks the state of the embedded cloud.

    \b
    Example:
      cellmove demo
    """
    from cellmove.ui import demo as demonstration

    with install_signals("cellmove demo"):
        demonstration.show(pace)
