"""The names that people are shown of cells, and what a plan of an earlier version says of them."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cellmove.core.cell_names import (
    CELL0_UUID,
    CellRef,
    display_names,
    is_called,
)

ONE, TWO = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
NEAR = "11111111-0000-4000-8000-000000000003"

NAMES = st.one_of(
    st.none(),
    st.sampled_from(
        ["", " ", "cell1", "cell1 ", "cell0", ONE, ONE[:8], f"cell1 ({ONE[:8]})", f"cell1 ({TWO[:8]})", "a\nb"]
    ),
    st.text("ab1 \"'\n\té", max_size=6),
)
UUIDS = st.one_of(st.sampled_from([ONE, TWO, NEAR, CELL0_UUID]), st.uuids().map(str))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(UUIDS, NAMES, max_size=8))
@example({ONE: "cell1", TWO: "cell1", NEAR: f"cell1 ({ONE})"})
@example({ONE: "a", TWO: "a", NEAR: "b", str(uuid.UUID(int=7)): f"a ({TWO[:8]})"})
def test_display_names_tell_every_cell_from_the_others(cells: dict[str, str | None]) -> None:
    names = display_names(cells.items())
    assert names.keys() == cells.keys()
    assert len(set(names.values())) == len(names)
    assert display_names(reversed(cells.items())) == names
    for cell, name in names.items():
        assert name == name.strip() != ""
        assert name.isprintable()
        stored = cells[cell]
        assert stored is None or not stored.isprintable() or " ".join(stored.split()) in name
        assert cell[:8] in name or list(cells.values()).count(stored) == 1


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ({ONE: "cell1", TWO: "cell2"}, ["cell1", "cell2"]),
        ({ONE: None, TWO: " "}, ["11111111", "22222222"]),
        ({ONE: None, NEAR: None}, [ONE, NEAR]),
        ({ONE: "cell1", TWO: "cell1"}, ["cell1 (11111111)", "cell1 (22222222)"]),
        ({ONE: "cell1 ", TWO: "cell1"}, ["cell1 (11111111)", "cell1 (22222222)"]),
        ({ONE: "22222222", TWO: None}, ["22222222 (11111111)", "22222222"]),
        ({ONE: TWO, TWO: "x"}, [f"{TWO} (11111111)", "x"]),
        ({ONE: 'it\'s "new"', TWO: "a\tb\n"}, ['it\'s "new"', "a b"]),
    ],
)
def test_a_name_is_shown_where_it_tells_a_cell_and_digits_where_it_does_not(
    cells: dict[str, str | None], names: list[str]
) -> None:
    assert list(display_names(cells.items()).values()) == names


def test_two_references_are_one_cell_by_the_uuid_alone() -> None:
    assert CellRef(ONE, "before") == CellRef(ONE, "after")
    assert CellRef(ONE, "cell") != CellRef(TWO, "cell")
    assert f"in {CellRef(ONE, 'cell')}" == "in cell"


@pytest.mark.parametrize("cells", [{ONE: "cell1", NEAR: "cell1"}, {ONE: "cell1", TWO: "cell1"}, {ONE: "cell1"}])
def test_a_recorded_cell_is_called_by_its_name_whatever_digits_its_label_has(cells: dict[str, str | None]) -> None:
    cell = CellRef(ONE, display_names(cells.items())[ONE])
    for word in ("cell1", ONE, ONE.upper(), ONE[:8], cell.label):
        assert is_called(cell, word)
    for word in ("cell", TWO, NEAR, TWO[:8], ""):
        assert not is_called(cell, word)
