"""Every action names the actions whose results it reads: whole moves are watched, forward, back and to the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from cellmove.engine.action import Action
from cellmove.engine.record import ActionType, MoveRecord
from cellmove.steps import ACTIONS
from tests.support.sandbox.fixtures import Fixtures

REQUIRED = {action.name: {key.name for key in action.requires} for own in ACTIONS.values() for action in own}
METHODS = ("make_intent", "perform", "look", "take_back")


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The results that each action reads, by its name; its own is not among them."""
    found: dict[str, set[str]] = defaultdict(set)
    running: list[str] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(action: Action[Any, Any], *arguments: Any) -> Any:
            running.append(action.name)
            try:
                return method(action, *arguments)
            finally:
                running.pop()

        return call

    for name in METHODS:
        monkeypatch.setattr(Action, name, watched(getattr(Action, name)))
    read = MoveRecord.__getitem__

    def get(record: MoveRecord, action: ActionType[Any, Any]) -> Any:
        if running and running[-1] != action.name:
            found[running[-1]].add(action.name)
        return read(record, action)

    monkeypatch.setattr(MoveRecord, "__getitem__", get)
    return found


@pytest.mark.parametrize("shape", ["image-active-full", "volume-stopped-full", "stream-stopped-bare"])
@pytest.mark.parametrize("verbs", [("finish", "confirm"), ("finish", "revert"), ("rollback",)], ids=" ".join)
def test_what_an_action_reads_it_requires(
    fixtures: Fixtures, reads: dict[str, set[str]], shape: str, verbs: tuple[str, ...]
) -> None:
    move = fixtures.set(shape, "prep-dest").move
    for verb in ("prep-dest", "prep-source", *verbs):
        assert fixtures.harness.run(verb, move).code == 0
    assert {name: more for name, read in reads.items() if (more := read - REQUIRED[name])} == {}
    assert "schedule" in reads["claim"]
