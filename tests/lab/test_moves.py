"""The sixteen moves of tests/scenarios on the lab, and what only a real nova can show: projects, owners, its own API."""

from __future__ import annotations

import pytest

from lab import cloud, oracle
from tests.scenarios import moves
from tests.support.lab.environment import Lab

OFTEN = (
    ("image", "active", "migrate", "confirm"), ("image", "active", "resize", "revert"),
    ("image", "stopped", "resize", "confirm"), ("volume", "active", "resize", "confirm"),
    ("volume", "stopped", "migrate", "revert"),
)  # fmt: skip
"""Every two of the four choices meet in every way."""


def all_moves():
    """All sixteen; those that are not in OFTEN are for `make test-long`."""
    for case in moves.CASES:
        yield pytest.param(*case.values, id=case.id, marks=() if case.values in OFTEN else (pytest.mark.long,))


@pytest.mark.lab
@pytest.mark.parametrize(("backing", "state", "kind", "ending"), list(all_moves()))
def test_there_and_back(cellmove, boot, agrees, backing, state, kind, ending):
    moves.there_and_back(Lab(boot, cellmove), agrees, backing, state, kind, ending)


@pytest.mark.lab
def test_a_server_of_another_project(cellmove, boot):
    server = boot("demo", cloud="lab-demo", host=None, hints=None)
    source = cloud.show(server.id)["OS-EXT-SRV-ATTR:host"]
    target = "cell2" if source.startswith("c1") else "cell1"
    disk = set(cloud.disk_hash(server.id).values())
    moved = cellmove("migrate", server.id, "--cell", target, "--confirm", "-f", "json").json
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell=target, host=moved["target"]["host"], flavor="m1.tiny", status="ACTIVE") == []
    assert set(cloud.disk_hash(server.id).values()) == disk


@pytest.mark.lab
@pytest.mark.parametrize("ending", ["confirm", "revert"])
def test_the_owner_ends_our_move_through_the_api(cellmove, boot, ending):
    server = boot("owner", volumes=1)
    before = oracle.snapshot(server.id)
    moved = cellmove("resize", server.name, "m1.small", "--cell", "cell2", "-f", "json").json

    if ending == "confirm":
        cloud.native_confirm(server.id)
        expected = {"cell": "cell2", "host": moved["target"]["host"], "flavor": "m1.small"}
    else:
        cloud.native_revert(server.id)
        expected = {"cell": "cell1", "host": "c1-host1", "flavor": "m1.tiny"}

    after = oracle.snapshot(server.id)
    assert oracle.problems(after, **expected, status="ACTIVE") == []
    if ending == "revert":
        assert oracle.compare(before, after) == []
    # The journal learns of it, and the server is free for another move.
    shown = cellmove("show", moved["move"], "-f", "json").json
    assert shown["state"] == {"confirm": "confirmed", "revert": "reverted"}[ending]
    back = "cell1" if ending == "confirm" else "cell2"
    cellmove("migrate", server.name, "--cell", back, "--confirm")
