"""Port bindings against a small neutron that treats them as ML2's plug-in does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from cellmove.cloud import network
from cellmove.core.errors import CallFailed, NotFound


class Neutron:
    """One port; the first host is the active one. Hosts in ``dead`` cannot be bound to."""

    def __init__(self, *hosts: str) -> None:
        self.bindings: dict[str, dict[str, Any]] = {
            host: {"host": host, "status": "INACTIVE", "vif_type": "ovs", "vnic_type": "normal", "profile": {"a": "b"}}
            for host in hosts
        }
        self.bindings[hosts[0]]["status"] = "ACTIVE"
        self.dead: set[str] = set()
        self.writes: list[str] = []
        self.network = self

    def request(self, path: str, method: str, **options: Any) -> requests.Response:
        if method != "GET":
            self.writes.append(f"{method} {path}")
        if not path.startswith("/ports/port"):
            return self._answer(404, {"NeutronError": {"message": "no port"}})
        parts = path.split("/")[3:]
        if method == "GET":
            return self._answer(200, {"bindings": list(self.bindings.values())})
        if parts[-1:] == ["activate"]:
            return self._activate(parts[1], options)
        if method == "DELETE":
            self.bindings.pop(parts[1], None)
            return self._answer(204, None)
        if method == "POST":
            return self._create(options["json"]["binding"])
        host = options["json"]["port"]["binding:host_id"]
        self.bindings[host]["vif_type"] = "binding_failed" if host in self.dead else "ovs"
        return self._answer(200, {"port": {}})

    def _activate(self, host: str, options: dict[str, Any]) -> requests.Response:
        if "json" in options:
            return self._answer(500, {"NeutronError": {"message": "internal server error"}})
        if host not in self.bindings:
            return self._answer(404, {"NeutronError": {"message": "no binding"}})
        if self.bindings[host]["status"] == "ACTIVE":
            return self._answer(409, {"NeutronError": {"message": "already active"}})
        for binding in self.bindings.values():
            if binding["status"] == "ACTIVE":
                binding |= {"status": "INACTIVE", "vif_type": "unbound"}
        self.bindings[host]["status"] = "ACTIVE"
        return self._answer(200, {})

    def _create(self, binding: dict[str, Any]) -> requests.Response:
        if binding["host"] in self.bindings:
            return self._answer(409, {"NeutronError": {"message": "exists"}})
        self.bindings[binding["host"]] = {**binding, "status": "INACTIVE", "vif_type": "ovs"}
        return self._answer(201, {"binding": self.bindings[binding["host"]]})

    def _answer(self, status: int, body: Any) -> requests.Response:
        made = requests.Response()
        made.status_code = status
        made._content = json.dumps(body).encode()
        made.request = requests.Request("PUT", "http://neutron/").prepare()
        return made

    def state(self) -> dict[str, tuple[str, str]]:
        return {host: (binding["status"], binding["vif_type"]) for host, binding in self.bindings.items()}


def test_a_port_activated_at_home_again_is_bound_there_again() -> None:
    cloud: Any = Neutron("home", "away")
    network.activate_binding(cloud, "port", "away")
    assert cloud.state() == {"home": ("INACTIVE", "unbound"), "away": ("ACTIVE", "ovs")}
    network.activate_binding(cloud, "port", "home")
    assert cloud.state() == {"home": ("ACTIVE", "ovs"), "away": ("INACTIVE", "unbound")}


def test_activating_again_binds_what_an_interrupted_run_left_unbound() -> None:
    cloud: Any = Neutron("home")
    cloud.bindings["home"]["vif_type"] = "unbound"
    network.activate_binding(cloud, "port", "home")
    assert cloud.state() == {"home": ("ACTIVE", "ovs")}


def test_a_host_that_cannot_be_bound_to_is_an_error() -> None:
    cloud: Any = Neutron("away", "home")
    cloud.bindings["home"]["vif_type"] = "unbound"
    cloud.dead = {"home"}
    with pytest.raises(CallFailed) as caught:
        network.activate_binding(cloud, "port", "home")
    assert caught.value.kind == "unbound"


def test_activating_a_binding_that_is_not_there_is_not_passed_over() -> None:
    cloud: Any = Neutron("home")
    with pytest.raises(NotFound):
        network.activate_binding(cloud, "port", "away")


def test_creating_a_binding_again_returns_the_one_that_is_there() -> None:
    cloud: Any = Neutron("home")
    made = network.create_binding(cloud, "port", "away", "direct", {"pci_slot": "1"})
    assert (made.host, made.status, made.vnic_type, made.profile) == ("away", "INACTIVE", "direct", {"pci_slot": "1"})
    assert network.create_binding(cloud, "port", "away", "direct", {}) == made


def test_an_active_binding_is_never_deleted() -> None:
    cloud: Any = Neutron("home", "away")
    with pytest.raises(CallFailed) as caught:
        network.delete_binding(cloud, "port", "home")
    assert (caught.value.kind, cloud.writes) == ("active", [])


def test_deleting_an_inactive_binding_and_then_nothing() -> None:
    cloud: Any = Neutron("home", "away")
    network.delete_binding(cloud, "port", "away")
    network.delete_binding(cloud, "port", "away")
    network.delete_binding(cloud, "gone", "away")
    assert list(cloud.bindings) == ["home"]
    assert cloud.writes == ["DELETE /ports/port/bindings/away"]
