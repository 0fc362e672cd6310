"""The show runs to its end, and its judge sees what is broken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cellmove.sandbox.store import Cloud
from cellmove.ui import demo


def test_the_show_ends_well_and_leaves_nothing(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "cellmove", "demo", "--pace", "0.1"], capture_output=True, text=True, timeout=180,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(temporary)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for command in ("plan", "prep-dest", "prep-source", "finish", "resume", "confirm", "migrate", "revert"):
        assert f"$ cellmove {command} " in ended.stdout
    assert ended.stdout.index("$ kill -9 ") < ended.stdout.index("$ cellmove resume ")
    assert "all checks passed" in ended.stdout
    assert list(temporary.iterdir()) == []


def double_guest(cloud: Cloud, server: str) -> None:
    cloud.world.guests["c2-host1"][server] = {"state": 1, "ports": [], "volumes": []}


def second_binding(cloud: Cloud, server: str) -> None:
    port = next(each for each in cloud.world.ports.values() if each["device_id"] == server)
    port["bindings"]["c2-host1"] = {"status": "INACTIVE", "vif_type": "ovs", "vnic_type": "normal", "profile": {}}


def second_attachment(cloud: Cloud, server: str) -> None:
    first = next(each for each in cloud.world.attachments.values() if each["instance"] == server)
    cloud.world.attachments["another"] = first | {"id": "another", "status": "reserved", "host": None}


def no_allocation(cloud: Cloud, server: str) -> None:
    del cloud.world.allocations[server]


def left_disk(cloud: Cloud, server: str) -> None:
    cloud.world.disks["c2-host2"][server] = {"disk": "x"}


def row_in_the_other_cell(cloud: Cloud, server: str) -> None:
    cloud.insert("cell2", "instance_metadata", {"instance_uuid": server, "key": "a", "value": "b"})


def hidden(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "instances", {"hidden": 1}, uuid=server)


def wrong_flavor(cloud: Cloud, server: str) -> None:
    cloud.update("cell1", "instances", {"instance_type_id": 99}, uuid=server)


BREAKS = {
    double_guest: "its guest runs on", second_binding: "is bound", second_attachment: "its volumes are attached",
    no_allocation: "it holds allocations of", left_disk: "a disk remains", row_in_the_other_cell: "cell2 still has rows",
    hidden: "hidden are", wrong_flavor: "its flavor",
}  # fmt: skip


@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__)
def test_the_judge_sees_what_is_broken(small_cloud, spoil):
    cloud, server = small_cloud
    expected = demo.Expected("one", "c1-host1", "m1.tiny")
    assert list(demo.misplaced(cloud, server, expected)) == []
    spoil(cloud, server)
    found = list(demo.misplaced(cloud, server, expected))
    assert any(BREAKS[spoil] in each for each in found), found


def test_a_guest_that_ran_twice_is_seen():
    once = [("started", "c1-host1"), ("stopped", "c1-host1"), ("started", "c2-host1")]
    assert demo.most_at_once(once) == 1
    assert demo.most_at_once([once[0], once[2], once[1]]) == 2
