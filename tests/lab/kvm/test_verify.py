"""What `verify` reads of the root disks of real guests that went through an image: both ends as libvirt made them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import cloud, kvm, oracle

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests")]

SOURCE, TARGET = kvm.HOSTS


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With the way to the hosts."""
    Path(environment["CELLMOVE_CONFIG"]).write_text(kvm.configuration())
    return environment


def verified(cellmove: Callable[..., Any], server: str, expect: int = 0) -> dict[str, dict[str, str]]:
    """What verify says, by code."""
    said = json.loads(cellmove("verify", server, "-f", "json", expect=expect).stdout)
    return {check["code"]: check for check in said["checks"]}


@pytest.mark.parametrize("by_nova", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_disk_that_came_through_an_image_is_told_from_one_made_anew(boot_guest, cellmove, by_nova):
    """The guest runs, and writes, while both are read."""
    server = boot_guest(flavor="kvm.tiny", fill=8)
    kvm.wait_written(server, 3)
    if by_nova:
        cloud.native_move(server, host=TARGET)
        cellmove("adopt", server)
    else:
        cellmove("migrate", server, "--host", TARGET, "--transfer", "image")
    kvm.wait_checked(server, TARGET)
    found = verified(cellmove, server)["disk"]
    same, _of, samples = found["text"].split()[:3]
    assert found["level"] == "ok"
    assert int(samples) > 100
    assert int(same) > int(samples) * 0.8, found["text"]

    disk = kvm.instance_folder(TARGET, server) / "disk"
    base = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", disk]))[
        "full-backing-filename"
    ]
    disk.rename(disk.with_name("disk.kept"))  # the guest has it open, and runs on
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk], check=True)
    lost = verified(cellmove, server, expect=5)["root-disk-lost"]
    assert "this is not the server's disk" in lost["text"]
    cellmove("confirm", server, expect=5)
    disk.with_name("disk.kept").rename(disk)

    cellmove("confirm", server)
    assert list(kvm.folders(server)) == [TARGET]
    assert oracle.problems(oracle.snapshot(server), host=TARGET, flavor="kvm.tiny", status="ACTIVE") == []
