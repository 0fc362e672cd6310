"""What the scheduler is asked: one cell, no None where the receiver refuses it, the live group's hosts."""

from __future__ import annotations

from typing import Any

from cellmove.db.cells import Cell
from cellmove.hosts import scheduler

CELL = Cell(2, "uuid-2", "cell2", False, "rabbit://u:p@h/", "mysql://u:p@h/d")


def spec(**fields: Any) -> dict[str, Any]:
    return {"nova_object.name": "RequestSpec", "nova_object.version": "1.14", "nova_object.data": fields}


def prepared(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "flavor": {"f": 1},
        "instance": {"nova_object.data": {"project_id": "p", "user_id": "u"}},
        "is_volume_backed": False,
        "ignore_hosts": ["c1-host1"],
        "destination": scheduler.destination(cell=CELL),
        "group_hosts": [],
    }
    fields: dict[str, Any] = scheduler.prepare_spec(of, scheduler.HostRequest(**(arguments | changes)))[
        "nova_object.data"
    ]
    return fields


def test_one_cell_is_asked_for_and_no_other() -> None:
    fields = scheduler.destination(cell=CELL)["nova_object.data"]
    assert fields["allow_cross_cell_move"] is False
    assert fields["cell"]["nova_object.data"]["uuid"] == "uuid-2"
    assert "host" not in fields, "a host that is not wanted has to be absent, not None"


def test_a_host_is_asked_for_by_name() -> None:
    assert scheduler.destination(cell=CELL, host="c2-host1")["nova_object.data"]["host"] == "c2-host1"


def test_fields_that_may_not_be_none_are_left_out() -> None:
    fields = prepared(spec(network_metadata=None, security_groups=None, requested_networks=None, limits=None))
    assert {"network_metadata", "security_groups", "requested_networks"}.isdisjoint(fields)
    assert fields["limits"] is None


def test_an_old_spec_is_healed_and_never_forced() -> None:
    fields = prepared(spec(force_hosts=["c1-host1"], force_nodes=["n"], project_id=None), is_volume_backed=True)
    assert (fields["force_hosts"], fields["force_nodes"], fields["retry"]) == (None, None, None)
    assert (fields["project_id"], fields["user_id"], fields["is_bfv"]) == ("p", "u", True)
    assert fields["requested_resources"] == []
    assert fields["ignore_hosts"] == ["c1-host1"]


def test_the_group_gets_the_hosts_it_has_now() -> None:
    group = {"nova_object.name": "InstanceGroup", "nova_object.data": {"policy": "anti-affinity", "hosts": None}}
    fields = prepared(spec(instance_group=group), group_hosts=["c2-host1"])
    assert fields["instance_group"]["nova_object.data"] == {"policy": "anti-affinity", "hosts": ["c2-host1"]}


def test_the_stored_spec_is_not_changed() -> None:
    stored = spec(force_hosts=["c1-host1"])
    prepared(stored)
    assert stored == spec(force_hosts=["c1-host1"])
