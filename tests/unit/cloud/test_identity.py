"""What an RPC context gets from keystone, and what the REST APIs' errors mean."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as keystone
from keystoneauth1.access.service_catalog import ServiceCatalogV2
from keystoneauth1.identity import V3Password
from keystoneauth1.session import Session

from cellmove.cloud import failures, identity
from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect, NotFound, Usage
from cellmove.core.settings import Settings, load


def endpoint(region: str, interface: str) -> dict[str, str]:
    return {"region": region, "region_id": region, "interface": interface, "url": f"http://{region}/{interface}"}


CATALOG: list[dict[str, Any]] = [
    {"type": "image", "name": "glance", "endpoints": [endpoint("One", "public"), endpoint("Two", "public"), endpoint("One", "internal")]},
    {"type": "network", "endpoints": []},
    {"type": "object-store", "name": "swift", "endpoints": [endpoint("One", "public")]},
]  # fmt: skip


def test_the_catalog_becomes_what_nova_reads() -> None:
    converted = identity.to_v2_catalog(CATALOG)
    assert converted == [
        {
            "type": "image",
            "name": "glance",
            "endpoints": [
                {"region": "One", "publicURL": "http://One/public", "internalURL": "http://One/internal"},
                {"region": "Two", "publicURL": "http://Two/public"},
            ],
        },
        {"type": "network", "name": "", "endpoints": []},
    ]
    # nova wraps it in this class and asks it so (nova/context.py _ContextAuthPlugin).
    reader = ServiceCatalogV2(converted)
    assert reader.url_for("image", interface="internal", region_name="One") == "http://One/internal"


def test_a_catalog_in_v2_form_stays_as_it_is() -> None:
    entry = {"type": "image", "name": "glance", "endpoints": [{"region": "One", "publicURL": "http://x"}]}
    assert identity.to_v2_catalog([entry]) == [entry]


@pytest.mark.parametrize(
    ("age", "life", "old"),
    [(0, 3600, False), (299, 3600, False), (301, 3600, True), (100, 240, False), (121, 240, True), (-400, 3600, True)],
)
def test_a_token_is_old_after_five_minutes_or_half_its_life(age: int, life: int, old: bool) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    issued = now - timedelta(seconds=age)
    assert identity.is_old(issued, issued + timedelta(seconds=life), now) is old


def response(status: int, body: Any, content_type: str = "application/json", method: str = "POST") -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content = (body if isinstance(body, str) else json.dumps(body)).encode()
    made.headers["Content-Type"] = content_type
    made.request = requests.Request(method, "http://x/").prepare()
    return made


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"conflictingRequest": {"code": 409, "message": "Cannot 'resize'\nsecond line"}}, "Cannot 'resize'"),
        ({"NeutronError": {"type": "PortBindingError", "message": "Binding failed", "detail": ""}}, "Binding failed"),
        ({"errors": [{"status": 409, "title": "Conflict", "detail": "no room", "code": "x"}]}, "no room"),
        (
            {
                "errors": [
                    {"detail": "There was a conflict when trying to complete your request.\n\n no room  ", "code": "x"}
                ]
            },
            "no room",
        ),
        ({"error": {"code": 409, "title": "Conflict", "message": "keystone says"}}, "keystone says"),
        ({"message": "glance says<br />", "code": "409 Conflict", "title": "Conflict"}, "glance says<br />"),
        ("<html><head><title>409 x</title></head><body><h1>Conflict</h1>in use</body></html>", "Conflict in use"),
        ("", "no reason given"),
    ],
)
def test_the_services_own_words_are_kept(body: Any, words: str) -> None:
    failure = failures.failure_of(response(409, body))
    assert isinstance(failure, CallFailed)
    assert (str(failure), failure.kind) == (f"HTTP 409: {words}", "409")


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (404, "GET", NotFound),
        (401, "GET", CannotConnect),
        (403, "POST", CallFailed),
        (500, "POST", CallFailed),
        (503, "POST", CallFailed),
        (504, "POST", CallUncertain),
        (504, "GET", CallFailed),
    ],
)
def test_what_a_status_means(status: int, method: str, expected: type[CallError]) -> None:
    assert type(failures.failure_of(response(status, {}, method=method))) is expected


def test_exceptions_of_the_libraries_are_translated_and_others_are_not() -> None:
    with pytest.raises(CannotConnect, match="keystone: no endpoint"), failures.translate_errors("keystone"):
        raise keystone.EndpointNotFound("no endpoint")
    with pytest.raises(CannotConnect), failures.translate_errors():
        raise keystone.Unauthorized("wrong password")
    with pytest.raises(NotFound, match="image service: HTTP 404: gone"), failures.translate_errors("image service"):
        raise keystone.NotFound(response=response(404, {"message": "gone"}))
    with pytest.raises(NotFound, match=r"^mine$"), failures.translate_errors("x"):
        raise NotFound("mine")
    with pytest.raises(KeyError), failures.translate_errors("x"):
        raise KeyError("x")


@contextmanager
def server(behaviour: str) -> Iterator[str]:
    """A listener that reads one request and hangs up, or keeps silent.

    :yields: its URL
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            if behaviour == "silent":
                done.wait(10)
            connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        done.set()
        thread.join(10)


def call(url: str) -> None:
    session = Session()
    session.timeout = (0.5, 0.5)
    with failures.translate_errors("the network service"):
        session.post(url, json={}, authenticated=False)


@pytest.mark.parametrize("behaviour", ["silent", "hangs up"])
def test_no_answer_after_sending_is_uncertain(behaviour: str) -> None:
    with server(behaviour) as url, pytest.raises(CallUncertain, match="the network service: no answer"):
        call(url)


def test_a_refused_connection_was_never_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(CannotConnect, match="Connection refused"):
        call(url)


def test_a_name_that_does_not_resolve_was_never_sent() -> None:
    with pytest.raises(CannotConnect, match="cannot be reached"):
        call("http://no-such-host.invalid/")


def test_a_cloud_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    with pytest.raises(CannotConnect, match="nowhere"):
        identity.connect(Settings(os_cloud="nowhere"))


def test_without_a_service_credential_the_way_to_set_one_is_told() -> None:
    with pytest.raises(Usage, match=r"section \[neutron\]"):
        identity.connect_service(Settings())


class Network:
    """A service that breaks the connection the first times it is called."""

    def __init__(self, breaks: int) -> None:
        self.breaks, self.calls, self.network = breaks, 0, self

    def request(self, path: str, method: str, **_options: Any) -> requests.Response:
        self.calls += 1
        if self.calls <= self.breaks:
            raise keystone.ConnectFailure("broken")
        return response(200, {"path": path}, method=method)


@pytest.mark.parametrize(
    ("method", "breaks", "calls", "expected"),
    [("GET", 1, 2, None), ("GET", 2, 2, CannotConnect), ("POST", 1, 1, CallUncertain), ("DELETE", 1, 1, CallUncertain)],
)
def test_only_reading_is_tried_again_and_never_uncertain(
    method: str, breaks: int, calls: int, expected: type[CallError] | None
) -> None:
    cloud: Any = Network(breaks)
    if expected is None:
        assert identity.request(cloud, "network", method, "/ports").json() == {"path": "/ports"}
    else:
        with pytest.raises(expected):
            identity.request(cloud, "network", method, "/ports")
    assert cloud.calls == calls


class FakeConnection:
    def __init__(self, url: str) -> None:
        self.session = Session(auth=V3Password(f"{url}v3", username="u", password="s3cret", project_name="p"))
        self.session.timeout = (0.5, 300.0)


def test_probing_a_silent_keystone_does_not_take_the_read_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PROBE_TIMEOUT", 0.5)
    with server("silent") as url, pytest.raises(CannotConnect) as caught:
        identity.probe(FakeConnection(url))
    assert "s3cret" not in str(caught.value)


def test_as_many_connections_are_kept_as_a_drain_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OS_AUTH_URL", "http://127.0.0.1:9/v3")
    monkeypatch.setenv("OS_USERNAME", "admin")
    monkeypatch.setenv("OS_PASSWORD", "no")
    monkeypatch.setenv("OS_PROJECT_NAME", "admin")
    connection = identity.connect(Settings())
    for scheme in ("http://", "https://"):
        pool = connection.session.session.get_adapter(scheme).poolmanager.connection_from_url(f"{scheme}127.0.0.1:9")
        assert pool.pool.maxsize == identity.POOL


CLOUDS = """\
clouds:
  lab:
    auth: {auth_url: "http://127.0.0.1:9/v3", username: admin, password: no, project_name: admin, user_domain_id: default, project_domain_id: default}
    regions: [One, Two]
    interface: public
    cacert: /from/clouds.yaml
"""


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clouds.yaml with one cloud, and none of the OS_* variables."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    (tmp_path / "clouds.yaml").write_text(CLOUDS)


@pytest.mark.usefixtures("clouds")
@pytest.mark.parametrize("opening", ["operator", "service"])
def test_variables_beside_a_cloud_go_before_its_entry(monkeypatch: pytest.MonkeyPatch, opening: str) -> None:
    def opened(**variables: str) -> Any:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = load({}, {"HOME": os.getcwd(), "OS_CLOUD": "lab", "CELLMOVE_SERVICE_CLOUD": "lab", **variables})
        return identity.connect(found) if opening == "operator" else identity.connect_service(found)

    plain = opened()
    assert (plain.config.region_name, plain.config.get_interface()) == ("One", "public")
    assert plain.session.verify == "/from/clouds.yaml"
    other = opened(OS_REGION_NAME="Two", OS_INTERFACE="internal", OS_CACERT="/from/variable")
    assert (other.config.region_name, other.config.get_interface()) == ("Two", "internal")
    assert other.session.verify == "/from/variable"


@pytest.mark.usefixtures("clouds")
def test_a_token_of_the_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load({}, {"HOME": os.getcwd(), "OS_CLOUD": "lab", "OS_SYSTEM_SCOPE": "all"})
    with pytest.raises(CannotConnect, match="OS_SYSTEM_SCOPE asks for a token of the system"):
        identity.connect(found)


def test_the_flag_goes_before_the_variable(tmp_path: Path) -> None:
    found = load({"os_region_name": "Two"}, {"HOME": str(tmp_path), "OS_REGION_NAME": "One"})
    assert found.os_region_name == "Two"


class RevokedKeystone:
    """A session whose token keystone has revoked."""

    def __init__(self, issued: datetime) -> None:
        self.session, self.auth, self.identity = self, self, self
        self.token, self.issued, self.shown = "old", issued, ""

    def get_access(self, _session: Any) -> Any:
        expires = self.issued + timedelta(hours=8)
        catalog = SimpleNamespace(catalog=[])
        return SimpleNamespace(auth_token=self.token, issued=self.issued, expires=expires, service_catalog=catalog)

    def request(self, path: str, method: str, headers: dict[str, str], **_options: Any) -> requests.Response:
        self.shown, self.token = headers["X-Subject-Token"], "new"  # keystoneauth logs in anew after a 401
        return response(404, {}, method=method)


@pytest.mark.parametrize(("age", "expected", "shown"), [(0, "old", ""), (5, "new", "old")])
def test_a_token_is_shown_to_keystone_before_it_goes_over_a_bus(age: int, expected: str, shown: str) -> None:
    keystone_: Any = RevokedKeystone(datetime.now(UTC) - timedelta(seconds=age))
    assert identity.rpc_credentials(keystone_) == (expected, [])
    assert keystone_.shown == shown


class CachingKeystone(RevokedKeystone):
    """One that takes a revoked token as the caller's, from its cache, and does not find it."""

    def request(self, path: str, method: str, headers: dict[str, str], **_options: Any) -> requests.Response:
        self.shown = headers["X-Subject-Token"]
        return response(404, {}, method=method)

    def invalidate(self) -> None:
        self.token = "new"


def test_a_token_that_keystone_takes_and_does_not_find_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(identity.time, "sleep", slept.append)
    keystone_: Any = CachingKeystone(datetime.now(UTC) - timedelta(seconds=5))
    assert identity.rpc_credentials(keystone_) == ("new", [])
    assert keystone_.shown == "old"
    assert slept == [identity.REVOCATION_SECONDS]  # a token of the revocation's second would not be valid either


class LateKeystone:
    """A service that refuses the first tokens, as one does in the second of a revocation."""

    def __init__(self, refused: int) -> None:
        self.network, self.session, self.auth = self, self, self
        self.refused, self.logins = refused, 0

    def invalidate(self) -> None:
        self.logins += 1

    def request(self, path: str, method: str, **_options: Any) -> requests.Response:
        self.refused -= 1
        return response(401 if self.refused >= 0 else 200, {"path": path}, method=method)


@pytest.mark.parametrize(("refused", "logins"), [(0, 0), (1, 1)])
def test_a_token_of_the_second_of_a_revocation_is_replaced(
    monkeypatch: pytest.MonkeyPatch, refused: int, logins: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(identity.time, "sleep", slept.append)
    cloud: Any = LateKeystone(refused)
    assert identity.request(cloud, "network", "PUT", "/ports/1").json() == {"path": "/ports/1"}
    assert cloud.logins == logins
    assert slept == [identity.REVOCATION_SECONDS] * logins


def test_a_login_that_is_refused_for_good_is_tried_once_more_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity.time, "sleep", lambda _seconds: None)
    cloud: Any = LateKeystone(9)
    with pytest.raises(CannotConnect):
        identity.request(cloud, "network", "PUT", "/ports/1")
    assert cloud.logins == 1
