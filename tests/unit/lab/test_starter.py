"""nova's daemons are forked from one process that has imported nova and stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import processes, services
from lab.layout import Layout

DAEMON = "import time\ndef main():\n    print('up', flush=True)\n    time.sleep(60)\n"
SECONDS = 20.0


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lab of this test's own, with a project to import."""
    made = Layout(home=tmp_path, port_base=23000)
    for folder in (made.run, made.log):
        folder.mkdir()
    (tmp_path / "project.py").write_text(DAEMON)
    (tmp_path / "setproctitle.py").write_text(
        "def setproctitle(title):\n    pass\n"
    )  # the lab's own environment has it
    return made


@pytest.fixture
def starter(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    """The process, ready."""
    path = layout.run / "starter.sock"
    first = {"preload": ["project"], "paths": [str(layout.home)], "virt": ""}
    process = subprocess.Popen(
        [sys.executable, services.INSIDE / "starter.py", path, json.dumps(first)], env=processes.environment(layout)
    )
    wait_for(path)
    processes.record(layout, services.STARTER, process.pid)
    yield process
    process.kill()
    process.wait()


def wait_for(path: Path, text: str = "") -> None:
    """Until a file is there, and says something."""
    deadline = time.monotonic() + SECONDS
    while not path.exists() or (text and text not in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_end(pid: int) -> None:
    """Until a process is gone and nobody has to wait for it any more."""
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def plan(layout: Layout, name: str) -> dict[str, Any]:
    """What starts one daemon."""
    service = {
        "name": name, "entry": "main:project:main", "arguments": [], "variables": {}, "machine": None,
        "log": str(layout.log / name),
    }  # fmt: skip
    return {"services": [service]}


def test_it_forks_what_each_plan_says_and_what_it_forked_outlives_it(
    layout: Layout, starter: subprocess.Popen[bytes]
) -> None:
    pids = []
    try:
        for name in ("one", "two"):
            answer = json.loads(services.ask_starter(layout, plan(layout, name)))
            assert list(answer) == [name]
            pids.append(answer[name])
            wait_for(layout.log / name, "up")
        assert [os.getsid(pid) for pid in pids] == pids
        os.kill(pids[0], signal.SIGKILL)
        wait_for_end(pids[0])
        starter.kill()
        starter.wait()
        assert processes.start_time(pids[1]) is not None
        with socket.socket(socket.AF_UNIX) as connection, pytest.raises(ConnectionRefusedError):
            connection.connect(str(layout.run / "starter.sock"))  # the daemons do not hold it open
    finally:
        for pid in pids:
            processes.send([pid], signal.SIGKILL)
