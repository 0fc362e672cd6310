"""prep-source: the guest is stopped, its local disks go over, volumes and ports are let go.

From here on the server is down until ``finish``. Follows the conductor's PrepResizeAtSourceTask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellmove.cloud import image
from cellmove.core import ownership
from cellmove.core.errors import CannotConnect
from cellmove.db import state
from cellmove.engine.action import Action, Context, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import endpoints, recover, stream, stream_off, stream_stop, undo_checks

NOTHING: Mapping[str, Any] = {}


def _choose_image(context: Context) -> Mapping[str, Any]:
    """Choose the image's id. A host that would not start the guest from it is found now, while the guest still runs."""
    stream.require_kept_disk(context)
    return {"image_id": context.clock.new_uuid()}


def _create_image(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
    server, database = endpoints.server_id(context), endpoints.source(context)
    metadata = {
        key: value for key, value in state.read_system_metadata(database, server).items() if key not in ownership.KEYS
    }
    image.create_temporary_image(
        context.gateway.admin,
        intent["image_id"],
        server_id=server,
        server_name=endpoints.row(database, server)["display_name"],
        project_id=context.facts["project_id"],
        system_metadata=metadata,
        not_inherited=context.gateway.settings.non_inheritable_image_properties,
    )
    return {"image_id": intent["image_id"]}


def _delete_image(context: Context, intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    undo_checks.require_guest_at_source(context)
    image.delete_image(context.gateway.admin, intent["image_id"])


def _stash(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a revert needs to know, and the task state that prep_at_source expects, in one save."""
    facts, server, now = context.facts, endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    old = state.current_flavor(state.read_extra(database, server))
    with state.transaction(database.engine, database.name) as connection:
        expected = {"task_state": "resize_prep"}
        state.swap_instance(database, server, expected, {"task_state": "resize_migrating"}, now, connection)
        state.set_system_metadata(connection, database, server, "old_vm_state", facts["vm_state"], now)
        state.set_flavors(connection, database, server, old=old, new=facts["new_flavor"], now=now)
    return NOTHING


def _unstash(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    server, now = endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    if not endpoints.is_marked(context, database):
        return  # deleted meanwhile, or rolled back already
    undo_checks.require_guest_at_source(context)
    task_state = endpoints.row(database, server)["task_state"]
    with state.transaction(database.engine, database.name) as connection:
        if task_state == "resize_migrating":
            expected = {"task_state": task_state}
            state.swap_instance(database, server, expected, {"task_state": "resize_prep"}, now, connection)
        state.set_system_metadata(connection, database, server, "old_vm_state", None, now)
        state.set_flavors(connection, database, server, old=None, new=None, now=now)


def _list_attachments(context: Context) -> Mapping[str, Any]:
    """A host that is down is found now, while it is certain that it was never asked."""
    if not endpoints.is_up(context, endpoints.source(context), context.facts["source_host"]):
        raise CannotConnect(f"nova-compute on {context.facts['source_host']} is down")
    mappings = state.volume_mappings(endpoints.source(context), endpoints.server_id(context))
    return {"attachments": {str(mapping["id"]): mapping["attachment_id"] for mapping in mappings}}


def _stop_source(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts = context.facts

    def stop() -> None:
        endpoints.call_source(context, compute.PREP_AT_SOURCE, facts["request_id"], snapshot_id=facts.get("image_id"))

    if stream.is_streamed(context):
        return stream_stop.while_it_stops(context, stop)
    stop()
    return NOTHING


def _probe_source(context: Context, _intent: Mapping[str, Any]) -> ProbeResult:
    facts = context.facts
    return recover.find_out_source(context, facts["request_id"])


def _restart_source(context: Context, intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    undo_checks.require_at_source(context)
    recover.restart_source(context, intent)


ACTIONS = (
    *stream.BEFORE_THE_STOP,
    Action(
        "create_image",
        "make an empty image for the root disk",
        _create_image,
        intend=_choose_image,
        undo=_delete_image,
        applies=stream.is_imaged,
    ),
    Action(
        "stash",
        "stash flavors and state in {source_cell} (resize_migrating)",
        _stash,
        undo=_unstash,
        rolls_back_move=True,
    ),
    Action(
        "stop_source",
        "stop the guest on {source_host}, let go of disks, volumes and ports",
        _stop_source,
        intend=_list_attachments,
        probe=_probe_source,
        undo=_restart_source,
        rolls_back_move=True,
        reach_for_undo=recover.reach_source,
        undo_restores_guest=True,
    ),
    *stream_off.WHILE_IT_IS_OFF,
)
