"""Objects from conductors: clean, and of a version that the conductor has."""

from __future__ import annotations

from typing import Any

import pytest

from cellmove.core.errors import CallFailed
from cellmove.hosts import conductor


def test_changes_are_taken_off_at_every_depth() -> None:
    inner = {"nova_object.name": "Flavor", "nova_object.data": {"id": 1}, "nova_object.changes": ["id"]}
    outer = {"nova_object.data": {"flavor": inner, "list": [inner], "text": "x"}, "nova_object.changes": ["flavor"]}
    clean = {"nova_object.name": "Flavor", "nova_object.data": {"id": 1}}
    assert conductor.without_changes(outer) == {"nova_object.data": {"flavor": clean, "list": [clean], "text": "x"}}


def test_an_older_conductor_is_asked_for_the_version_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(_bus: Any, _target: Any, _context: Any, _method: str, arguments: dict[str, Any]) -> Any:
        version = arguments["object_versions"]["Instance"]
        asked.append(version)
        if version != "2.7":
            raise CallFailed(
                "IncompatibleObjectVersion: Version 2.8 of Instance is not supported, supported version is 2.7",
                kind="IncompatibleObjectVersion",
            )
        return {"nova_object.data": {}}

    monkeypatch.setattr(conductor, "call", call)
    conductor.instance(None, {}, "server-1")
    assert asked == ["2.8", "2.7"]


def test_another_failure_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: Any) -> Any:
        raise CallFailed("InstanceNotFound: Instance server-1 could not be found.", kind="InstanceNotFound")

    monkeypatch.setattr(conductor, "call", call)
    with pytest.raises(CallFailed, match="InstanceNotFound"):
        conductor.instance(None, {}, "server-1")
