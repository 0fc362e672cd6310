"""A server of a drain that failed verification: the error that the hook ``on_failure`` receives."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.core.errors import CellmoveError
from cellmove.core.move import Move, State
from cellmove.drain import job as jobs
from cellmove.drain.item import Stage
from cellmove.drain.options import DrainOptions

TIME = "2026-01-01T10:00:00Z"
MOVE = Move("move-ab12cd", "id-1", "web-1", "migration", State.FINISHED, TIME, TIME, {"source_cell": "cell1"})


def verified(monkeypatch: pytest.MonkeyPatch, on_unverified: str, after: State) -> tuple[Stage, list[CellmoveError]]:
    """Verify a server that differs; ``after`` is the state of its move then. Return the errors for on_failure."""
    reported: list[CellmoveError] = []
    found = SimpleNamespace(differences=(SimpleNamespace(text="its root disk differs"),))
    monkeypatch.setattr(jobs, "verify", lambda *_arguments: found)
    monkeypatch.setattr(jobs, "report_failure", lambda _session, _move, error: reported.append(error))
    monkeypatch.setattr(jobs, "command_of", lambda _move: "cellmove migrate web-1")
    monkeypatch.setattr(jobs, "hook_run", lambda session: session)
    monkeypatch.setattr(jobs, "find_move", lambda *_arguments: replace(MOVE, state=after))
    monkeypatch.setattr(jobs, "run_step", lambda *_arguments: replace(MOVE, state=State.REVERTED))
    job: Any = SimpleNamespace(options=DrainOptions(on_unverified=on_unverified), probes=())
    result = jobs._verify(SimpleNamespace(), job, MOVE)  # type: ignore[arg-type]
    assert result is not None
    return result.stage, reported


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
