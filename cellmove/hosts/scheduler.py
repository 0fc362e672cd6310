"""nova's own scheduler, asked for a host in another cell.

Every filter, weigher and claim stays the cloud's. What is not native is one trick: a requested
destination with ``cell`` set to the target and ``allow_cross_cell_move`` off restricts the choice to
that cell (nova/scheduler/host_manager.py, "only_cell").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellmove.core.errors import CallFailed
from cellmove.db.cells import Cell
from cellmove.hosts.bus import Bus, Target, call
from cellmove.hosts.conductor import Primitive, data

SCHEDULER = Target(topic="scheduler", version="4.5")

FORECAST_SECONDS = 20.0
"""How long a scheduler that claims nothing may be silent."""

NEVER_NULL = ("network_metadata", "requested_networks", "request_level_params", "security_groups")
"""RequestSpec fields whose receiver refuses None: they are left out instead."""


@dataclass(frozen=True)
class Selection:
    """A host that the scheduler chose.

    :param limits: the SchedulerLimits primitive for the claim
    """

    host: str
    node: str
    cell_uuid: str
    compute_node_uuid: str
    limits: Primitive | None
    allocation_request: Mapping[str, Any]
    allocation_request_version: str


def destination(*, cell: Cell | None, host: str = "", node: str = "") -> Primitive:
    """A Destination object: one cell, or one host wherever it is.

    A host that is not set has to be absent, not None.
    """
    fields: dict[str, Any] = {
        "cell": None if cell is None else _cell_mapping(cell),
        "allow_cross_cell_move": cell is None,
        "aggregates": None,
        "node": node or None,
    }
    if host:
        fields["host"] = host
    return _object("Destination", "1.3", fields)


def prepare_spec(
    spec: Primitive,
    *,
    flavor: Primitive,
    instance: Primitive,
    volume_backed: bool,
    ignore_hosts: Sequence[str],
    requested_destination: Primitive,
    group_hosts: Sequence[str],
) -> Primitive:
    """The request spec as nova's conductor would send it for this move (nova/conductor/tasks/migrate.py).

    Forced hosts are dropped, owner and backing healed, the live server group's hosts filled in.
    """
    fields = dict(data(spec))
    owner = data(instance)
    fields |= {
        "flavor": flavor,
        "ignore_hosts": list(ignore_hosts),
        "force_hosts": None,
        "force_nodes": None,
        "retry": None,
        "requested_destination": requested_destination,
        "requested_resources": [],
        "num_instances": 1,
        "is_bfv": volume_backed,
        "project_id": fields.get("project_id") or owner["project_id"],
        "user_id": fields.get("user_id") or owner["user_id"],
    }
    for name in NEVER_NULL:
        if fields.get(name) is None:
            fields.pop(name, None)
    group = fields.get("instance_group")
    if group is not None:
        fields["instance_group"] = {**group, "nova_object.data": {**data(group), "hosts": list(group_hosts)}}
    return {**spec, "nova_object.data": fields}


def select(bus: Bus, context: Mapping[str, Any], spec: Primitive, server_id: str) -> list[Selection]:
    """Ask for a host. The first answer is already claimed in placement; the others are alternates.

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


def forecast(bus: Bus, context: Mapping[str, Any], spec: Primitive) -> list[Selection]:
    """Ask which host would be chosen. Nothing is claimed.

    Without ``instance_uuids`` nova's scheduler goes through its request filters, placement's candidates,
    its filters and weighers as ever, and leaves out the claim (nova/scheduler/manager.py, ``_schedule`` and
    ``_legacy_find_hosts``; up to Wallaby in filter_scheduler.py). Every release from Ussuri on does so.

    The scheduler has to take the call within :data:`FORECAST_SECONDS` and to show signs of life as often.

    :param spec: as :func:`prepare_spec` gives it
    :raises CallFailed: ``kind`` NoValidHost when no host fits
    :raises CallUncertain: no scheduler answered
    """
    patient = replace(bus, response_timeout=min(bus.response_timeout, FORECAST_SECONDS))
    arguments = {"instance_uuids": None, "spec_obj": spec, "return_objects": True, "return_alternates": True}
    answer = call(patient, SCHEDULER, context, "select_destinations", arguments, long=True)
    return _selections(answer)


def _selections(answer: Any) -> list[Selection]:
    """The hosts of the one server that was asked about.

    :raises CallFailed: ``kind`` is NoValidHost when there is none, ``answer`` when it is not understood
    """
    try:
        if not answer or not answer[0]:
            raise CallFailed("the scheduler gave no host", kind="NoValidHost")
        return [_selection(primitive) for primitive in answer[0]]
    except (KeyError, TypeError, ValueError, IndexError):
        raise CallFailed("the answer of the scheduler is not understood", kind="answer") from None


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


def _object(name: str, version: str, fields: Mapping[str, Any]) -> Primitive:
    return {
        "nova_object.name": name,
        "nova_object.namespace": "nova",
        "nova_object.version": version,
        "nova_object.data": dict(fields),
    }
