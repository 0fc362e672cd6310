"""The lab's real hypervisors are what the tests on them rely on; nova itself is the one that moves here."""

from __future__ import annotations

import time

import pytest

from lab import cloud, kvm, oracle

pytestmark = [pytest.mark.lab, pytest.mark.kvm]

BOOT_SECONDS = 90.0
SOURCE, TARGET = kvm.HOSTS


@pytest.mark.parametrize("host", kvm.HOSTS)
def test_ssh_leads_into_the_host(host):
    assert kvm.ssh(host, "hostname").strip() == host
    assert kvm.ssh(host, "virsh -c qemu:///system hostname").strip() == host
    # Its own disks are there, by the path that nova knows; those of the other host are not.
    own, others = (kvm.instance_folder(each, "") for each in (host, kvm.other(host)))
    marker = own / "from-outside"
    marker.touch()
    try:
        assert kvm.ssh(host, f"ls {own}").split().count(marker.name) == 1
    finally:
        marker.unlink()
    assert kvm.ssh(host, f"ls -d {others} || true") == ""


def test_a_guest_boots_and_writes(boot_guest):
    begun = time.monotonic()
    server = boot_guest(flavor="kvm.ephemeral", fill=16)
    assert time.monotonic() - begun < BOOT_SECONDS
    said = kvm.wait_written(server, 4)
    assert said.boot == 1
    assert said.found == {}
    assert said.complaints == ()
    places = {"/".join(name.split("/")[:2]) for name in said.written}
    assert places == {"root/fill", "root/log", "ephemeral/log"}
    assert cloud.guests(server) == {SOURCE: "running"}
    shot = oracle.picture(server)
    assert oracle.problems(shot, cell="cell1", host=SOURCE, flavor="kvm.ephemeral", status="ACTIVE") == []


def test_a_guest_obeys_the_power_button(boot_guest):
    server = boot_guest()
    cloud.stop(server)
    assert "lab: stopping" in kvm.console(server, SOURCE).text
    before = kvm.console(server, SOURCE)
    cloud.start(server)
    after = kvm.wait_console(server, SOURCE, lambda said: said.checked and said.boot == 2, "boot again")
    assert kvm.lost(before, after) == {}


def test_the_file_system_is_as_large_as_the_flavor(boot_guest):
    server = boot_guest(flavor="kvm.big")
    assert (kvm.console(server, SOURCE).size or 0) > 7 * 1024


@pytest.mark.parametrize("ending", ["confirm", "revert"])
def test_nova_itself_moves_a_guest_with_its_files(boot_guest, ending):
    server = boot_guest(fill=16)
    kvm.wait_written(server, 3)
    assert cloud.native_move(server, host=TARGET) == TARGET
    before, after = kvm.console(server, SOURCE), kvm.wait_checked(server, TARGET)
    assert after.boot == 2
    assert len(before.written) >= 3
    assert kvm.lost(before, after) == {}
    assert cloud.guests(server) == {TARGET: "running"}

    if ending == "confirm":
        cloud.native_confirm(server)
        assert list(kvm.folders(server)) == [TARGET]
        shot = oracle.picture(server)
        assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="kvm.small", status="ACTIVE") == []
        return
    cloud.native_revert(server)
    # Back on its old disk: what it wrote on the other host is gone, what it wrote here before is not.
    home = kvm.wait_console(server, SOURCE, lambda said: said.checked and said.boot == 2, "boot again")
    assert kvm.lost(before, home) == {}
    assert not any(name.startswith("root/log/2-") for name in home.found)
    assert list(kvm.folders(server)) == [SOURCE]
    shot = oracle.picture(server)
    assert oracle.problems(shot, cell="cell1", host=SOURCE, flavor="kvm.small", status="ACTIVE") == []


def test_nothing_else_is_put_on_these_hosts():
    """Ordinary servers stay on ordinary hosts, though these have room, and though somebody names one."""
    with pytest.raises(cloud.Unexpected, match="No valid host|is in ERROR"):
        cloud.boot("ordinary", host=SOURCE)
