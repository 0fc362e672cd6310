"""prep-source: the guest is stopped, its local disks go over, volumes and ports are let go.

From here on the server is down until ``finish``. Follows the conductor's PrepResizeAtSourceTask.
"""

from __future__ import annotations

from cellmove.cloud import image
from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import CannotConnect
from cellmove.db import state
from cellmove.engine.action import Action, Context, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import endpoints, recover, stream, stream_off, stream_stop, undo_checks
from cellmove.steps.action_types import (
    CREATE_IMAGE,
    RECORD_MIGRATION,
    SCHEDULE,
    STASH,
    STOP_SOURCE,
    ImageId,
    SourceAttachments,
    StoppedSource,
)


def _choose_image(context: Context) -> ImageId:
    """Choose the image's id. A host that would not start the guest from it is found now, while the guest still runs."""
    stream.require_kept_disk(context)
    return ImageId(context.clock.new_uuid())


def _create_image(context: Context, intent: ImageId) -> ImageId:
    server, database = endpoints.server_id(context), endpoints.source(context)
    metadata = {
        key: value for key, value in state.read_system_metadata(database, server).items() if key not in ownership.KEYS
    }
    wanted = image.TemporaryImage(
        intent.image_id,
        server_id=server,
        server_name=endpoints.row(database, server)["display_name"],
        project_id=context.plan.project_id,
        system_metadata=metadata,
        not_inherited=context.gateway.settings.non_inheritable_image_properties,
    )
    image.create_temporary_image(context.gateway.admin, wanted)
    return intent


def _delete_image(context: Context, intent: ImageId, _result: object) -> None:
    undo_checks.require_guest_at_source(context)
    image.delete_image(context.gateway.admin, intent.image_id)


def _stash(context: Context, _intent: Nothing) -> Nothing:
    """What a revert needs to know, and the task state that prep_at_source expects, in one save."""
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    old = state.current_flavor(state.read_extra(database, server))
    with state.transaction(database.engine, database.name) as connection:
        expected = {"task_state": "resize_prep"}
        state.swap_instance(database, server, expected, {"task_state": "resize_migrating"}, now, connection)
        state.set_system_metadata(connection, database, server, "old_vm_state", plan.vm_state, now)
        state.set_flavors(connection, database, server, old=old, new=endpoints.new_flavor(context), now=now)
    return NOTHING


def _unstash(context: Context, _intent: object, _result: object) -> None:
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


def _list_attachments(context: Context) -> SourceAttachments:
    """A host that is down is found now, while it is certain that it was never asked."""
    if not endpoints.is_up(context, endpoints.source(context), context.plan.source_host):
        raise CannotConnect(f"nova-compute on {context.plan.source_host} is down")
    mappings = state.volume_mappings(endpoints.source(context), endpoints.server_id(context))
    return SourceAttachments({str(mapping["id"]): mapping["attachment_id"] for mapping in mappings})


def _stop_source(context: Context, _intent: SourceAttachments) -> StoppedSource:
    plan = context.plan

    def stop() -> None:
        endpoints.call_source(context, compute.PREP_AT_SOURCE, plan.request_id, snapshot_id=endpoints.image_id(context))

    if stream.is_streamed(context):
        return stream_stop.while_it_stops(context, stream.disks_of(context), stop)
    stop()
    return StoppedSource()


def _probe_source(context: Context, _intent: object) -> ProbeResult[StoppedSource]:
    plan = context.plan
    return recover.find_out_source(context, plan.request_id)


def _restart_source(context: Context, intent: SourceAttachments, _result: object) -> None:
    undo_checks.require_at_source(context)
    recover.restart_source(context, intent)


ACTIONS = (
    *stream.BEFORE_THE_STOP,
    Action(
        CREATE_IMAGE,
        "make an empty image for the root disk",
        _create_image,
        intend=_choose_image,
        undo=_delete_image,
        applies=stream.is_imaged,
        requires=(SCHEDULE,),
    ),
    Action(
        STASH,
        "stash flavors and state in {source_cell} (resize_migrating)",
        _stash,
        undo=_unstash,
        rolls_back_move=True,
        requires=(SCHEDULE,),
    ),
    Action(
        STOP_SOURCE,
        "stop the guest on {source_host}, let go of disks, volumes and ports",
        _stop_source,
        intend=_list_attachments,
        probe=_probe_source,
        undo=_restart_source,
        rolls_back_move=True,
        reach_for_undo=recover.reach_source,
        undo_restores_guest=True,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    *stream_off.WHILE_IT_IS_OFF,
)
