"""The host that a server goes to: nova's own scheduler is asked, and what else it offers is tried when its first choice does not do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cellmove.checks.suitability import Needs, Unsuitable, unsuitable_hosts
from cellmove.cloud import placement
from cellmove.core.documents import NovaObject
from cellmove.core.errors import CallFailed
from cellmove.core.move_plan import ChosenHost, Selection
from cellmove.db import look, state
from cellmove.db.cells import Cell
from cellmove.engine.action import Context
from cellmove.hosts import conductor, scheduler
from cellmove.hosts.context import request_context
from cellmove.hosts.transport import RpcContext
from cellmove.steps import endpoints, reach, stream
from cellmove.steps.action_types import SCHEDULE, OfferedHosts


def offered(context: Context) -> OfferedHosts:
    """The hosts that are left of what the scheduler chose before, when its first choice did not do.

    nova's own conductor does not try them in a move between cells (nova/conductor/tasks/migrate.py,
    ``_execute``: CrossCellMigrationTask gets the first one alone).
    """
    failed = context.last_tried(SCHEDULE)
    return OfferedHosts(failed.alternates if failed is not None else None)


def has_alternative(context: Context) -> bool:
    most = context.plan.max_hosts or len(context.tried) + 2
    return bool(context[SCHEDULE].alternates) and len(context.tried) + 1 < most


def choose(context: Context, intent: OfferedHosts) -> ChosenHost:
    """Choose a host; while it is chosen, whoever counts the servers on their way to each host may rule some out."""
    with context.gateway.choosing(endpoints.server_id(context)) as choice:
        try:
            if intent.offered is not None:
                found = _next_host(context, intent.offered, choice.full)
            else:
                found = _ask(context, choice.full)
        except CallFailed as error:
            choice.rejected = bool(choice.full) and error.kind == "NoValidHost"
            raise
        choice.chosen = found.target_host
    return found


def _ask(context: Context, full: Sequence[str]) -> ChosenHost:
    """Ask the scheduler.

    :param full: hosts that may not be chosen
    """
    plan, server, gateway = context.plan, endpoints.server_id(context), context.gateway
    # An earlier run may have got a claim without its answer: the scheduler would add to it.
    placement.delete_allocations(gateway.admin, server, sleep=context.clock.sleep)
    rpc = request_context(gateway, context.clock, plan.request_id)
    instance = conductor.instance(gateway.bus(endpoints.source_cell(context)), rpc, server)
    spec = conductor.request_spec(gateway.api_bus, rpc, server)
    flavor = _flavor(context, rpc)
    group = conductor.data(spec).get("instance_group")
    members = conductor.data(group).get("members") or [] if group else []
    group_hosts = look.group_hosts(gateway, members, [server]) if members else []
    refused: CallFailed | None = None
    cells = [gateway.cell(word) for word in plan.allowed_cells]
    for cell in cells:
        if len(cells) > 1 and (why := reach.unusable(gateway, cell)):
            context.note(f"{cell.label} is left out: {why}")
            refused = refused or CallFailed(why, kind="unreachable")
            continue
        prepared = scheduler.prepare_spec(
            spec,
            scheduler.HostRequest(
                flavor=flavor,
                instance=instance,
                is_volume_backed=plan.volume_backed,
                ignore_hosts=[plan.source_host, *full, *_unsuitable(context, cell)],
                destination=scheduler.destination(cell=cell, host=plan.wanted_host),
                group_hosts=group_hosts,
            ),
        )
        try:
            chosen = scheduler.select(gateway.api_bus, rpc, prepared, server)
        except CallFailed as error:
            if error.kind != "NoValidHost":
                raise
            refused = _explained(context, cell, error)
            continue
        _hold_only(context, chosen[0])
        return _selected(context, cell, chosen, flavor)
    raise refused or CallFailed("there is no other cell", kind="NoValidHost")


def _unsuitable(context: Context, cell: Cell) -> dict[str, Unsuitable]:
    """The hosts of a cell that cannot serve this move, whatever the scheduler thinks of them."""
    database = context.gateway.database(cell)
    down_time = context.gateway.settings.service_down_time
    services = look.services_of(database, context.clock.heartbeat_time(), down_time)
    versions = {each.host: each.version for each in services if each.binary == look.COMPUTE}
    architecture, named = context.plan.architecture
    needs = Needs(stream.is_imaged(context), architecture, named, frozenset(context.plan.volume_zones))
    zones = _zones(context, versions) if needs.volume_zones else {}
    return unsuitable_hosts(look.nodes_of(database), versions, needs, zones)


def _zones(context: Context, hosts: Collection[str]) -> dict[str, str]:
    """The availability zone of each of these hosts."""
    gateway = context.gateway
    known = look.availability_zones(gateway.api_engine, hosts)
    return {host: known.get(host, gateway.settings.default_availability_zone) for host in hosts}


def _explained(context: Context, cell: Cell, error: CallFailed) -> CallFailed:
    """The scheduler's "no valid host" with the hosts that were ruled out before it was asked."""
    wanted = context.plan.wanted_host
    found = {host: why for host, why in _unsuitable(context, cell).items() if wanted in ("", host)}
    words = "; ".join(f"{host} {why.text}" for host, why in sorted(found.items())[:3])
    return CallFailed(f"{error}; not asked for: {words}", kind=error.kind) if found else error


def _next_host(context: Context, offered: Sequence[Selection], full: Sequence[str]) -> ChosenHost:
    """Claim the first of the offered hosts that still has room."""
    flavor = _flavor(context, request_context(context.gateway, context.clock, context.plan.request_id))
    refused = CallFailed("the scheduler offered no other host", kind="NoValidHost")
    for number, chosen in enumerate(offered):
        ruled_out = _unsuitable(context, context.gateway.cell(chosen.cell_uuid)).get(chosen.host)
        if ruled_out is not None:
            context.note(f"{chosen.host} is passed over: it {ruled_out.text}")
            continue
        if chosen.host in full:
            context.note(f"{chosen.host} is passed over: enough servers are on their way there")
            continue
        try:
            _hold_only(context, chosen)
        except CallFailed as error:
            if error.kind != "409":
                raise
            context.note(f"{chosen.host} has no room any more: {error}")
            refused = error
            continue
        return _selected(context, context.gateway.cell(chosen.cell_uuid), offered[number:], flavor)
    raise refused


def _flavor(context: Context, rpc: RpcContext) -> NovaObject:
    """The flavor that the server will have."""
    plan = context.plan
    if plan.is_resize:
        return conductor.flavor(context.gateway.api_bus, rpc, plan.new_flavor_id)
    return state.current_flavor(state.read_extra(endpoints.source(context), endpoints.server_id(context)))


def _hold_only(context: Context, chosen: Selection) -> None:
    """See to it that only the chosen host is claimed.

    An earlier request whose answer was lost may have been served late; the scheduler adds its claim
    to what is held already (nova/scheduler/client/report.py, claim_resources).
    """
    admin, server = context.gateway.admin, endpoints.server_id(context)
    wanted = chosen.allocation_request.get("allocations") or {}
    held = placement.allocations_of(admin, server)["allocations"]
    if wanted and placement.resources_of(held) != placement.resources_of(wanted):
        placement.delete_allocations(admin, server, sleep=context.clock.sleep)
        request, version = chosen.allocation_request, chosen.allocation_request_version
        claim = placement.Claim(server, request, version, context.plan.project_id, context.plan.user_id)
        placement.claim(admin, claim, sleep=context.clock.sleep)


def _selected(context: Context, cell: Cell, chosen: Sequence[Selection], flavor: NovaObject) -> ChosenHost:
    first = chosen[0]
    if first.cell_uuid != cell.uuid:
        raise CallFailed(f"the scheduler chose {first.host}, which is not in {cell.label}", kind="wrong-cell")
    if context.plan.wanted_host not in ("", first.host):
        raise CallFailed(f"the scheduler chose {first.host} instead of {context.plan.wanted_host}", kind="wrong-host")
    return ChosenHost(
        target_cell=cell.label,
        target_cell_uuid=cell.uuid,
        target_host=first.host,
        target_node=first.node,
        limits=first.limits,
        alternates=tuple(chosen[1:]),
        new_flavor=flavor,
    )
