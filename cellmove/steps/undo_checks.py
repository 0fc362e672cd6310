"""What an undo makes sure of before it changes anything: that the server is where the journal says.

Each check only reads, and raises :class:`cellmove.core.errors.Unexpected`, which stops the run before the undo.
What each undo changes, and what it verifies first, stands in docs/journal.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core.errors import Unexpected
from cellmove.db import state
from cellmove.db.types import Record
from cellmove.engine.action import Context
from cellmove.steps import endpoints

if TYPE_CHECKING:
    from cellmove.db.cells import Cell

GUEST_STOPPED = ("resize_migrated", "resize_finish", "resize_reverting")
"""Task states of the source's row while the guest is not known to run there again."""


def is_deleted(context: Context) -> bool:
    """Return whether the server has no live row where its mapping points: its owner deleted it, and the mark with it."""
    gateway, server = context.gateway, context.move.server_id
    mapped = state.mapped_cell(gateway.api_engine, server)
    home = next((cell for cell in gateway.cells if cell.id == mapped), None)
    return home is None or state.read_instance(gateway.database(home), server) is None


def require_at_source(context: Context) -> Record | None:
    """Make sure that the server belongs to the source cell and its host there.

    :returns: its row there; None when its owner deleted it
    :raises Unexpected: it does not
    """
    source, server = endpoints.source_cell(context), endpoints.server_id(context)
    _require_mapped(context, source)
    row = state.read_instance(context.gateway.database(source), server)
    if row is None:
        return None
    if row["hidden"]:
        raise Unexpected(f"its row in {source.label} is hidden")
    host = context.plan.source_host
    if row["host"] != host:
        raise Unexpected(f"its row in {source.label} says that it is on {row['host'] or 'no host'}, not on {host}")
    return row


def require_guest_at_source(context: Context) -> Record | None:
    """The same, and that its guest was not stopped for the move, or was started again since.

    :returns: see :func:`require_at_source`
    :raises Unexpected: it was stopped
    """
    row = require_at_source(context)
    if row is not None and row["task_state"] in GUEST_STOPPED:
        raise Unexpected(
            f"its task state in {endpoints.source_cell(context).label} is {row['task_state']}: its guest was stopped"
            " there, and is not known to have been started again"
        )
    return row


def require_at_target(context: Context) -> None:
    """Make sure that the server belongs to the target cell and is shown there.

    :raises Unexpected: it does not
    """
    target, server = endpoints.target_cell(context), endpoints.server_id(context)
    _require_mapped(context, target)
    row = state.read_instance(context.gateway.database(target), server)
    if row is not None and row["hidden"]:
        raise Unexpected(f"its row in {target.label} is hidden")


def _require_mapped(context: Context, wanted: Cell) -> None:
    mapped = state.mapped_cell(context.gateway.api_engine, endpoints.server_id(context))
    if mapped in (None, wanted.id):
        return
    there = next((cell.label for cell in context.gateway.cells if cell.id == mapped), f"cell number {mapped}")
    raise Unexpected(f"the server's mapping points at {there}, not at {wanted.label}")
