"""Logs in to the message buses that a move will use, before anything is written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cellmove.checks.access import API, UNREACHABLE
from cellmove.errors import CannotConnect
from cellmove.hosts import bus as bus_module

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cellmove.checks.finding import Check
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway
    from cellmove.picture import Picture


def with_buses(gateway: Gateway, picture: Picture, source: Cell) -> Picture:
    """Add which of the buses that the move may use cannot be used: the API level's, the source's, the targets'."""
    own = {API: _error(gateway, None), source.name: _error(gateway, source)}
    targets = (
        each if each.unreachable else dataclasses.replace(each, bus_error=_error(gateway, gateway.cell(each.uuid)))
        for each in picture.targets
    )
    errors = {whose: error for whose, error in own.items() if error}
    return dataclasses.replace(picture, bus_errors=errors, targets=tuple(targets))


def _error(gateway: Gateway, cell: Cell | None) -> str:
    """Why a bus cannot be used; None is the API level's."""
    try:
        bus_module.probe_broker(gateway.bus(cell) if cell is not None else gateway.api_bus)
    except CannotConnect as error:
        return str(error)
    return ""


def unusable(gateway: Gateway, cell: Cell) -> str:
    """Why a cell's database or message bus cannot be used now; empty when both can."""
    try:
        gateway.reach_cell(cell)
    except CannotConnect as error:
        return str(error)
    return ""


def require_reachable(checks: Iterable[Check]) -> None:
    """End a plan that nothing else speaks against but what cannot be reached.

    :raises CannotConnect: naming all of it, and where it is set
    """
    refusals = [check for check in checks if check.level == "refusal"]
    if refusals and all(check.code in UNREACHABLE for check in refusals):
        raise CannotConnect("; ".join(f"{check.text}; {check.remedy}" for check in refusals))
