"""A cell mapping that leads to the database of another one (nova bug 1923899): plain data and its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.cell_names import CellRef

if TYPE_CHECKING:
    from cellmove.db.cells import Cell


@dataclass(frozen=True)
class Duplicate:
    """A mapping of a database that another mapping leads to.

    :param counts: the mapping that counts
    """

    cell: CellRef
    counts: CellRef

    @property
    def text(self) -> str:
        """What is wrong."""
        return f"{self.cell} is a second mapping of the database of {self.counts} (nova bug 1923899)"

    @property
    def remedy(self) -> str:
        """What an operator does about it."""
        return (
            f"in the API database, give the rows of instance_mappings and host_mappings that have the cell_id of "
            f"{self.cell} the one of {self.counts} (nova has no command for it), then remove the mapping, which deletes "
            f"no record of a server: nova-manage cell_v2 delete_cell --cell_uuid {self.cell.uuid}"
        )


def described(cells: Iterable[Cell], twice: Mapping[str, Cell]) -> tuple[Duplicate, ...]:
    """The duplicates among some cells, for people.

    :param twice: what :func:`cellmove.steps.duplicates.duplicates` found
    """
    return tuple(Duplicate(cell.ref, twice[cell.uuid].ref) for cell in cells if cell.uuid in twice)
