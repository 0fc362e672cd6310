"""A cell of a real nova is emptied by one command: killed on the way, stopped by its window, gone on with the next night,
and opened again. What makes the night is the zone that a run is told to be in.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from lab import cloud, layout, oracle
from lab.rows import connect_database, rows
from tests.support.lab.connections import Watch, watched

pytestmark = [pytest.mark.lab, pytest.mark.alone]

HOSTS = ("c1-host1", "c1-host2")
PARALLEL = 4
MOVABLE = 16
SHAPES = [(backing, active) for backing in ("image", "volume") for active in (True, False)]
LEFT = {"ephemeral0": "refused", "ephemeral1": "refused", "tagged": "skipped", "locked": "refused"}


@dataclass(frozen=True)
class Booted:
    """A server of the cell, as it was before."""

    id: str
    name: str
    kind: str
    active: bool
    before: Any
    disk: Any

    @property
    def status(self) -> str:
        """As nova's API calls it."""
        return "ACTIVE" if self.active else "SHUTOFF"


def boot_one(number: int, token: str) -> Booted:
    """Those that can be moved, of four shapes, and after them four that stay where they are."""
    special = list(LEFT)[number - MOVABLE] if number >= MOVABLE else ""
    backing, active = SHAPES[number % 4] if not special else ("image", True)
    name = f"drain-{special or number}-{token}"
    made = cloud.boot(
        name, host=HOSTS[number % 2], volume_backed=backing == "volume", active=active, volumes=number % 2,
        flavor="m1.ephemeral" if special.startswith("ephemeral") else "m1.tiny",
        tags=("cellmove:skip",) if special == "tagged" else (),
    )  # fmt: skip
    if special == "locked":
        cloud.act(made, "lock")
    disk = sorted(cloud.disk_hash(made).values())
    return Booted(made, name, special or "movable", active, oracle.snapshot(made), disk)


@pytest.fixture
def servers(lab_environment: dict[str, str]) -> Iterator[list[Booted]]:
    """Twenty servers in cell1, and nothing else."""
    others = "SELECT uuid FROM nova_cell1.instances WHERE deleted = 0"
    connection = connect_database()
    try:
        assert rows(connection, others) == [], "an earlier test has left servers in cell1"
    finally:
        connection.close()
    token = uuid.uuid4().hex[:6]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda number: boot_one(number, token), range(MOVABLE + len(LEFT))))
        yield made
        list(threads.map(lambda server: cloud.delete(server.id), made))


def services() -> dict[str, tuple[str, str]]:
    """Status and reason of the cell's computes, as nova's API shows them."""
    answer = cloud.connect().compute.get("/os-services?binary=nova-compute", microversion="2.53").json()
    return {
        each["host"]: (each["status"], each["disabled_reason"] or "")
        for each in answer["services"]
        if each["host"] in HOSTS
    }


def is_cell_disabled() -> bool:
    """Whether nova-scheduler, once it reads it, leaves the cell out."""
    connection = connect_database()
    try:
        (row,) = rows(
            connection, "SELECT disabled FROM nova_api.cell_mappings WHERE uuid = %s", layout.CELL_UUIDS["cell1"]
        )
        return bool(row["disabled"])
    finally:
        connection.close()


def counts(cellmove) -> dict[str, int]:
    """Servers by stage, as another terminal sees it."""
    found: dict[str, int] = cellmove("drain", "status", "cell1", "-f", "json").json["counts"]
    return found


def where_it_is(hour: int, minute: int, second: int) -> dict[str, str]:
    """The environment of a run for which it is so late now."""
    now = datetime.datetime.now(datetime.UTC)
    late = datetime.timedelta(hours=hour, minutes=minute, seconds=second)
    west = (now - now.replace(hour=0, minute=0, second=0) - late) % datetime.timedelta(days=1)
    return {"TZ": f"LAB+{west.seconds // 3600:02}:{west.seconds // 60 % 60:02}:{west.seconds % 60:02}"}


def test_a_cell_is_emptied_over_several_nights(cellmove, started, servers):
    command = ("drain-cell", "cell1", "--to", "cell2", "--parallel", str(PARALLEL), "--window", "22:00-06:00")
    c1_host2 = cloud.connect().compute.get("/os-services?binary=nova-compute&host=c1-host2", microversion="2.53")
    own = c1_host2.json()["services"][0]["id"]
    cloud.connect().compute.put(
        f"/os-services/{own}", json={"status": "disabled", "disabled_reason": "its fan is broken"}, microversion="2.53"
    )
    try:
        found = cellmove(*command, "--dry-run", "-f", "json").json
        verdicts = {each["name"]: each["verdict"] for each in found["servers"]}
        assert verdicts == {each.name: LEFT.get(each.kind, "movable") for each in servers}
        assert found["seen"]["whole"]
        assert found["seen"]["mapped"] == len(servers)
        assert services()["c1-host1"] == ("enabled", "")

        first = started(*command, env=where_it_is(23, 30, 0))
        cloud.wait_for("some to be moved", lambda: started_to_move(cellmove, 4), 120)
        other = cellmove(*command, expect=6, env=where_it_is(23, 31, 0))  # while the first one is at work
        assert other.stderr.count("\n") == 1
        first.kill()
        first.end()
        assert services()["c1-host1"][1].startswith("cellmove drain-")
        assert services()["c1-host2"] == ("disabled", "its fan is broken")
        assert is_cell_disabled()

        # What was under way is brought to its end, then the window closes.
        process = started(*command, env=where_it_is(5, 59, 50))
        with watched(process.pid) as watch:
            second = process.end()
        assert second.code == 9, second.stderr
        assert_shared(watch)
        assert "the window is 22:00-06:00, and it is 06:00" in second.stderr
        between = counts(cellmove)
        assert between["waiting"] > 0, "all were moved before the window closed"
        assert between["moving"] == between["confirming"] == between["failed"] == 0

        third = cellmove(*command, expect=8, env=where_it_is(22, 0, 10))
        after = counts(cellmove)
        assert {stage: number for stage, number in after.items() if number} == {
            "moved": MOVABLE, "skipped": 1, "refused": 3,
        }  # fmt: skip
        told = third.stderr.split(f"4 servers were not moved from {cloud.layout().display_name('cell1')}")[1]
        assert {each.name for each in servers if f"  {each.name}: " in told} == {
            each.name for each in servers if each.kind in LEFT
        }

        for each in servers:
            judge(each)
        assert set(journal_states(cellmove)) == {"confirmed"}

        assert cellmove("audit", "--older-than", "0").code == 0
        page = cellmove("drain", "report", "cell1", "-f", "json").json
        assert page["schema_version"] >= 1
    finally:
        cellmove("drain", "abort", "cell1", expect=None)
        cloud.connect().compute.put(f"/os-services/{own}", json={"status": "enabled"}, microversion="2.53")
    assert services() == {"c1-host1": ("enabled", ""), "c1-host2": ("enabled", "")}
    assert not is_cell_disabled()


def assert_shared(watch: Watch) -> None:
    """Servers share connections: there are no more than those at work at once need, and none is opened for the next."""
    shared = {"mariadb": ("mariadb",), "rabbitmq": ("rabbitmq", "rabbitmq-second")}
    ports = {name: [layout.load().port(each) for each in both] for name, both in shared.items()}
    seen = {name: sum(watch.lasting(port) for port in both) for name, both in ports.items()}
    most = {name: sum(watch.most[port] for port in both) for name, both in ports.items()}
    assert all(0 < most[name] <= 3 * PARALLEL for name in shared), most  # three databases, three buses
    assert all(seen[name] <= most[name] + 1 for name in shared), (seen, most)


def started_to_move(cellmove, number: int) -> bool:
    """Whether so many are over there, and others are under way."""
    outcome = cellmove("drain", "status", "cell1", "-f", "json", expect=None)
    if outcome.code:
        return False
    found = json.loads(outcome.stdout)
    return found["counts"]["moved"] >= number and bool(found["under_way"])


def journal_states(cellmove) -> list[str]:
    """What became of the moves."""
    moves = cellmove("list", "--all", "-f", "json").json["moves"]
    return [move["state"] for move in moves if move["state"] != "rolled-back"]


def judge(server: Booted) -> None:
    """What moved is whole in the other cell; what stayed is what it was."""
    after = oracle.snapshot(server.id)
    moved = server.kind == "movable"
    (host,) = cloud.guests(server.id)
    flavor = "m1.ephemeral" if server.kind.startswith("ephemeral") else "m1.tiny"
    cell = "cell2" if moved else "cell1"
    assert oracle.problems(after, cell=cell, host=host, flavor=flavor, status=server.status) == [], server.name
    assert oracle.compare(server.before, after, moved=moved) == [], server.name
    assert sorted(cloud.disk_hash(server.id).values()) == server.disk, server.name
