"""revert: the server goes back to where it came from.

Follows nova-api's revert_resize and the conductor's RevertResizeTask, with two changes of order: the
request spec is put back when the server is, not before; and nothing at the target is touched before
the mapping points at the source again (the pivot).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellmove.cloud import volume
from cellmove.cloud.identity import caller
from cellmove.core import ownership
from cellmove.core.errors import CannotConnect, Unexpected
from cellmove.db import history, look, mappings, records, state
from cellmove.engine.action import Action, Context, Pivot, ProbeOutcome, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import announce, endpoints, finish, recover, undo_checks

NOTHING: Mapping[str, Any] = {}
EVENT = "conductor_revert_snapshot_based_resize"


def _begin_before(context: Context) -> Mapping[str, Any]:
    """Both hosts have to be there: one gives the guest up, the other starts it."""
    ends = (
        (endpoints.source(context), context.facts["source_host"]),
        (endpoints.target(context), context.facts["target_host"]),
    )
    for database, host in ends:
        if not endpoints.is_up(context, database, host):
            raise CannotConnect(f"nova-compute on {host} is down")
    instance = endpoints.row(endpoints.target(context), endpoints.server_id(context))
    return {
        "revert_request_id": f"req-{context.clock.new_uuid()}",
        "availability_zone": instance["availability_zone"],
    }


def _begin_and_tell(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Told again when it is not known whether it was."""
    _set_mark(context)
    result = _begin(context, intent)
    announce.announce(context, endpoints.target_cell(context), "resize_revert", "start", intent["revert_request_id"])
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


def _begin(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts, server, now = context.facts, endpoints.server_id(context), endpoints.now(context)
    settings = context.gateway.settings
    zone = look.availability_zone_of(
        context.gateway.api_engine, facts["source_host"], settings.default_availability_zone
    )
    us = caller(context.gateway.admin)
    database = endpoints.target(context)
    result = {"revert_request_id": intent["revert_request_id"]}
    with state.transaction(database.engine, database.name) as connection:
        if history.has_action(connection, database, server, intent["revert_request_id"]):
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
            facts["migration_uuid"],
            expected,
            {"status": "reverting"},
            now,
            connection,
            content=False,
        )
        history.ensure_action(
            connection, database, server, action="revertResize", request_id=intent["revert_request_id"],
            user_id=us["user_id"], project_id=us["project_id"], now=now,
        )  # fmt: skip
        history.start_event(
            database, server, request_id=intent["revert_request_id"], event=EVENT, host=endpoints.here(), now=now,
            connection=connection,
        )  # fmt: skip
    return result


def _stop(context: Context, intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    migration = state.read_migration(database, context.facts["migration_uuid"])
    instance = state.read_instance(database, server)
    _clear_mark(context)
    if migration is None or instance is None:
        return
    with state.transaction(database.engine, database.name) as connection:
        if not history.has_action(connection, database, server, intent["revert_request_id"]):
            return  # it never began; what is under way is the owner's own revert
        undo_checks.require_at_target(context)
        if instance["task_state"] == "resize_reverting":
            state.swap_instance(
                database,
                server,
                {"task_state": "resize_reverting"},
                {"task_state": None, "availability_zone": intent["availability_zone"]},
                now,
                connection,
            )
        if migration["status"] == "reverting":
            expected = {"status": "reverting"}
            state.swap_migration(
                database, context.facts["migration_uuid"], expected, {"status": "finished"}, now, connection
            )
        history.finish_event(
            database, server, request_id=intent["revert_request_id"], event=EVENT, now=now,
            error="the revert was rolled back", connection=connection,
        )  # fmt: skip


def _prepare_source(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts, server, now = context.facts, endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    old_vm_state = state.read_system_metadata(target, server).get("old_vm_state")
    changed = endpoints.row(target, server)  # a rename or a lock made while it was resized stays
    with state.transaction(source.engine, source.name) as connection:
        expected: Mapping[str, Any] = {"task_state": "resize_migrated"}
        state.swap_instance(source, server, expected, {"task_state": "resize_reverting"}, now, connection)
        state.set_system_metadata(connection, source, server, "old_vm_state", old_vm_state, now)
        state.carry_over(connection, source, server, changed, now)
        expected = {"status": "post-migrating"}
        state.swap_migration(source, facts["migration_uuid"], expected, {"status": "reverting"}, now, connection)
    history.copy_news(target, source, server)
    return {"carried": state.owners_part(changed)}


def _unprepare_source(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
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
            state.swap_migration(database, context.facts["migration_uuid"], expected, values, now, connection)
        # The action came over from the target with its event still open.
        history.finish_event(
            database, server, request_id=context.facts["revert_request_id"], event=EVENT, now=now,
            error="the revert was rolled back", connection=connection,
        )  # fmt: skip


def _list_attachments(context: Context) -> Mapping[str, Any]:
    known = volume.attachments_of(context.gateway.admin, endpoints.server_id(context))
    return {"known": [attachment.id for attachment in known]}


def _match_volumes(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Volumes attached or detached while resized: the source's records learn of them."""
    cinder, server, now = context.gateway.admin, endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    here = {mapping["uuid"]: mapping for mapping in state.volume_mappings(source, server)}
    there = {mapping["uuid"]: mapping for mapping in state.volume_mappings(target, server)}
    # A volume of which the source's records have no attachment yet is a new one, or one whose answer was lost.
    known = {uuid for uuid, mapping in here.items() if mapping["attachment_id"] is not None}
    lost = volume.lost_attachments(cinder, server, intent["known"]) if set(there) - known else {}
    for uuid, mapping in there.items():
        if uuid not in here:
            mappings.copy_mapping(target, source, uuid)
            here[uuid] = next(m for m in state.volume_mappings(source, server) if m["uuid"] == uuid)
        elif here[uuid]["delete_on_termination"] != mapping["delete_on_termination"]:
            mappings.set_delete_on_termination(source, here[uuid]["id"], mapping["delete_on_termination"], now)
        if here[uuid]["attachment_id"] is None:
            volume_id = mapping["volume_id"]
            fresh = lost.get(volume_id) or volume.create_empty_attachment(cinder, volume_id, server)
            state.set_attachment(source, here[uuid]["id"], fresh, now)
    for uuid, mapping in here.items():
        if uuid not in there:
            if mapping["attachment_id"]:
                volume.delete_attachment(cinder, mapping["attachment_id"], service=context.gateway.service)
            mappings.delete_mapping(source, mapping["id"], now)
    return NOTHING


def _show_source(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    state.swap_instance(
        endpoints.source(context), endpoints.server_id(context), {}, {"hidden": 0}, endpoints.now(context)
    )
    return NOTHING


def _hide_source(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    undo_checks.require_at_target(context)
    state.swap_instance(
        endpoints.source(context), endpoints.server_id(context), {}, {"hidden": 1}, endpoints.now(context)
    )


def _switch_back(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Repeated after a crash, it first looks whether the owner deleted the server meanwhile."""
    server = endpoints.server_id(context)
    if state.mapped_cell(context.gateway.api_engine, server) != endpoints.source_cell(context).id:
        endpoints.row(endpoints.target(context), server)
    endpoints.map_to_source(context)
    return NOTHING


def _switch_forth(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    """Only met when the switch was committed and its answer lost, and then nothing else got through."""
    instance = state.read_instance(endpoints.target(context), endpoints.server_id(context))
    if instance is None or instance["hidden"] or instance["task_state"] != "resize_reverting":
        raise Unexpected(f"its row in {endpoints.target_cell(context).label} is not the one that the revert began with")
    endpoints.map_to_target(context)


def _hide_target(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    source, target = endpoints.source(context), endpoints.target(context)
    state.swap_instance(target, endpoints.server_id(context), {}, {"hidden": 1}, endpoints.now(context))
    finish.carry_late_changes(context, target, source)
    history.copy_news(target, source, endpoints.server_id(context))
    return NOTHING


def _clean_target(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts, server = context.facts, endpoints.server_id(context)
    history.start_event(
        endpoints.source(context), server, request_id=facts["revert_request_id"], event=compute.REVERT_AT_DEST.event,
        host=facts["target_host"], now=endpoints.now(context),
    )  # fmt: skip
    # A failed call leaves no task state behind, and the next one would not be taken without it.
    state.swap_instance(
        endpoints.target(context),
        server,
        {"task_state": (None, "resize_reverting")},
        {"task_state": "resize_reverting"},
        endpoints.now(context),
    )
    endpoints.call_target(context, compute.REVERT_AT_DEST, facts["revert_request_id"])
    return NOTHING


def _probe_target(context: Context, _intent: Mapping[str, Any]) -> ProbeResult:
    facts = context.facts
    if state.read_instance(endpoints.target(context), endpoints.server_id(context)) is None:
        return ProbeResult(ProbeOutcome.HAPPENED)
    return endpoints.find_out(
        context,
        endpoints.target_cell(context),
        facts["target_host"],
        compute.REVERT_AT_DEST,
        facts["revert_request_id"],
    )


def _delete_target(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts, server = context.facts, endpoints.server_id(context)
    history.finish_event(
        endpoints.source(context), server, request_id=facts["revert_request_id"], event=compute.REVERT_AT_DEST.event,
        now=endpoints.now(context),
    )  # fmt: skip
    records.delete_server(endpoints.target(context), server)
    return NOTHING


def _start_source(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    recover.finish_revert(context, context.facts["revert_request_id"])
    return NOTHING


def _is_resize(context: Context) -> bool:
    return bool(context.facts["kind"] == "resize")


def _restore_request_spec(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = state.read_extra(endpoints.source(context), endpoints.server_id(context))
    finish.store_flavor(context, state.current_flavor(extra))
    return NOTHING


def _close(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    history.finish_event(
        endpoints.source(context), endpoints.server_id(context), request_id=context.facts["revert_request_id"],
        event=EVENT, now=endpoints.now(context),
    )  # fmt: skip
    _clear_mark(context)
    announce.announce(
        context, endpoints.source_cell(context), "resize_revert", "end", context.facts["revert_request_id"]
    )
    return NOTHING


ACTIONS = (
    Action(
        "begin_revert",
        "begin the revert (resize_reverting)",
        _begin_and_tell,
        intend=_begin_before,
        undo=_stop,
        sets_mark=True,
    ),
    Action("prepare_source", "tell {source_cell} of the revert", _prepare_source, undo=_unprepare_source),
    Action("match_volumes", "match volumes attached or detached meanwhile", _match_volumes, intend=_list_attachments),
    Action(
        "show_source",
        "show the server in {source_cell}",
        _show_source,
        undo=_hide_source,
        uninterruptible_with_next=True,
    ),
    Action(
        "switch_back",
        "point the server's mapping at {source_cell}",
        _switch_back,
        undo=_switch_forth,
        pivot=Pivot.WHEN_DONE,
        uninterruptible_with_next=True,
    ),
    Action("hide_target", "hide the server in {target_cell}", _hide_target),
    Action(
        "clean_target",
        "remove the guest on {target_host}: disk, bindings, attachments, claim",
        _clean_target,
        probe=_probe_target,
    ),
    Action("delete_target", "delete the records in {target_cell}", _delete_target),
    Action("start_source", "start the guest on {source_host} from the disks kept there", _start_source),
    Action(
        "restore_request_spec",
        "put the old flavor back into the request spec",
        _restore_request_spec,
        applies=_is_resize,
    ),
    Action("close_revert", "close the events", _close, clears_mark=True),
)
