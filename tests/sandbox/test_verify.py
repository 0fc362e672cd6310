"""`verify` and `confirm` in the sandbox, where anything can be broken between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cellmove.sandbox.store import Cloud
from tests.sandbox.place import Sandbox
from tests.scenarios import verifying

TARGET = "c2-host1"


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr("cellmove.probe.PATIENCE", 0.5)


@pytest.mark.parametrize("volume_backed", [False, True])
@pytest.mark.parametrize("active", [True, False])
def test_what_is_as_before_is_confirmed(sandbox, volume_backed, active):
    verifying.what_is_as_before_is_confirmed(sandbox, volume_backed=volume_backed, active=active)


Break = Callable[[Cloud, str], Any]


def change(table: str, **values: Any) -> Break:
    """Change all of the server's rows of a table in the target cell."""
    key = {"instances": "uuid", "tags": "resource_id"}.get(table, "instance_uuid")
    return lambda cloud, server: cloud.update("cell2", table, values, **{key: server})


def lose(table: str, **which: Any) -> Break:
    """Delete rows of a table in the target cell."""
    key = {"tags": "resource_id"}.get(table, "instance_uuid")
    return lambda cloud, server: cloud.delete("cell2", table, **{key: server}, **which)


def flavored(**values: Any) -> Break:
    """Let the flavor that the server carries be another."""

    def do(cloud: Cloud, server: str) -> None:
        row = cloud.row("cell2", "instance_extra", instance_uuid=server)
        flavors = json.loads(row["flavor"])
        flavors["cur"]["nova_object.data"] |= values
        cloud.update("cell2", "instance_extra", {"flavor": json.dumps(flavors)}, instance_uuid=server)

    return do


DIFFERENCES: dict[str, tuple[Break, str]] = {
    "the guest is off": (change("instances", power_state=4), "power"),
    "on another host": (change("instances", host="c2-host2"), "host"),
    "a task is under way": (change("instances", task_state="rebuilding"), "state"),
    "other user data": (change("instances", user_data="b3RoZXI="), "value-changed"),
    "another key": (change("instances", key_name="other"), "value-changed"),
    "keypairs are lost": (change("instance_extra", keypairs=None), "value-changed"),
    "a tag is lost": (lose("tags"), "row-lost"),
    "metadata is lost": (lose("instance_metadata"), "row-lost"),
    "metadata is another": (change("instance_metadata", value="other"), "value-changed"),
    "a disk's record is lost": (lose("block_device_mapping", boot_index=-1), "row-lost"),
    "a disk's tag is lost": (change("block_device_mapping", tag=None), "value-changed"),
    "a port's tag is lost": (change("virtual_interfaces", tag=None), "value-changed"),
    "an action is lost": (lose("instance_actions", action="create"), "row-lost"),
    "another flavor": (flavored(flavorid="42"), "flavor"),
    "fewer vCPUs": (change("instances", vcpus=1), "flavor"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENCES)
def test_a_difference_is_seen_and_not_confirmed(sandbox: Sandbox, what: str) -> None:
    server = sandbox.boot("differs", ports=1, volumes=1)
    sandbox.cellmove("resize", server.name, "m1.small", "--host", TARGET)
    break_it, code = DIFFERENCES[what]
    break_it(sandbox.process.cloud(), server.id)
    before = sandbox.picture(server.id)

    said = sandbox.cellmove("verify", server.name, "-f", "json", expect=5).json

    assert not said["verified"]
    assert {check["code"] for check in said["checks"] if check["level"] == "refusal"} == {code}
    refused = sandbox.cellmove("confirm", server.name, expect=5)
    assert "is not what it was before the move" in refused.stderr
    assert sandbox.picture(server.id) == before


def test_what_the_owner_changed_is_told_and_confirmed(sandbox: Sandbox) -> None:
    server = sandbox.boot("owner", ports=1, volumes=2)
    sandbox.cellmove("migrate", server.name, "--host", TARGET)
    volumes = [row["volume_id"] for row in sandbox.process.cloud().rows("cell2", "block_device_mapping")]
    sandbox.process.control("rename", server=server.id, name="mine")
    sandbox.process.control("detach", server=server.id, volume=volumes[-1])
    said = sandbox.cellmove("verify", server.id, "-f", "json").json
    assert {check["code"] for check in said["checks"] if check["level"] == "warning"} == {
        "owner-changed",
        "volume-detached",
    }
    sandbox.cellmove("confirm", server.id)
