"""Starting the cloud as a process of its own, and talking to it: for the demo and for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cellmove.sandbox.instances import Instances
from cellmove.sandbox.store import Cloud, World


@dataclass(frozen=True)
class Process:
    """A ``python -m cellmove.sandbox`` that answers.

    :param databases: their URLs, for tests that read them directly
    :param instances: where its hosts' disks are, if they are files
    """

    process: subprocess.Popen[str]
    url: str
    own_environment: Mapping[str, str]
    databases: Mapping[str, str]
    instances: Instances | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a ``cellmove`` for this cloud is given: nothing of any other cloud."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "CELLMOVE_"))}
        return {**kept, **self.own_environment}

    def control(self, what: str, /, **arguments: Any) -> Any:
        """POST /sandbox/WHAT."""
        body, kind = json.dumps(arguments).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/sandbox/{what}", body, kind)  # noqa: S310 - our own, on loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["answer"]

    @cached_property
    def _view(self) -> Cloud:
        cloud = Cloud(self.databases)
        cloud.instances = self.instances
        return cloud

    def cloud(self) -> Cloud:
        """The cloud as it is now, to be looked at."""
        self._view.world = World(**self.control("state"))
        return self._view

    def end(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.communicate(timeout=10)


def start(folder: Path, database: str = "", *, disks: bool = False) -> Process:
    """Start a cloud; it answers when this returns.

    :param folder: for its files
    :param database: URL in front of api, cell1 and cell2 (default: SQLite files)
    :param disks: local disks are files, and cellmove is told to reach them by ssh
    """
    options = [*(["--database", database] if database else []), *(["--disks"] if disks else [])]
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "cellmove.sandbox", str(folder), "--with-parent", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    said = json.loads(process.stdout.readline() if process.stdout else "")
    instances = Instances(folder.absolute() / "disks") if disks else None
    return Process(process, said["url"], said["environment"], said["databases"], instances)
