"""The sandbox as a process that is forked, not started: a test may have a cloud of its own for a tenth of a second."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from cellmove.sandbox.instances import Instances
from cellmove.sandbox.process import Process
from tests.support import fork_server

START_SECONDS = 60.0


@dataclass(frozen=True)
class Forked:
    """What :class:`cellmove.sandbox.process.Process` asks of the process that it holds."""

    child: BaseProcess

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.child.pid is not None
        return self.child.pid

    def terminate(self) -> None:
        """SIGTERM."""
        self.child.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    def communicate(self, timeout: float) -> None:
        """Wait for its end."""
        self.child.join(timeout)
        assert self.child.exitcode is not None, "the cloud does not end"


def serve(arguments: list[str], said: Path) -> None:
    """Be the sandbox; its one line of output goes to a file."""
    output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    sys.stdout = os.fdopen(1, "w")
    sys.argv = ["cellmove.sandbox", *arguments]
    from cellmove.sandbox.__main__ import main

    main()


def start(folder: Path, *, disks: bool = False) -> Process:
    """Like :func:`cellmove.sandbox.process.start`; the cloud answers when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / "said"
    options = ["--disks"] if disks else []
    child = fork_server.start(serve, [str(folder), "--with-parent", *options], said, ends_with_us=True)
    known = _line(child, said)
    instances = Instances(folder.absolute() / "disks") if disks else None
    return Process(cast(Any, Forked(child)), known["url"], known["environment"], known["databases"], instances)


@contextlib.contextmanager
def served_cloud() -> Iterator[tuple[Process, Path]]:
    """A cloud of its own and the directory of its databases, which need not wait for a disk where there is shared memory."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
    with tempfile.TemporaryDirectory(prefix="cellmove-test-", dir=memory if memory.is_dir() else None) as folder:
        process = start(Path(folder))
        yield process, Path(folder)
        process.end()


def _line(child: BaseProcess, said: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.exitcode is None:
        if said.exists() and (text := said.read_text()).endswith("\n"):
            found: dict[str, Any] = json.loads(text)
            return found
        time.sleep(0.005)
    raise AssertionError(f"the cloud did not start: {child.exitcode}")
