"""What fails leaves the cloud as it was, ends with 1, and the same command then succeeds."""

from __future__ import annotations

import contextlib

import pytest

from lab import oracle
from lab.layout import CELL_UUIDS
from tests.scenarios.environment import Agrees, Place, disks, guests

TARGET = "c2-host1"

FAULTS = {
    "neutron-refuses-the-binding": (TARGET, "agent", "fail", "bind_ports"),
    "the-claim-fails": (TARGET, "get_host_ip_addr", "fail", "claim"),
    "the-guest-does-not-stop": ("c1-host1", "power_off", "fail", "stop_source"),
    "the-snapshot-fails": ("c1-host1", "snapshot", "fail", "stop_source"),
    "the-guest-cannot-be-taken-apart": ("c1-host1", "destroy", "fail once", "stop_source"),
    "the-guest-does-not-start": (TARGET, "spawn", "fail", "start_target"),
}
"""Name -> host, virt call, how, and the action that fails."""

FOR_EVERYBODY = ("agent", "get_host_ip_addr")
"""Faults that cannot be told apart by server."""

CASES = [
    pytest.param(name, backing, id=f"{name}-{backing}")
    for name in FAULTS
    for backing in ("image", "volume")
    if not (backing == "volume" and name == "the-snapshot-fails")  # of a volume-backed server none is taken
]


def a_failure_is_taken_back(place: Place, agrees: Agrees, name: str, backing: str) -> None:
    """One thing fails; all is as before; the same command again succeeds."""
    host, call, how, action = FAULTS[name]
    server = place.boot("fail", volume_backed=backing == "volume", ports=2, volumes=1)
    before = place.snapshot(server.id)
    command = ("resize", server.name, "m1.small", "--host", TARGET)

    with place.fault(host, call, how, None if call in FOR_EVERYBODY else server.id):
        failed = place.cellmove(*command, expect=1)

    assert action in failed.stderr
    after = place.snapshot(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(before, after) == []
    assert guests(after) == {"c1-host1": "running"}
    assert disks(after) == disks(before)
    agrees(f"{name}-{backing}", after, server)

    place.cellmove(*command, "--confirm")
    moved = place.snapshot(server.id)
    assert oracle.problems(moved, cell="cell2", host=TARGET, flavor="m1.small", status="ACTIVE") == []
    assert disks(moved) == disks(before)


def a_stopped_server_stays_stopped(place: Place, agrees: Agrees) -> None:
    """The start at the target fails for a guest that is off, too: it is built there."""
    server = place.boot("stopped", active=False, volumes=1)
    before = place.snapshot(server.id)
    with place.fault(TARGET, "spawn", "fail", server.id):
        place.cellmove("migrate", server.name, "--host", TARGET, expect=1)
    after = place.snapshot(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="SHUTOFF") == []
    assert oracle.compare(before, after) == []
    agrees("a-stopped-server-stays-stopped", after, server)


def a_step_alone_takes_back_only_itself(place: Place, agrees: Agrees) -> None:
    """prep-dest fails, the plan stays, and the steps go on from it."""
    server = place.boot("alone")
    before = place.snapshot(server.id)
    move = place.cellmove("plan", server.name, "--host", TARGET, "-f", "value").stdout.split()[0]
    with place.fault(TARGET, "get_host_ip_addr", "fail"):
        place.cellmove("prep-dest", move, expect=1)
    after = place.snapshot(server.id)
    assert oracle.compare(before, after) == []
    agrees("a-step-alone-takes-back-only-itself", after, server)
    assert place.cellmove("show", move, "-f", "json").json["state"] == "planned"
    for step in ("prep-dest", "prep-source", "finish", "confirm"):
        place.cellmove(step, move)
    shot = place.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []


def a_dead_destination_is_refused(place: Place) -> None:
    """A host whose nova-compute is down is refused before a write, by name."""
    server = place.boot("dead")
    before = place.snapshot(server.id)
    with place.stopped_compute(TARGET):
        refused = place.cellmove("migrate", server.name, "--host", TARGET, expect=5)
        assert TARGET in refused.stderr
        assert place.snapshot(server.id) == before
    place.cellmove("migrate", server.name, "--host", TARGET, "--confirm")


ALTERNATES = {"the-binding-fails": ("agent", "bind_ports"), "the-claim-fails": ("get_host_ip_addr", "claim")}
"""Name -> the call that goes wrong on the first host, and the action that fails: either brings the next one."""


def the_next_host_is_tried(place: Place, name: str = "the-claim-fails") -> None:
    """A host that cannot take the server is not the end: the scheduler's next one is claimed and tried."""
    call, action = ALTERNATES[name]
    server = place.boot("next", ports=2, volumes=1)
    before = place.snapshot(server.id)
    command = ("resize", server.name, "m1.small", "--cell", "cell2")
    with contextlib.ExitStack() as faults:
        for host in ("c2-host1", "c2-host2"):
            faults.enter_context(place.fault(host, call, "fail"))
        none = place.cellmove(*command, expect=1)
    first, second = sorted(("c2-host1", "c2-host2"), key=none.stderr.index)
    assert f"before that, ask the scheduler: {first} in cell2" in none.stderr
    after = place.snapshot(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(before, after) == []

    with place.fault(first, call, "fail"):
        one = place.cellmove(*command, "--max-hosts", "1", expect=1)
        assert "before that" not in one.stderr
        again = f"{server.name} m1.small --cell {CELL_UUIDS['cell2']} --max-hosts 1"
        assert again in one.stderr, "the command to try again"
        assert oracle.compare(before, place.snapshot(server.id)) == []
        place.cellmove(*command)
    shown = place.cellmove("show", server.name, "-f", "json").json
    assert shown["target"] == {"cell": "cell2", "cell_uuid": CELL_UUIDS["cell2"], "host": second}
    assert [(each["host"], each["action"]) for each in shown["tried"]] == [(first, action)]
    assert f"cell2 / {first}: {action}: " in place.cellmove("show", server.name).stdout
    place.cellmove("confirm", server.name)
    moved = place.snapshot(server.id)
    assert oracle.problems(moved, cell="cell2", host=second, flavor="m1.small", status="ACTIVE") == []
