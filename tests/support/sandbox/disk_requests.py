"""Every connection and request to a compute host's disks passes through here, so that a proof can count and break it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cellmove.core.errors import CallUncertain
from cellmove.hosts import disk_link
from cellmove.hosts.disk_link import Answer, Destination, Link

if TYPE_CHECKING:
    from tests.support.sandbox.harness import Harness

WIRE = "wire"
WRITES = ("prepare", "write", "sync", "rename", "remove", "mkdir", "rebase")
"""Requests that change something on a host."""

FAULTS = ("refused", "lost", "error")
"""The connection breaks before the request is sent, or once it was carried out; or the host answers no."""

CONNECT, ASK, TAKE = disk_link.connect, Link.ask, Link.take


def tap(harness: Harness) -> None:
    """Let a harness see all of it. A connection can only be refused."""
    losing: WeakKeyDictionary[Link, deque[bool]] = WeakKeyDictionary()

    @contextmanager
    def connect(destination: Destination, move_id: str, **more: Any) -> Iterator[Link]:
        if harness.see(WIRE, f"{destination.host}.connect", writes=False):
            harness.ssh.order(destination.host, "refuse", once=True)
        with CONNECT(destination, move_id, **more) as link:
            yield link

    def ask(link: Link, do: str, payload: bytes = b"", **fields: Any) -> None:
        wrong = harness.see(WIRE, f"{link.host}.{do}", writes=do in WRITES)
        losing.setdefault(link, deque()).append(wrong == "lost")
        if wrong == "refused":
            _break(link)
        if wrong == "error":
            do, payload = "what nobody knows", b""  # which the host answers with an error
        ASK(link, do, payload, **fields)

    def take(link: Link) -> Answer:
        lost = losing[link].popleft() if losing.get(link) else False
        answer = TAKE(link)
        if lost:
            _break(link)
            link._lost = True
            raise CallUncertain(f"the connection to {link.host} broke")
        return answer

    disk_link.connect, Link.ask, Link.take = connect, ask, take  # type: ignore[assignment,method-assign]


def _break(link: Link) -> None:
    """As when ssh dies: the program's input ends, and so does the program; whatever is sent from now on finds nobody."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, link._input)
    os.close(writing)
    link._process.wait(10)
