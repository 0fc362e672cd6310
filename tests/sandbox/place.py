"""The sandbox as a process, real `cellmove` processes beside it, and both as a place for scenarios."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellmove.sandbox.rest import PASSWORD
from cellmove.sandbox.store import Cloud, World
from tests.sandbox.picture import picture
from tests.scenarios.place import Outcome, Picture, Server

ROOT = Path(__file__).resolve().parents[2]

# Processes are forked from one that has everything imported: they start in 50 ms instead of 2 s.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.sandbox.preload"])


def run_command(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """What such a process does: it is `cellmove` with these arguments, from the first line on."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["cellmove", *arguments]
    from cellmove.cli import main

    main()


@dataclass
class Process:
    """A `python -m cellmove.sandbox`, told where it is by the line that it prints.

    :param urls: the databases', for somebody who looks into them from outside
    """

    process: subprocess.Popen[str]
    url: str
    environment: dict[str, str]
    urls: dict[str, str]

    def control(self, what: str, /, **arguments: Any) -> Any:
        """POST /sandbox/WHAT."""
        body, kind = json.dumps(arguments).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/sandbox/{what}", body, kind)  # noqa: S310 - our own, on loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["answer"]

    def cloud(self) -> Cloud:
        """The cloud as it is now, to be looked at."""
        copy = Cloud(self.urls)
        copy.world = World(**self.control("state"))
        return copy

    def end(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(10)


def start(folder: Path, database: str = "") -> Process:
    """Start a sandbox in a folder; it answers when this returns.

    :param database: URL in front of /api, /cell1 and /cell2 (default: SQLite files)
    """
    options = ["--database", database] if database else []
    process = subprocess.Popen(
        [sys.executable, "-m", "cellmove.sandbox", str(folder), *options], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    return Process(process, said["url"], said["environment"], said["databases"])


@dataclass
class Sandbox:
    """See :class:`tests.scenarios.place.Place`."""

    process: Process
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """What a cellmove process is given, with a journal of the test's own."""
        own = {**self.process.environment, "CELLMOVE_JOURNAL": str(self.folder / "journal.db")}
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **own}

    def boot(self, prefix: str = "test", **how: Any) -> Server:
        """A server is there at once."""
        name = f"{prefix}-{self.folder.name}"
        return Server(self.process.control("boot", name=name, **how), name)

    def cellmove(self, *arguments: str, expect: int | None = 0, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a command to its end."""
        number = next(self.numbers)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        environment = {**self.environment, **(env or {})}
        child = FORKS.Process(target=run_command, args=(list(arguments), environment, out, err))
        child.start()
        child.join(120)
        assert child.exitcode is not None, f"cellmove {arguments} does not end"
        ended = Outcome(child.exitcode, out.read_text(), err.read_text())
        said = f"{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in said, said
        assert PASSWORD not in said
        assert expect is None or ended.code == expect, f"{arguments} ended with {ended.code}\n{said}"
        return ended

    def picture(self, server_id: str) -> Picture:
        """In the shape of the lab's; through JSON, like that one."""
        shot: Picture = json.loads(json.dumps(picture(self.process.cloud(), server_id), default=str))
        return shot

    @contextlib.contextmanager
    def fault(self, host: str, call: str, how: str, server_id: str | None = None) -> Iterator[None]:
        """Let a virt call go wrong."""
        key = f"{host}:{call}:{server_id}" if server_id else f"{host}:{call}"
        self.process.control("fault", key=key, how=how)
        try:
            yield
        finally:
            self.process.control("fault", key=key, how="")

    @contextlib.contextmanager
    def stopped_compute(self, host: str) -> Iterator[None]:
        """Its nova-compute is down, and nova has noticed."""
        self.process.control("host", name=host, up=False)
        try:
            yield
        finally:
            self.process.control("host", name=host, up=True)
