"""Which drain closed a cell, read from the reasons in its services, and who opens it again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cellmove.cloud.services import ComputeService
from cellmove.core.clock import Clock
from cellmove.core.documents import to_document
from cellmove.core.move import DRAIN, Move, State
from cellmove.engine.action import Context
from cellmove.engine.record import MoveRecord
from cellmove.steps import cordon

CELL = "11111111-0000-4000-8000-000000000001"


def reopened(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> tuple[list[tuple[str, bool]], list[str]]:
    """Abort a drain whose cell has one disabled service.

    :param name: the cell's name in the drain's record
    :param reason: the reason in the service
    :returns: what was written to the cell's flag, and the notes
    """
    written: list[tuple[str, bool]] = []
    notes: list[str] = []
    service = ComputeService("service", "host1", disabled=True, reason=reason)
    monkeypatch.setattr(cordon.services, "compute_services", lambda _connection: [service])
    monkeypatch.setattr(
        cordon.cells, "set_disabled", lambda _engine, uuid, *, disabled: written.append((uuid, disabled))
    )
    plan = to_document(cordon.CordonPlan(CELL, (), closes_cell=True))
    drain = Move("drain-1", CELL, name, DRAIN, State.ROLLING_BACK, "", "", plan)
    (action,) = cordon.actions_for(drain)
    gateway = cast("Any", SimpleNamespace(admin=None, api_engine=None))
    context = Context(drain, MoveRecord(drain, {}), gateway, Clock(), notes.append)
    action.take_back(context, {"was_disabled": False}, {"changed": True})
    return written, notes


@pytest.mark.parametrize(
    "reason",
    [
        "cellmove drain-1: cell1 is being emptied",
        f"cellmove drain-1: cell1 ({CELL}) is being emptied",
        f"cellmove drain-1: an earlier name ({CELL}) is being emptied",
        "broken fan",
    ],
)
def test_a_service_that_this_drain_disabled_in_any_words_does_not_keep_its_cell_closed(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    assert reopened(monkeypatch, "cell1", reason) == ([(CELL, False)], [cordon.SCHEDULER])


@pytest.mark.parametrize(("name", "shown"), [("cell1", "cell1"), ("", CELL[:8])])
def test_a_cell_that_another_drain_empties_stays_closed_and_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    reason = f"cellmove drain-2: cell1 ({CELL}) is being emptied"
    words = f"{shown} stays disabled for scheduling: another drain empties it ({reason})"
    assert reopened(monkeypatch, name, reason) == ([], [words])
