"""Tries what a move will use, before anything is written: the message buses, and the right to write to the databases."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.checks.access import API, UNREACHABLE
from cellmove.core.errors import CannotConnect
from cellmove.hosts import bus as bus_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cellmove.checks.result import CheckResult
    from cellmove.checks.snapshot import ServerSnapshot, Target
    from cellmove.db.cells import Cell
    from cellmove.db.rights import Rights
    from cellmove.gateway import Gateway


@dataclass(frozen=True)
class Access:
    """What of the API level and of the source cell cannot be used, or not be written to.

    The key is :data:`cellmove.checks.access.API`, or the cell's UUID.
    """

    bus_errors: Mapping[str, str]
    rights: Mapping[str, Rights]


def with_access(gateway: Gateway, snapshot: ServerSnapshot, source: Cell) -> ServerSnapshot:
    """Add what of the API level, of the source and of the targets cannot be used, or not be written to.

    :raises CannotConnect: a database that was read before does not answer any more
    """
    own, targets = access_to(gateway, source), tuple(with_access_to(gateway, each) for each in snapshot.targets)
    return dataclasses.replace(snapshot, bus_errors=own.bus_errors, rights=own.rights, targets=targets)


def access_to(gateway: Gateway, source: Cell) -> Access:
    """Try the API level and the source cell."""
    own = {API: None, source.uuid: source}
    errors = {whose: _error(gateway, cell) for whose, cell in own.items()}
    rights = {whose: gateway.lacking_rights(cell) for whose, cell in own.items()}
    return Access(
        {whose: error for whose, error in errors.items() if error},
        {whose: lacking for whose, lacking in rights.items() if lacking is not None},
    )


def with_access_to(gateway: Gateway, target: Target) -> Target:
    """Add what of a target cell cannot be used, or not be written to."""
    if target.unreachable:
        return target
    cell = gateway.cell(target.uuid)
    return dataclasses.replace(target, bus_error=_error(gateway, cell), rights=gateway.lacking_rights(cell))


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


def require_reachable(checks: Iterable[CheckResult]) -> None:
    """End a plan that nothing else speaks against but what cannot be reached.

    :raises CannotConnect: naming all of it, and where it is set
    """
    refusals = [check for check in checks if check.level == "refusal"]
    if refusals and all(check.code in UNREACHABLE for check in refusals):
        raise CannotConnect("; ".join(f"{check.text}; {check.remedy}" for check in refusals))
