"""Where the hosts of the sandbox keep local disks as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ALIKE = "/proc/self/cwd"
"""An instances_path that is the same on every host, as in most clouds: the working directory of an ssh command."""


@dataclass(frozen=True)
class Instances:
    """The directories of the hosts.

    :param folder: contains a directory a host
    :param alike: whether every host has the same instances_path
    """

    folder: Path
    alike: bool = False

    def path(self, host: str) -> Path:
        """Return the directory of a host."""
        return self.folder / host

    def seen(self, host: str) -> str:
        """Return the instances_path of a host, as the host itself sees it."""
        return ALIKE if self.alike else str(self.path(host))

    def disk(self, host: str, server: str) -> Path:
        """Return the path of a server's root disk."""
        return self.path(host) / server / "disk"
