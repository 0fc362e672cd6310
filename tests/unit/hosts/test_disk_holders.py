"""Who has a disk open on a host, told from /proc: whether a hypervisor has let go of it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

from cellmove.hosts.disks import holders
from tests.support.disk_harness import host, sparse

SERVER = str(uuid.uuid4())
HOLD = "import sys; file = open(sys.argv[1]); print('has it', flush=True); sys.stdin.read()"


def test_a_process_holds_a_disk_until_it_ends(tmp_path: Path) -> None:
    disk = sparse(tmp_path / SERVER / "disk", 4096, [(0, 100)])
    sparse(tmp_path / SERVER / "disk.swap", 4096, [])
    with host(tmp_path) as link:
        assert holders(link, f"{SERVER}/disk") == 0
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert held.stdout is not None
        assert held.stdout.readline() == "has it\n"
        assert holders(link, f"{SERVER}/disk") == 1
        assert holders(link, f"{SERVER}/disk.swap") == holders(link, f"{uuid.uuid4()}/disk") == 0
        held.communicate("")
        assert holders(link, f"{SERVER}/disk") == 0


def test_the_programs_own_reading_is_no_holder(tmp_path: Path) -> None:
    sparse(tmp_path / SERVER / "disk", 4096, [(0, 100)])
    with host(tmp_path) as link:
        link.request("begin", path=f"{SERVER}/disk", token="", cache="keep")
        assert holders(link, f"{SERVER}/disk") == 0
