"""The cloud as a process of its own: it ends with the process that started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cellmove.sandbox.__main__ import HEARTBEAT
from tests.support.sandbox.drained_cell import wait_until

STARTS_ONE = """
import sys
from pathlib import Path
from cellmove.sandbox.process import start
print(start(Path(sys.argv[1])).process.pid, flush=True)
sys.stdin.read()
"""


def is_there(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_cloud_ends_with_its_parent_also_when_its_databases_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "cloud"
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    cloud = int(parent.stdout.readline())
    shutil.rmtree(folder)
    time.sleep(HEARTBEAT + 2)  # its services cannot say that they are alive
    assert is_there(cloud)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    try:
        wait_until(lambda: not is_there(cloud), "the cloud ends with its parent", 5.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(cloud, signal.SIGKILL)
