"""Who has a disk open on a host, told from /proc: whether a hypervisor has let go of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cellmove.hosts.disks import holders
from tests.disk_rig import host, sparse

HOLD = "import sys; file = open(sys.argv[1]); print('has it', flush=True); sys.stdin.read()"


def test_a_process_holds_a_disk_until_it_ends(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "server" / "disk", 4096, [(0, 100)])
    sparse(tmp_path / "server" / "disk.swap", 4096, [])
    with host(tmp_path) as link:
        assert holders(link, "server/disk") == 0
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert held.stdout is not None
        assert held.stdout.readline() == "has it\n"
        assert holders(link, "server/disk") == 1
        assert holders(link, "server/disk.swap") == holders(link, "other/disk") == 0
        held.communicate("")
        assert holders(link, "server/disk") == 0


def test_the_programs_own_reading_is_no_holder(tmp_path: Path) -> None:
    sparse(tmp_path / "server" / "disk", 4096, [(0, 100)])
    with host(tmp_path) as link:
        link.request("begin", path="server/disk", token="", cache="keep")
        assert holders(link, "server/disk") == 0
