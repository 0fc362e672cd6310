"""The sandbox as a process, real `cellmove` processes beside it, and both as a place for scenarios."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from cellmove.sandbox.process import Process
from cellmove.sandbox.rest_identity import PASSWORD
from cellmove.sandbox.store import Cloud
from tests.scenarios.environment import Outcome, Server, ServerSnapshot
from tests.support import fork_server
from tests.support.commands import run_command
from tests.support.sandbox.snapshot import snapshot


def change_cloud(sandbox: Sandbox, change: Callable[[Cloud, str], Any], server_id: str) -> None:
    """Change the cloud: its databases, and its world."""
    cloud = sandbox.process.cloud()
    before = asdict(cloud.world)
    change(cloud, server_id)
    changed = {name: value for name, value in asdict(cloud.world).items() if value != before[name]}
    if changed:
        sandbox.process.control("world", **changed)


@dataclass
class Sandbox:
    """See :class:`tests.scenarios.environment.Place`."""

    process: Process
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    made: list[str] = field(default_factory=list)
    target: Callable[..., None] = run_command

    @property
    def environment(self) -> dict[str, str]:
        """What a cellmove process is given, with a journal of the test's own."""
        return {**self.process.environment, "CELLMOVE_JOURNAL": str(self.folder / "journal.db")}

    def boot(self, prefix: str = "test", **how: Any) -> Server:
        """A server is there at once."""
        name = f"{prefix}-{self.folder.name}"
        self.made.append(self.process.control("boot", name=name, **how))
        return Server(self.made[-1], name)

    def clear(self) -> None:
        """Delete this test's servers: the hosts have room for a number of them, and other tests come."""
        for server in self.made:
            with contextlib.suppress(HTTPError):  # gone already, or in a state that lets nobody in
                self.process.control("delete", server=server)

    def cellmove(self, *arguments: str, expect: int | None = 0, env: Mapping[str, str] | None = None) -> Outcome:
        """Run a command to its end."""
        number = next(self.numbers)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        environment = {**self.environment, **(env or {})}
        code = fork_server.call(self.target, list(arguments), environment, out, err)
        ended = Outcome(code, out.read_text(), err.read_text())
        said = f"{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in said, said
        assert PASSWORD not in said
        assert expect is None or ended.code == expect, f"{arguments} ended with {ended.code}\n{said}"
        return ended

    def snapshot(self, server_id: str) -> ServerSnapshot:
        """In the shape of the lab's; through JSON, like that one."""
        shot: ServerSnapshot = json.loads(json.dumps(snapshot(self.process.cloud(), server_id), default=str))
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
