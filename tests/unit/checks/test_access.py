"""Buses and databases that do not let us in, or not write: which of them forbid the move, and what is to be typed."""

from __future__ import annotations

import pytest

from cellmove.checks import target
from cellmove.checks.preflight import examine
from cellmove.checks.result import CheckResult, Level, refusal, warning
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.core.errors import CannotConnect
from cellmove.db.rights import DELETE, UPDATE, Rights
from cellmove.steps.reach import require_reachable
from tests.unit.checks.test_preflight import cell, snapshot

LACKING = Rights("nova_cell2", "'nova'@'%'", {"instances": (UPDATE, DELETE)})


def found(of: ServerSnapshot) -> list[tuple[str, str]]:
    """Level and code of all that is not well."""
    return [(check.level.value, check.code) for check in examine(of) if check.level is not Level.OK]


def test_the_source_and_the_api_level_are_needed_by_every_move() -> None:
    of = snapshot(
        bus_errors={"API": "no API bus", "uuid-of-cell1": "no bus of cell1"},
        rights={"API": LACKING, "uuid-of-cell1": LACKING},
    )
    assert found(of) == [("refusal", "bus")] * 2 + [("refusal", "rights")] * 2
    api, source, *rights = (check for check in examine(of) if check.level is Level.REFUSAL)
    assert "[DEFAULT]transport_url" in api.remedy
    assert "--cell_uuid uuid-of-cell1" in source.remedy
    assert [
        check.text.partition(":")[0].endswith(name)
        for check, name in zip(rights, ("API database", "cell1"), strict=True)
    ]
    assert rights[0].remedy == "at that database: GRANT UPDATE, DELETE ON nova_cell2.instances TO 'nova'@'%';"


@pytest.mark.parametrize(
    ("bad", "code"),
    [({"bus_error": "no bus of cell2"}, "target-bus"), ({"rights": LACKING}, "target-rights"),
     ({"rights": Rights("d", read_only="it takes no writes")}, "target-rights")],
)  # fmt: skip
def test_of_several_target_cells_one_has_to_do(bad: dict[str, object], code: str) -> None:
    alone = snapshot(targets=(cell(**bad),))
    assert found(alone) == [("refusal", code)]
    other = cell("cell3", hosts=("c3-host1",))
    both = snapshot(targets=(cell(**bad), other), candidates=None)
    assert found(both) == [("warning", code)]
    assert target.allowed_targets(both) == [other]


def test_what_alone_cannot_be_reached_ends_the_command() -> None:
    unreachable = [
        refusal("bus", "no bus of cell1", "correct it"),
        refusal("target-bus", "no bus of cell2", "that too"),
    ]
    with pytest.raises(CannotConnect, match="no bus of cell1; correct it; no bus of cell2; that too"):
        require_reachable([*unreachable, warning("server-group", "it is in one")])
    require_reachable([*unreachable, refusal("locked", "it is locked", "unlock it")])
    require_reachable([warning("target-bus", "cell2 is left out", "")])
    require_reachable([CheckResult("state", Level.OK, "")])
