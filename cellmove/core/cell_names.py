"""The identity of a cell, and its display name.

A cell's UUID is its identity. Its name may be missing, blank, or equal to another cell's
(``cell_mappings.name`` has no constraint; nova/db/api/models.py, ``CellMapping``), so nothing is compared or
recorded by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cellmove.core.reference import is_uuid

CELL0_UUID = "00000000-0000-0000-0000-000000000000"
"""The UUID of cell0 in every cloud (nova/objects/cell_mapping.py, ``CELL0_UUID``). Its name can be anything."""

DIGITS = 8
"""The number of digits of a UUID that name a cell without a usable name."""


@dataclass(frozen=True)
class CellRef:
    """A cell without its URLs. Two references are equal if their UUIDs are.

    :param uuid: the cell's identity
    :param label: its display name (:func:`display_names`), which is also its text
    """

    uuid: str
    label: str = field(compare=False)

    def __str__(self) -> str:
        return self.label


def display_names(cells: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Return the display name of each cell: not blank, on one line, and unique.

    :param cells: UUID and stored name of every cell of the cloud, cell0 included
    :returns: by UUID: the stored name where it is unique; the name and the first digits of the UUID where it is not,
        or where it looks like digits or a UUID; the digits alone where there is no name
    """
    names = {uuid: _one_line(name) for uuid, name in cells}
    beginnings = Counter(uuid[:DIGITS] for uuid in names)
    digits = {uuid: uuid[:DIGITS] if beginnings[uuid[:DIGITS]] == 1 else uuid for uuid in names}
    full = {uuid: f"{name} ({digits[uuid]})" if name else digits[uuid] for uuid, name in names.items()}
    counts, beginnings_of_uuids = Counter(names.values()), {uuid[:DIGITS].lower() for uuid in names}
    plain = {
        uuid
        for uuid, name in names.items()
        if name and counts[name] == 1 and not is_uuid(name) and name.lower() not in beginnings_of_uuids
    }
    # A unique name may be spelled like the name and digits of another cell.
    while clashing := {uuid for uuid in plain if names[uuid] in {full[other] for other in full if other not in plain}}:
        plain -= clashing
    return {uuid: name if uuid in plain else full[uuid] for uuid, name in names.items()}


def _one_line(name: str | None) -> str:
    """Return a stored name without control characters and without spaces around it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name or "").split())


def recorded_ref(uuid: str, name: str) -> CellRef:
    """Return a cell as a journal has it.

    :param name: its display name when it was recorded; blank in a journal of an earlier version
    """
    return CellRef(uuid, name if name.strip() else uuid[:DIGITS])


def is_called(cell: CellRef, word: str) -> bool:
    """Tell whether an operator's word can mean a cell that only a record describes.

    :param word: all or the first digits of the UUID, the display name, or the part of the display name that is a name
    """
    if is_uuid(word):
        return word.lower() == cell.uuid.lower()
    with_digits = (f"{word} ({cell.uuid[:DIGITS]})", f"{word} ({cell.uuid})")  # all digits where two UUIDs begin alike
    return word in (cell.uuid[:DIGITS], cell.label) or cell.label in with_digits
