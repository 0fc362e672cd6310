"""Looks at a server after its move was rolled back: what may be said of it, and what is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cellmove.cloud import network, servers, volume
from cellmove.core.errors import CallError, NotFound
from cellmove.db import state
from cellmove.engine.action import Context, HomeReport
from cellmove.steps import endpoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellmove.core.move_plan import MovePlan
    from cellmove.db.types import Record

RUNNING, SHUT_DOWN = 1, 4  # nova/compute/power_state.py
POWER = {RUNNING: "running", SHUT_DOWN: "shut down"}
CONNECTED = "attached"


def look_home(context: Context) -> HomeReport:
    """Look at a server's row, at what nova shows of it, its ports' bindings and its volumes' attachments.

    :returns: what was seen; what could not be looked at is named there and not judged
    """
    server = endpoints.server_id(context)
    seen: list[str] = []
    wrong: list[str] = []
    unseen: list[str] = []
    looks: tuple[tuple[str, Callable[[Context, list[str]], Iterator[str]]], ...] = (
        ("its row", _row),
        ("nova's API", _shown),
        ("its ports", _ports),
        ("its volumes", _volumes),
    )
    try:
        if _is_deleted(context):
            return HomeReport(
                f"{context.move.server_name} has no live row in {endpoints.source_cell(context).label} any more"
            )
    except CallError as error:
        return HomeReport(f"{context.move.server_name} ({server}) could not be looked at: {error}")
    for what, look in looks:
        try:
            wrong += look(context, seen)
        except CallError as error:
            unseen.append(f"{what} ({error})")
    text = f"looked at since: {context.move.server_name} {', '.join(seen)}" if seen else ""
    missed = f"not looked at: {', '.join(unseen)}" if unseen else ""
    return HomeReport("; ".join(part for part in (text, missed) if part), tuple(wrong))


def _is_deleted(context: Context) -> bool:
    return state.read_instance(endpoints.source(context), endpoints.server_id(context)) is None


def _row(context: Context, seen: list[str]) -> Iterator[str]:
    plan, server, cell = context.plan, endpoints.server_id(context), endpoints.source_cell(context)
    row = endpoints.row(endpoints.source(context), server)
    power = POWER.get(row["power_state"], f"power state {row['power_state']}")
    busy = f", busy with {row['task_state']}" if row["task_state"] else ""
    seen.append(f"is {row['vm_state']} and {power} on {row['host'] or 'no host'} in {cell.label}{busy}")
    mapped = state.mapped_cell(context.gateway.api_engine, server)
    if mapped != cell.id:
        yield f"its mapping does not point at {cell.label}"
    if row["hidden"]:
        yield f"its row in {cell.label} is hidden"
    if row["host"] != plan.source_host:
        yield f"it was on {plan.source_host} before"
    if row["task_state"] is None:  # else its owner, or nova, is at work on it again
        yield from _states(plan, row)


def _states(plan: MovePlan, row: Record) -> Iterator[str]:
    if row["vm_state"] != plan.vm_state:
        yield f"it was {plan.vm_state} before and is {row['vm_state']}"
    if plan.active and row["power_state"] == SHUT_DOWN:
        yield "its guest ran before and is shut down"


def _shown(context: Context, seen: list[str]) -> Iterator[str]:
    try:
        shown = servers.get_server(context.gateway.admin, endpoints.server_id(context))
    except NotFound:
        yield "nova's API does not show it"
        return
    seen.append(f"nova shows {shown.get('status')}")


def _ports(context: Context, seen: list[str]) -> Iterator[str]:
    host, ports = context.plan.source_host, network.ports_of(context.gateway.service, endpoints.server_id(context))
    elsewhere = [port for port in ports if port.host != host]
    if ports:
        seen.append(f"{_share(len(ports) - len(elsewhere), len(ports), 'port')} bound to {host}")
    for port in elsewhere:
        yield f"port {port.id} is bound to {port.host or 'no host'}"


def _volumes(context: Context, seen: list[str]) -> Iterator[str]:
    server = endpoints.server_id(context)
    mappings = state.volume_mappings(endpoints.source(context), server)
    if not mappings:
        return
    status = {each.id: each.status for each in volume.attachments_of(context.gateway.admin, server)}
    attached = sum(1 for each in mappings if status.get(each["attachment_id"]) == CONNECTED)
    seen.append(f"{_share(attached, len(mappings), 'volume')} attached")
    for each in mappings:
        how = status.get(each["attachment_id"])
        if how is None:
            yield f"volume {each['volume_id']} has no attachment {each['attachment_id'] or ''}".rstrip()
        elif how != CONNECTED:
            yield f"volume {each['volume_id']} is {how}, not attached"


def _share(number: int, total: int, what: str) -> str:
    """How many of them, for a person."""
    many = f"{total} {what}{'s' if total != 1 else ''}"
    return f"its {many}" if number == total else f"{number} of its {many}"
