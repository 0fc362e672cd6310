"""What fails leaves the cloud as it was, ends with 1, and the same command then succeeds."""

from __future__ import annotations

import pytest

from lab import cloud, oracle

TARGET = "c2-host1"

FAULTS = {
    "neutron-refuses-the-binding": (TARGET, "agent", "fail", "bind_ports"),
    "the-claim-fails": (TARGET, "get_host_ip_addr", "fail", "claim"),
    "the-guest-does-not-stop": ("c1-host1", "power_off", "fail", "stop_source"),
    "the-snapshot-fails": ("c1-host1", "snapshot", "fail", "stop_source"),
    "the-guest-cannot-be-taken-apart": ("c1-host1", "destroy", "fail once", "stop_source"),
    "the-guest-does-not-start": (TARGET, "spawn", "fail", "start_target"),
}

FOR_EVERYBODY = ("agent", "get_host_ip_addr")
"""Faults that cannot be told apart by server."""

CASES = [
    pytest.param(
        volume_backed,
        *fault,
        id=f"{name}-{'volume' if volume_backed else 'image'}",
        marks=[pytest.mark.alone] if fault[1] in FOR_EVERYBODY else [],
    )
    for name, fault in FAULTS.items()
    for volume_backed in (False, True)
    if not (volume_backed and name == "the-snapshot-fails")  # of a volume-backed server none is taken
]


@pytest.mark.lab
@pytest.mark.parametrize(("volume_backed", "host", "call", "how", "action"), CASES)
def test_a_failure_is_taken_back(cellmove, boot, volume_backed, host, call, how, action):
    server = boot("fail", volume_backed=volume_backed, ports=2, volumes=1)
    before = oracle.picture(server.id)
    disk = cloud.disk_hash(server.id)
    command = ("resize", server.name, "m1.small", "--host", TARGET)

    whose = None if call in FOR_EVERYBODY else server.id
    with cloud.fault(host, call, how, whose):
        failed = cellmove(*command, expect=1)

    assert action in failed.stderr
    after = oracle.picture(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(before, after) == []
    assert cloud.guests(server.id) == {"c1-host1": "running"}
    assert cloud.disk_hash(server.id) == disk

    cellmove(*command, "--confirm")
    moved = oracle.picture(server.id)
    assert oracle.problems(moved, cell="cell2", host=TARGET, flavor="m1.small", status="ACTIVE") == []


@pytest.mark.lab
def test_a_stopped_server_stays_stopped_when_the_start_fails(cellmove, boot):
    server = boot("stopped", active=False, volumes=1)
    before = oracle.picture(server.id)
    with cloud.fault(TARGET, "spawn", "fail", server.id):
        cellmove("migrate", server.name, "--host", TARGET, expect=1)
    after = oracle.picture(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="SHUTOFF") == []
    assert oracle.compare(before, after) == []


@pytest.mark.lab
@pytest.mark.alone
def test_a_step_alone_takes_back_only_itself(cellmove, boot):
    server = boot("alone")
    before = oracle.picture(server.id)
    move = cellmove("plan", server.name, "--host", TARGET, "-f", "value").stdout.split()[0]
    with cloud.fault(TARGET, "get_host_ip_addr", "fail"):
        cellmove("prep-dest", move, expect=1)
    assert oracle.compare(before, oracle.picture(server.id)) == []
    assert cellmove("show", move, "-f", "json").json["state"] == "planned"
    for step in ("prep-dest", "prep-source", "finish", "confirm"):
        cellmove(step, move)
    shot = oracle.picture(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.lab
@pytest.mark.alone
def test_a_dead_destination_is_refused_before_a_write(cellmove, boot):
    server = boot("dead")
    before = oracle.picture(server.id)
    with cloud.stopped_compute(TARGET):
        refused = cellmove("migrate", server.name, "--host", TARGET, expect=5)
        assert TARGET in refused.stderr
        assert oracle.picture(server.id) == before
    cellmove("migrate", server.name, "--host", TARGET, "--confirm")


@pytest.mark.lab
def test_what_cannot_be_reached_is_said_at_once(cellmove, boot, lab_environment, tmp_path):
    server = boot("reach")
    before = oracle.picture(server.id)
    url = lab_environment["CELLMOVE_LAB_API_DB"]

    wrong = cellmove("plan", server.name, expect=4, env={"CELLMOVE_API_DATABASE": url.replace("lab-secret", "nope")})
    assert "nope" not in wrong.stderr
    dead = cellmove(
        "plan", server.name, expect=4, env={"CELLMOVE_API_DATABASE": "mysql+pymysql://n:x@127.0.0.1:9/nova_api"}
    )
    assert "127.0.0.1" in dead.stderr

    planned = cellmove("plan", server.name, "--cell", "cell2", "-f", "value").stdout.split()[0]
    bus = {"CELLMOVE_TRANSPORT_URL": "rabbit://lab:wrong@127.0.0.1:9/"}
    lost = cellmove("prep-dest", planned, expect=4, env=bus)
    assert "wrong" not in lost.stderr
    assert oracle.picture(server.id) == before

    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(
        "clouds:\n  lab:\n    auth: {auth_url: 'http://127.0.0.1:9/v3', username: a, password: b, project_name: c,"
        " user_domain_name: Default, project_domain_name: Default}\n"
    )
    refused = cellmove("plan", server.name, expect=4, env={"OS_CLIENT_CONFIG_FILE": str(clouds)})
    for outcome in (wrong, dead, lost, refused):
        assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert oracle.picture(server.id) == before
