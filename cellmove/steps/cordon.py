"""Closes a cell to new servers while it is emptied, and opens it again: one action a service, and one for the cell.

What was closed before is never touched, neither now nor when all is rolled back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.cloud import services
from cellmove.core.cell_names import CellRef, recorded_ref
from cellmove.core.documents import IF_SET, Nothing, structure
from cellmove.core.move import Phase
from cellmove.db import cells
from cellmove.engine.action import Action, AnyAction, Context
from cellmove.engine.record import ActionType

if TYPE_CHECKING:
    from cellmove.core.move import Entry, Move


@dataclass(frozen=True)
class CordonPlan:
    """What the journal keeps of a drain's cordon.

    :param cell_uuid: of the cell that is emptied
    :param hosts: whose compute services are to be disabled
    :param closes_cell: the cell is disabled as well
    :param was_ours: it was an earlier drain of ours that has disabled the cell, if it is disabled
    :param command: the command line that goes on with the drain
    :param source_cell: display name of the cell
    """

    cell_uuid: str
    hosts: tuple[str, ...]
    closes_cell: bool
    was_ours: bool = False
    command: str = field(default="", metadata=IF_SET)
    source_cell: str = field(default="", metadata=IF_SET)
    source_cell_uuid: str = field(default="", metadata=IF_SET)


@dataclass(frozen=True)
class Closed:
    """Whether it was this action that closed it."""

    changed: bool


@dataclass(frozen=True)
class CellBefore:
    """Whether the cell was disabled by somebody else before."""

    was_disabled: bool


NAME_LENGTH = 100
"""Letters of a cell's name in the reason that nova keeps, which has room for 255 letters (services.disabled_reason)."""

CELL = "disable-cell"
"""The action that disables the cell."""

SCHEDULER = "nova-scheduler reads which cells are disabled when it starts: send it SIGHUP, or restart it"


def plan_of(move: Move) -> CordonPlan:
    """What a drain's record says of its cordon."""
    return structure(CordonPlan, move.plan, f"the record {move.id}")


def has_closed(entry: Entry) -> bool:
    """Whether a line says that the cell was disabled by this drain."""
    result = structure(Closed, entry.result, f"the result of {entry.action}") if entry.phase is Phase.DONE else None
    return entry.action == CELL and result is not None and result.changed


def actions_for(move: Move) -> tuple[AnyAction, ...]:
    """The actions of a drain's record."""
    plan = plan_of(move)
    actions: list[AnyAction] = [_service_action(move, host) for host in plan.hosts]
    return (*actions, _cell_action(move, plan)) if plan.closes_cell else tuple(actions)


def reason_of(move: Move) -> str:
    """What stands in a service that this drain has disabled."""
    cell = cell_of(move)
    return f"cellmove {move.id}: {cell.label[:NAME_LENGTH]} ({cell.uuid}) is being emptied"


def cell_of(move: Move) -> CellRef:
    """The cell that a drain's record is about."""
    return recorded_ref(move.server_id, move.server_name)


def is_of_a_drain(reason: str | None, cell: CellRef) -> bool:
    """Whether a service was disabled by a drain of this cell, whichever it was.

    Earlier versions wrote only the cell's name.
    """
    known = rf".* \({re.escape(cell.uuid)}\)|{re.escape(cell.label)}"
    return re.fullmatch(rf"cellmove drain-\w+: (?:{known}) is being emptied", reason or "", re.DOTALL) is not None


def _is_of_this(reason: str | None, move: Move) -> bool:
    """Whether it was this drain that disabled a service, in whichever version's words."""
    return is_of_a_drain(reason, cell_of(move)) and (reason or "").startswith(f"cellmove {move.id}: ")


def _service_action(move: Move, host: str) -> AnyAction:
    reason = reason_of(move)

    def close(context: Context, _intent: Nothing) -> Closed:
        service = services.compute_service(context.gateway.admin, host)
        if service is None or (service.disabled and not is_of_a_drain(service.reason, cell_of(move))):
            return Closed(changed=False)
        if not service.disabled or service.reason != reason:
            services.disable(context.gateway.admin, service, reason)
        return Closed(changed=True)

    def reopen(context: Context, _intent: object, _result: object) -> None:
        service = services.compute_service(context.gateway.admin, host)
        if service is not None and service.disabled and _is_of_this(service.reason, move):
            services.enable(context.gateway.admin, service)

    title = f"disable nova-compute on {host}".replace("{", "{{").replace("}", "}}")
    kind = ActionType(f"disable/{host}"[:64], Nothing, Closed)
    return Action(kind, title, close, undo=reopen)


def _another_drain(context: Context, move: Move) -> str:
    """Return the reason in a service that another drain of the cell has disabled since; empty when there is none.

    The cell's own flag does not say who set it. An older copy of a journal may still have a drain that is over.
    """
    found = services.compute_services(context.gateway.admin)
    reasons = (each.reason for each in found if each.disabled and is_of_a_drain(each.reason, cell_of(move)))
    return next((reason for reason in reasons if reason is not None and not _is_of_this(reason, move)), "")


def _cell_action(move: Move, plan: CordonPlan) -> AnyAction:
    uuid = plan.cell_uuid

    def before(context: Context) -> CellBefore:
        return CellBefore(context.gateway.cell(uuid).disabled and not plan.was_ours)

    def close(context: Context, intent: CellBefore) -> Closed:
        if intent.was_disabled:
            return Closed(changed=False)
        cells.set_disabled(context.gateway.api_engine, uuid, disabled=True)
        context.note(SCHEDULER)
        return Closed(changed=True)

    def reopen(context: Context, intent: CellBefore, _result: object) -> None:
        if intent.was_disabled:
            return
        other = _another_drain(context, move)
        if other:
            context.note(f"{cell_of(move)} stays disabled for scheduling: another drain empties it ({other})")
            return
        cells.set_disabled(context.gateway.api_engine, uuid, disabled=False)
        context.note(SCHEDULER)

    title = f"disable {cell_of(move)} for scheduling".replace("{", "{{").replace("}", "}}")
    return Action(ActionType(CELL, CellBefore, Closed), title, close, intend=before, undo=reopen)
