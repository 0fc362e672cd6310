"""Real processes, really killed: the same stage and the same judge, with the cloud and cellmove as processes.

The processes are forked from one that has everything imported, otherwise every case would begin with
seconds of reading libraries. From the fork on they are `cellmove` and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cellmove.move import Move
from cellmove.sandbox.process import start
from cellmove.sandbox.store import Cloud
from tests.sandbox.folders import own_folder
from tests.sandbox.hosts import Pieces, copy_files, make_ssh, put_files_back
from tests.sandbox.judge import Scene
from tests.sandbox.picture import picture
from tests.sandbox.place import FORKS, run_command
from tests.sandbox.rig import Outcome, Taps, copy_databases, newest_move, put_databases_back
from tests.sandbox.stage import BEFORE

Saved = tuple[dict[str, Any], dict[str, bytes], bytes, dict[str, Pieces]]
"""World, databases, journal and disks."""


def killed_command(where: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """A `cellmove` that ends with SIGKILL at a point of an action."""
    from tests import kill_at

    kill_at.arm(*where.split(":"))
    run_command(arguments, environment, out, err)


class ProcessRig:
    """The cloud as a process, and a command a process: what :class:`tests.sandbox.rig.Rig` is in one."""

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
        child = (
            FORKS.Process(target=killed_command, args=(killed, *arguments))
            if killed
            else FORKS.Process(target=run_command, args=arguments)
        )
        child.start()
        child.join(120)
        if child.exitcode is None:
            child.kill()
            raise AssertionError(f"cellmove {command} does not end")
        said = err.read_text() if err.exists() else ""
        if "Traceback" in said:
            raise AssertionError(said[-600:])
        lines = [line for line in said.splitlines() if line.startswith("next: ")]
        return Outcome(
            command, child.exitcode, said if child.exitcode > 0 else "", "",
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


class ProcessStage:
    """Like :class:`tests.sandbox.stage.Stage`, for one shape."""

    def __init__(self, *, streamed: bool = False) -> None:
        self.rig = ProcessRig(disks=streamed)
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
                self.rig.restore(self.made["home"][0])
                self._must("plan", scene.server, "m1.small", "--cell", "cell2", "--transfer", self.transfer)
            self.made[key] = (self.rig.save(), self.rig.move().id)
        saved, move = self.made[key]
        self.rig.restore(saved)
        return scene, move

    def _must(self, *command: str) -> None:
        outcome = self.rig.run(*command)
        if outcome.code:
            raise AssertionError(outcome.text)

    def _boot(self) -> Scene:
        boot, cloud = self.rig.process.control, self.rig.process.cloud
        server = boot("boot", name="web", ports=2, volumes=2)
        other = boot("boot", name="other", ports=1, volumes=1)
        disk = cloud().world.disks["c1-host1"][server]["disk"]
        self.scene = Scene(server, other, True, picture(cloud(), server), picture(cloud(), other), disk)
        self.made["home"] = (self.rig.save(), "")
        return self.scene
