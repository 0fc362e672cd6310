"""What nova's API calls the states of servers."""

from __future__ import annotations

import pytest

from cellmove.cloud.servers import status_of


@pytest.mark.parametrize(
    ("vm_state", "task_state", "status"),
    [
        ("active", "", "ACTIVE"),
        ("stopped", "", "SHUTOFF"),
        ("stopped", "powering-on", "SHUTOFF"),
        ("active", "reboot_started", "REBOOT"),
        ("active", "rebooting", "REBOOT"),
        ("active", "rebooting_hard", "HARD_REBOOT"),
        ("active", "resize_prep", "RESIZE"),
        ("stopped", "resize_migrating", "RESIZE"),
        ("resized", "", "VERIFY_RESIZE"),
        ("resized", "resize_reverting", "REVERT_RESIZE"),
        ("resized", "resize_confirming", "VERIFY_RESIZE"),
        ("paused", "migrating", "MIGRATING"),
        ("error", "rebuild_spawning", "REBUILD"),
        ("rescued", "", "RESCUE"),
        ("soft-delete", "", "SOFT_DELETED"),
        ("", "", "UNKNOWN"),
    ],
)
def test_status(vm_state: str, task_state: str, status: str) -> None:
    assert status_of(vm_state, task_state) == status
