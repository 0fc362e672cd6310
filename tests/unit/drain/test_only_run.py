"""One run a cell: a second run is refused, and errors of the run itself are unchanged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cellmove.core.errors import Locked
from cellmove.drain import runs
from cellmove.engine.locks import server_lock

CELL = cast("Any", SimpleNamespace(uuid="11111111-0000-4000-8000-000000000001", label="web"))


@pytest.fixture
def session(tmp_path: Path) -> Any:
    dialect = SimpleNamespace(name="sqlite")
    journal = SimpleNamespace(engine=SimpleNamespace(dialect=dialect))
    return SimpleNamespace(journal=journal, lock_directory=tmp_path / "locks")


def test_another_run_of_the_cell_is_named(session: Any) -> None:
    with (
        server_lock(session.lock_directory, CELL.uuid, CELL.label),
        pytest.raises(Locked) as refused,
        runs._only_run(session, CELL),
    ):
        raise AssertionError("two runs at once")
    assert refused.value.message == "another run is draining web"
    assert refused.value.next_command == f"cellmove drain status {CELL.uuid}"


def test_a_locked_server_is_not_taken_for_its_cell(session: Any) -> None:
    words = "another run of cellmove is working on web-1"
    with pytest.raises(Locked) as refused, runs._only_run(session, CELL):
        raise Locked(words, next_command="cellmove show web-1")
    assert (refused.value.message, refused.value.next_command) == (words, "cellmove show web-1")
