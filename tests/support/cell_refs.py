"""Cells as data that travels holds them."""

from __future__ import annotations

from cellmove.core.cell_names import CellRef


def ref(name: str) -> CellRef:
    """The cell of this display name."""
    return CellRef(f"uuid-of-{name}", name)
