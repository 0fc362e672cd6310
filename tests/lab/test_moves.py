"""The sixteen moves, each followed by a move back to where it came from; judged by the lab's oracle."""

from __future__ import annotations

import pytest

from lab import cloud, oracle

SHAPES = [
    pytest.param(
        volume_backed, active, id=f"{'volume' if volume_backed else 'image'}-{'active' if active else 'stopped'}"
    )
    for volume_backed in (False, True)
    for active in (True, False)
]


@pytest.mark.lab
@pytest.mark.parametrize("ending", ["confirm", "revert"])
@pytest.mark.parametrize("kind", ["migrate", "resize"])
@pytest.mark.parametrize(("volume_backed", "active"), SHAPES)
def test_there_and_back(cellmove, boot, volume_backed, active, kind, ending):
    server = boot(
        "move", volume_backed=volume_backed, active=active, ports=2, volumes=1, tags=("blue",), metadata={"a": "b"}
    )
    before = oracle.picture(server.id)
    disk = set(cloud.disk_hash(server.id).values())
    status = "ACTIVE" if active else "SHUTOFF"
    arguments = (kind, server.name, *(("m1.small",) if kind == "resize" else ()), "--cell", "cell2")

    moved = cellmove(*arguments, "-f", "json").json

    assert moved["state"] == "finished"
    assert cloud.show(server.id)["status"] == "VERIFY_RESIZE"
    assert moved["target"]["host"] == cloud.show(server.id)["OS-EXT-SRV-ATTR:host"]
    assert set(cloud.disk_hash(server.id).values()) == disk

    cellmove(ending, server.name)

    if ending == "confirm":
        host, flavor = moved["target"]["host"], "m1.small" if kind == "resize" else "m1.tiny"
        assert oracle.problems(oracle.picture(server.id), cell="cell2", host=host, flavor=flavor, status=status) == []
        home = ("migrate",) if kind == "migrate" else ("resize",)
        flavor_back = ("m1.tiny",) if kind == "resize" else ()
        cellmove(*home, server.id, *flavor_back, "--host", "c1-host1", "--confirm")
        home_cell, home_host = "cell1", "c1-host1"
    else:
        after = oracle.picture(server.id)
        assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status=status) == []
        assert oracle.compare(before, after) == []
        # The way is free for another move: nothing was left in the target cell.
        again = cellmove("migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json").json
        home_cell, home_host = "cell2", again["target"]["host"]

    last = oracle.picture(server.id)
    assert oracle.problems(last, cell=home_cell, host=home_host, flavor="m1.tiny", status=status) == []
    assert set(cloud.disk_hash(server.id).values()) == disk


@pytest.mark.lab
def test_a_server_of_another_project(cellmove, boot):
    server = boot("demo", cloud="lab-demo", host=None, hints=None)
    source = cloud.show(server.id)["OS-EXT-SRV-ATTR:host"]
    target = "cell2" if source.startswith("c1") else "cell1"
    disk = set(cloud.disk_hash(server.id).values())
    moved = cellmove("migrate", server.id, "--cell", target, "--confirm", "-f", "json").json
    shot = oracle.picture(server.id)
    assert oracle.problems(shot, cell=target, host=moved["target"]["host"], flavor="m1.tiny", status="ACTIVE") == []
    assert set(cloud.disk_hash(server.id).values()) == disk


@pytest.mark.lab
@pytest.mark.parametrize("ending", ["confirm", "revert"])
def test_the_owner_ends_our_move_through_the_api(cellmove, boot, ending):
    server = boot("owner", volumes=1)
    before = oracle.picture(server.id)
    moved = cellmove("resize", server.name, "m1.small", "--cell", "cell2", "-f", "json").json

    if ending == "confirm":
        cloud.native_confirm(server.id)
        expected = {"cell": "cell2", "host": moved["target"]["host"], "flavor": "m1.small"}
    else:
        cloud.native_revert(server.id)
        expected = {"cell": "cell1", "host": "c1-host1", "flavor": "m1.tiny"}

    after = oracle.picture(server.id)
    assert oracle.problems(after, **expected, status="ACTIVE") == []
    if ending == "revert":
        assert oracle.compare(before, after) == []
    # The journal learns of it, and the server is free for another move.
    shown = cellmove("show", moved["move"], "-f", "json").json
    assert shown["state"] == {"confirm": "confirmed", "revert": "reverted"}[ending]
    back = "cell1" if ending == "confirm" else "cell2"
    cellmove("migrate", server.name, "--cell", back, "--confirm")
