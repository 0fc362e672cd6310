"""What explains that the scheduler refused a host: the rules of its filters, as far as they can be seen."""

from __future__ import annotations

from typing import Any

import pytest

from cellmove.checks import hosts, target
from cellmove.checks.preflight import Level, examine
from cellmove.checks.snapshot import NoHost, ServerSnapshot, unsuitable
from cellmove.db.shapes import Aggregate, Group
from tests.unit.checks.test_preflight import LARGE, cell, instance, snapshot

REFUSED = {"uuid-of-cell2": NoHost("No valid host was found.", "req-1")}
BOTH = frozenset({"c2-host1", "c2-host2"})


def refused(**changes: Any) -> ServerSnapshot:
    """A snapshot of which the scheduler said that it has no host."""
    return snapshot(no_host=REFUSED, **changes)


def why(of: ServerSnapshot) -> str:
    """The explanation."""
    return hosts.explanation(cell(), of)[0]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"trait:CUSTOM_GPU": "required"}, "only for servers whose flavor or image requires the trait CUSTOM_GPU"),
        ({"os_type": "windows"}, "for images with os_type=windows, and this one has linux"),
        ({"instance_type": "m1.huge"}, "for the flavor m1.huge"),
        ({"filter_tenant_id": "other"}, "belongs to other projects"),
    ],
)
def test_an_aggregate_that_is_not_for_the_server(metadata: dict[str, str], words: str) -> None:
    of = refused(
        aggregates=(Aggregate("fast", BOTH, metadata),),
        server=instance(image={"os_type": "linux"}),
        wanted_host="c2-host1",
    )
    text, remedy = hosts.explanation(cell(), of)
    assert text.startswith("c2-host1: its aggregate fast ")
    assert words in text
    assert "--host" in remedy
    assert "req-1" in remedy


@pytest.mark.parametrize(
    "metadata",
    [
        {"trait:CUSTOM_GPU": "forbidden"},
        {"os_type": "windows,linux"},
        {"instance_type": "m1.large, m1.small"},
        {"filter_tenant_id": "other", "filter_tenant_id2": "project"},
        {"availability_zone": "east"},
    ],
)
def test_an_aggregate_that_is_for_the_server_explains_nothing(metadata: dict[str, str]) -> None:
    of = refused(aggregates=(Aggregate("fast", BOTH, metadata),), server=instance(image={"os_type": "linux"}))
    assert why(of) == ""


def test_the_values_of_all_aggregates_of_a_host_count_together() -> None:
    """nova joins them (nova/scheduler/filters/utils.py, aggregate_metadata_get_by_host)."""
    fast, slow = {"instance_type": "m1.huge", "os_type": "windows"}, {"instance_type": "m1.large, m1.small"}
    both = (Aggregate("fast", BOTH, fast), Aggregate("slow", BOTH, slow))
    linux = instance(image={"os_type": "linux"})
    assert "os_type=windows" in why(refused(aggregates=both, server=linux))
    assert "flavor" not in why(refused(aggregates=both, server=linux))
    tenants = (
        Aggregate("a", BOTH, {"filter_tenant_id": "other"}),
        Aggregate("b", BOTH, {"filter_tenant_id": "project"}),
    )
    assert why(refused(aggregates=tenants)) == ""
    assert "its aggregate a belongs to other projects" in why(refused(aggregates=tenants[:1]))


def test_a_trait_that_flavor_or_image_requires_is_not_missing() -> None:
    isolated = (Aggregate("fast", BOTH, {"trait:CUSTOM_GPU": "required"}),)
    by_flavor = LARGE.__class__(**{**vars(LARGE), "extra_specs": {"trait_group:CUSTOM_GPU": "required"}})
    by_image = {"nova_object.data": {"properties": {"nova_object.data": {"traits_required": ["CUSTOM_GPU"]}}}}
    assert why(refused(aggregates=isolated))
    assert why(refused(aggregates=isolated, new_flavor=by_flavor)) == ""
    assert why(refused(aggregates=isolated, request_spec={"nova_object.data": {"image": by_image}})) == ""


def test_an_aggregate_of_other_hosts_explains_nothing() -> None:
    other = Aggregate("fast", frozenset({"c1-host1"}), {"trait:CUSTOM_GPU": "required"})
    assert why(refused(aggregates=(other,))) == ""


def test_a_server_group_leaves_no_host() -> None:
    affine, anti = (
        Group("group-1", "web", policy, ("server-1", "server-2")) for policy in ("affinity", "anti-affinity")
    )
    assert "web (affinity) is on c1-host1" in why(refused(group=affine, group_hosts=("c1-host1",)))
    assert why(refused(group=anti, group_hosts=("c2-host1",))) == (
        "c2-host1: another member of the server group web (anti-affinity) is there"
    )


def test_what_the_flavor_asks_for_is_named() -> None:
    of = refused(narrowed={"trait CUSTOM_RARE": frozenset({"node-of-c2-host1"})})
    assert why(of) == "c2-host2: the flavor asks for trait CUSTOM_RARE"


def test_a_refusal_that_nothing_explains_names_the_log() -> None:
    (found,) = [check for check in examine(refused()) if check.level is Level.REFUSAL]
    assert found.code == "no-valid-host"
    assert found.text == "nova-scheduler does not accept any host of cell2 for it: No valid host was found."
    assert found.remedy == "look in the log of nova-scheduler, which names the filter: req-1"


def test_many_hosts_are_not_all_explained() -> None:
    many = tuple(f"c2-host{number}" for number in range(9))
    isolated = (Aggregate("fast", frozenset(many), {"trait:CUSTOM_GPU": "required"}),)
    text, _remedy = hosts.explanation(cell(hosts=many), refused(aggregates=isolated, candidates=None))
    assert text.count("CUSTOM_GPU") == hosts.SHOWN
    assert text.endswith("; and 6 more")


def test_a_scheduler_that_failed_refuses_nothing() -> None:
    failed = snapshot(no_host={"uuid-of-cell2": NoHost("KeyError: 'x'", "req-1", is_certain=False)})
    assert [check.code for check in examine(failed) if check.level is Level.WARNING] == ["scheduler-failed"]
    assert target.allowed_targets(failed) == list(failed.targets)


def test_one_cell_of_two_is_left_out() -> None:
    of = snapshot(no_host=REFUSED, candidates=None, targets=(cell(), cell("cell3", hosts=("c3-host1",))))
    (found,) = [check for check in examine(of) if check.code == "no-valid-host"]
    assert found.level is Level.WARNING
    assert found.text.startswith("cell2 is left out: ")
    assert [each.cell for each in target.allowed_targets(of)] == ["cell3"]


def test_hosts_of_another_zone_than_the_volumes_are_left_out() -> None:
    zones = {"c2-host1": "east", "c2-host2": "nova"}
    of = snapshot(volume_zones=frozenset({"east"}), zones=zones)
    assert set(unsuitable(cell(), of)) == {"c2-host2"}
    assert [check.code for check in examine(of) if check.level is Level.REFUSAL] == []
    (found,) = [check for check in examine(snapshot(volume_zones=frozenset({"east"}))) if check.level is Level.REFUSAL]
    assert found.code == "volume-zone"
    assert "has volumes in east ([cinder]cross_az_attach is off)" in found.text
    both = snapshot(volume_zones=frozenset({"east", "nova"}), zones=zones)
    assert set(unsuitable(cell(), both)) == {"c2-host1", "c2-host2"}


ODD: tuple[Any, ...] = (
    None,
    5,
    "x",
    [],
    [None],
    {},
    {"nova_object.data": None},
    {"nova_object.data": []},
    {"nova_object.data": {}},
)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_image_in_the_request_spec_that_cannot_be_read_has_no_properties(odd: Any) -> None:
    for fields in ({"image": odd}, {"image": {"nova_object.data": {"properties": odd}}}):
        server = snapshot(request_spec={"nova_object.data": fields})
        assert hosts.required_traits(server) == frozenset()
        assert hosts.image_properties(server) == dict(server.instance.image)
    properties = {"nova_object.data": {"traits_required": odd}}
    spec = {"nova_object.data": {"image": {"nova_object.data": {"properties": properties}}}}
    assert hosts.required_traits(snapshot(request_spec=spec)) <= {"None"}
