"""Several cell mappings of one database: which of them counts, and which are duplicates.

nova-manage creates a second mapping where the URL is spelled in another way (nova bug 1923899). nova then shows every
server twice. cellmove reads such a database once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from cellmove.core.errors import CannotConnect
from cellmove.db import look
from cellmove.db.identity import is_same

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.gateway import Gateway


def duplicates(gateway: Gateway, cells: Iterable[Cell]) -> dict[str, Cell]:
    """Find the mappings that lead to a database that another mapping leads to.

    Cells whose databases cannot be reached are left out.

    :param cells: those that are compared
    :returns: by the UUID of each duplicate: the mapping that counts, which is the one with the compute hosts
    :raises CallError: a database does not answer
    """
    groups: list[list[Cell]] = []
    for cell in cells:
        try:
            identity = gateway.identity(cell)
        except CannotConnect:
            continue
        same = next((group for group in groups if is_same(gateway.identity(group[0]), identity)), None)
        if same is None:
            groups.append([cell])
        elif cell not in same:
            same.append(cell)
    several = [group for group in groups if len(group) > 1]
    if not several:
        return {}
    hosts = list(look.host_cells(gateway.api_engine).values())
    found: dict[str, Cell] = {}
    for group in several:
        first = min(group, key=lambda cell: (-hosts.count(cell.uuid), cell.id))
        found |= {cell.uuid: first for cell in group if cell is not first}
    return found


def distinct(gateway: Gateway, cells: Collection[Cell], keep: Cell | None = None) -> tuple[Cell, ...]:
    """One cell a database, in the same order: the one that counts.

    :param keep: this mapping instead of the one that counts, of its database: the one that a server is mapped to
    """
    twice = duplicates(gateway, cells)
    counting = {cell.uuid: twice.get(cell.uuid, cell).uuid for cell in cells}
    chosen = {uuid: uuid for uuid in counting.values()}
    if keep is not None and keep.uuid in counting:
        chosen[counting[keep.uuid]] = keep.uuid
    return tuple(cell for cell in cells if chosen[counting[cell.uuid]] == cell.uuid)
