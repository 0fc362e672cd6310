"""Closes a cell to new servers while it is emptied, and opens it again: one action a service, and one for the cell.

What was closed before is never touched, neither now nor when all is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellmove.action import Action, Context
from cellmove.cloud import services
from cellmove.db import cells

if TYPE_CHECKING:
    from cellmove.move import Move

CHANGED = "changed"
"""Key of an action's result: whether it was this action that closed it."""

SCHEDULER = "nova-scheduler reads which cells are disabled when it starts: send it SIGHUP, or restart it"


def plan_of(cell_uuid: str, hosts: Sequence[str], *, closes_cell: bool) -> dict[str, Any]:
    """What the journal keeps of a drain's cordon, as plain JSON values.

    :param hosts: whose compute services are to be disabled
    """
    return {"cell_uuid": cell_uuid, "hosts": list(hosts), "closes_cell": closes_cell}


def actions_for(move: Move) -> tuple[Action, ...]:
    """The actions of a drain's record."""
    actions = [_service_action(move, host) for host in move.plan["hosts"]]
    return (*actions, _cell_action(move)) if move.plan["closes_cell"] else tuple(actions)


def reason_of(move: Move) -> str:
    """What stands in a service that this drain has disabled."""
    return f"cellmove {move.id}: {move.server_name} is being emptied"


def _service_action(move: Move, host: str) -> Action:
    reason = reason_of(move)

    def close(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
        service = services.compute_service(context.gateway.admin, host)
        if service is None or (service.disabled and service.reason != reason):
            return {CHANGED: False}
        if not service.disabled:
            services.disable(context.gateway.admin, service, reason)
        return {CHANGED: True}

    def reopen(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
        service = services.compute_service(context.gateway.admin, host)
        if service is not None and service.disabled and service.reason == reason:
            services.enable(context.gateway.admin, service)

    title = f"disable nova-compute on {host}".replace("{", "{{").replace("}", "}}")
    return Action(f"disable/{host}"[:64], title, close, undo=reopen)


def _cell_action(move: Move) -> Action:
    uuid = move.plan["cell_uuid"]

    def before(context: Context) -> Mapping[str, Any]:
        return {"was_disabled": context.gateway.cell(uuid).disabled}

    def close(context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
        if intent["was_disabled"]:
            return {CHANGED: False}
        cells.set_disabled(context.gateway.api_engine, uuid, disabled=True)
        context.note(SCHEDULER)
        return {CHANGED: True}

    def reopen(context: Context, intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
        if not intent["was_disabled"]:
            cells.set_disabled(context.gateway.api_engine, uuid, disabled=False)
            context.note(SCHEDULER)

    title = f"disable {move.server_name} for scheduling".replace("{", "{{").replace("}", "}}")
    return Action("disable-cell", title, close, intend=before, undo=reopen)
