"""A rollback tries the message buses that its undos call before the first undo, and starts a stopped guest first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import oracle
from tests.sandbox.test_unusable_settings import mapped
from tests.scenarios.environment import Server
from tests.support.sandbox.cloud_process import served_cloud
from tests.support.sandbox.environment import Sandbox

UNUSABLE = "none:///"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Sandbox]:
    """A cloud of this module's own, whose cell mappings it breaks."""
    with served_cloud() as (process, folder):
        yield Sandbox(process, folder)


def begun(cloud: Sandbox, *steps: str) -> tuple[Server, str]:
    """A server, and its move after these steps."""
    server = cloud.boot("undone", volumes=1, ports=1)
    move = str(cloud.cellmove("plan", server.id, "m1.small", "--cell", "cell2", "-f", "json").json["move"])
    for step in steps:
        cloud.cellmove(step, move)
    return server, move


def is_as_before(cloud: Sandbox, server: Server) -> bool:
    """Whether the server is in cell1 as if it had never been moved."""
    shot = cloud.snapshot(server.id)
    return oracle.problems(shot, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []


def test_nothing_is_undone_while_the_target_s_bus_cannot_be_used(cloud: Sandbox) -> None:
    server, move = begun(cloud, "prep-dest")
    before = cloud.snapshot(server.id)
    with mapped(cloud, "cell2", transport_url=UNUSABLE):
        stopped = cloud.cellmove("rollback", move, expect=2)
        assert "buses of the kind none:// are not supported" in stopped.stderr
        assert "message bus of cell2" in stopped.stderr
        assert "nothing was written" in stopped.stderr
        assert f"next: cellmove rollback {move}" in stopped.stderr
        assert cloud.snapshot(server.id) == before
        assert cloud.cellmove("show", move, "-f", "json").json["state"] == "dest-prepared"
    cloud.cellmove("rollback", move)
    assert is_as_before(cloud, server)


def test_a_stopped_guest_is_started_although_the_target_s_bus_cannot_be_used(cloud: Sandbox) -> None:
    server, move = begun(cloud, "prep-dest", "prep-source")
    with mapped(cloud, "cell2", transport_url=UNUSABLE):
        stopped = cloud.cellmove("rollback", move, expect=3)
        assert "its guest was started at the source again" in stopped.stderr
        assert f"next: cellmove rollback {move}" in stopped.stderr
        row = cloud.process.cloud().row("cell1", "instances", uuid=server.id) or {}
        assert (row["power_state"], row["vm_state"]) == (1, "active")
        before = cloud.snapshot(server.id)
        again = cloud.cellmove("rollback", move, expect=3)
        assert "none:// are not supported" in again.stderr
        assert cloud.snapshot(server.id) == before
    cloud.cellmove("rollback", move)
    assert is_as_before(cloud, server)


def test_nothing_is_undone_while_the_source_s_bus_cannot_be_used(cloud: Sandbox) -> None:
    server, move = begun(cloud, "prep-dest", "prep-source")
    before = cloud.snapshot(server.id)
    with mapped(cloud, "cell1", transport_url=UNUSABLE):
        stopped = cloud.cellmove("rollback", move, expect=2)
        assert "message bus of cell1" in stopped.stderr
        assert f"next: cellmove rollback {move}" in stopped.stderr
        assert cloud.snapshot(server.id) == before
    cloud.cellmove("rollback", move)
    assert is_as_before(cloud, server)
