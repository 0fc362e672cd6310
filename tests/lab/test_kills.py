"""SIGKILL at twelve boundaries of actions and within two calls: one command finishes the move, one rolls it back.

One server of either backing goes through all of it, there and back between its cells; every case begins and ends
with a server at rest. A case that fails leaves its server, and the next one gets a new one. `make test-lab` plays the
seven cases in OFTEN, where nova was asked for something just before; `make test-long` plays all of both ways and
backings. The proof (tests/proof) kills every action at every point, in the sandbox.
"""

from __future__ import annotations

import json

import pytest

from lab import cloud, oracle, rows
from tests.support.lab.shared_server import HOSTS, check_arrived, check_home

BOUNDARIES = (
    "prep-dest:take_server:after-effect",
    "prep-dest:reserve_volumes:after-effect",
    "prep-dest:claim:after-effect",
    "prep-source:stop_source:after-intent",
    "prep-source:stop_source:after-effect",
    "finish:start_target:after-intent",
    "finish:start_target:after-effect",
    "finish:switch_mapping:after-effect",
    "confirm:begin_confirm:after-effect",
    "confirm:clean_source:after-effect",
    "revert:clean_target:after-effect",
    "revert:start_source:after-effect",
)

NO_WAY_BACK = ("confirm:clean_source:after-effect",)
"""What the source would need for a rollback is being destroyed, so a rollback is refused."""

WAYS = (("rollback", "volume"), ("resume", "image"), ("rollback", "image"), ("resume", "volume"))
"""What is typed, and the backing of the server."""

OFTEN = {
    "prep-dest:claim:after-effect": ("rollback", "image"),
    "prep-source:stop_source:after-intent": ("resume", "volume"),
    "finish:start_target:after-effect": ("rollback", "image"),
    "finish:switch_mapping:after-effect": ("resume", "volume"),
    "confirm:clean_source:after-effect": ("resume", "image"),
    "revert:clean_target:after-effect": ("rollback", "image"),
    "revert:start_source:after-effect": ("resume", "volume"),
}
"""The boundaries of `make test-lab`, and how each is met there."""

CALLS = {
    "prep-source:stop_source": ("source", "power_off", "compute_prep_snapshot_based_resize_at_source"),
    "finish:start_target": ("target", "spawn", "compute_finish_snapshot_based_resize_at_dest"),
}
"""Calls to die in: which end works on it, the virt call in which it lingers, and nova's event of it."""


def check_silent(cellmove, traveller, first):
    """The same resume once more says the same, without a word about work, and writes nothing."""
    shot = oracle.snapshot(traveller.id)
    second = cellmove("resume", traveller.id)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert oracle.snapshot(traveller.id) == shot


def resume_and_check(cellmove, traveller, step, before, disk):
    """`resume` brings the move to what the killed run was after; afterwards the server is at rest again."""
    first = cellmove("resume", traveller.id)
    if step == "revert":
        check_home(traveller, before, disk)
        check_silent(cellmove, traveller, first)
        return
    check_arrived(traveller, before, disk, confirmed=step == "confirm")
    check_silent(cellmove, traveller, first)
    if step == "confirm":
        traveller.arrive()
    else:
        cellmove("revert", traveller.id)
        check_home(traveller, before, disk)


def rollback_and_check(cellmove, traveller, before, disk):
    """`rollback` takes the server home."""
    cellmove("rollback", traveller.id)
    check_home(traveller, before, disk)


def all_cases():
    """Boundary, way and backing. All cases of a backing run after each other, since they share its server."""
    for boundary in BOUNDARIES:
        for way, backing in WAYS:
            is_often = OFTEN.get(boundary) == (way, backing)
            marks = [pytest.mark.xdist_group(backing), *([] if is_often else [pytest.mark.long])]
            yield pytest.param(boundary, way, backing, marks=marks)


@pytest.mark.lab
@pytest.mark.parametrize(("boundary", "way", "backing"), list(all_cases()))
def test_killed_at(cellmove, killed, travellers, boundary, way, backing):
    step, traveller = boundary.partition(":")[0], travellers(backing)
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    if step in ("confirm", "revert"):
        cellmove(*traveller.move_command())
        killed(boundary, step, traveller.id)
    else:
        killed(boundary, *traveller.move_command())

    if way == "rollback" and boundary in NO_WAY_BACK:
        refused = cellmove("rollback", traveller.id, expect=5)
        assert "cellmove resume" in refused.stderr
        resume_and_check(cellmove, traveller, step, before, disk)
    elif way == "rollback":
        rollback_and_check(cellmove, traveller, before, disk)
    else:
        resume_and_check(cellmove, traveller, step, before, disk)
    traveller.at_rest = True


@pytest.mark.lab
@pytest.mark.xdist_group("image")
@pytest.mark.parametrize(
    ("call", "way"),
    [
        ("prep-source:stop_source", "rollback"), ("finish:start_target", "resume"),
        pytest.param("prep-source:stop_source", "resume", marks=pytest.mark.long),
        pytest.param("finish:start_target", "rollback", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_killed_while_a_compute_works(cellmove, started, travellers, call, way):
    """The host works on when cellmove is gone: nothing has to be cleaned up first, and nothing is sent twice."""
    traveller = travellers("image")
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    end, virt_call, event = CALLS[call]
    cell = traveller.cell if end == "source" else traveller.away

    with cloud.fault(HOSTS[cell], virt_call, "hang 5", traveller.id):
        process = started(*traveller.move_command())
        cloud.wait_for(f"{event} to begin", lambda: event in rows.open_events(traveller.id, cell), 60)
        process.kill()
        if way == "rollback":
            rollback_and_check(cellmove, traveller, before, disk)
        else:
            resume_and_check(cellmove, traveller, call.partition(":")[0], before, disk)
    assert json.loads(cellmove("resume", "--all", "-f", "json").stdout)["moves"] == []
    traveller.at_rest = True
