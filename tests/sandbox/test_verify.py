"""`verify` and `confirm` in the sandbox, where anything can be broken between them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cellmove.sandbox import services
from cellmove.sandbox.store import Cloud, Record
from tests.scenarios import verifying
from tests.scenarios.environment import Server
from tests.support.commands import run_impatient
from tests.support.sandbox.environment import Sandbox, change_cloud

TARGET = "c2-host1"


@pytest.fixture(autouse=True)
def no_long_waits(sandbox: Sandbox) -> None:
    """What may settle, and guests that do not answer, are given up after a moment."""
    sandbox.target = run_impatient


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


def port(change_it: Callable[[Record], Any]) -> Break:
    """Change its port in neutron."""
    return lambda cloud, server: change_it(services.ports_of(cloud, server)[0])


def attachment(change_it: Callable[[Record], Any]) -> Break:
    """Change how its volume is attached in cinder."""
    return lambda cloud, server: change_it(
        next(each for each in cloud.world.attachments.values() if each["instance"] == server and each["host"] == TARGET)
    )


def _unplugged(cloud: Cloud, server: str) -> None:
    cloud.world.guests[TARGET][server]["ports"].clear()


def _attached_anew(cloud: Cloud, server: str) -> None:
    """The volume is in use, through an attachment that nova's record does not name."""

    def rename(found: Record) -> None:
        del cloud.world.attachments[found["id"]]
        found["id"] = cloud.new_id("attachment")
        cloud.world.attachments[found["id"]] = found

    attachment(rename)(cloud, server)


def _disks_swapped(cloud: Cloud, server: str) -> None:
    first, second = cloud.rows("cell2", "block_device_mapping", instance_uuid=server)
    for old, new in ((first["id"], -1), (second["id"], first["id"]), (-1, second["id"])):
        cloud.update("cell2", "block_device_mapping", {"id": new}, id=old)


DIFFERENCES: dict[str, tuple[Break, str]] = {
    "the guest is off": (change("instances", power_state=4), "power"),
    "on another host": (change("instances", host="c2-host2"), "host"),
    "a task is under way": (change("instances", task_state="rebuilding"), "state"),
    "other user data": (change("instances", user_data="b3RoZXI="), "value-changed"),
    "another key": (change("instances", key_name="other"), "value-changed"),
    "another keypair": (change("instance_extra", keypairs='{"nova_object.data": {"objects": [1]}}'), "value-changed"),
    "a tag is lost": (lose("tags"), "row-lost"),
    "metadata is lost": (lose("instance_metadata"), "row-lost"),
    "metadata is another": (change("instance_metadata", value="other"), "value-changed"),
    "a disk's record is lost": (lose("block_device_mapping", boot_index=-1), "row-lost"),
    "a disk's tag is lost": (change("block_device_mapping", tag=None), "value-changed"),
    "a port's tag is lost": (change("virtual_interfaces", tag=None), "value-changed"),
    "an action is lost": (lose("instance_actions", action="create"), "row-lost"),
    "another flavor": (flavored(flavorid="42"), "flavor"),
    "fewer vCPUs": (change("instances", vcpus=1), "flavor"),
    "a smaller disk": (change("instances", root_gb=0), "disk-smaller flavor"),
    "the disks change places": (_disks_swapped, "disk-order"),
    "a port is another server's": (port(lambda it: it.update(device_id="")), "port-lost"),
    "a port is bound elsewhere": (port(lambda it: it["bindings"].update({"c2-host2": it["bindings"].pop(TARGET)})), "port-binding"),
    "a port's binding failed": (port(lambda it: it["bindings"][TARGET].update(vif_type="binding_failed")), "port-binding"),
    "a port is down": (_unplugged, "port-down"),
    "another MAC address": (port(lambda it: it.update(mac_address="fa:16:3e:ff:ff:ff")), "mac-changed"),
    "another address": (port(lambda it: it.update(ip="10.91.0.1")), "address-changed"),
    "a volume is not in use": (attachment(lambda it: it.update(status="attaching")), "volume-state"),
    "a volume is gone": (lambda cloud, _server: cloud.world.volumes.clear(), "volume-state"),
    "a volume is attached anew": (_attached_anew, "attachment"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENCES)
def test_a_difference_is_seen_and_not_confirmed(sandbox: Sandbox, what: str) -> None:
    server = sandbox.boot("differs", ports=1, volumes=1)
    sandbox.cellmove("resize", server.name, "m1.small", "--host", TARGET)
    break_it, code = DIFFERENCES[what]
    change_cloud(sandbox, break_it, server.id)
    before = sandbox.snapshot(server.id)

    said = sandbox.cellmove("verify", server.name, "-f", "json", expect=5).json

    assert not said["verified"]
    assert {check["code"] for check in said["checks"] if check["level"] == "refusal"} == set(code.split())
    refused = sandbox.cellmove("confirm", server.name, expect=5)
    assert "differs from its state before the move" in refused.stderr
    assert sandbox.snapshot(server.id) == before


EMPTY_KEYPAIRS = json.dumps({"nova_object.name": "KeyPairList", "nova_object.data": {"objects": []}})


def keypairs(sandbox: Sandbox, cell: str, server: str) -> Any:
    """What a cell has recorded of a server's keypair."""
    return (sandbox.process.cloud().row(cell, "instance_extra", instance_uuid=server) or {})["keypairs"]


@pytest.mark.parametrize("left", [None, EMPTY_KEYPAIRS])
def test_a_keypair_that_nova_lost_is_told_and_brought_back(sandbox: Sandbox, left: str | None) -> None:
    """Every release up to 33 loses it when it moves a server itself (bug 2108974)."""
    server = sandbox.boot("key")
    sandbox.cellmove("migrate", server.name, "--host", TARGET)
    kept = keypairs(sandbox, "cell1", server.id)
    assert json.loads(kept)["nova_object.data"]["objects"]
    change_cloud(sandbox, change("instance_extra", keypairs=left), server.id)
    said = sandbox.cellmove("verify", server.name, "-f", "json").json
    assert said["verified"]
    (check,) = (each for each in said["checks"] if each["code"] == "keypairs-lost")
    assert check["level"] == "warning"
    sandbox.cellmove("confirm", server.id)
    assert keypairs(sandbox, "cell2", server.id) == kept


@pytest.mark.parametrize(("before", "after"), [(EMPTY_KEYPAIRS, None), (None, EMPTY_KEYPAIRS)])
def test_no_keypair_is_no_keypair_however_it_is_written(
    sandbox: Sandbox, before: str | None, after: str | None
) -> None:
    server = sandbox.boot("keyless")
    sandbox.process.cloud().update("cell1", "instance_extra", {"keypairs": before}, instance_uuid=server.id)
    sandbox.cellmove("migrate", server.name, "--host", TARGET)
    change_cloud(sandbox, change("instance_extra", keypairs=after), server.id)
    said = sandbox.cellmove("verify", server.name, "-f", "json").json
    assert [each for each in said["checks"] if "keypair" in each["text"]] == []
    sandbox.cellmove("confirm", server.id)
    assert keypairs(sandbox, "cell2", server.id) == after


def test_what_the_owner_changed_is_told_and_confirmed(sandbox: Sandbox) -> None:
    server = sandbox.boot("owner", ports=1, volumes=2)
    sandbox.cellmove("migrate", server.name, "--host", TARGET)
    volumes = [row["volume_id"] for row in sandbox.process.cloud().rows("cell2", "block_device_mapping")]
    sandbox.process.control("rename", server=server.id, name="mine")
    sandbox.process.control("detach", server=server.id, volume=volumes[-1])
    said = sandbox.cellmove("verify", server.id, "-f", "json").json
    assert {check["code"] for check in said["checks"] if check["level"] == "warning"} == {
        "disk-not-compared",
        "owner-changed",
        "volume-detached",
    }
    sandbox.cellmove("confirm", server.id)


@pytest.fixture
def reachable(sandbox: Sandbox) -> Server:
    """A moved server whose address is this machine's."""
    server = sandbox.boot("reachable", ports=1, volumes=1)

    def here(cloud: Cloud, server_id: str) -> None:
        (its_port,) = services.ports_of(cloud, server_id)
        cache = cloud.row("cell1", "instance_info_caches", instance_uuid=server_id)
        known = cache["network_info"].replace(its_port["ip"], "127.0.0.1")
        cloud.update("cell1", "instance_info_caches", {"network_info": known}, instance_uuid=server_id)
        its_port["ip"] = "127.0.0.1"

    change_cloud(sandbox, here, server.id)
    sandbox.cellmove("migrate", server.name, "--host", TARGET)
    return server


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def probed(sandbox: Sandbox, server: Server, probe: str, expect: int, **environment: str) -> tuple[str, str]:
    """What `verify` says of a probe: level and text."""
    said = sandbox.cellmove("verify", server.name, "--probe", probe, "-f", "json", expect=expect, env=environment).json
    (check,) = (each for each in said["checks"] if each["code"] == "probe")
    return check["level"], check["text"]


def test_a_port_that_answers_and_one_that_does_not(sandbox: Sandbox, reachable: Server, listening: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    level, text = probed(sandbox, reachable, f"tcp:{closed}", 5)
    assert (level, text) == ("refusal", f"tcp:{closed}: 127.0.0.1 port {closed}: Connection refused")
    refused = sandbox.cellmove("confirm", reachable.name, "--probe", f"tcp:{closed}", expect=5)
    assert text in refused.stderr
    assert probed(sandbox, reachable, f"tcp:{listening}", 0) == ("ok", f"tcp:{listening} answers")
    sandbox.cellmove("confirm", reachable.name, "--probe", f"tcp:{listening}")


@pytest.mark.parametrize("answers", [True, False])
def test_a_ping(sandbox: Sandbox, reachable: Server, tmp_path: Path, *, answers: bool) -> None:
    """With a stand-in for the machine's ping, which may not be there or may want privileges."""
    asked = tmp_path / "asked"
    ping = tmp_path / "bin" / "ping"
    ping.parent.mkdir()
    ping.write_text(f'#!/bin/sh\necho "$@" > {asked}\nexit {0 if answers else 1}\n')
    ping.chmod(0o755)
    path = f"{ping.parent}{os.pathsep}{os.environ['PATH']}"
    found = probed(sandbox, reachable, "ping", 0 if answers else 5, PATH=path)
    wrong = "ping: 127.0.0.1 does not answer (ping ended with 1)"
    assert found == (("ok", "ping answers") if answers else ("refusal", wrong))
    assert asked.read_text().split() == ["-c", "1", "-W", "5", "127.0.0.1"]
