"""Services that go away in the middle of a move and come back: what is printed as next is true, and it is enough."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import time
from dataclasses import dataclass

import pytest

from lab import cloud, oracle, rows
from tests.support.lab.shared_server import HOSTS, check_arrived, check_home

pytestmark = [pytest.mark.lab, pytest.mark.alone]
breaks_hosts, hosts = pytest.mark.breaks_hosts, pytest.mark.xdist_group("hosts")


AWAY = 1.5
"""Seconds for which a service is away."""


@dataclass(frozen=True)
class Call:
    """A call of a nova-compute to disturb: of which step, at which end, and where it can be made to linger."""

    step: str
    end: str
    virt_call: str
    method: str

    @property
    def event(self) -> str:
        """nova's event of it."""
        return f"compute_{self.method}"

    def cell(self, traveller):
        """The cell whose host works on it."""
        return traveller.cell if self.end == "source" else traveller.away

    def lingers(self, traveller):
        """Make it linger until the block is left."""
        whose = None if self.virt_call == "get_host_ip_addr" else traveller.id
        return cloud.fault(HOSTS[self.cell(traveller)], self.virt_call, "hang", whose)

    def wait(self, traveller):
        """Wait until the host is at work on it."""
        cell = self.cell(traveller)
        cloud.wait_for(f"{self.event} to begin", lambda: self.event in rows.open_events(traveller.id, cell), 60)
        time.sleep(1.0)  # from its first record to where it lingers


CALLS = {
    "claim": Call("prep-dest", "target", "get_host_ip_addr", "prep_snapshot_based_resize_at_dest"),
    "stop-source": Call("prep-source", "source", "power_off", "prep_snapshot_based_resize_at_source"),
    "start-target": Call("finish", "target", "spawn", "finish_snapshot_based_resize_at_dest"),
    "clean-source": Call("confirm", "source", "cleanup", "confirm_snapshot_based_resize_at_source"),
    "clean-target": Call("revert", "target", "destroy", "revert_snapshot_based_resize_at_dest"),
    "start-source": Call(
        "revert", "source", "finish_revert_migration", "finish_revert_snapshot_based_resize_at_source"
    ),
}


SELDOM = ("claim", "clean-target")
"""A call that may be sent again; `clean-source` and the other calls are played in `make test-lab`."""


@pytest.fixture
def environment(environment, tmp_path):
    """With an operator who does not wait for minutes."""
    config = tmp_path / "config.toml"
    config.write_text("rpc_response_timeout = 6\nlong_rpc_timeout = 12\n[policy]\nunattended = true\n")
    return {**environment, "CELLMOVE_CONFIG": str(config)}


def next_command(outcome):
    """The words after `cellmove` of what a failed command said to type next."""
    found = re.search(r"^next: cellmove (.+)$", outcome.stderr, re.MULTILINE)
    assert found, outcome.stderr
    return found[1].split()


def die_in(cellmove, started, traveller, call):
    """cellmove and the nova-compute that works for it both die in the middle of a call; the compute comes back."""
    command = traveller.move_command()
    if call.step in ("confirm", "revert"):
        cellmove(*command)
        command = (call.step, traveller.id)
    with call.lingers(traveller):
        process = started(*command)
        call.wait(traveller)
        process.kill()
        cloud.stop_compute(HOSTS[call.cell(traveller)], wait=False)
    cloud.start_compute(HOSTS[call.cell(traveller)])


def word_for_it(cellmove, traveller, verb, host):
    """Without a word the call counts as under way; what to do is said, and the operator has done it already."""
    stopped = cellmove(verb, traveller.id, expect=3)
    said = re.search(r"restart nova-compute there, then type cellmove (.+ --host-restarted)", stopped.stderr)
    assert said, stopped.stderr
    assert f"{host} is still at work" in stopped.stderr
    return said[1].split()


@breaks_hosts
@hosts
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in SELDOM else name for name in CALLS]
)
def test_resume_after_a_compute_died_in_a_call(cellmove, started, travellers, name):
    call, traveller = CALLS[name], travellers("image")
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    die_in(cellmove, started, traveller, call)

    if name in ("start-target", "start-source"):
        again = word_for_it(cellmove, traveller, "resume", HOSTS[call.cell(traveller)])
        cellmove(*again, expect=1 if name == "start-target" else 0)
    elif name == "stop-source":
        # nova has started the guest again by itself: the step failed, and the move is rolled back.
        failed = cellmove("resume", traveller.id, expect=1)
        assert "was restarted during" in failed.stderr
        assert next_command(failed) == list(traveller.move_command())
    else:
        cellmove("resume", traveller.id)

    if name in ("claim", "clean-source"):
        check_arrived(traveller, before, disk, confirmed=name == "clean-source")
    if name == "clean-source":
        traveller.arrive()
    else:
        cellmove("rollback", traveller.id)  # home again from VERIFY_RESIZE, or nothing to do
        check_home(traveller, before, disk)
    traveller.at_rest = True


# Behind the point of no return of a confirm or a revert `rollback` and `resume` do the same, or it is refused.
@breaks_hosts
@hosts
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("claim", marks=pytest.mark.long), pytest.param("stop-source", marks=pytest.mark.long), "start-target",
        pytest.param("start-source", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_rollback_after_a_compute_died_in_a_call(cellmove, started, travellers, name):
    call, traveller = CALLS[name], travellers("volume")
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    die_in(cellmove, started, traveller, call)

    word = ("--host-restarted",) if name in ("start-target", "start-source") else ()
    cellmove("rollback", traveller.id, *word)
    check_home(traveller, before, disk)
    traveller.at_rest = True


# services that all depend on


def wait_for_intent(journal, action):
    """Wait until the journal says that an action was begun and not done."""
    query = "SELECT count(*) FROM entries WHERE action = ? AND phase IN ('intent', 'undoing')"

    def begun():
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it is only being made
            contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=5)) as connection,
        ):
            return connection.execute(query, (action,)).fetchone()[0]
        return 0

    cloud.wait_for(f"{action} to be begun", begun, 60)


@dataclass(frozen=True)
class Outage:
    """A service that goes away while a call lingers, or before cellmove starts and until it is at an action."""

    daemon: str
    during: str = ""
    until: str = ""
    number: int = signal.SIGKILL


def outages(traveller):
    """The services that a move needs: when each is away on the way there, and when on the way back."""
    source, target = f"nova-conductor-{traveller.cell}", f"nova-conductor-{traveller.away}"
    host = f"nova-compute-{HOSTS[traveller.away]}"
    superconductor = "nova-superconductor"
    return {
        "superconductor": (Outage(superconductor, until="schedule"), Outage(superconductor, until="start_source")),
        "source-conductor": (Outage(source, "stop-source"), Outage(source, "start-source")),
        "target-conductor": (Outage(target, "start-target"), Outage(target, "clean-target")),
        "target-compute": (Outage(host, "stop-source"), Outage(host, until="clean_target")),
        "rabbitmq": (Outage("rabbitmq", "start-target"), Outage("rabbitmq", "start-source")),
        # Killed, it may forget its last second: the lab's is told to be fast, not durable.
        "mariadb": tuple(Outage("mariadb", call, number=signal.SIGTERM) for call in ("start-target", "start-source")),
    }


def run_through(started, traveller, journal, outage, *command):
    """Run a command to its end while a service is away for a while; how it ended."""
    call = CALLS.get(outage.during)
    try:
        with call.lingers(traveller) if call else contextlib.nullcontext():
            if call is None:
                cloud.stop_daemon(outage.daemon, outage.number)
            process = started(*command)
            if call is None:
                wait_for_intent(journal, outage.until)
            else:
                call.wait(traveller)
                cloud.stop_daemon(outage.daemon, outage.number)
        time.sleep(AWAY)
    finally:
        cloud.start_daemon(outage.daemon)  # whatever came out: the tests after this one need it, too
    outcome = process.end()
    cloud.wait_for_all()
    return outcome


def move_there(cellmove, started, traveller, journal, outage):
    """Move a server while a service is away for a while; the plan, which asks the superconductor, is made before that."""
    command = traveller.move_command()
    if outage.during:
        do_what_it_says(cellmove, run_through(started, traveller, journal, outage, *command))
        return
    cellmove("plan", *command[1:])
    do_what_it_says(cellmove, run_through(started, traveller, journal, outage, "prep-dest", traveller.id))
    for step in ("prep-source", "finish"):
        cellmove(step, traveller.id)


def do_what_it_says(cellmove, outcome):
    """Type what is printed as next, at most three times, until the move is over: arrived or rolled back."""
    for _ in range(3):
        if outcome.code == 0:
            return
        assert outcome.code in (1, 3, 4), outcome.stderr
        hint = re.search(r"(\S+) is still at work .+ then type cellmove (.+ --host-restarted)", outcome.stderr)
        if hint:
            cloud.restart_compute(hint[1])
        outcome = cellmove(*(hint[2].split() if hint else next_command(outcome)), expect=None)
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize("name", [
    "superconductor", pytest.param("source-conductor", marks=pytest.mark.long), "target-conductor",
    pytest.param("target-compute", marks=[breaks_hosts, hosts]), "rabbitmq", "mariadb",
])  # fmt: skip
def test_there_and_back_while_a_service_is_away(cellmove, started, travellers, environment, name):
    traveller = travellers("image")
    before, disk = oracle.snapshot(traveller.id), cloud.disk_hash(traveller.id)
    there, back = outages(traveller)[name]
    journal = environment["CELLMOVE_JOURNAL"]

    move_there(cellmove, started, traveller, journal, there)
    if cellmove("show", traveller.id, "-f", "json").json["state"] == "rolled-back":
        check_home(traveller, before, disk)
        cellmove(*traveller.move_command())
    check_arrived(traveller, before, disk, confirmed=False)

    do_what_it_says(cellmove, run_through(started, traveller, journal, back, "rollback", traveller.id))
    check_home(traveller, before, disk)
    traveller.at_rest = True
