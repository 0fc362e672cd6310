"""SIGKILL while a compute is at work: one command finishes the move, one takes it back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import cloud, oracle

ROOT = Path(__file__).resolve().parents[2]
TARGET = "c2-host1"

CALLS = {
    "stop_source": ("c1-host1", "snapshot"),
    "start_target": (TARGET, "spawn"),
}
"""Which virt call of which host an action is killed in."""


def wait_for_intent(journal: Path, action: str) -> None:
    """Wait until the journal says that an action was begun and not done."""
    deadline = time.monotonic() + 60
    query = "SELECT count(*) FROM entries WHERE action = ? AND phase = 'intent'"
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it is only being made
            contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=5)) as connection,
        ):
            if connection.execute(query, (action,)).fetchone()[0]:
                return
        time.sleep(0.1)
    pytest.fail(f"{action} was never begun")


@pytest.mark.lab
@pytest.mark.parametrize("way", ["resume", "rollback"])
@pytest.mark.parametrize("action", list(CALLS))
def test_killed_while_a_compute_works(cellmove, boot, lab_environment, tmp_path, action, way):
    server = boot("crash", volumes=1)
    before = oracle.picture(server.id)
    disk = set(cloud.disk_hash(server.id).values())
    host, call = CALLS[action]
    command = [sys.executable, "-m", "cellmove", "resize", server.name, "m1.small", "--host", TARGET]
    journal = tmp_path / "journal.db"

    with cloud.fault(host, call, "hang 6", server.id):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**lab_environment, "CELLMOVE_JOURNAL": str(journal)},
        )  # fmt: skip
        wait_for_intent(journal, action)
        time.sleep(1.5)  # long enough for the call to have been sent; the host hangs in it for longer
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # Nothing has to be cleaned up first, and nothing is sent twice: the host is still at work.
        ended = cellmove(way, server.name)

    if way == "rollback":
        after = oracle.picture(server.id)
        assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
        assert oracle.compare(before, after) == []
    else:
        # The run was after the whole move, and so is its resume.
        assert "finished" in ended.stdout
        cellmove("confirm", server.name)
        after = oracle.picture(server.id)
        assert oracle.problems(after, cell="cell2", host=TARGET, flavor="m1.small", status="ACTIVE") == []
    assert set(cloud.disk_hash(server.id).values()) == disk
    assert json.dumps(cellmove("resume", "--all", "-f", "json").json)
