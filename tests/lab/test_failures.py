"""The failures of tests/scenarios on the lab, and a cloud that cannot be reached at all."""

from __future__ import annotations

import pytest

from lab import oracle
from tests.scenarios import failures
from tests.support.lab.environment import Lab

BREAKS_HOSTS = (pytest.mark.alone, pytest.mark.breaks_hosts, pytest.mark.xdist_group("hosts"))


def breaks_hosts(test):
    """Mark a test of faults that cannot be told apart by server."""
    for mark in BREAKS_HOSTS:
        test = mark(test)
    return test


def all_failures():
    """Each failure with one backing, in turn; with the other one in `make test-long`."""
    names = list(failures.FAULTS)
    for case in failures.CASES:
        name, backing = case.values
        is_in_turn = (backing == "volume") == (names.index(name) % 2 == 1) or name == "the-snapshot-fails"
        marks = BREAKS_HOSTS if failures.FAULTS[name][1] in failures.FOR_EVERYBODY else ()
        yield pytest.param(name, backing, id=case.id, marks=(*marks, *([] if is_in_turn else [pytest.mark.long])))


@pytest.mark.lab
@pytest.mark.parametrize(("name", "backing"), list(all_failures()))
def test_a_failure_is_taken_back(cellmove, boot, agrees, name, backing):
    failures.a_failure_is_taken_back(Lab(boot, cellmove), agrees, name, backing)


@pytest.mark.lab
def test_a_stopped_server_stays_stopped_when_the_start_fails(cellmove, boot, agrees):
    failures.a_stopped_server_stays_stopped(Lab(boot, cellmove), agrees)


@pytest.mark.lab
@breaks_hosts
def test_a_step_alone_takes_back_only_itself(cellmove, boot, agrees):
    failures.a_step_alone_takes_back_only_itself(Lab(boot, cellmove), agrees)


@pytest.mark.lab
@breaks_hosts
def test_a_dead_destination_is_refused_before_a_write(cellmove, boot):
    failures.a_dead_destination_is_refused(Lab(boot, cellmove))


@pytest.mark.lab
@breaks_hosts
def test_the_next_host_is_tried(cellmove, boot):
    failures.the_next_host_is_tried(Lab(boot, cellmove))


@pytest.mark.lab
def test_what_cannot_be_reached_is_said_at_once(cellmove, boot, lab_environment, tmp_path):
    server = boot("reach")
    before = oracle.snapshot(server.id)
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
    assert oracle.snapshot(server.id) == before

    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(
        "clouds:\n  lab:\n    auth: {auth_url: 'http://127.0.0.1:9/v3', username: a, password: b, project_name: c,"
        " user_domain_name: Default, project_domain_name: Default}\n"
    )
    refused = cellmove("plan", server.name, expect=4, env={"OS_CLIENT_CONFIG_FILE": str(clouds)})
    for outcome in (wrong, dead, lost, refused):
        assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    assert oracle.snapshot(server.id) == before
