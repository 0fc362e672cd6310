"""Streams that the caller closed, and files that other users must not read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellmove.core.clock import Clock
from cellmove.core.files import make_directories, open_or_make
from cellmove.engine.journal_open import open_journal
from cellmove.engine.locks import server_lock

PROBE = """
import os, sys
from cellmove.ui.streams import open_closed_streams
open_closed_streams()
own = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
for stream in (sys.stdout, sys.stderr):
    stream.write("words\\n")
    stream.flush()
os.write(1, b"bytes\\n")
os.write(2, b"bytes\\n")
sys.exit(own < 3 or sys.stdin.read() != "")
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_a_closed_stream_is_dev_null_and_keeps_its_descriptor(tmp_path: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    file = tmp_path / "journal"
    ended = subprocess.run(
        [sys.executable, "-c", PROBE, str(file)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        preexec_fn=close, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert file.read_bytes() == b""
    for number, text in ((1, ended.stdout), (2, ended.stderr)):
        assert text == ("" if number in closed else "words\nbytes\n")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_other_users_may_not_read_a_new_journal_under_any_umask(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o755)
    journal, old = tmp_path / "one" / "two" / "three" / "journal.db", os.umask(umask)
    try:
        open_journal(str(journal), Clock().text)
        with server_lock(journal.parent / "locks", "server", "web-1"):
            pass
        with server_lock(journal.parent / "locks", "server", "web-1"):
            pass
    finally:
        os.umask(old)
    for directory in (*journal.parents[:3], journal.parent / "locks"):
        assert directory.stat().st_mode & 0o777 == 0o700, directory
    for file in (journal, journal.parent / "locks" / "server.lock"):
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # what was there before stays as it was


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o750)
    there.chmod(0o750)
    make_directories(there)
    assert there.stat().st_mode & 0o777 == 0o750
    file = there / "file"
    file.write_text("")
    file.chmod(0o640)
    os.close(open_or_make(file))
    assert file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="Not a directory"):
        make_directories(file / "below")
