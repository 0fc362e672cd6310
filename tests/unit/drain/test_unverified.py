"""A server of a drain that failed verification: what ``on_failure`` is told, and when."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.core.errors import CellmoveError
from cellmove.core.move import Move, State
from cellmove.drain import work
from cellmove.drain.item import Stage
from cellmove.drain.wish import Wish

TIME = "2026-01-01T10:00:00Z"
MOVE = Move("move-ab12cd", "id-1", "web-1", "migration", State.FINISHED, TIME, TIME, {"source_cell": "cell1"})


def verified(monkeypatch: pytest.MonkeyPatch, on_unverified: str, after: State) -> tuple[Stage, list[CellmoveError]]:
    """Verify a server that differs; ``after`` is the state of its move by then. Return what on_failure is told."""
    told: list[CellmoveError] = []
    found = SimpleNamespace(differences=(SimpleNamespace(text="its root disk differs"),))
    monkeypatch.setattr(work, "verify", lambda *_arguments: found)
    monkeypatch.setattr(work, "report_failure", lambda _session, _move, error: told.append(error))
    monkeypatch.setattr(work, "command_of", lambda _move: "cellmove migrate web-1")
    monkeypatch.setattr(work, "hook_run", lambda session: session)
    monkeypatch.setattr(work, "find_move", lambda *_arguments: replace(MOVE, state=after))
    monkeypatch.setattr(work, "run_step", lambda *_arguments: replace(MOVE, state=State.REVERTED))
    job: Any = SimpleNamespace(wish=Wish(on_unverified=on_unverified), probes=())
    outcome = work._verified(SimpleNamespace(), job, MOVE)  # type: ignore[arg-type]
    assert outcome is not None
    return outcome.stage, told


def test_a_server_that_is_left_names_the_command_that_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, (error,) = verified(monkeypatch, "keep", State.FINISHED)
    assert (stage, error.message) == (Stage.UNVERIFIED, "its root disk differs")
    assert error.state == "the move is finished, and was not confirmed"
    assert error.next_command == "cellmove verify move-ab12cd"


def test_a_server_that_the_drain_reverts_is_said_to_be_reverted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, (error,) = verified(monkeypatch, "revert", State.FINISHED)
    assert stage is Stage.REVERTED
    assert error.state == "the move is finished, and is being reverted"
    assert error.next_command == "cellmove revert move-ab12cd"


def test_a_move_that_its_owner_ended_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verified(monkeypatch, "keep", State.CONFIRMED) == (Stage.MOVED, [])
