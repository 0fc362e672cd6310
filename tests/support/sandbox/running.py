"""Commands that are still running: how they are started, interrupted and waited for."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.support import fork_server
from tests.support.sandbox.environment import Sandbox


@dataclass(frozen=True)
class Begun:
    """A `cellmove` process that is under way."""

    child: BaseProcess
    out: Path
    err: Path

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.child.pid is not None
        os.kill(self.child.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        self.child.join(seconds)
        assert self.child.exitcode is not None, "it does not end"
        said = self.out.read_text() + self.err.read_text()
        assert "Traceback" not in said, said
        return self.child.exitcode


def begin(sandbox: Sandbox, *arguments: str) -> Begun:
    """Start a command and do not wait for it."""
    number = next(sandbox.numbers)
    out, err = sandbox.folder / f"{number}.out", sandbox.folder / f"{number}.err"
    return Begun(fork_server.start(sandbox.target, list(arguments), sandbox.environment, out, err), out, err)


def begin_held(sandbox: Sandbox, *arguments: str) -> Begun:
    """Start a command that holds its move, and wait until it does."""
    begun = begin(sandbox, *arguments)
    begun.err.touch()
    deadline = time.monotonic() + 60
    while "note: held until" not in begun.err.read_text():
        assert begun.child.is_alive(), begun.err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return begun


def wait_for(sandbox: Sandbox, action: str, phase: str = "intent") -> None:
    """Wait until the journal says this of an action."""
    deadline = time.monotonic() + 60
    query = "SELECT count(*) FROM entries WHERE action = ? AND phase = ?"
    path = sandbox.folder / "journal.db"
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(sqlite3.OperationalError),  # it is only being made
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection,
        ):
            if connection.execute(query, (action, phase)).fetchone()[0]:
                return
        time.sleep(0.02)
    pytest.fail(f"{action} never was {phase}")


def phases(sandbox: Sandbox) -> dict[str, str]:
    """What the journal says of each action."""
    with contextlib.closing(sqlite3.connect(sandbox.folder / "journal.db")) as connection:
        return dict(connection.execute("SELECT action, phase FROM entries ORDER BY sequence").fetchall())


@contextlib.contextmanager
def slow(sandbox: Sandbox, seconds: float) -> Iterator[None]:
    """Hosts take their time: so many seconds between two writes."""
    sandbox.process.control("pace", seconds=seconds)
    try:
        yield
    finally:
        sandbox.process.control("pace", seconds=0.0)


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The journal's files: content and time of change."""
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.glob("journal.db*")}
