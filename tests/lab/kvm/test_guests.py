"""What the guests of the lab's real hypervisors do, by which tests see whether a disk has travelled whole."""

from __future__ import annotations

import time

import pytest

from lab import cloud, kvm, oracle

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests")]

BOOT_SECONDS = 90.0
POWER_BUTTON_SECONDS = 12.0  # with nova's own work; without an answer it would be 15 before nova pulls the plug
HOST = kvm.HOSTS[0]


@pytest.mark.long  # what the stream's tests stand on, as all below
def test_a_guest_writes_to_all_its_disks_and_finds_it_again(boot_guest):
    begun = time.monotonic()
    server = boot_guest(flavor="kvm.full", fill=16, ephemeral=4, dirty=512, config_drive=True, user_data="aGVsbG8=")
    assert time.monotonic() - begun < BOOT_SECONDS
    said = kvm.wait_written(server, 8)
    assert said.boot == 1
    assert said.found == {}
    assert said.complaints == ()
    places = {"/".join(name.split("/")[:2]) for name in said.written}
    assert places == {"root/fill", "root/log", "root/dirty", "ephemeral/fill", "ephemeral/log"}
    assert {"sr0", "config/openstack/latest/meta_data.json", "config/openstack/latest/user_data"} <= set(said.config)
    assert said.swap is not None
    assert cloud.guests(server) == {HOST: "running"}
    shot = oracle.snapshot(server)
    assert oracle.problems(shot, host=HOST, flavor="kvm.full", status="ACTIVE") == []

    begun = time.monotonic()
    cloud.stop(server)
    assert time.monotonic() - begun < POWER_BUTTON_SECONDS
    before = kvm.console(server, HOST)
    assert before.stopping
    shot = oracle.snapshot(server)
    assert oracle.problems(shot, host=HOST, flavor="kvm.full", status="SHUTOFF") == []

    cloud.start(server)
    after = kvm.wait_checked(server, HOST, boot=2)
    assert kvm.lost(before, after) == {}
    assert (after.swap, after.config) == (before.swap, before.config)


@pytest.mark.long
def test_a_guest_that_is_cut_off_has_what_it_told_of(boot_guest):
    """Even what it overwrites all the time: it says so first."""
    server = boot_guest(flavor="kvm.tiny", dirty=2048)
    kvm.wait_written(server, 12)
    cloud.act(server, "reboot", {"type": "HARD"})
    before = kvm.console(server, HOST)
    cloud.wait_status(server, "ACTIVE")
    after = kvm.wait_checked(server, HOST, boot=2)
    assert not before.stopping
    assert any(name.startswith("root/dirty") for name in before.known)
    assert kvm.lost(before, after) == {}


@pytest.mark.long
def test_sums_may_leave_out_what_is_large(boot_guest):
    server = boot_guest(flavor="kvm.large", fill=3, dirty=2048, sums="small")
    said = kvm.wait_written(server, 3)
    assert {name.split("/")[1] for name in said.written} == {"log"}
    # The file system is as large as the flavor says.
    assert (said.size or 0) > 5 * 1024
