"""Whether nova's scheduler is going to accept a server: it is asked, and nothing is claimed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cellmove.checks import target
from cellmove.checks.access import API
from cellmove.checks.snapshot import NoHost, unsuitable
from cellmove.core.errors import CallFailed
from cellmove.db import look, state
from cellmove.hosts import conductor, scheduler
from cellmove.hosts.context import request_context
from cellmove.hosts.transport import RpcContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cellmove.checks.snapshot import ServerSnapshot
    from cellmove.core.clock import Clock
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway
    from cellmove.hosts.transport import Primitive


def with_scheduler(gateway: Gateway, clock: Clock, snapshot: ServerSnapshot) -> ServerSnapshot:
    """Add what the scheduler says of the cells that nothing else speaks against, one after the other.

    A move asks them in the same order and goes to the first that has a host, so the others are not asked.

    :raises CannotConnect: the API-level bus cannot be reached
    :raises CallUncertain: no scheduler answers
    """
    cells = target.allowed_targets(snapshot)
    if (
        not cells
        or API in snapshot.bus_errors
        or not snapshot.request_spec
        or snapshot.instance.mark
        or snapshot.instance.task_state
    ):
        return snapshot
    request_id = f"req-{clock.new_uuid()}"
    rpc = request_context(gateway, clock, request_id)
    refused: dict[str, NoHost] = {}
    try:
        spec = conductor.request_spec(gateway.api_bus, rpc, snapshot.server_id)
        flavor = _flavor(gateway, rpc, snapshot)
    except CallFailed as error:
        failed = NoHost(str(error), request_id, is_certain=False)
        return dataclasses.replace(snapshot, no_host=dict.fromkeys((each.uuid for each in cells), failed))
    for each in cells:
        prepared = _prepared(snapshot, spec, flavor, gateway.cell(each.uuid), unsuitable(each, snapshot))
        try:
            scheduler.forecast(gateway.api_bus, rpc, prepared)
            break
        except CallFailed as error:
            words = str(error).removeprefix(f"{error.kind}: ")
            refused[each.uuid] = NoHost(words, request_id, is_certain=error.kind == "NoValidHost")
    if not refused:
        return snapshot
    return dataclasses.replace(snapshot, no_host=refused, aggregates=tuple(look.aggregates(gateway.api_engine)))


def _flavor(gateway: Gateway, rpc: RpcContext, snapshot: ServerSnapshot) -> Primitive:
    """The flavor that the server will have, as an object."""
    if snapshot.new_flavor is not None:
        return conductor.flavor(gateway.api_bus, rpc, snapshot.new_flavor.flavorid)
    source = gateway.database(gateway.cell(snapshot.mapping.cell_uuid if snapshot.mapping else ""))
    return state.current_flavor(state.read_extra(source, snapshot.server_id))


def _prepared(
    snapshot: ServerSnapshot, spec: Primitive, flavor: Primitive, cell: Cell, ruled_out: Iterable[str]
) -> Primitive:
    """What the scheduler is asked, as :mod:`cellmove.steps.choose_host` will ask it."""
    owner = {"project_id": snapshot.instance.project_id, "user_id": snapshot.instance.user_id}
    return scheduler.prepare_spec(
        spec,
        scheduler.HostRequest(
            flavor=flavor,
            instance={"nova_object.data": owner},
            is_volume_backed=snapshot.is_volume_backed,
            ignore_hosts=[snapshot.instance.host, *ruled_out],
            destination=scheduler.destination(cell=cell, host=snapshot.wanted_host),
            group_hosts=snapshot.group_hosts,
        ),
    )
