"""Connections that cells share: each message names the cell whose host was called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellmove.core.settings import load
from cellmove.db.cells import Cell
from cellmove.gateway import Gateway
from cellmove.hosts.bus import Bus
from cellmove.hosts.bus_opener import BusOpener
from cellmove.hosts.loopback import LoopbackTransport

URL = "http://127.0.0.1:1/bus"


def test_two_cells_on_one_bus_share_its_connections_and_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_bus(_opener: BusOpener, url: str, name: str, *, setting: str = "") -> Bus:
        opened.append(f"{name}: {setting}")
        return Bus(name, url, LoopbackTransport(url, name, 1.0), 1.0, 1.0)

    monkeypatch.setattr(BusOpener, "open", open_bus)
    gateway = Gateway(load({}, {}))
    first = Cell(2, "11111111-1111-4111-8111-111111111111", "cell1", disabled=False, transport_url=URL, database_url="")
    buses = [gateway.bus(cell) for cell in (first, replace(first, nova_name="cell2"), first)]
    assert len(opened) == 1
    assert [bus.name for bus in buses] == ["cell1", "cell2", "cell1"]
    transports: list[Any] = [bus.transport for bus in buses]
    assert [transport.name for transport in transports] == ["cell1", "cell2", "cell1"]
    assert transports[0].session is transports[1].session
    assert buses[0].health is buses[1].health
    assert buses[0].abandoned is buses[1].abandoned
