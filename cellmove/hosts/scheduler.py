"""Asks nova's own scheduler for a host in another cell.

The cloud's filters, weighers and claims apply. One request differs from nova's own: a requested destination with ``cell`` set
to the target and ``allow_cross_cell_move`` off restricts the choice to that cell (nova/scheduler/host_manager.py, "only_cell").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cellmove.core.errors import CallFailed
from cellmove.core.move_plan import Selection
from cellmove.db.cells import Cell
from cellmove.hosts.bus import Bus, call
from cellmove.hosts.conductor import data
from cellmove.hosts.transport import Primitive, Result, RpcContext, Target

SCHEDULER = Target(topic="scheduler", version="4.5")

FORECAST_SECONDS = 20.0
"""How long the scheduler may be silent when it claims nothing."""

NEVER_NULL = ("network_metadata", "requested_networks", "request_level_params", "security_groups")
"""RequestSpec fields that the scheduler refuses as None. They are left out instead."""


def destination(*, cell: Cell | None, host: str = "", node: str = "") -> Primitive:
    """Return a Destination object: a cell, or a host in any cell.

    The field ``host`` is absent when there is no host: the scheduler refuses None.
    """
    fields: Primitive = {
        "cell": None if cell is None else _cell_mapping(cell),
        "allow_cross_cell_move": cell is None,
        "aggregates": None,
        "node": node or None,
    }
    if host:
        fields["host"] = host
    return _object("Destination", "1.3", fields)


@dataclass(frozen=True)
class HostRequest:
    """What one move changes in the server's request spec.

    :param flavor: the Flavor object of the target
    :param instance: the Instance object
    :param ignore_hosts: hosts that must not be chosen
    :param destination: see :func:`destination`
    :param group_hosts: hosts with servers of the same server group now
    """

    flavor: Primitive
    instance: Primitive
    is_volume_backed: bool
    ignore_hosts: Sequence[str]
    destination: Primitive
    group_hosts: Sequence[str]


def prepare_spec(spec: Primitive, request: HostRequest) -> Primitive:
    """Return the request spec as nova's conductor would send it for this move (nova/conductor/tasks/migrate.py).

    Forced hosts are removed, missing owner and backing are filled in, and the hosts of the server group are current.
    """
    fields = dict(data(spec))
    owner = data(request.instance)
    fields |= {
        "flavor": request.flavor,
        "ignore_hosts": list(request.ignore_hosts),
        "force_hosts": None,
        "force_nodes": None,
        "retry": None,
        "requested_destination": request.destination,
        "requested_resources": [],
        "num_instances": 1,
        "is_bfv": request.is_volume_backed,
        "project_id": fields.get("project_id") or owner["project_id"],
        "user_id": fields.get("user_id") or owner["user_id"],
    }
    for name in NEVER_NULL:
        if fields.get(name) is None:
            fields.pop(name, None)
    group = fields.get("instance_group")
    if group is not None:
        fields["instance_group"] = {**group, "nova_object.data": {**data(group), "hosts": list(request.group_hosts)}}
    return {**spec, "nova_object.data": fields}


def select(bus: Bus, context: RpcContext, spec: Primitive, server_id: str) -> list[Selection]:
    """Ask for a host. The first selection is already claimed in placement; the others are alternates.

    :raises CallFailed: ``kind`` NoValidHost when no host fits
    """
    answer = call(
        bus,
        SCHEDULER,
        context,
        "select_destinations",
        {"instance_uuids": [server_id], "spec_obj": spec, "return_objects": True, "return_alternates": True},
        long=True,
    )
    return _selections(answer)


def forecast(bus: Bus, context: RpcContext, spec: Primitive) -> list[Selection]:
    """Ask which host the scheduler would choose. It claims nothing.

    Without ``instance_uuids`` nova's scheduler runs its request filters, placement's candidates, its filters and weighers, and
    omits the claim (nova/scheduler/manager.py, ``_schedule`` and ``_legacy_find_hosts``; up to Wallaby in
    filter_scheduler.py). Every release from Ussuri on does so.

    The scheduler has to send a heartbeat every :data:`FORECAST_SECONDS`.

    :param spec: see :func:`prepare_spec`
    :raises CallFailed: ``kind`` NoValidHost when no host fits
    :raises CallUncertain: no scheduler answered
    """
    limited = replace(bus, response_timeout=min(bus.response_timeout, FORECAST_SECONDS))
    arguments = {"instance_uuids": None, "spec_obj": spec, "return_objects": True, "return_alternates": True}
    answer = call(limited, SCHEDULER, context, "select_destinations", arguments, long=True)
    return _selections(answer)


def _selections(answer: Result) -> list[Selection]:
    """Return the selections for the one server of a request.

    :raises CallFailed: ``kind`` is NoValidHost when there is none, ``answer`` when the answer cannot be parsed
    """
    try:
        if not answer or not answer[0]:
            raise CallFailed("the scheduler returned no host", kind="NoValidHost")
        return [_selection(primitive) for primitive in answer[0]]
    except (KeyError, TypeError, ValueError, IndexError):
        raise CallFailed("the answer of the scheduler cannot be parsed", kind="answer") from None


def _selection(primitive: Primitive) -> Selection:
    fields = data(primitive)
    request = fields.get("allocation_request")
    return Selection(
        host=fields["service_host"],
        node=fields["nodename"],
        cell_uuid=fields["cell_uuid"],
        compute_node_uuid=fields.get("compute_node_uuid", ""),
        limits=fields.get("limits"),
        allocation_request=json.loads(request) if request else {},
        allocation_request_version=fields.get("allocation_request_version") or "",
    )


def _cell_mapping(cell: Cell) -> Primitive:
    return _object(
        "CellMapping",
        "1.1",
        {
            "id": cell.id,
            "uuid": cell.uuid,
            "name": cell.nova_name,
            "transport_url": cell.transport_url,
            "database_connection": cell.database_url,
            "disabled": cell.disabled,
        },
    )


def _object(name: str, version: str, fields: Primitive) -> Primitive:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": dict(fields),
    }
