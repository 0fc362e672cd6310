"""finish: the guest starts at the target, and the server's mapping follows it.

Follows the conductor's FinishResizeAtDestTask. The pivot is the instance mapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing, NovaObject
from cellmove.core.errors import CallFailed, CallUncertain, Unexpected
from cellmove.db import history, records, state
from cellmove.db.shapes import object_fields
from cellmove.engine.action import Action, Context, Pivot, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import endpoints, prep_dest, recover, stream, stream_off, undo_checks
from cellmove.steps.action_types import (
    CLOSE,
    HAND_OVER,
    HIDE_SOURCE,
    RECORD_MIGRATION,
    SAVE_REQUEST_SPEC,
    SCHEDULE,
    SHOW_TARGET,
    START_TARGET,
    SWITCH_MAPPING,
    Carried,
    CarriedOver,
    StartedTarget,
)
from cellmove.steps.releases import PCI_REQUESTS_NAME_THE_SERVER, superconductor_version

if TYPE_CHECKING:
    from cellmove.db.tables import CellDatabase


def _hand_over(context: Context, _intent: Nothing) -> CarriedOver:
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    require_server(context)
    source, target = endpoints.source(context), endpoints.target(context)
    instance = endpoints.row(source, server)
    with state.transaction(target.engine, target.name) as connection:
        expected = {"task_state": "resize_prep"}
        state.swap_instance(target, server, expected, {"task_state": "resize_migrated"}, now, connection)
        state.carry_over(connection, target, server, instance, now)
        records.copy_labels(source, target, server, connection)
    history.start_event(
        endpoints.source(context),
        server,
        request_id=plan.request_id,
        event=compute.FINISH_AT_DEST.event,
        host=endpoints.target_host(context),
        now=now,
    )
    return CarriedOver(state.owners_part(instance))


def _take_over(context: Context, _intent: object, _result: object) -> None:
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    database = endpoints.target(context)
    undo_checks.require_at_source(context)
    instance = state.read_instance(database, server)
    if instance is not None and instance["task_state"] == "resize_migrated":
        expected = {"task_state": "resize_migrated"}
        state.swap_instance(database, server, expected, {"task_state": "resize_prep"}, now)
    history.finish_event(
        endpoints.source(context),
        server,
        request_id=plan.request_id,
        event=compute.FINISH_AT_DEST.event,
        now=now,
        error="the step was rolled back",
    )


def require_server(context: Context) -> None:
    """Make sure that the server is still there and still ours.

    nova lets an owner delete a server in any task state; starting its copy then would bring a
    deleted server back.

    :raises CallFailed: it is gone, or somebody else took it
    """
    instance = state.read_instance(endpoints.source(context), endpoints.server_id(context))
    if instance is None:
        raise CallFailed("the server was deleted meanwhile", kind="404")
    if instance["task_state"] != "resize_migrated":
        raise CallFailed(f"somebody else took the server: its task state is {instance['task_state']}", kind="conflict")


def _start_target(context: Context, _intent: Nothing) -> StartedTarget:
    plan = context.plan
    require_server(context)
    if stream.is_imaged(context) and not endpoints.image_id(context):
        # The host would start the guest from the image it was first built from, without a word.
        raise CallFailed("the move knows of no image with the root disk")
    stream.require_kept_disk(context)
    version = endpoints.target_version(context)
    endpoints.call_target(context, compute.FINISH_AT_DEST, plan.request_id, snapshot_id=endpoints.image_id(context))
    return StartedTarget(version)


def _probe_target(context: Context, _intent: object) -> ProbeResult[StartedTarget]:
    plan = context.plan
    return endpoints.find_out(
        context, endpoints.target_cell(context), endpoints.target_host(context), compute.FINISH_AT_DEST, plan.request_id
    )


def _release(context: Context, _intent: object, _result: object) -> None:
    undo_checks.require_at_source(context)
    recover.release_target(context)


def _show_target(context: Context, _intent: Nothing) -> Nothing:
    require_server(context)
    expected = {"vm_state": "resized", "task_state": None}
    state.swap_instance(
        endpoints.target(context), endpoints.server_id(context), expected, {"hidden": 0}, endpoints.now(context)
    )
    return NOTHING


def _hide_target(context: Context, _intent: object, _result: object) -> None:
    database = endpoints.target(context)
    undo_checks.require_at_source(context)
    if state.read_instance(database, endpoints.server_id(context)) is not None:
        state.swap_instance(database, endpoints.server_id(context), {}, {"hidden": 1}, endpoints.now(context))


def _switch_mapping(context: Context, _intent: Nothing) -> Nothing:
    """The pivot. Repeated after a crash, it first looks whether the owner went on meanwhile.

    :raises CallFailed: another actor went on with the move before the mapping was switched
    :raises CallUncertain: the mapping was switched before, and the owner's confirm or revert has begun
    """
    is_switched = (
        state.mapped_cell(context.gateway.api_engine, endpoints.server_id(context)) == endpoints.target_cell(context).id
    )
    status = endpoints.migration_row(context, endpoints.target(context))["status"]
    if status != "finished":
        text = f"another actor went on with the move: its migration is {status}"
        # To roll back now would destroy the guest that nova keeps. The action ends soon, and the next look settles it.
        raise CallUncertain(text) if is_switched else CallFailed(text, kind="conflict")
    if not is_switched:
        require_server(context)
    endpoints.map_to_target(context)
    return NOTHING


def _switch_back(context: Context, _intent: object, _result: object) -> None:
    """Point the mapping at the source again, where the switch had its effect and its answer was lost.

    Where the owner deleted the server before the switch, the mapping never pointed at the target. Where the owner's
    confirm or revert began after the switch, nova destroys one of the two guests: the other one has to stay.
    """
    server, target = endpoints.server_id(context), endpoints.target_cell(context)
    is_switched = state.mapped_cell(context.gateway.api_engine, server) == target.id
    instance = state.read_instance(endpoints.source(context), server)
    if instance is None and not is_switched:
        return
    if instance is None or instance["hidden"] or instance["task_state"] != "resize_migrated":
        raise Unexpected(f"its row in {endpoints.source_cell(context).label} is not the one that prep-source left")
    if is_switched and (status := endpoints.migration_row(context, endpoints.target(context))["status"]) != "finished":
        raise Unexpected(f"its migration in {target.label} is {status}: the owner's confirm or revert has begun")
    endpoints.map_to_source(context)


def _hide_source(context: Context, _intent: Nothing) -> Nothing:
    """Nobody changes the source's row any more; what its owner changed since the hand-over comes along."""
    server, now = endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    # Never a row that lives again: after the owner's own revert its task state is another.
    state.swap_instance(source, server, {"task_state": "resize_migrated"}, {"hidden": 1}, now)
    handed_over = context.get(HAND_OVER)
    if handed_over is not None:  # else the journal was rebuilt
        carry_late_changes(context, handed_over.carried, source, target)
    with state.transaction(target.engine, target.name) as connection:
        records.copy_labels(source, target, server, connection)
    history.copy_news(source, target, server, but=context.plan.request_id)
    return NOTHING


def carry_late_changes(context: Context, carried: Carried, old: CellDatabase, new: CellDatabase) -> None:
    """Bring what an owner changed in the old cell's row after it was carried over, unless it was changed anew since.

    A start takes minutes, and all that time the owner still reaches the old row.

    :param carried: the columns as they were carried over
    """
    server = endpoints.server_id(context)
    before, after = state.owners_part(endpoints.row(old, server)), state.owners_part(endpoints.row(new, server))
    late = {name: value for name, value in before.items() if value != carried[name] and after[name] == carried[name]}
    if late:
        state.swap_instance(new, server, {name: carried[name] for name in late}, late, endpoints.now(context))


def _is_resize(context: Context) -> bool:
    return context.plan.is_resize


def _save_request_spec(context: Context, _intent: Nothing) -> Nothing:
    """The stored spec gets the new flavor, and keeps the server to no host; see :func:`store_flavor`."""
    store_flavor(context, endpoints.new_flavor(context))
    return NOTHING


def _changes_spec(context: Context) -> bool:
    return _is_resize(context) or context.plan.forced


def store_flavor(context: Context, flavor: NovaObject) -> None:
    """Put a flavor into the server's stored request spec.

    As nova's API and conductor do when they save one (nova/objects/request_spec.py, ``_get_update_primitives``):
    the PCI requests get to know whose they are (from Zed on), and resources that were asked for once are not kept.
    A host that the server was built on by force is forgotten (``reset_forced_destinations``): the conductor saves
    the whole spec after a migration as well (nova/conductor/manager.py, ``_cold_migrate``).
    """
    engine, server = context.gateway.api_engine, endpoints.server_id(context)
    spec = state.read_request_spec(engine, server)
    fields = spec["nova_object.data"]
    fields["flavor"] = dict(flavor)
    fields.update({name: None for name in ("force_hosts", "force_nodes") if fields.get(name)})
    requests = object_fields(fields.get("pci_requests"))
    if requests and superconductor_version(context) >= PCI_REQUESTS_NAME_THE_SERVER:
        requests["instance_uuid"] = server
    state.write_request_spec(engine, server, spec, endpoints.now(context))


def _close(context: Context, _intent: Nothing) -> Nothing:
    """End the events in both cells and take our mark off: from here on any tool may go on."""
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    for database in (endpoints.source(context), endpoints.target(context)):
        with state.transaction(database.engine, database.name) as connection:
            for event in (*prep_dest.EVENTS, compute.FINISH_AT_DEST.event):
                history.finish_event(
                    database, server, request_id=plan.request_id, event=event, now=now, connection=connection
                )
            state.remove_system_metadata(connection, database, server, ownership.KEYS)
    return NOTHING


ACTIONS = (
    *stream_off.BEFORE_THE_START,
    Action(
        HAND_OVER,
        "hand the server over to {target_cell} (resize_migrated)",
        _hand_over,
        undo=_take_over,
        rolls_back_move=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        START_TARGET,
        "connect ports and volumes and start the guest on {target_host}",
        _start_target,
        probe=_probe_target,
        undo=_release,
        reach_for_undo=recover.reach_target,
        rolls_back_move=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        SHOW_TARGET,
        "show the server in {target_cell}",
        _show_target,
        undo=_hide_target,
        uninterruptible_with_next=True,
        requires=(SCHEDULE,),
    ),
    Action(
        SWITCH_MAPPING,
        "point the server's mapping at {target_cell}",
        _switch_mapping,
        undo=_switch_back,
        pivot=Pivot.WHEN_DONE,
        uninterruptible_with_next=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        HIDE_SOURCE,
        "hide the server in {source_cell}",
        _hide_source,
        requires=(SCHEDULE,),
    ),
    Action(
        SAVE_REQUEST_SPEC,
        "store flavor and destination in the request spec",
        _save_request_spec,
        applies=_changes_spec,
        requires=(SCHEDULE,),
    ),
    Action(
        CLOSE,
        "close the events in both cells",
        _close,
        clears_mark=True,
        requires=(SCHEDULE,),
    ),
)
