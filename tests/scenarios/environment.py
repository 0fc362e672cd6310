"""A cloud in which scenarios are played, and what they need of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.scenarios import normal

SNAPSHOTS = Path(__file__).parent / "snapshots"

ServerSnapshot = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as JSON; a test that asks for it expects nothing else there."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Server:
    """A server that a test moves."""

    id: str
    name: str


class Place(Protocol):
    """The lab, or the sandbox."""

    def boot(self, prefix: str = "test", **how: Any) -> Server:
        """A server with a keypair and tags on c1-host1; see lab.cloud.boot."""

    def cellmove(self, *arguments: str, expect: int = 0) -> Outcome:
        """Run a command to its end; it must end with that exit code."""

    def snapshot(self, server_id: str) -> ServerSnapshot:
        """Everything about a server, as lab.oracle takes it."""

    def fault(self, host: str, call: str, how: str, server_id: str | None = None) -> AbstractContextManager[None]:
        """Let a virt call of a host go wrong for the length of a ``with``."""

    def stopped_compute(self, host: str) -> AbstractContextManager[None]:
        """A host whose nova-compute is down."""


Agrees = Callable[..., None]
"""agrees(name, snapshot, server, target="c2-host1"): see :class:`Album`."""


@dataclass
class Album:
    """The recorded snapshots. The lab writes them (``--record``), and both have to look like them.

    :param record: what is seen first under a name is written; everything else is compared
    """

    record: bool = False

    def __post_init__(self) -> None:
        self.written: set[str] = set()

    def agrees(self, name: str, shot: ServerSnapshot, server: Server, target: str = "c2-host1") -> None:
        """This snapshot is the one that was recorded under that name.

        :param target: the host that a scheduler chose, which need not be the same one every time
        """
        seen = normal.lines(normal.normalised(shot, literal(server, target)))
        path = SNAPSHOTS / f"{name}.json"
        if self.record and name not in self.written:
            path.write_text(seen)
            self.written.add(name)
        different = normal.differences(json.loads(path.read_text()), json.loads(seen))
        assert different == [], f"{path.name} -> here:\n" + "\n".join(different)


def literal(server: Server, target: str) -> Mapping[str, str]:
    """What is replaced wherever it stands."""
    told = {f"the {cloud} was told to let": "SOMEBODY wanted" for cloud in ("lab", "sandbox")}
    return {server.name: "NAME", target: "target-host", **told}


def status(shot: ServerSnapshot) -> str:
    """The server's status."""
    return str(shot["server"]["status"])


def disks(shot: ServerSnapshot) -> list[dict[str, str]]:
    """The contents of the server's disks, wherever they are."""
    return sorted(shot["disks"].values(), key=str)


def guests(shot: ServerSnapshot) -> dict[str, str]:
    """Host -> power state."""
    return {host: guest["power_state"] for host, guest in shot["guests"].items()}
