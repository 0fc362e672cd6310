"""What is asked of placement for a flavor."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.cloud import candidates
from cellmove.db.shapes import Flavor

FLAVOR = Flavor(1, "one", "small", vcpus=2, memory_mb=512, root_gb=5, ephemeral_gb=1, swap=1025)


def flavor(**specs: str) -> Flavor:
    return dataclasses.replace(FLAVOR, extra_specs={key.replace("__", ":"): value for key, value in specs.items()})


@pytest.mark.parametrize(
    ("specs", "volume_backed", "expected"),
    [
        ({}, False, {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 8}),
        ({}, True, {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 3}),
        ({"resources__VCPU": "0", "resources__CUSTOM_METAL": "1"}, False, {"MEMORY_MB": 512, "DISK_GB": 8, "CUSTOM_METAL": 1}),
        ({"resources__DISK_GB": "7", "resources__MEMORY_MB": "0"}, False, {"VCPU": 2, "DISK_GB": 7}),
        ({"resources1__VCPU": "2"}, False, {"MEMORY_MB": 512, "DISK_GB": 8}),
        ({"hw__cpu_policy": "dedicated"}, False, {"MEMORY_MB": 512, "DISK_GB": 8}),
        ({"resources__VGPU": "1", "quota__cpu": "5"}, False, {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 8, "VGPU": 1}),
    ],
)  # fmt: skip
def test_resources(specs: dict[str, str], volume_backed: bool, expected: dict[str, int]) -> None:
    assert candidates.wanted_resources(flavor(**specs), volume_backed=volume_backed) == expected


def test_traits() -> None:
    of = flavor(trait__CUSTOM_FAST="required", trait__CUSTOM_OLD="forbidden", trait__X="odd", trait1__Y="required")
    assert candidates.wanted_traits(of) == ["!CUSTOM_OLD", "CUSTOM_FAST"]


def ask(monkeypatch: pytest.MonkeyPatch, of: Flavor, status: int = 200, only: str = "") -> tuple[Any, dict[str, Any]]:
    """What comes back and which parameters were sent."""
    sent: dict[str, Any] = {}
    body = {
        "allocation_requests": [
            {"allocations": {"root-1": {}, "shared": {}}},
            {"allocations": {"child-2": {}}},
        ],
        "provider_summaries": {
            "root-1": {"root_provider_uuid": "root-1"},
            "shared": {"root_provider_uuid": "shared"},
            "child-2": {"root_provider_uuid": "root-2"},
            "root-3": {"root_provider_uuid": "root-3"},
        },
    }

    def request(*_: object, params: dict[str, Any], **__: object) -> Any:
        sent.update(params)
        return SimpleNamespace(status_code=status, json=lambda: body)

    monkeypatch.setattr(candidates, "request", request)
    connection: Any = None
    return candidates.offered(connection, of, volume_backed=False, only=only), sent


def test_roots_of_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    found, sent = ask(monkeypatch, flavor(trait__CUSTOM_FAST="required"))
    assert found == {"root-1", "root-2", "shared"}
    assert sent == {"resources": "DISK_GB:8,MEMORY_MB:512,VCPU:2", "required": "CUSTOM_FAST"}


def test_one_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, FLAVOR, only="root-1")[1]["in_tree"] == "root-1"


def test_a_flavor_that_placement_does_not_understand_fits_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, flavor(trait__CUSTOM_NEW="required"), status=400)[0] == frozenset()


def test_a_flavor_that_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Flavor(1, "one", "none", 0, 0, 0)
    assert ask(monkeypatch, nothing) == (None, {})
