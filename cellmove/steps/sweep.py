"""What is left of a move whose server its owner deleted: the copy in the other cell goes as well.

nova lets an owner delete a server in any task state, and then only looks after the cell that the
mapping points at. Everything here may be done again, and asks the hosts to clean up after themselves.
Each action first checks that the server is still deleted: a journal or a database may have been restored from a copy.
"""

from __future__ import annotations

from cellmove.cloud import image, placement
from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import Stopped
from cellmove.db import records, state
from cellmove.engine.action import Action, Context
from cellmove.hosts import compute
from cellmove.steps import endpoints
from cellmove.steps.action_types import CLEAR_REST, CLEAR_SOURCE, CLEAR_TARGET, RECORD_MIGRATION, SCHEDULE
from cellmove.steps.undo_checks import is_deleted


def _require_deleted(context: Context) -> None:
    """Make sure that the server is deleted.

    :raises Stopped: it has a live row where its mapping points
    """
    if not is_deleted(context):
        move = context.move
        raise Stopped(
            f"{move.id} removes what is left of {move.server_name}, and the server is not deleted any more",
            state="a database or this journal was restored from a copy; nothing of the server was changed by this action",
            next_command=f"cellmove audit --server {move.server_id}",
        )


def _clear_source(context: Context, _intent: Nothing) -> Nothing:
    """The kept disk, bindings, attachments and records at the source, by the call that a confirm makes."""
    _require_deleted(context)
    server, database = endpoints.server_id(context), endpoints.source(context)
    if state.read_instance(database, server) is None:
        return NOTHING
    cell, host, request_id = endpoints.source_cell(context), context.plan.source_host, context.plan.request_id
    endpoints.require_settled(context, cell, host, compute.CONFIRM_AT_SOURCE, request_id, was_sent=context.was_begun)
    state.swap_instance(database, server, {}, {"hidden": 1}, endpoints.now(context))
    endpoints.call_source(context, compute.CONFIRM_AT_SOURCE, request_id)
    records.delete_server(database, server)
    return NOTHING


def _clear_target(context: Context, _intent: Nothing) -> Nothing:
    """Guest, disk, bindings, attachments, claim and records at the target, by the call that a revert makes."""
    _require_deleted(context)
    server, database = endpoints.server_id(context), endpoints.target(context)
    if state.read_instance(database, server) is None:
        return NOTHING
    cell, host, request_id = endpoints.target_cell(context), endpoints.target_host(context), context.plan.request_id
    endpoints.require_settled(context, cell, host, compute.REVERT_AT_DEST, request_id, was_sent=context.was_begun)
    values = {"hidden": 1, "task_state": "resize_reverting"}
    state.swap_instance(database, server, {}, values, endpoints.now(context))
    endpoints.call_target(context, compute.REVERT_AT_DEST, request_id)
    records.delete_server(database, server)
    return NOTHING


def _clear_rest(context: Context, _intent: Nothing) -> Nothing:
    _require_deleted(context)
    admin = context.gateway.admin
    for consumer in (endpoints.migration_uuid(context.record), endpoints.server_id(context)):
        placement.delete_allocations(admin, consumer, sleep=context.clock.sleep)
    temporary = endpoints.image_id(context)
    if temporary:
        image.delete_image(admin, temporary)
    return NOTHING


ACTIONS = (
    Action(
        CLEAR_SOURCE,
        "remove what is left of the deleted server on {source_host}",
        _clear_source,
        requires=(RECORD_MIGRATION,),
    ),
    Action(
        CLEAR_TARGET,
        "remove what is left of the deleted server on {target_host}",
        _clear_target,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        CLEAR_REST,
        "give up its allocations and the temporary image",
        _clear_rest,
        requires=(RECORD_MIGRATION,),
    ),
)
