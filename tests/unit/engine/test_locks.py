"""One run per server."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellmove.core.errors import Locked, Unreachable
from cellmove.engine.locks import server_lock

HOLD = """
import sys, time
from pathlib import Path
from cellmove.engine.locks import server_lock
with server_lock(Path(sys.argv[1]), "uuid-1", "web-1"):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def test_a_second_run_on_the_same_server_is_turned_away(tmp_path: Path) -> None:
    with server_lock(tmp_path / "locks", "uuid-1", "web-1"):
        with pytest.raises(Locked) as caught, server_lock(tmp_path / "locks", "uuid-1", "web-1"):
            pass
        with server_lock(tmp_path / "locks", "uuid-2", "web-2"):
            pass
    assert caught.value.exit_code == 6
    assert "web-1" in caught.value.message
    with server_lock(tmp_path / "locks", "uuid-1", "web-1"):
        pass


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Locked), server_lock(tmp_path, "uuid-1", "web-1"):
            pass
    finally:
        other.kill()
        other.communicate()
    with server_lock(tmp_path, "uuid-1", "web-1"):
        pass


def test_a_directory_that_cannot_be_used_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unreachable) as caught, server_lock(tmp_path / "file" / "locks", "uuid-1", "web-1"):
        pass
    assert caught.value.exit_code == 4


def test_nobody_else_may_use_the_locks(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with server_lock(tmp_path / "state" / "locks", "uuid-1", "web-1"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "state" / "locks").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "locks" / "uuid-1.lock").stat().st_mode & 0o777 == 0o600


def test_a_file_system_without_locks_is_said_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def no_locks(descriptor: int, _operation: int) -> None:
        given.append(descriptor)
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(Unreachable, match="No locks available") as caught, server_lock(tmp_path, "uuid-1", "web-1"):
        pass
    assert caught.value.exit_code == 4
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given[0])
