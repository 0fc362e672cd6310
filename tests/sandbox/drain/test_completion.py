"""What a drain says of a cell that has no servers any more: what to type, in which order, and why it cannot be yet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cellmove.sandbox import services
from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.leftovers import UUID, change, stuck

ARCHIVE = "nova-manage db archive_deleted_rows --all-cells --until-complete"
RESTART = (
    "systemctl restart nova-scheduler nova-conductor nova-api  # on every controller: they cache the list of cells"
)


def decommission(cell: Drained) -> dict[str, Any]:
    """What the last line of a drain says of the cell."""
    found: dict[str, Any] = cell.lines()[-1]["ending"]
    return found


def uuid_of(cell: Drained, name: str = "cell1") -> str:
    (row,) = cell.process.cloud().rows("api", "cell_mappings", name=name)
    return str(row["uuid"])


def deletions(cell: Drained, *hosts: str) -> list[str]:
    """How the services of hosts are deleted."""
    rows = {
        row["host"]: row for row in cell.process.cloud().rows("cell1", "services", binary="nova-compute", deleted=0)
    }
    return [
        f"openstack --os-compute-api-version 2.53 compute service delete {rows[host]['uuid']}  # {host}, after its nova-compute is stopped"
        for host in hosts
    ]


def test_what_to_type_is_said_in_its_order(cell: Drained) -> None:
    cell.add("one")
    assert decommission(cell) == {"leftovers": [], "hindrances": [], "commands": [
        ARCHIVE, *deletions(cell, "c1-host1", "c1-host2"),
        f"nova-manage cell_v2 delete_cell --cell_uuid {uuid_of(cell)}", RESTART,
    ]}  # fmt: skip


def test_a_host_whose_service_has_gone_is_taken_out_of_the_cell_by_itself(cell: Drained) -> None:
    """nova's delete_cell refuses a cell that still has hosts; deleting a service takes its host away, but here is none."""
    cell.add("one", host="c1-host1")
    cloud = cell.process.cloud()
    (row,) = cloud.rows("cell1", "services", host="c1-host2", binary="nova-compute")
    cloud.update("cell1", "services", {"deleted": row["id"]}, id=row["id"])
    assert decommission(cell)["commands"] == [
        ARCHIVE, *deletions(cell, "c1-host1"), f"nova-manage cell_v2 delete_host --cell_uuid {uuid_of(cell)} --host c1-host2",
        f"nova-manage cell_v2 delete_cell --cell_uuid {uuid_of(cell)}", RESTART,
    ]  # fmt: skip


def hold_allocation(cell: Drained) -> str:
    """Placement has an allocation of another consumer on a host."""
    held = {services.provider_of("c1-host2"): {"resources": {"VCPU": 1}}}
    body = {"allocations": held, "generation": 1, "project_id": "p", "user_id": "u"}
    change(cell, "allocations", lambda all_: all_.update({UUID.format(0xA3): body}))
    return "placement has allocations on c1-host2"


def move_elsewhere(cell: Drained) -> str:
    """An operator migrates a server of another cell to it."""
    (other,) = cell.add("other", host="c2-host1")
    values = {
        "instance_uuid": other.id,
        "status": "migrating",
        "source_compute": "c2-host1",
        "dest_compute": "c1-host1",
    }
    values |= {"uuid": UUID.format(0xA4), "migration_type": "migration", "cross_cell_move": 1}
    cell.process.cloud().insert("cell1", "migrations", values)
    return f"1 server has a migration in progress in cell1: {other.id} (not by cellmove)"


@pytest.mark.parametrize("hinder", [hold_allocation, move_elsewhere], ids=lambda each: each.__name__)
def test_what_stands_in_the_way_is_said_and_nothing_is_to_be_typed(cell: Drained, hinder: Any) -> None:
    cell.add("one")
    words = hinder(cell)
    found = decommission(cell)
    assert any(each.startswith(words) for each in found["hindrances"]), found
    assert found["commands"] == []


def test_what_moves_left_behind_just_now_is_named(cell: Drained) -> None:
    """Also recent ones: after the run, no move is in progress."""
    (one,) = cell.add("one")
    stuck(cell, one)
    found = json.loads(cell.drain("-f", "json", expect=8).stdout.splitlines()[-1])["ending"]
    assert any(each.startswith("one: ") and "migration" in each for each in found["leftovers"]), found
    assert found["commands"] == []
