"""The lab as a place for scenarios."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lab import cloud, oracle
from tests.scenarios.environment import Outcome, Server, ServerSnapshot

EVERYTHING = {"keypair": "k1", "device_tags": True, "tags": ("blue",), "metadata": {"a": "b"}}
"""What every server of a scenario has on it, here and in the sandbox."""


@dataclass(frozen=True)
class Lab:
    """The real two-cell OpenStack. See :class:`tests.scenarios.environment.Place`."""

    boot_one: Callable[..., Any]
    run: Callable[..., Any]

    def boot(self, prefix: str = "test", **how: Any) -> Server:
        """Boot a server and wait until it is there."""
        made = self.boot_one(prefix, **EVERYTHING, **how)
        return Server(made.id, made.name)

    def cellmove(self, *arguments: str, expect: int = 0) -> Outcome:
        """Run a command to its end."""
        ended = self.run(*arguments, expect=expect)
        return Outcome(ended.code, ended.stdout, ended.stderr)

    def snapshot(self, server_id: str) -> ServerSnapshot:
        """The oracle's snapshot."""
        shot: ServerSnapshot = oracle.snapshot(server_id)
        return shot

    def fault(self, host: str, call: str, how: str, server_id: str | None = None) -> AbstractContextManager[None]:
        """See lab/README.md."""
        return cloud.fault(host, call, how, server_id)

    def stopped_compute(self, host: str) -> AbstractContextManager[None]:
        """Its nova-compute is killed, and started again."""
        return cloud.stopped_compute(host)
