"""How the lab knows its own daemons again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import processes
from lab.processes import EXECUTING, HOME_VARIABLE, is_ours

HOME = "/somewhere/lab"
NOT_YET = f"""
import os, sys, time
print("up", flush=True)
time.sleep({EXECUTING / 4})
os.execve("/bin/sleep", ["sleep", "60"], {{"{HOME_VARIABLE}": sys.argv[1]}})
"""


@pytest.fixture
def started():
    """Starts a process that has said a line when it is given; it is ended after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(source: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", source, HOME], env=environment, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_process_that_just_executes_another_program_is_known(started):
    """There is nothing in its environ until the new program has one: the lab once called such a daemon ended."""
    process = started(NOT_YET)
    assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
    assert is_ours(process.pid, HOME)


def test_one_that_turns_out_to_be_somebody_elses_is_not_ours(started):
    process = started(NOT_YET)
    assert not is_ours(process.pid, "/somewhere/else")


def test_one_without_any_environment_is_not_ours(started, monkeypatch):
    monkeypatch.setattr(processes, "EXECUTING", 0.1)
    process = started("import time; print('up', flush=True); time.sleep(60)")
    assert not is_ours(process.pid, HOME)


def test_one_that_has_died_is_not_ours(started):
    process = started("print('up', flush=True)", **{HOME_VARIABLE: HOME})
    process.wait()  # reaped
    assert not is_ours(process.pid, HOME)
