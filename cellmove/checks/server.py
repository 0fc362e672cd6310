"""Check the records, the state and the host of the server."""

from __future__ import annotations

from cellmove.checks.result import CheckResults, refusal, warning
from cellmove.checks.snapshot import OLDEST_COMPUTE, ServerSnapshot, conductors_up
from cellmove.core.cell_names import CELL0_UUID
from cellmove.core.ownership import KEY, mark_of
from cellmove.core.shell import resume_elsewhere
from cellmove.core.transfer import STREAM

UNFINISHED = frozenset(
    {
        "accepted",
        "queued",
        "preparing",
        "running",  # live migration and evacuation
        "pre-migrating",
        "migrating",
        "post-migrating",
        "finished",
        "confirming",
        "reverting",
    }
)
"""Migration statuses of something that has not ended yet."""

UNSETTLED = ("resized", "building")
"""Values of vm_state in which a build or a resize of a server is not finished."""


# --- the server's records ---


def check_records(snapshot: ServerSnapshot) -> CheckResults:
    """Check the rows that a plan needs."""
    name = snapshot.server_name
    if snapshot.build_request:
        yield refusal(
            "build-request", f"{name} is still being built", "wait until it has been built (openstack server show)"
        )
    if snapshot.mapping is None or not snapshot.mapping.cell_uuid:
        yield refusal(
            "no-mapping",
            f"{name} is mapped to no cell",
            "if it is not being built now: nova-manage cell_v2 map_instances --cell_uuid, of the cell that has its record",
        )
        return
    if snapshot.mapping.queued_for_delete:
        yield refusal("being-deleted", f"{name} is being deleted (its mapping is queued for delete)", "nothing to move")
    if snapshot.mapping.cell_uuid == CELL0_UUID:
        yield refusal("cell0", f"{name} was never built: it is in cell0", "there is nothing to move")
    elif snapshot.server is None:
        yield refusal(
            "no-record",
            f"the API maps {name} to {snapshot.source_cell}, which has no record of it",
            "look for it in the other cells' table instances before anything else",
        )
    elif snapshot.server.flavor is None:
        yield refusal("no-flavor", f"the record of {name} holds no readable flavor", "repair instance_extra.flavor")
    elif snapshot.server.hidden:
        yield refusal(
            "hidden",
            f"the record of {name} in {snapshot.source_cell} is hidden, although the instance mapping points there: "
            "a move was not completed",
            "finish or roll back that move (cellmove list; openstack server migration list)",
        )
    if not snapshot.request_spec:
        yield refusal(
            "no-request-spec",
            f"{name} has no request spec",
            "put its row of request_specs back from a copy of the API database; nova has no tool that makes one",
        )


# --- its state ---

BACK_TO_WORK = {
    "resized": "confirm or revert the earlier resize first (openstack server resize confirm|revert {id}; "
    "one between cells also with cellmove: cellmove adopt {id})",
    "error": "find out what happened (openstack server show {id}; openstack server event list {id}) and repair it first; "
    "before a hard reboot be sure that its guest runs on no other host",
    "paused": "openstack server unpause {id}",
    "suspended": "openstack server resume {id}",
    "shelved": "openstack server unshelve {id}",
    "shelved_offloaded": "openstack server unshelve {id}",
    "rescued": "openstack server unrescue {id}",
    "soft-delete": "openstack server restore {id}",
}


def check_mark(snapshot: ServerSnapshot) -> CheckResults:
    """Check for the ownership mark of a move that this journal does not record."""
    found = mark_of({KEY: snapshot.instance.mark})
    if found is not None:
        yield refusal(
            "being-moved",
            f"cellmove is moving it already: {found.move_id}, recorded in {found.owner or 'a journal unknown here'}",
            f"continue there with {resume_elsewhere(found.owner, found.move_id)}; "
            f"if that journal is lost, cellmove adopt {snapshot.server_id} rebuilds it",
        )


def is_busy(snapshot: ServerSnapshot) -> bool:
    """Return whether the server is being built, moved, deleted or changed.

    No other check applies then, because its records, attachments, bindings and allocations are incomplete.
    """
    server, mapping = snapshot.instance, snapshot.mapping
    return (
        bool(server.task_state)
        or server.hidden
        or server.vm_state in UNSETTLED
        or snapshot.build_request
        or (mapping is not None and mapping.queued_for_delete)
        or any(migration.status in UNFINISHED for migration in snapshot.migrations)
    )


def check_busy(snapshot: ServerSnapshot) -> CheckResults:
    """Check a busy server for the states in which it is busy."""
    if snapshot.instance.vm_state in UNSETTLED:
        yield from _check_vm_state(snapshot)
    yield from _check_task(snapshot)


def check_state(snapshot: ServerSnapshot) -> CheckResults:
    """Check the state, the task and the lock of the server."""
    server = snapshot.instance
    yield from _check_vm_state(snapshot)
    yield from _check_task(snapshot)
    if server.locked and not snapshot.force_locked:
        yield refusal(
            "locked",
            f"the server is locked by its {server.locked_by or 'owner'}",
            f"openstack server unlock {server.uuid}, or add --force-locked",
        )


def _is_closed(snapshot: ServerSnapshot) -> bool:
    """Return whether all hosts of the source cell are disabled. nova unshelves an offloaded server only in its cell."""
    computes = [service for service in snapshot.source_services if service.binary == "nova-compute" and service.up]
    return all(service.disabled for service in computes)


def _check_vm_state(snapshot: ServerSnapshot) -> CheckResults:
    server = snapshot.instance
    if server.vm_state not in ("active", "stopped"):
        remedy = BACK_TO_WORK.get(server.vm_state, "wait until it is active or stopped").format(id=server.uuid)
        if server.vm_state == "shelved_offloaded" and _is_closed(snapshot):
            remedy = (
                f"leave it, or decide with its owner: {snapshot.source_cell} takes no server, so nova cannot unshelve it "
                "there. With a host of that cell open (openstack compute service set --enable HOST nova-compute) it can "
                f"be unshelved (openstack server unshelve {server.uuid}) and moved"
            )
        yield refusal(
            "vm-state", f"the server is {server.vm_state}; only active and stopped servers can be moved", remedy
        )


def _check_task(snapshot: ServerSnapshot) -> CheckResults:
    server = snapshot.instance
    if server.task_state:
        yield refusal(
            "task-state",
            f"the server is busy: task state {server.task_state}",
            f"wait until that has ended (openstack server show {server.uuid})",
        )


def check_migrations(snapshot: ServerSnapshot) -> CheckResults:
    """Check for an earlier migration that has not ended."""
    for migration in snapshot.migrations:
        if migration.status in UNFINISHED:
            source, target = (
                host or "a host that is not recorded" for host in (migration.source_compute, migration.dest_compute)
            )
            yield refusal(
                "unfinished-migration",
                f"nova has not ended its {migration.migration_type or 'migration'} from {source} to {target}: "
                f"the record {migration.uuid or 'without a UUID'} has the status {migration.status}"
                + (", which is neither confirmed nor reverted" if migration.status == "finished" else ""),
                f"cellmove audit --repair --server {snapshot.server_id}"
                "  # settles an old record while nothing works on the server; else wait until it has ended",
            )


def check_group(snapshot: ServerSnapshot) -> CheckResults:
    """Warn of a server group, whose policy may leave the scheduler no host."""
    group = snapshot.group
    if group is None:
        return
    elsewhere = ", ".join(snapshot.group_hosts) or "no host"
    if group.policy in ("affinity", "soft-affinity") and snapshot.group_hosts:
        yield warning(
            "server-group",
            f"the server is in the server group {group.name} ({group.policy}) whose other members are on {elsewhere}; "
            + ("no other host will be accepted" if group.policy == "affinity" else "the group will be split"),
            "move the whole group",
        )
    elif snapshot.group_hosts:
        yield warning(
            "server-group",
            f"the server is in the server group {group.name} ({group.policy}); "
            + (
                f"the scheduler refuses the hosts of its other members: {elsewhere}"
                if group.policy == "anti-affinity"
                else f"the scheduler avoids the hosts of its other members if it can: {elsewhere}"
            ),
        )


def check_config_drive(snapshot: ServerSnapshot) -> CheckResults:
    """Warn of a config drive that nova builds anew at the destination. A stream copies it instead."""
    if snapshot.instance.config_drive and snapshot.transfer != STREAM:
        text = (
            "nova builds a new config drive in the other cell from the server's present metadata; "
            "files injected when the server was built (personality) are not on it"
        )
        if "config-drive" in snapshot.accepted_losses:
            yield warning("config-drive", f"{text}; accepted (--accept-loss)")
        else:
            yield warning(
                "config-drive", text, "save such files from the config drive first if the guest still needs them"
            )


def state_ok(snapshot: ServerSnapshot) -> str:
    return f"{snapshot.server_name} is {snapshot.instance.vm_state}, idle and " + (
        "locked, which --force-locked overrides" if snapshot.instance.locked else "not locked"
    )


# --- where it is ---


def check_source(snapshot: ServerSnapshot) -> CheckResults:
    """Check nova-compute and nova-conductor of the source."""
    host, cell, compute = snapshot.instance.host, snapshot.source_cell, snapshot.source_compute
    if not host:
        yield refusal("no-host", "the server is on no host", "start or unshelve the server first")
    elif compute is None:
        yield refusal("source-unknown", f"{cell} has no nova-compute on {host}", f"start nova-compute on {host}")
    else:
        if not compute.up:
            yield refusal(
                "source-down",
                f"nova-compute on {host}, where it is, is down",
                "start nova-compute there: only one that runs can hand a guest over",
            )
        if compute.version < OLDEST_COMPUTE:
            yield refusal(
                "source-too-old",
                f"nova-compute on {host} is older than Ussuri (service version {compute.version} < {OLDEST_COMPUTE})",
                "upgrade that host, or move the server within its cell to a newer one first",
            )
    if not conductors_up(snapshot.source_services):
        yield refusal("source-conductor-down", f"no nova-conductor of {cell} is up", f"start nova-conductor in {cell}")


def check_allocations(snapshot: ServerSnapshot) -> CheckResults:
    """Check the allocations of the server."""
    nodes = {node.uuid for node in snapshot.source_nodes if node.host == snapshot.instance.host}
    heal = f"nova-manage placement heal_allocations --instance {snapshot.server_id}"
    if not snapshot.allocations:
        yield refusal(
            "no-allocations",
            "placement has no allocations of the server, so none can be moved",
            f"cellmove audit --server {snapshot.server_id} tells whether an ended migration holds them; if none does: {heal}",
        )
    elif snapshot.instance.host and nodes.isdisjoint(snapshot.allocations):
        yield warning(
            "allocations",
            "placement has allocations of the server, but none on its host",
            f"{heal} --force (nova 22 and later) corrects them",
        )


def source_ok(snapshot: ServerSnapshot) -> str:
    compute = snapshot.source_compute
    version = compute.version if compute else 0
    disabled = ", disabled" if compute and compute.disabled else ""
    return (
        f"{snapshot.instance.host} in {snapshot.source_cell} is up (nova-compute, service version {version}{disabled})"
    )
