"""Proxies and CA bundles: what requests would find in the environment, found once for each server."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from cellmove.cloud.environment import OnceRead

NOVA, GLANCE = "https://nova.example:8774/v2.1", "https://glance.example/v2"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def settings(session: requests.Session, url: str, *, verify: Any = True, proxies: Any = None) -> dict[str, Any]:
    return dict(session.merge_environment_settings(url, {} if proxies is None else proxies, None, verify, None))


@pytest.mark.parametrize("url", [NOVA, GLANCE])
@pytest.mark.parametrize("verify", [True, False, "/etc/ours.pem"])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"https_proxy": "http://proxy:3128"},
        {"https_proxy": "http://proxy:3128", "no_proxy": "nova.example"},
        {"REQUESTS_CA_BUNDLE": "/etc/theirs.pem"},
    ],
)
def test_it_is_what_requests_finds(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], verify: Any, url: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = OnceRead({}), requests.Session()
    for _ in range(2):
        assert settings(ours, url, verify=verify) == settings(theirs, url, verify=verify)


def test_the_environment_is_read_once_for_each_server(monkeypatch: pytest.MonkeyPatch) -> None:
    session = OnceRead({})
    monkeypatch.setenv("https_proxy", "http://one:3128")
    assert settings(session, NOVA)["proxies"]["https"] == "http://one:3128"
    monkeypatch.setenv("https_proxy", "http://two:3128")
    assert settings(session, f"{NOVA}/servers")["proxies"]["https"] == "http://one:3128"
    assert settings(session, GLANCE)["proxies"]["https"] == "http://two:3128"


def test_proxies_of_one_call_are_not_remembered() -> None:
    session = OnceRead({})
    assert settings(session, NOVA, proxies={"https": "http://own:3128"})["proxies"]["https"] == "http://own:3128"
    assert "https" not in settings(session, NOVA)["proxies"]
