"""prep-dest: everything that can be made ready at the target while the guest still runs.

Follows nova-api's resize, the conductor's MigrationTask, TargetDBSetupTask and PrepResizeAtDestTask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from cellmove.cloud import network, placement, volume
from cellmove.cloud.identity import caller
from cellmove.core import ownership
from cellmove.core.documents import NOTHING, Nothing
from cellmove.core.errors import CallFailed, MovedElsewhere, Unexpected
from cellmove.core.shell import resume_elsewhere
from cellmove.db import history, look, records, state
from cellmove.db.shapes import read_object, unreadable
from cellmove.db.tables import CellDatabase
from cellmove.engine.action import Action, Context, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import choose_host, endpoints, recover, stream, takeover, undo_checks
from cellmove.steps.action_types import (
    BIND_PORTS,
    CLAIM,
    COPY_RECORDS,
    MIRROR,
    MOVE_ALLOCATIONS,
    NOTE_TARGET,
    RECORD_MIGRATION,
    RESERVE_VOLUMES,
    SCHEDULE,
    TAKE_SERVER,
    CopiedRecords,
    CopyRequest,
    KnownAttachments,
    MigrationId,
    PortBefore,
    PortsBefore,
    ServerBefore,
)

EVENTS = ("conductor_migrate_server", "cold_migrate")
"""What nova's conductor writes around the whole of it."""


UNFINISHED = ("pre-migrating", "migrating", "post-migrating", "reverting")
"""Statuses of the source's migration record before the server has arrived anywhere."""

IN_USE = "attached"
"""How cinder calls an attachment that a host has completed."""


# take the server: no API user gets in from here on


def _begin_before(context: Context) -> ServerBefore:
    database = endpoints.source(context)
    instance = endpoints.row(database, endpoints.server_id(context))
    metadata = state.read_system_metadata(database, endpoints.server_id(context))
    return ServerBefore(instance["progress"], instance["auto_disk_config"], metadata.get("image_base_image_ref"))


def _begin(context: Context, intent: ServerBefore) -> Nothing:
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    if intent.begun_by == endpoints.NOVA:
        return takeover.take(context, _mark(context, intent))
    if endpoints.is_marked(context, database):
        return NOTHING
    us = caller(context.gateway.admin)
    with _told_who_has_it(database, server), state.transaction(database.engine, database.name) as connection:
        state.swap_instance(
            database,
            server,
            {"task_state": None, "vm_state": plan.vm_state, "host": plan.source_host, "hidden": (0, None)},
            {"task_state": "resize_prep", "progress": 0, "auto_disk_config": 0},
            now,
            connection,
            content=False,
        )
        for key, value in ownership.rows_of(_mark(context, intent)).items():
            state.set_system_metadata(connection, database, server, key, value, now)
        # libvirt rebases the disk on this image at the destination; servers from old releases lack it.
        state.set_system_metadata(connection, database, server, "image_base_image_ref", plan.image_ref, now)
        history.ensure_action(
            connection,
            database,
            server,
            action="resize" if plan.is_resize else "migrate",
            request_id=plan.request_id,
            user_id=us["user_id"],
            project_id=us["project_id"],
            now=now,
        )
        for event in EVENTS:
            history.start_event(
                database,
                server,
                request_id=plan.request_id,
                event=event,
                host=endpoints.here(),
                now=now,
                connection=connection,
            )
    return NOTHING


@contextmanager
def _told_who_has_it(database: CellDatabase, server: str) -> Iterator[None]:
    """Name the other move when the server cannot be taken because that has it.

    :raises MovedElsewhere: another journal's move was quicker
    """
    try:
        yield
    except CallFailed as error:
        other = ownership.mark_of(state.read_system_metadata(database, server)) if error.kind == "conflict" else None
        if other is None:
            raise
        raise MovedElsewhere(
            f"cellmove is moving it already: {other.move_id}, recorded in {other.owner or 'a journal unknown here'} "
            f"(go on there with {resume_elsewhere(other.owner, other.move_id)})"
        ) from None


def _mark(context: Context, intent: ServerBefore) -> ownership.OwnershipMark:
    """What a lost journal can be rebuilt from, together with the rows of later actions."""
    plan = context.plan
    return ownership.OwnershipMark(
        move_id=context.move.id,
        owner=ownership.owner_of_journal(context.gateway.settings.journal),
        request_id=plan.request_id,
        flavor_id=plan.new_flavor_id if plan.is_resize else "",
        cell=plan.wanted,
        host=plan.wanted_host,
        before=takeover.before_of(intent),
        transfer=stream.in_mark(context),
        generation=context.generation,
    )


def _give_back(context: Context, intent: ServerBefore, _result: object) -> None:
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    database = endpoints.source(context)
    if not endpoints.is_marked(context, database):
        return
    undo_checks.require_guest_at_source(context)
    instance = endpoints.row(database, server)
    values: dict[str, object] = {"progress": intent.progress, "auto_disk_config": intent.auto_disk_config}
    if instance["task_state"] in ("resize_prep", "resize_migrating"):
        values["task_state"] = None
    with state.transaction(database.engine, database.name) as connection:
        expected = {"task_state": instance["task_state"]}
        state.swap_instance(database, server, expected, values, now, connection)
        state.set_system_metadata(
            connection, database, server, "image_base_image_ref", intent.image_base_image_ref, now
        )
        state.remove_system_metadata(connection, database, server, ownership.KEYS)
        if plan.begun_by == endpoints.NOVA:
            # Ended below, it tells that this was rolled back; a conductor that never began has left none.
            history.start_event(
                database,
                server,
                request_id=plan.request_id,
                event=EVENTS[0],
                host=endpoints.here(),
                now=now,
                connection=connection,
            )
        for event in EVENTS:
            history.finish_event(
                database,
                server,
                request_id=plan.request_id,
                event=event,
                now=now,
                error="the move was rolled back",
                connection=connection,
            )


# the migration record


def _choose_migration(context: Context) -> MigrationId:
    return MigrationId(context.clock.new_uuid())


def _record_migration(context: Context, intent: MigrationId) -> MigrationId:
    plan = context.plan
    us = caller(context.gateway.admin)
    values = {
        "uuid": intent.migration_uuid,
        "instance_uuid": endpoints.server_id(context),
        "status": "pre-migrating",
        "migration_type": plan.kind,
        "source_compute": plan.source_host,
        "source_node": plan.source_node,
        "old_instance_type_id": plan.old_instance_type_id,
        "new_instance_type_id": plan.new_instance_type_id,
        "cross_cell_move": 1,
        "hidden": 0,
        "user_id": us["user_id"],
        "project_id": us["project_id"],
    }
    state.insert_migration(endpoints.source(context), values, endpoints.now(context))
    return intent


def _fail_migration(context: Context, intent: MigrationId, _result: object) -> None:
    """History keeps the record, as it does natively, with the status that says how it ended."""
    database = endpoints.source(context)
    migration = state.read_migration(database, intent.migration_uuid)
    if migration is None or migration["status"] in ("error", "reverted"):
        return
    undo_checks.require_guest_at_source(context)
    if migration["status"] not in UNFINISHED:
        raise Unexpected(f"its migration in {database.name} is {migration['status']}")
    expected = {"status": migration["status"]}
    state.swap_migration(database, intent.migration_uuid, expected, {"status": "error"}, endpoints.now(context))


# allocations


def _move_allocations(context: Context, _intent: Nothing) -> Nothing:
    consumer = endpoints.migration_uuid(context.record)
    if placement.allocations_of(context.gateway.admin, consumer)["allocations"]:
        return NOTHING
    placement.move_allocations(context.gateway.admin, endpoints.server_id(context), consumer, sleep=context.clock.sleep)
    return NOTHING


def _return_allocations(context: Context, _intent: object, _result: object) -> None:
    """Give the server its source allocation back; that replaces whatever was claimed at the target."""
    consumer, server = endpoints.migration_uuid(context.record), endpoints.server_id(context)
    if state.read_instance(endpoints.source(context), server) is None:
        # Its owner deleted the server meanwhile: nobody is left to hold anything.
        placement.delete_allocations(context.gateway.admin, consumer, sleep=context.clock.sleep)
        placement.delete_allocations(context.gateway.admin, server, sleep=context.clock.sleep)
    elif placement.allocations_of(context.gateway.admin, consumer)["allocations"]:
        undo_checks.require_guest_at_source(context)
        placement.move_allocations(context.gateway.admin, consumer, server, sleep=context.clock.sleep)


# the records


def _copy_records(context: Context, intent: CopyRequest) -> CopiedRecords:
    if intent.anew:
        takeover.forget_copy(context)
    copied = records.copy_server(
        endpoints.source(context),
        endpoints.target(context),
        endpoints.server_id(context),
        migration_uuid=endpoints.migration_uuid(context.record),
        new_flavor=endpoints.new_flavor(context),
    )
    return CopiedRecords(copied)


def _delete_records(context: Context, intent: CopyRequest, _result: object) -> None:
    database, server = endpoints.target(context), endpoints.server_id(context)
    if state.read_instance(database, server) is None:
        return
    undo_checks.require_guest_at_source(context)
    # Only our own copy: rows with another migration's records would be somebody else's move.
    ours = state.read_migration(database, endpoints.migration_uuid(context.record)) is not None
    if ours or (intent.anew and takeover.is_hidden(database, server)):
        records.delete_server(database, server)


# ports


def _list_ports(context: Context) -> PortsBefore:
    ports = endpoints.ports(context)
    return PortsBefore(tuple(PortBefore(port.id, port.vnic_type, dict(port.profile)) for port in ports))


def _bind_ports(context: Context, intent: PortsBefore) -> Nothing:
    for port in intent.ports:
        network.create_binding(
            context.gateway.service, port.id, endpoints.target_host(context), port.vnic_type, port.profile
        )
    return NOTHING


def _unbind_ports(context: Context, intent: PortsBefore, _result: object) -> None:
    """Take the target's bindings away, the source's made active first: never a port without a binding."""
    neutron, plan = context.gateway.service, context.plan
    undo_checks.require_guest_at_source(context)
    # A port that was detached or deleted meanwhile is none of ours (neutron would answer 400 or 404).
    ours = {port.id for port in network.ports_of(neutron, endpoints.server_id(context))}
    for port in intent.ports:
        if port.id not in ours:
            continue
        binding = network.binding_for(neutron, port.id, endpoints.target_host(context))
        if binding is None:
            continue
        if binding.status == network.ACTIVE:
            _require_source_binding(context, port.id)
            network.activate_binding(neutron, port.id, plan.source_host)
        network.delete_binding(neutron, port.id, endpoints.target_host(context))


def _require_source_binding(context: Context, port_id: str) -> None:
    """Make sure that the source's binding, which is about to become the active one, is there."""
    host = context.plan.source_host
    if network.binding_for(context.gateway.service, port_id, host) is None:
        raise Unexpected(
            f"port {port_id} has no binding to {host}; its only known one is the target's, which is active"
        )


# volumes


def _list_attachments(context: Context) -> KnownAttachments:
    known = volume.attachments_of(context.gateway.admin, endpoints.server_id(context))
    return KnownAttachments(tuple(attachment.id for attachment in known))


def _reserve_volumes(context: Context, intent: KnownAttachments) -> Nothing:
    """An empty attachment for each volume, written into the target's records.

    cinder chooses the id, so one whose answer was lost is recognised by being new and reserved.
    """
    cinder, server, database = context.gateway.admin, endpoints.server_id(context), endpoints.target(context)
    missing = [each for each in state.volume_mappings(database, server) if each["attachment_id"] is None]
    lost = volume.lost_attachments(cinder, server, intent.known) if missing else {}
    for mapping in missing:
        volume_id = mapping["volume_id"]
        attachment = lost.get(volume_id) or volume.create_empty_attachment(cinder, volume_id, server)
        state.set_attachment(database, mapping["id"], attachment, endpoints.now(context))
    return NOTHING


def _release_volumes(context: Context, intent: KnownAttachments, _result: object) -> None:
    """Delete every attachment that is neither the server's own nor one that the source got meanwhile."""
    cinder, server = context.gateway.admin, endpoints.server_id(context)
    undo_checks.require_guest_at_source(context)
    kept = {mapping["attachment_id"] for mapping in state.volume_mappings(endpoints.source(context), server)}
    ours = [each for each in volume.attachments_of(cinder, server) if each.id not in {*kept, *intent.known}]
    for attachment in ours:
        if attachment.status == IN_USE:
            raise Unexpected(f"attachment {attachment.id} of volume {attachment.volume_id} is in use, on another host")
    for attachment in ours:
        volume.delete_attachment(cinder, attachment.id)


# the claim


def _claim(context: Context, _intent: Nothing) -> Nothing:
    plan = context.plan
    endpoints.call_target(
        context,
        compute.PREP_AT_DEST,
        plan.request_id,
        flavor=endpoints.new_flavor(context),
        nodename=endpoints.chosen_host(context.record).target_node,
        limits=endpoints.chosen_host(context.record).limits,
    )
    return NOTHING


def _probe_claim(context: Context, _intent: object) -> ProbeResult[Nothing]:
    plan = context.plan
    return endpoints.find_out(
        context, endpoints.target_cell(context), endpoints.target_host(context), compute.PREP_AT_DEST, plan.request_id
    )


def _release(context: Context, _intent: object, _result: object) -> None:
    undo_checks.require_guest_at_source(context)
    recover.release_target(context)


# both cells know of each other


def _note_target(context: Context, _intent: Nothing) -> Nothing:
    """What the conductor writes into the target after the claim (CrossCellMigrationTask._prep_resize_at_dest)."""
    plan, server, now = context.plan, endpoints.server_id(context), endpoints.now(context)
    settings = context.gateway.settings
    zone = look.availability_zone_of(
        context.gateway.api_engine, endpoints.target_host(context), settings.default_availability_zone
    )
    database = endpoints.target(context)
    with state.transaction(database.engine, database.name) as connection:
        state.set_system_metadata(connection, database, server, "old_vm_state", plan.vm_state, now)
        expected = {"task_state": "resize_prep"}
        state.swap_instance(database, server, expected, {"availability_zone": zone}, now, connection)
        if plan.begun_by == endpoints.NOVA:
            # nova names the new flavor here at the latest; our own copy has named it from the start.
            state.set_flavors(connection, database, server, old=None, new=endpoints.new_flavor(context), now=now)
    return NOTHING


def _mirror(context: Context, _intent: Nothing) -> Nothing:
    """Mirror the claim's migration context and destination into the source cell.

    Its migration_id has to be that of the source's record: neutron's events find both hosts by it.
    """
    server, now = endpoints.server_id(context), endpoints.now(context)
    source, target = endpoints.source(context), endpoints.target(context)
    stored = state.read_extra(target, server).get("migration_context")
    claimed = read_object(stored, "instance_extra.migration_context") if stored else {}
    if not claimed:
        raise CallFailed(f"{endpoints.target_host(context)} has left no migration context in its cell", kind="404")
    ours, theirs = endpoints.migration_row(context, source), endpoints.migration_row(context, target)
    if not isinstance(claimed.get("nova_object.data"), dict):
        raise unreadable("instance_extra.migration_context")
    claimed["nova_object.data"]["migration_id"] = ours["id"]
    destination = {name: theirs[name] for name in ("dest_compute", "dest_node", "dest_host")}
    with state.transaction(source.engine, source.name) as connection:
        state.set_extra(connection, source, server, {"migration_context": json.dumps(claimed)}, now)
        expected = {"status": "pre-migrating"}
        state.swap_migration(source, endpoints.migration_uuid(context.record), expected, destination, now, connection)
    return NOTHING


def _unmirror(context: Context, _intent: object, _result: object) -> None:
    database = endpoints.source(context)
    if not endpoints.is_marked(context, database):
        return  # deleted meanwhile, or rolled back already
    undo_checks.require_guest_at_source(context)
    with state.transaction(database.engine, database.name) as connection:
        state.set_extra(
            connection, database, endpoints.server_id(context), {"migration_context": None}, endpoints.now(context)
        )


ACTIONS = (
    Action(
        TAKE_SERVER,
        "take the server (task state resize_prep) in {source_cell}",
        _begin,
        intend=_begin_before,
        undo=_give_back,
        sets_mark=True,
    ),
    Action(
        RECORD_MIGRATION,
        "record the migration in {source_cell}",
        _record_migration,
        intend=_choose_migration,
        undo=_fail_migration,
    ),
    Action(
        MOVE_ALLOCATIONS,
        "hand the source allocation to the migration",
        _move_allocations,
        undo=_return_allocations,
        requires=(RECORD_MIGRATION,),
    ),
    Action(
        SCHEDULE,
        "ask the scheduler: {target_host} in {target_cell}",
        choose_host.choose,
        intend=choose_host.offered,
        has_alternative=choose_host.has_alternative,
    ),
    *stream.BEFORE_THE_CLAIM,
    Action(
        COPY_RECORDS,
        "copy the records to {target_cell}, hidden",
        _copy_records,
        undo=_delete_records,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        BIND_PORTS,
        "bind the ports to {target_host}, inactive",
        _bind_ports,
        intend=_list_ports,
        undo=_unbind_ports,
        retry_from=SCHEDULE,
        requires=(SCHEDULE,),
    ),
    Action(
        RESERVE_VOLUMES,
        "reserve the volumes for {target_host}",
        _reserve_volumes,
        intend=_list_attachments,
        undo=_release_volumes,
        requires=(SCHEDULE,),
    ),
    Action(
        CLAIM,
        "claim the resources on {target_host}",
        _claim,
        probe=_probe_claim,
        undo=_release,
        reach_for_undo=recover.reach_target,
        retry_from=SCHEDULE,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    Action(
        NOTE_TARGET,
        "note state and availability zone in {target_cell}",
        _note_target,
        requires=(SCHEDULE,),
    ),
    Action(
        MIRROR,
        "mirror the claim into {source_cell}",
        _mirror,
        undo=_unmirror,
        requires=(RECORD_MIGRATION, SCHEDULE),
    ),
    *stream.WHILE_IT_RUNS,
)
