"""confirm: what is left at the source is removed for good.

Follows nova-api's confirm_resize and the conductor's ConfirmResizeTask. The pivot is the clean-up on
the source host: it destroys the disk that a revert would need.
"""

from __future__ import annotations

from collections.abc import Mapping

from cellmove.checks.arrival_checks import has_keypairs
from cellmove.cloud import placement
from cellmove.cloud.identity import caller
from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import CallFailed, CannotConnect, Unexpected
from cellmove.db import history, move_records, records, state, survey
from cellmove.engine.action import Action, Context, Pivot, ProbeOutcome, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import announce, endpoints, undo_checks
from cellmove.steps.action_types import (
    BEGIN_CONFIRM,
    CHECK_ALLOCATIONS,
    CLEAN_SOURCE,
    DELETE_SOURCE,
    RECORD_MIGRATION,
    SCHEDULE,
    SETTLE_TARGET,
    ConfirmRequest,
)

GUEST_SHUT_DOWN = 4  # nova/compute/power_state.py
EVENT = "conductor_confirm_snapshot_based_resize"


def _choose_request(context: Context) -> ConfirmRequest:
    """nova-api does the same check first: after "confirming" its own confirm finds no way back."""
    if not endpoints.is_up(context, endpoints.source(context), context.plan.source_host):
        raise CannotConnect(f"nova-compute on {context.plan.source_host} is down")
    return ConfirmRequest(f"req-{context.clock.new_uuid()}")


def _begin(context: Context, intent: ConfirmRequest) -> ConfirmRequest:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    us = caller(context.gateway.admin)
    request_id = intent.confirm_request_id
    with state.transaction(database.engine, database.name) as connection:
        if not history.has_action(connection, database, server, request_id):
            # An owner's own confirm makes the very same writes: finding them there would not do.
            expected: Mapping[str, object] = {"vm_state": "resized", "task_state": None}
            state.swap_instance(database, server, expected, {}, now, connection, content=False)
            expected, values = {"status": "finished"}, {"status": "confirming"}
            uuid = endpoints.migration_uuid(context.record)
            state.swap_migration(database, uuid, expected, values, now, connection, content=False)
        history.ensure_action(
            connection,
            database,
            server,
            action="confirmResize",
            request_id=request_id,
            user_id=us["user_id"],
            project_id=us["project_id"],
            now=now,
        )
        for event, host in ((EVENT, endpoints.here()), (compute.CONFIRM_AT_SOURCE.event, context.plan.source_host)):
            history.start_event(
                database, server, request_id=request_id, event=event, host=host, now=now, connection=connection
            )
        if context.generation:
            for key, value in endpoints.ending_mark(context).items():
                state.set_system_metadata(connection, database, server, key, value, now)
    _restore_keypairs(context)
    database = endpoints.source(context)
    with state.transaction(database.engine, database.name) as connection:
        history.ensure_action(
            connection,
            database,
            server,
            action="confirmResize",
            request_id=request_id,
            user_id=us["user_id"],
            project_id=us["project_id"],
            now=now,
        )
    return ConfirmRequest(request_id)


def _restore_keypairs(context: Context) -> None:
    """Record the server's keypair with it again where nova lost it on the way (bug 2108974): soon nobody has it any more."""
    server, kept = (
        endpoints.server_id(context),
        state.read_extra(endpoints.source(context), endpoints.server_id(context)),
    )
    if has_keypairs(kept.get("keypairs")):
        survey.set_keypairs(endpoints.target(context), server, kept["keypairs"], endpoints.now(context))


def _stop(context: Context, intent: ConfirmRequest, _result: object) -> None:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    migration = state.read_migration(database, endpoints.migration_uuid(context.record))
    if migration is None:
        return
    with state.transaction(database.engine, database.name) as connection:
        if not history.has_action(connection, database, server, intent.confirm_request_id):
            return  # it never began; what is under way is the owner's own confirm
        undo_checks.require_at_target(context)
        if migration["status"] not in ("confirming", "finished"):
            raise Unexpected(f"its migration in {database.name} is {migration['status']}")
        state.remove_system_metadata(connection, database, server, ownership.KEYS)
        if migration["status"] == "confirming":
            expected = {"status": "confirming"}
            state.swap_migration(
                database, endpoints.migration_uuid(context.record), expected, {"status": "finished"}, now, connection
            )
        for event in (EVENT, compute.CONFIRM_AT_SOURCE.event):
            history.finish_event(
                database,
                server,
                request_id=intent.confirm_request_id,
                event=event,
                now=now,
                error="the confirm was rolled back",
                connection=connection,
            )


def _clean_source(context: Context, _intent: Nothing) -> Nothing:
    """Repeating this call is safe: nova's method finds nothing left to do."""
    request_id = context[BEGIN_CONFIRM].confirm_request_id
    announce.announce(context, endpoints.source_cell(context), "resize_confirm", "start", request_id)
    endpoints.call_source(context, compute.CONFIRM_AT_SOURCE, request_id)
    return NOTHING


def _probe_source(context: Context, _intent: object) -> ProbeResult[Nothing]:
    plan = context.plan
    database = endpoints.source(context)
    if state.read_instance(database, endpoints.server_id(context)) is None:
        return ProbeResult(ProbeOutcome.HAPPENED)
    return endpoints.find_out(
        context,
        endpoints.source_cell(context),
        plan.source_host,
        compute.CONFIRM_AT_SOURCE,
        context[BEGIN_CONFIRM].confirm_request_id,
    )


def _check_allocations(context: Context, _intent: Nothing) -> Nothing:
    """The source host deletes the migration's allocation; one that it left is a leak for ever."""
    placement.delete_allocations(
        context.gateway.admin, endpoints.migration_uuid(context.record), sleep=context.clock.sleep
    )
    return NOTHING


def _delete_source(context: Context, _intent: Nothing) -> Nothing:
    if state.mapped_cell(context.gateway.api_engine, endpoints.server_id(context)) != endpoints.target_cell(context).id:
        raise CallFailed("the server's mapping does not point at the target cell; its source records are kept")
    records.delete_server(endpoints.source(context), endpoints.server_id(context))
    return NOTHING


def _settle_target(context: Context, _intent: Nothing) -> Nothing:
    """The last save of ConfirmResizeTask: the state by the guest's power, nothing stashed any more."""
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    if endpoints.migration_row(context, database)["status"] == "confirmed" and not _is_half_settled(context):
        # Its owner may have gone on with the server since.
        if endpoints.is_marked(context, database):
            with state.transaction(database.engine, database.name) as connection:
                state.remove_system_metadata(connection, database, server, ownership.KEYS)
        return NOTHING
    instance = endpoints.row(database, server)
    vm_state = "stopped" if instance["power_state"] == GUEST_SHUT_DOWN else "active"
    task_states = (None, "deleting", "soft-deleting")
    with state.transaction(database.engine, database.name) as connection:
        expected = {"status": ("confirming", "confirmed")}
        state.swap_migration(
            database, endpoints.migration_uuid(context.record), expected, {"status": "confirmed"}, now, connection
        )
        state.swap_instance(
            database, server, {"task_state": task_states}, {"vm_state": vm_state, "task_state": None}, now, connection
        )
        state.set_flavors(connection, database, server, old=None, new=None, now=now)
        state.set_extra(connection, database, server, {"migration_context": None}, now)
        state.set_system_metadata(connection, database, server, "old_vm_state", None, now)
        state.remove_system_metadata(connection, database, server, ownership.KEYS)
        for event in (compute.CONFIRM_AT_SOURCE.event, EVENT):
            history.finish_event(
                database,
                server,
                request_id=context[BEGIN_CONFIRM].confirm_request_id,
                event=event,
                now=now,
                connection=connection,
            )
    return NOTHING


def _settle_and_tell(context: Context, intent: Nothing) -> Nothing:
    """Told again when it is not known whether it was."""
    _settle_target(context, intent)
    announce.announce(
        context, endpoints.target_cell(context), "resize_confirm", "end", context[BEGIN_CONFIRM].confirm_request_id
    )
    return NOTHING


def _is_half_settled(context: Context) -> bool:
    """Whether nova died among its last saves: the migration is confirmed, the server still waits, and not for a later one.

    The migration context says nothing: nova drops it in a transaction of its own, before it saves the server.
    """
    database, server = endpoints.target(context), endpoints.server_id(context)
    instance = state.read_instance(database, server) or {"vm_state": ""}
    newest = move_records.cold_migrations(database, server)[-1]
    return bool(instance["vm_state"] == "resized" and newest["uuid"] == endpoints.migration_uuid(context.record))


ACTIONS = (
    Action(
        BEGIN_CONFIRM,
        "begin the confirm (migration confirming)",
        _begin,
        intend=_choose_request,
        undo=_stop,
        sets_mark=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        CLEAN_SOURCE,
        "remove the guest's remains on {source_host}: disk, bindings, attachments, allocation",
        _clean_source,
        probe=_probe_source,
        pivot=Pivot.WHEN_BEGUN,
        requires=(RECORD_MIGRATION, SCHEDULE, BEGIN_CONFIRM),
    ),
    Action(
        CHECK_ALLOCATIONS,
        "make sure that the migration holds no allocation",
        _check_allocations,
        requires=(RECORD_MIGRATION,),
    ),
    Action(
        DELETE_SOURCE,
        "delete the records in {source_cell}",
        _delete_source,
        requires=(SCHEDULE,),
    ),
    Action(
        SETTLE_TARGET,
        "settle the server in {target_cell}",
        _settle_and_tell,
        clears_mark=True,
        requires=(RECORD_MIGRATION, SCHEDULE, BEGIN_CONFIRM),
    ),
)
