"""Each step command alone, in and out of turn."""

from __future__ import annotations

import pytest

from lab import cloud, oracle
from tests.support.lab.shared_server import check_home

STEPS = ("prep-dest", "prep-source", "finish", "confirm", "revert")


@pytest.mark.lab
def test_one_step_at_a_time(cellmove, boot):
    server = boot("steps", volumes=1, tags=("red",), metadata={"k": "v"})
    before = oracle.snapshot(server.id)
    disk = cloud.disk_hash(server.id)

    planned = cellmove("plan", server.name, "m1.small", "--cell", "cell2", "-f", "json").json
    assert planned["state"] == "planned"
    assert planned["next"][0] == f"cellmove prep-dest {planned['move']}"
    assert oracle.snapshot(server.id) == before, "plan wrote to the cloud"

    for step in ("prep-source", "finish", "confirm", "revert"):
        refused = cellmove(step, server.name, expect=5)
        assert f"cellmove prep-dest {planned['move']}" in refused.stderr
    assert oracle.snapshot(server.id) == before, "a refused step wrote to the cloud"

    cellmove("prep-dest", planned["move"])
    shot = oracle.snapshot(server.id)
    assert cloud.show(server.id)["status"] == "RESIZE"
    assert cloud.guests(server.id) == {"c1-host1": "running"}, "the guest has to run on until prep-source"
    assert cloud.disk_hash(server.id) == disk
    again = cellmove("prep-dest", server.id)
    assert "c2-host" in again.stdout
    assert oracle.snapshot(server.id) == shot, "a finished step was not a no-op"

    cellmove("prep-source", server.name)
    assert cloud.guests(server.id) == {} or set(cloud.guests(server.id).values()) == {"shutdown"}

    cellmove("finish", server.name)
    assert cloud.show(server.id)["status"] == "VERIFY_RESIZE"
    target = cellmove("show", server.name, "-f", "json").json["target"]["host"]
    assert cloud.guests(server.id) == {target: "running"}

    cellmove("confirm", server.name)
    after = oracle.snapshot(server.id)
    assert oracle.problems(after, cell="cell2", host=target, flavor="m1.small", status="ACTIVE") == []

    cellmove("confirm", planned["move"])
    cellmove("resume", planned["move"])
    cellmove("resume", "--all")
    assert oracle.snapshot(server.id) == after, "a finished move was touched again"


@pytest.mark.lab
@pytest.mark.xdist_group("image")
@pytest.mark.parametrize("upto", ["prep-dest", "prep-source", "finish"])
def test_rollback_after_each_step(cellmove, travellers, upto):
    """That the way is free for another move is shown by the next case, and at last by one."""
    traveller = travellers("image")
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    flavor, target = traveller.other_flavor, traveller.away
    move = cellmove("plan", traveller.id, flavor, "--cell", target, "-f", "value").stdout.split()[0]
    for step in STEPS[: STEPS.index(upto) + 1]:
        cellmove(step, move)

    cellmove("rollback", move)

    check_home(traveller, before, disk)
    after = oracle.snapshot(traveller.id)
    cellmove("rollback", move)
    assert oracle.snapshot(traveller.id) == after, "a finished rollback was touched again"
    if upto == "finish":
        cellmove(*traveller.move_command(), "--confirm")
        traveller.arrive()
    traveller.at_rest = True


@pytest.mark.lab
def test_names_and_formats(cellmove, boot):
    first, second = boot("same"), boot("other")
    from openstack.connection import Connection

    connection: Connection = cloud.connect()
    connection.compute.update_server(second.id, name=first.name)

    ambiguous = cellmove("plan", first.name, "--cell", "cell2", expect=2)
    assert first.id in ambiguous.stderr
    assert second.id in ambiguous.stderr
    unknown = cellmove("plan", "no-such-server", expect=2)
    assert "no-such-server" in unknown.stderr

    planned = cellmove("plan", first.id, "--cell", "cell2", "-f", "json").json
    assert planned["schema_version"] == 1
    assert {"move", "state", "steps", "next"} <= set(planned)
    listed = cellmove("list", "-f", "json").json
    assert [move["move"] for move in listed["moves"]] == [planned["move"]]
    assert "\x1b" not in cellmove("show", planned["move"]).stdout
    cellmove("rollback", planned["move"])
