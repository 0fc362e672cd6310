"""The sandbox with disks that are files, and `cellmove` processes that reach its hosts by a stand-in for ssh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmove.core.clock import Clock
from cellmove.engine.journal_open import open_journal
from cellmove.sandbox import disks
from cellmove.sandbox.seed import IMAGE
from lab import oracle
from tests.support.sandbox import disk_oracle
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.fake_ssh import Ssh

SOURCE, TARGET, OTHER = "c1-host1", "c2-host1", "c2-host2"


@dataclass(kw_only=True)
class Streaming(Sandbox):
    """See :class:`tests.support.sandbox.environment.Sandbox`."""

    ssh: Ssh

    @property
    def environment(self) -> dict[str, str]:
        """With the stand-in in front."""
        return {**super().environment, **self.ssh.environment}

    def path(self, host: str, name: str) -> Path:
        """A file on a host."""
        return self.ssh.disks / host / name

    def base(self, host: str) -> Path:
        """The image there."""
        return self.path(host, f"_base/{disks.base_of(IMAGE)}")

    def marked(self, host: str) -> list[str]:
        """The unfinished files there."""
        return [path.name for path in self.ssh.disks.joinpath(host).rglob(".*.cellmove-*")]

    def result(self, server: str, action: str) -> Mapping[str, Any]:
        """What the newest line of an action says that it came to."""
        journal = open_journal(str(self.folder / "journal.db"), Clock().text)
        move = journal.find(server)[-1]
        return next(entry.result for entry in reversed(journal.entries_of(move.id)) if entry.action == action)

    def plan(self, server: str) -> Mapping[str, Any]:
        """What the newest move's plan says."""
        return open_journal(str(self.folder / "journal.db"), Clock().text).find(server)[-1].plan

    def wrong(
        self, server: str, *, cell: str, host: str, status: str = "ACTIVE", kept: str = "", flavor: str = "m1.tiny"
    ) -> list[str]:
        """What is not as it should be, of a server that is there."""
        found = oracle.problems(self.snapshot(server), cell=cell, host=host, flavor=flavor, status=status)
        return [*found, *disk_oracle.problems(self.process.cloud(), server, lives=host, kept=kept)]

    def is_home(self, server: str, *, status: str = "ACTIVE", flavor: str = "m1.tiny") -> None:
        """The guest is where it was, and nothing is left anywhere else."""
        wrong = self.wrong(server, cell="cell1", host=SOURCE, status=status, flavor=flavor)
        assert wrong == [], wrong

    def has_moved(self, server: str, host: str = TARGET, *, status: str = "VERIFY_RESIZE") -> None:
        """It is in the other cell, with all that its guest wrote; until it is confirmed the source keeps its disks."""
        kept = SOURCE if status == "VERIFY_RESIZE" else ""
        wrong = self.wrong(server, cell="cell2", host=host, status=status, kept=kept)
        assert wrong == [], wrong
