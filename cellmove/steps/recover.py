"""Rolling back what computes did: the target host released, the guest started at the source again.

Both look at the world first and may be run any number of times, after a success, a failure or a
crash of the call that they roll back. Native nova does neither: it deletes its records, leaves the
claim at the destination, and tells the operator to hard reboot (CrossCellMigrationTask.rollback).
"""

from __future__ import annotations

from collections.abc import Callable

from cellmove.cloud import network, servers, volume
from cellmove.core.errors import CallFailed, CallUncertain
from cellmove.db import history, state
from cellmove.db.types import Record
from cellmove.engine.action import Context, ProbeOutcome, ProbeResult
from cellmove.hosts import compute
from cellmove.steps import endpoints
from cellmove.steps.action_types import SourceAttachments, StoppedSource

GUEST_RUNNING = 1  # nova/compute/power_state.py
COULD_NOT_POWER_OFF = "Failed to power off instance"  # nova.exception.InstancePowerOffFailure


def release_target(context: Context) -> None:
    """Undo everything that the target host did: guest, disks, bindings, attachments, claim.

    Done by the host itself, with the call that a revert makes. It is left out when the host was
    never asked, or refused the claim (then it holds nothing, and nova's call would give back usage
    that was never taken).

    :raises CallUncertain: the host is still at work
    :raises CannotConnect: the host is down and may have the guest
    """
    plan, server = context.plan, endpoints.server_id(context)
    database = endpoints.target(context)
    instance = state.read_instance(database, server)
    if instance is None:
        return
    _fence_target(context)
    request_id, host = plan.request_id, endpoints.target_host(context)
    finished = how_finish_stands(context)
    claimed = endpoints.how_it_stands(context, database, compute.PREP_AT_DEST, request_id)
    if finished == "running":
        raise CallUncertain(endpoints.still_at_work(context, host, compute.FINISH_AT_DEST))
    if claimed == "running" and not endpoints.is_overdue(context, database, compute.PREP_AT_DEST, request_id):
        raise CallUncertain(endpoints.still_at_work(context, host, compute.PREP_AT_DEST))
    if claimed in ("", history.ERROR):
        return
    is_up = endpoints.is_up(context, database, host)
    if is_up:
        # The fence, which goes before the call, was there already: an earlier run may have sent the call.
        was_sent, cell = instance["task_state"] == "resize_reverting", endpoints.target_cell(context)
        endpoints.require_settled(context, cell, host, compute.REVERT_AT_DEST, request_id, was_sent=was_sent)
    migration = endpoints.migration_row(context, database)
    holds = bool(state.read_extra(database, server).get("migration_context"))
    if not holds and (claimed == "running" or migration["status"] == "reverted"):
        return
    if not is_up and not finished:
        context.note(f"nova-compute on {host} is down: it frees its claim by itself when it comes back")
        return
    endpoints.call_target(context, compute.REVERT_AT_DEST, request_id)


def reach_target(context: Context) -> None:
    """Make sure that the target's message bus can be used, if :func:`release_target` is going to call the host.

    :raises CannotConnect: it cannot
    """
    plan, database = context.plan, endpoints.target(context)
    if state.read_instance(database, endpoints.server_id(context)) is None:
        return
    claimed = endpoints.how_it_stands(context, database, compute.PREP_AT_DEST, plan.request_id)
    if claimed not in ("", history.ERROR) and endpoints.is_up(context, database, endpoints.target_host(context)):
        context.gateway.reach_cell(endpoints.target_cell(context))


def reach_source(context: Context) -> None:
    """Make sure that the source's message bus can be used, by which :func:`restart_source` starts the guest.

    :raises CannotConnect: it cannot
    """
    if state.read_instance(endpoints.source(context), endpoints.server_id(context)) is not None:
        context.gateway.reach_cell(endpoints.source_cell(context))


def _fence_target(context: Context) -> None:
    """Take the task state that finish_at_dest needs to begin, before anything is looked at.

    A call that still lies in the host's queue fails at its first save then (expected resize_migrated),
    instead of starting a second guest after the first was started again.

    :raises CallUncertain: it has begun and has not ended
    """
    server, database = endpoints.server_id(context), endpoints.target(context)
    free: tuple[str | None, ...] = (None, "resize_prep", "resize_migrated", "resize_reverting")
    if how_finish_stands(context) in (history.SUCCESS, history.ERROR):
        free = (*free, "resize_finish")
    try:
        state.swap_instance(
            database, server, {"task_state": free}, {"task_state": "resize_reverting"}, endpoints.now(context)
        )
    except CallFailed as error:
        if error.kind != "conflict":
            raise
        text = endpoints.still_at_work(context, endpoints.target_host(context), compute.FINISH_AT_DEST)
        raise CallUncertain(text) from None


def how_finish_stands(context: Context) -> str:
    """How finish_at_dest stands: like :func:`endpoints.how_it_stands`.

    One whose last save was made has succeeded, whatever became of its event.
    """
    plan, database = context.plan, endpoints.target(context)
    how = endpoints.how_it_stands(context, database, compute.FINISH_AT_DEST, plan.request_id)
    if how != "running":
        return how
    instance = state.read_instance(database, endpoints.server_id(context))
    arrived = instance is not None and (instance["vm_state"], instance["task_state"]) == ("resized", None)
    finished = endpoints.migration_row(context, database)["status"] == "finished"
    return history.SUCCESS if arrived and finished else how


def restart_source(context: Context, intent: SourceAttachments) -> None:
    """Bring the guest back to life at the source after prep_at_source, however far that came.

    :param intent: of the action that made the call: ``attachments`` (attachment id by BDM id, as it
        was before)
    :raises CallUncertain: the host is still at work, or nobody can tell yet
    """
    plan, server = context.plan, endpoints.server_id(context)
    database = endpoints.source(context)
    request_id = plan.request_id
    instance = state.read_instance(database, server)
    if instance is None:
        return  # its owner deleted the server meanwhile
    if endpoints.migration_row(context, database)["status"] == "reverted":
        return  # its owner reverted the move meanwhile
    # Only finish_revert below leaves this task state here, just before its call.
    was_sent = instance["task_state"] == "resize_reverting"
    if was_sent or endpoints.how_it_stands(context, database, compute.FINISH_REVERT_AT_SOURCE, request_id):
        finish_revert(context, request_id, was_sent=was_sent)
        return
    finding = find_out_source(context, request_id)
    if finding.outcome is ProbeOutcome.NOT_HAPPENED:
        return
    if finding.outcome in (ProbeOutcome.UNDER_WAY, ProbeOutcome.UNKNOWN):
        raise CallUncertain(finding.text)
    if finding.outcome is ProbeOutcome.FAILED:
        event, moment = compute.PREP_AT_SOURCE.event, endpoints.now(context)
        history.finish_event(database, server, request_id=request_id, event=event, now=moment, error=finding.text)
    if finding.outcome is ProbeOutcome.FAILED and not _is_detached(context, intent):
        # Failed before the guest was taken apart, or while destroying it: disks, volumes and ports
        # are as they were. The recorded power_state cannot be trusted (it is saved later), so a
        # guest that may be off is rebooted; one that could not even be powered off is still on.
        still_on = COULD_NOT_POWER_OFF in finding.text
        if instance["vm_state"] == "error" or (plan.active and not still_on):
            reboot_source(context)
        return
    if finding.outcome is ProbeOutcome.FAILED:
        _empty_attachments(context, intent)
    finish_revert(context, request_id)


def find_out_source(context: Context, request_id: str) -> ProbeResult[StoppedSource]:
    """What became of prep_at_source.

    A host that was restarted during the call starts the guest again by itself and clears the task
    state (ComputeManager._init_instance), but the call's event stays open for ever.
    """
    host = context.plan.source_host
    finding: ProbeResult[StoppedSource] = endpoints.find_out(
        context, endpoints.source_cell(context), host, compute.PREP_AT_SOURCE, request_id
    )
    if finding.outcome is not ProbeOutcome.UNDER_WAY:
        return finding
    instance = state.read_instance(endpoints.source(context), endpoints.server_id(context))
    if instance is not None and instance["task_state"] is None:
        return ProbeResult(ProbeOutcome.FAILED, text=f"{host} was restarted during {compute.PREP_AT_SOURCE.name}")
    if instance is not None and instance["task_state"] == "resize_migrated":
        # Its last save was made; the host died before it ended the event, which nobody else would do.
        history.finish_event(
            endpoints.source(context),
            endpoints.server_id(context),
            request_id=request_id,
            event=compute.PREP_AT_SOURCE.event,
            now=endpoints.now(context),
        )
        return ProbeResult(ProbeOutcome.HAPPENED)
    return finding


def finish_revert(context: Context, request_id: str, *, was_sent: bool = False) -> None:
    """Let the source host start the guest again from the disks that it kept, as a native revert does.

    It also gives the server its old flavor, allocation and attachments back. Sent again only when
    the first died with its host, which shows in the task state: a call that fails takes it away. A
    second call after a success would end in an error although the guest runs.

    :param was_sent: an earlier run may have sent the call
    :raises CallUncertain: the host is still at work on it, or it may still lie in the host's queue
    :raises CallFailed: the host could not; the server is in ERROR
    """
    server = endpoints.server_id(context)
    database = endpoints.source(context)
    cell, host = endpoints.source_cell(context), context.plan.source_host
    endpoints.require_settled(context, cell, host, compute.FINISH_REVERT_AT_SOURCE, request_id, was_sent=was_sent)
    how = endpoints.how_it_stands(context, database, compute.FINISH_REVERT_AT_SOURCE, request_id)
    if how == history.SUCCESS:
        return
    instance = endpoints.row(database, server)
    if how == history.ERROR and instance["task_state"] is None:
        if instance["vm_state"] == "error":
            reboot_source(context)
        _settle_source(context)
        return
    bind_source(context)
    state.swap_instance(
        database,
        server,
        {"task_state": (None, "resize_migrated", "resize_reverting")},
        {"task_state": "resize_reverting"},
        endpoints.now(context),
    )
    endpoints.call_source(context, compute.FINISH_REVERT_AT_SOURCE, request_id)


def _settle_source(context: Context) -> None:
    """What finish_revert does last, for one that did not come so far: the guest is back, nothing is stashed."""
    server, now = endpoints.server_id(context), endpoints.now(context)
    database, cinder = endpoints.source(context), context.gateway.admin
    attaching = {each.id for each in volume.attachments_of(cinder, server) if each.status == "attaching"}
    for mapping in state.volume_mappings(database, server):
        if mapping["attachment_id"] in attaching:
            volume.complete_attachment(cinder, mapping["attachment_id"])
    migration = endpoints.migration_row(context, database)
    with state.transaction(database.engine, database.name) as connection:
        state.set_extra(connection, database, server, {"migration_context": None}, now)
        state.set_flavors(connection, database, server, old=None, new=None, now=now)
        state.set_system_metadata(connection, database, server, "old_vm_state", None, now)
        if migration["status"] in ("reverting", "post-migrating"):
            expected = {"status": migration["status"]}
            state.swap_migration(database, migration["uuid"], expected, {"status": "reverted"}, now, connection)


def bind_source(context: Context) -> None:
    """Make the source host's port bindings the active ones again."""
    neutron = context.gateway.service
    for port in endpoints.ports(context):
        network.activate_binding(neutron, port.id, context.plan.source_host)


def reboot_source(context: Context) -> None:
    """Hard-reboot the server at the source and wait until it runs (and stop it if it was stopped).

    nova's own cure for a guest that lost its domain but kept disks, volumes and ports.

    :raises CallFailed: it did not come back
    """
    plan, server, database = context.plan, endpoints.server_id(context), endpoints.source(context)
    task_state = endpoints.row(database, server)["task_state"]
    if task_state in ("resize_migrating", "resize_reverting"):
        # Left by a call that died with its host; one that fails takes it away itself.
        state.swap_instance(database, server, {"task_state": task_state}, {"task_state": None}, endpoints.now(context))
        task_state = None
    if task_state is None:
        servers.hard_reboot(context.gateway.admin, server)
    _wait(context, lambda row: row["vm_state"] == "active" and row["power_state"] == GUEST_RUNNING)
    if not plan.active:
        servers.stop(context.gateway.admin, server)
        _wait(context, lambda row: row["vm_state"] == "stopped")


def _wait(context: Context, good: Callable[[Record], bool]) -> None:
    server, database = endpoints.server_id(context), endpoints.source(context)
    deadline = context.clock.monotonic() + context.gateway.settings.long_rpc_timeout
    for pause in context.clock.waits():
        instance = endpoints.row(database, server)
        if instance["task_state"] is None and good(instance):
            return
        if instance["task_state"] is None and instance["vm_state"] == "error":
            raise CallFailed(f"the guest did not come back at {context.plan.source_host}: see the server's fault")
        if context.clock.monotonic() > deadline:
            break
        context.clock.sleep(pause)
    raise CallUncertain("the guest is still being started again at the source")


def _is_detached(context: Context, intent: SourceAttachments) -> bool:
    """Whether prep_at_source came as far as giving up the volumes' or ports' connections."""
    server, before = endpoints.server_id(context), intent.attachments
    present = {each.id for each in volume.attachments_of(context.gateway.admin, server)}
    for mapping in state.volume_mappings(endpoints.source(context), server):
        if before.get(str(mapping["id"])) != mapping["attachment_id"] or mapping["attachment_id"] not in present:
            return True
    return any(port.host == endpoints.target_host(context) for port in endpoints.ports(context))


def _empty_attachments(context: Context, intent: SourceAttachments) -> None:
    """Give every volume that still has its old attachment an empty one, as its siblings have already.

    A host that died between making the new one and noting it leaves it behind, and perhaps a note of
    one that is gone: the one that is there is taken.
    """
    server, database, cinder = endpoints.server_id(context), endpoints.source(context), context.gateway.admin
    before = intent.attachments
    reserved = {mapping["attachment_id"] for mapping in state.volume_mappings(endpoints.target(context), server)}
    used = [
        each for each in state.volume_mappings(database, server) if each["attachment_id"] == before.get(str(each["id"]))
    ]
    every = volume.attachments_of(cinder, server) if used else []
    for mapping in used:
        old = mapping["attachment_id"]
        present = [attachment for attachment in every if attachment.volume_id == mapping["volume_id"]]
        spare = [a.id for a in present if a.status == "reserved" and a.id not in reserved and a.id != old]
        fresh = spare[0] if spare else volume.create_empty_attachment(cinder, mapping["volume_id"], server)
        state.set_attachment(database, mapping["id"], fresh, endpoints.now(context))
        if any(a.id == old for a in present):
            # Unlike an empty one, this one counts as nova's: cinder wants a service token with it.
            volume.delete_attachment(cinder, old, service=context.gateway.service)
