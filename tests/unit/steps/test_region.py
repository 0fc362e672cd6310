"""APIs of another region than the databases are noticed by the first server that is looked up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.cloud import servers
from cellmove.core.errors import CannotConnect, Refused, Usage
from cellmove.db import look
from cellmove.db.shapes import InstanceMapping
from cellmove.steps import region

SERVER = "0b25c1e8-0000-4000-8000-000000000001"


class FakeGateway:
    """Databases of two cells, and an API of region Two.

    :param recorded_in: the cell whose database has the server; empty: none
    """

    api_engine = "api"
    admin = SimpleNamespace(config=SimpleNamespace(region_name="Two"))

    def __init__(self, recorded_in: str = "", broken: str = "") -> None:
        self.recorded_in, self.broken = recorded_in, broken
        self.cells = tuple(SimpleNamespace(uuid=f"uuid-{name}", name=name, label=name) for name in ("cell1", "cell2"))

    def database(self, cell: Any) -> str:
        if cell.name == self.broken:
            raise CannotConnect("the database cannot be reached")
        return str(cell.name)


def arranged(
    monkeypatch: pytest.MonkeyPatch,
    gateway: FakeGateway,
    *,
    mapped: str = "",
    deleting: bool = False,
    building: bool = False,
) -> Any:
    """The gateway, with what its databases have of the server."""
    mapping = InstanceMapping(f"uuid-{mapped}", deleting) if mapped else None
    monkeypatch.setattr(look, "mapping_of", lambda *_: mapping)
    monkeypatch.setattr(look, "has_build_request", lambda *_: building)
    monkeypatch.setattr(
        look, "instance_of", lambda database, _id: object() if database == gateway.recorded_in else None
    )

    def unknown(_connection: Any, name: str) -> Any:
        raise Usage(f"there is no server {name} in any project")

    monkeypatch.setattr(servers, "find_server", unknown)
    return gateway


def test_a_server_that_only_the_api_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = arranged(monkeypatch, FakeGateway())
    with pytest.raises(Refused, match=r"nova's API of the region Two knows .* --os-region-name") as caught:
        region.refuse_other_region(gateway, SERVER, None)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("gateway", "building"),
    [(FakeGateway("cell2"), False), (FakeGateway(), True), (FakeGateway(broken="cell2"), False)],
    ids=["recorded without a mapping", "being scheduled", "a cell that cannot be asked"],
)
def test_a_server_that_may_be_there_is_left_to_the_checks(
    monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway, building: bool
) -> None:
    found = arranged(monkeypatch, gateway, building=building)
    region.refuse_other_region(found, SERVER, None)
    region.refuse_other_region(found, SERVER, InstanceMapping("uuid-cell1", False))
    assert found.recorded_in == gateway.recorded_in


def test_a_server_that_only_the_databases_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = arranged(monkeypatch, FakeGateway("cell1"), mapped="cell1")
    with pytest.raises(
        Refused, match=r"the databases have the server .* \(in cell1\), and nova's API of the region Two"
    ):
        region.find_server(gateway, SERVER)


@pytest.mark.parametrize(
    ("mapped", "recorded", "deleting"), [("", "", False), ("cell1", "", False), ("cell1", "cell1", True)]
)
def test_a_server_that_nobody_has_is_not_there(
    monkeypatch: pytest.MonkeyPatch, mapped: str, recorded: str, deleting: bool
) -> None:
    gateway = arranged(monkeypatch, FakeGateway(recorded), mapped=mapped, deleting=deleting)
    for name in (SERVER, "web-1"):
        with pytest.raises(Usage, match="there is no server"):
            region.find_server(gateway, name)
