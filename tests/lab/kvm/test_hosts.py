"""The lab's hosts with a real hypervisor: what tests on them rely on."""

from __future__ import annotations

import pytest

from lab import cloud, kvm

pytestmark = [pytest.mark.lab, pytest.mark.kvm]
guests, ordinary_hosts = (
    pytest.mark.xdist_group("guests"),
    pytest.mark.xdist_group("hosts"),
)  # tests that need or break the same run one after another

SOURCE, TARGET = kvm.HOSTS
NOWHERE = r"No valid host|is in ERROR"


@guests
@pytest.mark.parametrize("host", kvm.HOSTS)
def test_ssh_leads_into_the_host(host):
    assert kvm.ssh(host, "hostname").strip() == host
    assert kvm.ssh(host, "virsh -c qemu:///system hostname").strip() == host
    kvm.ssh(host, "qemu-img --version && python3 --version")
    # Its own disks are there, by the path that nova knows; those of the other host are not.
    own, others = (kvm.instance_folder(each, "") for each in (host, kvm.other(host)))
    marker = own / "from-outside"
    marker.touch()
    try:
        assert kvm.ssh(host, f"ls {own}").split().count(marker.name) == 1
    finally:
        marker.unlink()
    assert kvm.ssh(host, f"ls -d {others} || true") == ""


@ordinary_hosts
def test_nothing_else_is_put_on_these_hosts(boot):
    """Ordinary servers stay on ordinary hosts, though these have room, and though somebody names one."""
    with pytest.raises(cloud.Unexpected, match=NOWHERE):
        boot(host=SOURCE)
    ordinary = boot()
    for host in kvm.HOSTS:
        with pytest.raises(cloud.Unexpected, match=r"nova did not move .* it is ACTIVE"):
            cloud.native_move(ordinary.id, host=host)
    assert cloud.guests(ordinary.id) == {"c1-host1": "running"}


@ordinary_hosts
def test_their_guests_stay_on_them(boot):
    with pytest.raises(cloud.Unexpected, match=NOWHERE):
        boot(host="c1-host1", flavor="kvm.tiny", image=kvm.image())


@guests
@pytest.mark.long
def test_a_host_that_was_switched_off_comes_back_with_its_disks(boot_guest):
    server = boot_guest(flavor="kvm.tiny", host=TARGET)
    try:
        kvm.kill_host(TARGET)
        before = kvm.console(server, TARGET)
        assert cloud.guests(server) == {TARGET: "shutdown"}
    finally:
        kvm.start_host(TARGET)
    cloud.wait_status(server, "SHUTOFF")
    cloud.start(server)
    assert kvm.lost(before, kvm.wait_checked(server, TARGET, boot=2)) == {}
