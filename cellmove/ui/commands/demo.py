"""The command ``demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cellmove.ui.options import (
    FiniteRange,
)
from cellmove.ui.signals import install_signals

if TYPE_CHECKING:
    pass


@click.command(short_help="Show what cellmove does, in an embedded cloud.")
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
