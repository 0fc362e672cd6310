"""Going on with a move that nova's conductor began and left: what is different from one of our own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Document, Nothing, to_document
from cellmove.core.errors import CallFailed
from cellmove.db import history, records, state
from cellmove.engine.action import Context
from cellmove.hosts import compute
from cellmove.steps import endpoints
from cellmove.steps.action_types import ServerBefore

if TYPE_CHECKING:
    from cellmove.db.tables import CellDatabase

TAKEN = ("resize_prep", "resize_migrating", "resize_migrated")
"""Task states of the source cell's row from nova's first write on until the server is shown in the target cell."""


def before_of(intent: ServerBefore) -> Document:
    """The columns that taking the server changed, as they were."""
    return to_document(dataclasses.replace(intent, begun_by=""))


def take(context: Context, ours: ownership.OwnershipMark) -> Nothing:
    """OwnershipMark a server that nova has taken already: from here on others see that we go on with it.

    :raises CallFailed: ``kind`` conflict when somebody else has gone on since it was adopted
    """
    database, server, now = endpoints.source(context), endpoints.server_id(context), endpoints.now(context)
    if not endpoints.is_marked(context, database):
        raise CallFailed("somebody else went on with the move since it was adopted", kind="conflict")
    with state.transaction(database.engine, database.name) as connection:
        state.swap_instance(database, server, {"task_state": TAKEN}, {}, now, connection)
        for key, value in ownership.rows_of(ours).items():
            state.set_system_metadata(connection, database, server, key, value, now)
    return NOTHING


def forget_copy(context: Context) -> None:
    """Delete nova's copy, which its conductor may not have made to its end, unless a host has begun to use it."""
    database, server = endpoints.target(context), endpoints.server_id(context)
    event = compute.PREP_AT_DEST.event
    used = history.event_state(database, server, context.plan.request_id, event)
    if not used and ownership.KEY not in state.read_system_metadata(database, server) and is_hidden(database, server):
        records.delete_server(database, server)


def is_hidden(database: CellDatabase, server: str) -> bool:
    """Whether a cell has a live row of the server that nobody is shown."""
    instance = state.read_instance(database, server)
    return instance is not None and bool(instance["hidden"])
