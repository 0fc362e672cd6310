"""revert: the server goes back to where it came from.

Follows nova-api's revert_resize and the conductor's RevertResizeTask, with two changes of order: the
request spec is put back when the server is, not before; and nothing at the target is touched before
the mapping points at the source again (the pivot).
"""

from __future__ import annotations

from collections.abc import Mapping

from cellmove.cloud.identity import caller
from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import CannotConnect, Unexpected
from cellmove.db import history, look, records, state
from cellmove.engine.action import Action, Context, Pivot, ProbeOutcome, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import announce, endpoints, finish, recover, revert_volumes, undo_checks
from cellmove.steps.action_types import (
    BEGIN_REVERT,
    CLEAN_TARGET,
    CLOSE_REVERT,
    DELETE_TARGET,
    HIDE_TARGET,
    MATCH_VOLUMES,
    PREPARE_SOURCE,
    RECORD_MIGRATION,
    RESTORE_REQUEST_SPEC,
    SCHEDULE,
    SHOW_SOURCE,
    START_SOURCE,
    SWITCH_BACK,
    CarriedOver,
    RevertBefore,
    RevertRequest,
)

EVENT = "conductor_revert_snapshot_based_resize"


def _begin_before(context: Context) -> RevertBefore:
    """Both hosts have to be there: one gives the guest up, the other starts it."""
    ends = (
        (endpoints.source(context), context.plan.source_host),
        (endpoints.target(context), endpoints.target_host(context)),
    )
    for database, host in ends:
        if not endpoints.is_up(context, database, host):
            raise CannotConnect(f"nova-compute on {host} is down")
    instance = endpoints.row(endpoints.target(context), endpoints.server_id(context))
    return RevertBefore(f"req-{context.clock.new_uuid()}", instance["availability_zone"])


def _begin_and_tell(context: Context, intent: RevertBefore) -> RevertRequest:
    """Told again when it is not known whether it was."""
    _set_mark(context)
    result = _begin(context, intent)
    announce.announce(context, endpoints.target_cell(context), "resize_revert", "start", intent.revert_request_id)
    return result


def _set_mark(context: Context) -> None:
    """OwnershipMark the source's row, which lives through the whole revert: before anything is begun in the target cell."""
    server, database = endpoints.server_id(context), endpoints.source(context)
    if not context.generation or endpoints.is_marked(context, database):
        return
    with state.transaction(database.engine, database.name) as connection:
        for key, value in endpoints.ending_mark(context).items():
            state.set_system_metadata(connection, database, server, key, value, endpoints.now(context))


def _clear_mark(context: Context) -> None:
    database = endpoints.source(context)
    if endpoints.is_marked(context, database):
        with state.transaction(database.engine, database.name) as connection:
            state.remove_system_metadata(connection, database, endpoints.server_id(context), ownership.KEYS)


def _begin(context: Context, intent: RevertBefore) -> RevertRequest:
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    settings = context.gateway.settings
    zone = look.availability_zone_of(context.gateway.api_engine, plan.source_host, settings.default_availability_zone)
    us = caller(context.gateway.admin)
    database = endpoints.target(context)
    result = RevertRequest(intent.revert_request_id)
    with state.transaction(database.engine, database.name) as connection:
        if history.has_action(connection, database, server, intent.revert_request_id):
            return result
        # An owner's own revert makes the very same writes: finding them there would not do.
        state.swap_instance(
            database,
            server,
            {"vm_state": "resized", "task_state": None},
            {"task_state": "resize_reverting", "availability_zone": zone},
            now,
            connection,
            content=False,
        )
        expected = {"status": "finished"}
        state.swap_migration(
            database,
            endpoints.migration_uuid(context.record),
            expected,
            {"status": "reverting"},
            now,
            connection,
            content=False,
        )
        history.ensure_action(
            connection,
            database,
            server,
            action="revertResize",
            request_id=intent.revert_request_id,
            user_id=us["user_id"],
            project_id=us["project_id"],
            now=now,
        )
        history.start_event(
            database,
            server,
            request_id=intent.revert_request_id,
            event=EVENT,
            host=endpoints.here(),
            now=now,
            connection=connection,
        )
    return result


def _stop(context: Context, intent: RevertBefore, _result: object) -> None:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    migration = state.read_migration(database, endpoints.migration_uuid(context.record))
    instance = state.read_instance(database, server)
    _clear_mark(context)
    if migration is None or instance is None:
        return
    with state.transaction(database.engine, database.name) as connection:
        if not history.has_action(connection, database, server, intent.revert_request_id):
            return  # it never began; what is under way is the owner's own revert
        undo_checks.require_at_target(context)
        if instance["task_state"] == "resize_reverting":
            state.swap_instance(
                database,
                server,
                {"task_state": "resize_reverting"},
                {"task_state": None, "availability_zone": intent.availability_zone},
                now,
                connection,
            )
        if migration["status"] == "reverting":
            expected = {"status": "reverting"}
            state.swap_migration(
                database, endpoints.migration_uuid(context.record), expected, {"status": "finished"}, now, connection
            )
        history.finish_event(
            database,
            server,
            request_id=intent.revert_request_id,
            event=EVENT,
            now=now,
            error="the revert was rolled back",
            connection=connection,
        )


def _prepare_source(context: Context, _intent: Nothing) -> CarriedOver:
    server, now = endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    old_vm_state = state.read_system_metadata(target, server).get("old_vm_state")
    changed = endpoints.row(target, server)  # a rename or a lock made while it was resized stays
    with state.transaction(source.engine, source.name) as connection:
        expected: Mapping[str, object] = {"task_state": "resize_migrated"}
        state.swap_instance(source, server, expected, {"task_state": "resize_reverting"}, now, connection)
        state.set_system_metadata(connection, source, server, "old_vm_state", old_vm_state, now)
        state.carry_over(connection, source, server, changed, now)
        expected = {"status": "post-migrating"}
        state.swap_migration(
            source, endpoints.migration_uuid(context.record), expected, {"status": "reverting"}, now, connection
        )
    history.copy_news(target, source, server)
    return CarriedOver(state.owners_part(changed))


def _unprepare_source(context: Context, _intent: object, _result: object) -> None:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    undo_checks.require_at_target(context)
    instance, migration = endpoints.row(database, server), endpoints.migration_row(context, database)
    with state.transaction(database.engine, database.name) as connection:
        if instance["task_state"] == "resize_reverting":
            expected = {"task_state": "resize_reverting"}
            state.swap_instance(database, server, expected, {"task_state": "resize_migrated"}, now, connection)
        if migration["status"] == "reverting":
            expected = {"status": "reverting"}
            values = {"status": "post-migrating"}
            state.swap_migration(database, endpoints.migration_uuid(context.record), expected, values, now, connection)
        # The action came over from the target with its event still open.
        history.finish_event(
            database,
            server,
            request_id=context[BEGIN_REVERT].revert_request_id,
            event=EVENT,
            now=now,
            error="the revert was rolled back",
            connection=connection,
        )


def _show_source(context: Context, _intent: Nothing) -> Nothing:
    state.swap_instance(
        endpoints.source(context), endpoints.server_id(context), {}, {"hidden": 0}, endpoints.now(context)
    )
    return NOTHING


def _hide_source(context: Context, _intent: object, _result: object) -> None:
    undo_checks.require_at_target(context)
    state.swap_instance(
        endpoints.source(context), endpoints.server_id(context), {}, {"hidden": 1}, endpoints.now(context)
    )


def _switch_back(context: Context, _intent: Nothing) -> Nothing:
    """Repeated after a crash, it first looks whether the owner deleted the server meanwhile."""
    server = endpoints.server_id(context)
    if state.mapped_cell(context.gateway.api_engine, server) != endpoints.source_cell(context).id:
        endpoints.row(endpoints.target(context), server)
    endpoints.map_to_source(context)
    return NOTHING


def _switch_forth(context: Context, _intent: object, _result: object) -> None:
    """Only met when the switch was committed and its answer lost, and then nothing else got through."""
    instance = state.read_instance(endpoints.target(context), endpoints.server_id(context))
    if instance is None or instance["hidden"] or instance["task_state"] != "resize_reverting":
        raise Unexpected(f"its row in {endpoints.target_cell(context).label} is not the one that the revert began with")
    endpoints.map_to_target(context)


def _hide_target(context: Context, _intent: Nothing) -> Nothing:
    source, target = endpoints.source(context), endpoints.target(context)
    state.swap_instance(target, endpoints.server_id(context), {}, {"hidden": 1}, endpoints.now(context))
    prepared = context.get(PREPARE_SOURCE)
    if prepared is not None:  # else the journal was rebuilt
        finish.carry_late_changes(context, prepared.carried, target, source)
    history.copy_news(target, source, endpoints.server_id(context))
    return NOTHING


def _clean_target(context: Context, _intent: Nothing) -> Nothing:
    server = endpoints.server_id(context)
    history.start_event(
        endpoints.source(context),
        server,
        request_id=context[BEGIN_REVERT].revert_request_id,
        event=compute.REVERT_AT_DEST.event,
        host=endpoints.target_host(context),
        now=endpoints.now(context),
    )
    # A failed call leaves no task state behind, and the next one would not be taken without it.
    state.swap_instance(
        endpoints.target(context),
        server,
        {"task_state": (None, "resize_reverting")},
        {"task_state": "resize_reverting"},
        endpoints.now(context),
    )
    endpoints.call_target(context, compute.REVERT_AT_DEST, context[BEGIN_REVERT].revert_request_id)
    return NOTHING


def _probe_target(context: Context, _intent: object) -> ProbeResult[Nothing]:
    if state.read_instance(endpoints.target(context), endpoints.server_id(context)) is None:
        return ProbeResult(ProbeOutcome.HAPPENED)
    return endpoints.find_out(
        context,
        endpoints.target_cell(context),
        endpoints.target_host(context),
        compute.REVERT_AT_DEST,
        context[BEGIN_REVERT].revert_request_id,
    )


def _delete_target(context: Context, _intent: Nothing) -> Nothing:
    server = endpoints.server_id(context)
    history.finish_event(
        endpoints.source(context),
        server,
        request_id=context[BEGIN_REVERT].revert_request_id,
        event=compute.REVERT_AT_DEST.event,
        now=endpoints.now(context),
    )
    records.delete_server(endpoints.target(context), server)
    return NOTHING


def _start_source(context: Context, _intent: Nothing) -> Nothing:
    recover.finish_revert(context, context[BEGIN_REVERT].revert_request_id, was_sent=context.was_begun)
    return NOTHING


def _is_resize(context: Context) -> bool:
    return context.plan.is_resize


def _restore_request_spec(context: Context, _intent: Nothing) -> Nothing:
    extra = state.read_extra(endpoints.source(context), endpoints.server_id(context))
    finish.store_flavor(context, state.current_flavor(extra))
    return NOTHING


def _close(context: Context, _intent: Nothing) -> Nothing:
    history.finish_event(
        endpoints.source(context),
        endpoints.server_id(context),
        request_id=context[BEGIN_REVERT].revert_request_id,
        event=EVENT,
        now=endpoints.now(context),
    )
    _clear_mark(context)
    announce.announce(
        context, endpoints.source_cell(context), "resize_revert", "end", context[BEGIN_REVERT].revert_request_id
    )
    return NOTHING


ACTIONS = (
    Action(
        BEGIN_REVERT,
        "begin the revert (resize_reverting)",
        _begin_and_tell,
        intend=_begin_before,
        undo=_stop,
        sets_mark=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        PREPARE_SOURCE,
        "tell {source_cell} of the revert",
        _prepare_source,
        undo=_unprepare_source,
        requires=(RECORD_MIGRATION, SCHEDULE, BEGIN_REVERT),
    ),
    Action(
        MATCH_VOLUMES,
        "match volumes attached or detached meanwhile",
        revert_volumes.match,
        intend=revert_volumes.known_attachments,
        requires=(SCHEDULE,),
    ),
    Action(
        SHOW_SOURCE,
        "show the server in {source_cell}",
        _show_source,
        undo=_hide_source,
        uninterruptible_with_next=True,
        requires=(SCHEDULE,),
    ),
    Action(
        SWITCH_BACK,
        "point the server's mapping at {source_cell}",
        _switch_back,
        undo=_switch_forth,
        pivot=Pivot.WHEN_DONE,
        uninterruptible_with_next=True,
        requires=(SCHEDULE,),
    ),
    Action(
        HIDE_TARGET,
        "hide the server in {target_cell}",
        _hide_target,
        requires=(SCHEDULE,),
    ),
    Action(
        CLEAN_TARGET,
        "remove the guest on {target_host}: disk, bindings, attachments, claim",
        _clean_target,
        probe=_probe_target,
        requires=(RECORD_MIGRATION, SCHEDULE, BEGIN_REVERT),
    ),
    Action(
        DELETE_TARGET,
        "delete the records in {target_cell}",
        _delete_target,
        requires=(SCHEDULE, BEGIN_REVERT),
    ),
    Action(
        START_SOURCE,
        "start the guest on {source_host} from the disks kept there",
        _start_source,
        requires=(RECORD_MIGRATION, BEGIN_REVERT),
    ),
    Action(
        RESTORE_REQUEST_SPEC,
        "put the old flavor back into the request spec",
        _restore_request_spec,
        applies=_is_resize,
        requires=(SCHEDULE,),
    ),
    Action(
        CLOSE_REVERT,
        "close the events",
        _close,
        clears_mark=True,
        requires=(SCHEDULE, BEGIN_REVERT),
    ),
)
