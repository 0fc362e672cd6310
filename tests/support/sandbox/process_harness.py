"""Real processes, really killed: the same fixtures and the same judge, with the cloud and cellmove as processes.

The processes are forked from one that has everything imported, otherwise every case would begin with
seconds of reading libraries. From the fork on they are `cellmove` and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from cellmove.core.move import Move
from cellmove.sandbox.store import Cloud
from tests.support import fork_server
from tests.support.commands import run_command, run_killed
from tests.support.folders import own_folder
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.cloud_process import start
from tests.support.sandbox.fake_ssh import Pieces, copy_files, make_ssh, put_files_back
from tests.support.sandbox.fixtures import BEFORE
from tests.support.sandbox.harness import Outcome, Taps, copy_databases, newest_move, put_databases_back
from tests.support.sandbox.snapshot import snapshot

Saved = tuple[dict[str, Any], dict[str, bytes], bytes, dict[str, Pieces]]
"""World, databases, journal and disks."""


class ProcessHarness:
    """The cloud as a process, and a command a process: what :class:`tests.support.sandbox.harness.Harness` is in one."""

    def __init__(self, *, disks: bool = False) -> None:
        self.folder = own_folder("cellmove-processes-")
        self.process = start(self.folder / "cloud", disks=disks)
        self.environment = self.process.environment | {"CELLMOVE_JOURNAL": str(self.folder / "journal.db")}
        self.shelf = self.folder / "cloud" / "disks" if disks else None
        if self.shelf is not None:
            self.environment |= make_ssh(self.folder / "ssh", self.shelf).environment
        self.taps = Taps()

    @property
    def cloud(self) -> Cloud:
        """The cloud as it is now."""
        return self.process.cloud()

    def move(self) -> Move:
        """The newest move in the journal."""
        return newest_move(self.folder / "journal.db")

    def run(self, *command: str, killed: str = "") -> Outcome:
        """A command as a process; ``killed`` is where it dies."""
        out, err = self.folder / "out", self.folder / "err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        arguments = (list(command), dict(self.environment), out, err)
        code = fork_server.call(*((run_killed, killed) if killed else (run_command,)), *arguments)
        said = err.read_text() if err.exists() else ""
        if "Traceback" in said:
            raise AssertionError(said[-600:])
        lines = [line for line in said.splitlines() if line.startswith("next: ")]
        return Outcome(
            command, code, said if code > 0 else "", "",
            lines[-1].removeprefix("next: ") if lines else "",
        )  # fmt: skip

    def sleep(self, _seconds: float) -> None:
        """Not here: the cloud is at work all the time."""
        time.sleep(0.1)

    def save(self) -> Saved:
        """World, databases, journal and disks."""
        databases = copy_databases((self.folder / "cloud").glob("*.db"))
        journal = self.folder / "journal.db"
        files = copy_files(self.shelf) if self.shelf is not None else {}
        return asdict(self.cloud.world), databases, journal.read_bytes() if journal.exists() else b"", files

    def restore(self, saved: Saved) -> None:
        """Put everything back; the services report themselves alive at once."""
        world, databases, journal, files = saved
        if self.shelf is not None:
            put_files_back(self.shelf, files)
        put_databases_back(self.folder / "cloud", databases)
        self.process.control("world", **world)
        for path in self.folder.glob("journal.db*"):
            path.unlink()
        if journal:
            (self.folder / "journal.db").write_bytes(journal)


class ProcessFixtures:
    """Like :class:`tests.support.sandbox.fixtures.Fixtures`, for one shape."""

    def __init__(self, *, streamed: bool = False) -> None:
        self.harness = ProcessHarness(disks=streamed)
        self.transfer = "stream" if streamed else "image"
        self.scene: Scene | None = None
        self.made: dict[str, tuple[Any, str]] = {}

    def set(self, step: str) -> tuple[Scene, str]:
        """Put everything as it is before a step: the scene, and the move's id."""
        scene = self.scene or self._boot()
        key = "confirm" if step == "revert" else step
        if key not in self.made:
            previous = BEFORE[key][-1:]
            if previous:
                _scene, move = self.set(previous[0])
                self._must(previous[0], move)
            else:
                self.harness.restore(self.made["home"][0])
                self._must("plan", scene.server, "m1.small", "--cell", "cell2", "--transfer", self.transfer)
            self.made[key] = (self.harness.save(), self.harness.move().id)
        saved, move = self.made[key]
        self.harness.restore(saved)
        return scene, move

    def _must(self, *command: str) -> None:
        outcome = self.harness.run(*command)
        if outcome.code:
            raise AssertionError(outcome.text)

    def _boot(self) -> Scene:
        boot, cloud = self.harness.process.control, self.harness.process.cloud
        server = boot("boot", name="web", ports=2, volumes=2)
        other = boot("boot", name="other", ports=1, volumes=1)
        disk = cloud().world.disks["c1-host1"][server]["disk"]
        self.scene = Scene(server, other, True, snapshot(cloud(), server), snapshot(cloud(), other), disk)
        self.made["home"] = (self.harness.save(), "")
        return self.scene
