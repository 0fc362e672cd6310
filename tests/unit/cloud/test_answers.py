"""Answers of the APIs that are not what they have to be: no JSON, or without a field, or with one of another type."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from cellmove.cloud import (
    candidates,
    failures,
    identity,
    image,
    network,
    placement,
    quota,
    servers,
    services,
    stores,
    volume,
)
from cellmove.core.errors import CallError, CallFailed, CallUncertain, Unreachable
from cellmove.db.shapes import Flavor
from cellmove.operations.context import before_anything_is_written
from cellmove.ui.fault import as_cellmove_error

ID = "11111111-1111-1111-1111-111111111111"
FLAVOR = Flavor(1, "1", "m1", 1, 512, 1)


class Api:
    """A connection each of whose services gives one answer."""

    cellmove_credential = failures.OPERATOR

    def __init__(self, body: str, status: int = 200) -> None:
        self.body, self.status = body, status

    def __getattr__(self, service: str) -> Api:
        return self

    def request(self, path: str, method: str, **_options: Any) -> requests.Response:
        made = requests.Response()
        made.status_code, made._content = self.status, self.body.encode()
        made.request = requests.Request(method, f"http://x/v2{path}").prepare()
        return made


CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "server": ("nova, GET", lambda api: servers.get_server(api, ID)),
    "servers": ("nova, GET", lambda api: servers.servers_named(api, "x")),
    "flavors": ("nova, GET", lambda api: servers.find_flavor(api, "x")),
    "services": ("nova, GET", services.compute_services),
    "quota": ("nova, GET", lambda api: quota.quotas(api, ID, ID)),
    "project": ("keystone, GET", lambda api: identity.project_name(api, ID)),
    "extensions": ("neutron, GET", network.has_extended_binding),
    "ports": ("neutron, GET", lambda api: network.ports_of(api, ID)),
    "ports of a host": ("neutron, GET", lambda api: list(network.ports_on(api, "h"))),
    "ports also bound": ("neutron, GET", lambda api: list(network.ports_also_bound(api, "h"))),
    "bindings": ("neutron, GET", lambda api: network.bindings(api, ID)),
    "volume": ("cinder, GET", lambda api: volume.get_volume(api, ID)),
    "volumes": ("cinder, GET", lambda api: list(volume.all_states(api))),
    "attachments": ("cinder, GET", lambda api: volume.attachments_of(api, ID)),
    "attachments of all": ("cinder, GET", lambda api: list(volume.all_attachments(api))),
    "attachment": ("cinder, GET", lambda api: volume.get_attachment(api, ID)),
    "image": ("glance, GET", lambda api: image.get_image(api, ID)),
    "images": ("glance, GET", lambda api: image.temporary_images(api, ID)),
    "images of all": ("glance, GET", lambda api: list(image.all_temporary_images(api))),
    "allocations": ("placement, GET", lambda api: placement.allocations_of(api, ID)),
    "consumers": ("placement, GET", lambda api: placement.consumers_of(api, ID)),
    "provider": ("placement, GET", lambda api: placement.provider_names(api, [ID])),
    "inventories": ("placement, GET", lambda api: placement.room_of(api, ID)),
    "candidates": ("placement, GET", lambda api: candidates.offered(api, FLAVOR, volume_backed=False)),
    "sharing": ("placement, GET", stores.sharing),
    "nodes": ("placement, GET", lambda api: stores.nodes_with(api, ["T"])),
}

KEYS = (
    "server", "servers", "flavors", "services", "quota_set", "project", "extensions", "ports", "bindings", "volume", "volumes",
    "attachments", "attachment", "images", "allocations", "name", "inventories", "usages", "allocation_requests",
    "provider_summaries", "resource_providers",
)  # fmt: skip


def wrapped(value: Any) -> str:
    """An answer that has every key which any API's has, with one and the same value."""
    return json.dumps(dict.fromkeys(KEYS, value))


MALFORMED = ("", "null", "5", '"x"', "[]", "[null]", "{}", "<html><body>Sign in</body></html>", "{", '{"x": ', "NaN")
ODD = (
    wrapped(None), wrapped(5), wrapped("x"), wrapped([None]), wrapped([5]), wrapped([{}]), wrapped(["x"]), wrapped({"x": 5}),
    wrapped([{"id": None}]), wrapped({"x": None}), wrapped([[]]), wrapped({"id": {}}), wrapped({"x": {"resources": None}}),
)  # fmt: skip
"""Every key that an API's answer has, with a value of some other form; from some of them something can be read all the same."""


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_not_understood_is_named_with_its_api_and_call(call: str) -> None:
    whose, make = CALLS[call]
    refused: dict[str, CallError] = {}
    for body in (*MALFORMED, *ODD):
        try:
            make(Api(body))
        except CallError as error:
            refused[body] = error
    assert refused.keys() >= set(MALFORMED)
    for body, error in refused.items():
        assert type(error) is CallFailed, body
        assert str(error).startswith(f"{whose} /"), body
        assert "the answer is not understood" in str(error), body


@pytest.mark.parametrize(("call", "body"), list(itertools.product(CALLS, ("", "<html>", "[]", "5"))))
def test_a_command_that_only_looks_ends_with_4(call: str, body: str) -> None:
    with pytest.raises(Unreachable) as caught, before_anything_is_written():
        CALLS[call][1](Api(body))
    error = as_cellmove_error(caught.value)
    assert (error.exit_code, error.state) == (4, "nothing was written")


@pytest.mark.parametrize(
    "body", ["", "null", "{}", '{"binding": {}}', '{"attachment": {}}', "<html>", "[]", '{"attachment": 5}']
)
def test_a_change_whose_answer_is_not_understood_may_have_happened(body: str) -> None:
    connection: Any = Api(body)
    with pytest.raises(CallUncertain, match=r"neutron, POST .*the answer is not understood"):
        network.create_binding(connection, ID, "h", "normal", {})
    with pytest.raises(CallUncertain, match=r"cinder, POST .*the answer is not understood"):
        volume.create_empty_attachment(connection, ID, ID)


@pytest.mark.parametrize(
    "call",
    [name for name in CALLS if name not in ("consumers", "inventories", "provider", "nodes", "candidates", "project")],
)
@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_a_refusal_names_its_api_and_call(call: str, status: int) -> None:
    whose, make = CALLS[call]
    with pytest.raises(CallFailed) as caught:
        make(Api('{"error": {"message": "no"}}', status))
    assert str(caught.value).startswith(f"{whose} /")
    assert f": HTTP {status}: no" in str(caught.value)


POLICY = "Policy doesn't allow os_compute_api:os-services:list to be performed."


@pytest.mark.parametrize(
    ("words", "credential", "said"),
    [
        (POLICY, failures.OPERATOR, "; the operator's credential (--os-cloud, OS_CLOUD) is not an administrator's"),
        ("(rule:create_port_binding) is disallowed by policy", failures.SERVICE, "service_cloud) has not the role service"),
        ("You are not authorized to complete create_image action.", failures.OPERATOR, "is not an administrator's"),
        ("Quota exceeded for cores", failures.OPERATOR, "HTTP 403: Quota exceeded for cores"),
    ],
)  # fmt: skip
def test_a_credential_without_rights_is_named(words: str, credential: str, said: str) -> None:
    connection: Any = Api(json.dumps({"forbidden": {"message": words}}), 403)
    connection.cellmove_credential = credential
    with pytest.raises(CallFailed) as caught:
        services.compute_services(connection)
    assert str(caught.value).endswith(said)
    assert caught.value.kind == "403"


class Broken(Api):
    """A library that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__("")
        self.error = error

    def request(self, path: str, method: str, **options: Any) -> requests.Response:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /nowhere"), TypeError("x"), KeyError("url"),
        AttributeError("x"), ValueError("x"), Exception("x"), RecursionError(), OSError(28, "No space left"),
        UnicodeError("label too long"), requests.exceptions.MissingSchema("x"), requests.exceptions.InvalidURL("x"),
        requests.exceptions.JSONDecodeError("x", "", 0), requests.exceptions.ConnectionError("x"),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_the_libraries_raise_ends_with_2_or_4(error: Exception) -> None:
    connection: Any = Broken(error)
    with pytest.raises(CallError) as caught:
        services.compute_services(connection)
    known = as_cellmove_error(caught.value)
    assert known.exit_code in (2, 4)
    assert known.message.startswith("nova, GET /os-services: ")
    assert "fault in cellmove" not in known.message


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), RecursionError(), OSError(5, "I/O"), requests.exceptions.JSONDecodeError("x", "", 0)],
    ids=repr,
)
def test_a_change_in_which_the_libraries_fail_may_have_happened(error: Exception) -> None:
    connection: Any = Broken(error)
    with pytest.raises(CallUncertain, match=r"cinder, POST /attachments: "):
        volume.create_empty_attachment(connection, ID, ID)


def test_an_image_property_that_is_no_number_does_not_stop_the_snapshot() -> None:
    for value in ("None", "", "x", "1.5", "\N{SUPERSCRIPT TWO}"):
        metadata = {"image_min_ram": value, "image_min_disk": "3", "image_os_type": "linux"}
        body = image.image_body(image.TemporaryImage(ID, ID, "x", ID, metadata, ()), user_id=ID, shared=False)
        assert "min_ram" not in body
        assert (body["min_disk"], body["os_type"]) == (3, "linux")
