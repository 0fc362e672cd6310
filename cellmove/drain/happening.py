"""What a drain tells whoever watches: plain values handed to one injected function."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.drain.item import Task

SCHEMA_VERSION = 1
"""Version of the lines that ``--format json`` prints."""


class Kind(enum.StrEnum):
    """What happened."""

    BEGUN = "begun"  # a run: how many servers there are, and where they stand
    CORDONED = "cordoned"  # the cell is closed to new servers
    REOPENED = "reopened"  # it is open again, after an abort
    SERVER_BEGUN = "server-begun"
    SERVER_TAKEN_UP = "server-taken-up"  # where a run left it that was interrupted, or died
    SERVER_CONFIRMING = "server-confirming"  # it has soaked for long enough
    STEP = "step"  # a server is done with a step of its move
    SERVER_SOAKING = "server-soaking"
    SERVER_MOVED = "server-moved"
    SERVER_REVERTED = "server-reverted"
    SERVER_UNVERIFIED = "server-unverified"
    SERVER_FAILED = "server-failed"
    SERVER_REFUSED = "server-refused"
    SERVER_SKIPPED = "server-skipped"
    SERVER_GONE = "server-gone"
    SERVER_PUT_BACK = "server-put-back"  # it waits again: there was no place for it just now
    PAUSED = "paused"
    GOING_ON = "going-on"
    STOPPING = "stopping"  # nothing new is begun any more; why stands in the reason
    ENDED = "ended"  # a run
    ERROR = "error"  # a run ended before it was through


@dataclass(frozen=True)
class Happening:
    """One change worth showing.

    :param at: UTC, ISO 8601
    :param seconds: how long it took, for what ends something
    :param counts: servers by stage, where that is told
    :param ending: what is left of the cell, where that is told: see :func:`cellmove.drain.ending.document`
    """

    kind: Kind
    at: str
    cell: CellRef
    server_id: str = ""
    server_name: str = ""
    move_id: str = ""
    step: str = ""
    host: str = ""
    target_host: str = ""
    disk_gb: int = 0
    seconds: float = 0.0
    reason: str = ""
    next_command: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    ending: Mapping[str, Any] = field(default_factory=dict)


Watcher = Callable[[Happening], None]


def about(task: Task) -> dict[str, Any]:
    """What a happening says of the server that it is about."""
    return {
        "server_id": task.server_id, "server_name": task.name, "move_id": task.move_id, "host": task.host,
        "target_host": task.target_host, "disk_gb": task.disk_gb,
    }  # fmt: skip


def document(happening: Happening) -> dict[str, Any]:
    """As one line of ``--format json``: every line has the same keys; docs/drain.md describes them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "event": happening.kind.value,
        "at": happening.at,
        "cell": happening.cell.label,
        "cell_uuid": happening.cell.uuid or None,
        "server": {"id": happening.server_id, "name": happening.server_name} if happening.server_id else None,
        "move": happening.move_id or None,
        "step": happening.step or None,
        "source_host": happening.host or None,
        "target_host": happening.target_host or None,
        "disk_gib": happening.disk_gb,
        "seconds": round(happening.seconds, 3),
        "reason": happening.reason or None,
        "next": happening.next_command or None,
        "counts": dict(happening.counts) or None,
        "ending": dict(happening.ending) or None,
    }
