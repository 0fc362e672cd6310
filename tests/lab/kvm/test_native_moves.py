"""Nova itself moves real guests: the ground on which cellmove's own moves of them are judged."""

from __future__ import annotations

import pytest

from lab import cloud, kvm, oracle

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests"), pytest.mark.long]

SOURCE, TARGET = kvm.HOSTS


def test_confirm_keeps_the_root_disk_only(boot_guest):
    server = boot_guest(flavor="kvm.full", fill=16, dirty=256, config_drive=True)
    kvm.wait_written(server, 8)
    start = oracle.snapshot(server)
    assert cloud.native_move(server, host=TARGET) == TARGET
    before, after = kvm.console(server, SOURCE), kvm.wait_checked(server, TARGET)
    assert (before.stopping, after.boot) == (True, 2)
    assert len(before.written) >= 8
    # Nova makes the ephemeral disk, the swap and the config drive anew.
    assert set(kvm.lost(before, after)) == {name for name in before.known if name.startswith("ephemeral/")}
    assert after.swap is not None
    assert after.swap != before.swap
    assert set(after.config) == set(before.config)
    assert after.config["sr0"] != before.config["sr0"]
    assert cloud.guests(server) == {TARGET: "running"}
    assert set(kvm.folders(server)) == {SOURCE, TARGET}
    shot = oracle.snapshot(server)
    assert oracle.problems(shot, host=TARGET, flavor="kvm.full", status="VERIFY_RESIZE") == []

    cloud.native_confirm(server)
    assert list(kvm.folders(server)) == [TARGET]
    shot = oracle.snapshot(server)
    assert oracle.problems(shot, host=TARGET, flavor="kvm.full", status="ACTIVE") == []
    # What nova is known to lose: the name by which it knows an interface again.
    lost = oracle.compare(start, shot, moved=True)
    assert [line for line in lost if not line.startswith("virtual_interfaces ")] == []


def test_revert_brings_everything_back(boot_guest):
    server = boot_guest(flavor="kvm.tiny", fill=16, dirty=256)
    kvm.wait_written(server, 6)
    start = oracle.snapshot(server)
    # To a larger flavor, and to the only host that satisfies it.
    assert cloud.native_move(server, flavor="kvm.small.cell2") == TARGET
    before, after = kvm.console(server, SOURCE), kvm.wait_checked(server, TARGET)
    assert kvm.lost(before, after) == {}
    assert (after.size or 0) > 1.5 * (before.size or 0)

    cloud.native_revert(server)
    # Back on its old disk: what it wrote on the other host is gone, what it wrote here before is not.
    home = kvm.wait_checked(server, SOURCE, boot=2)
    assert kvm.lost(before, home) == {}
    assert not any(name.startswith("root/log/2-") for name in home.found)
    assert list(kvm.folders(server)) == [SOURCE]
    shot = oracle.snapshot(server)
    assert oracle.problems(shot, host=SOURCE, flavor="kvm.tiny", status="ACTIVE") == []
    assert oracle.compare(start, shot) == []
