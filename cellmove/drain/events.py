"""The events of a drain. One observer receives them, and the events of the drain's moves as well."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.core.cell_names import CellRef
from cellmove.engine.events import Event

if TYPE_CHECKING:
    from cellmove.drain.item import Task
    from cellmove.drain.result import RunResult


class DrainEventKind(enum.StrEnum):
    """What happened. The values are those of ``event`` in ``--format json``."""

    RUN_STARTED = "begun"  # with the number of servers by stage
    CORDONED = "cordoned"
    UNCORDONED = "reopened"  # after an abort
    SERVER_STARTED = "server-begun"
    SERVER_RESUMED = "server-taken-up"  # an earlier run was interrupted, or died
    SERVER_CONFIRMING = "server-confirming"  # its soak is over
    STEP_FINISHED = "step"
    SERVER_SOAKING = "server-soaking"
    SERVER_MOVED = "server-moved"
    SERVER_REVERTED = "server-reverted"
    SERVER_UNVERIFIED = "server-unverified"
    SERVER_FAILED = "server-failed"
    SERVER_REFUSED = "server-refused"
    SERVER_SKIPPED = "server-skipped"
    SERVER_GONE = "server-gone"
    SERVER_REQUEUED = "server-put-back"  # no host had capacity, for example
    PAUSED = "paused"
    CONTINUED = "going-on"
    STOPPING = "stopping"  # the run starts no more servers; the reason says why
    RUN_ENDED = "ended"
    RUN_FAILED = "error"  # the run ended early


@dataclass(frozen=True)
class DrainEvent:
    """One event of a drain.

    :param at: UTC, ISO 8601
    :param disk_gb: GiB of local disk that travel
    :param seconds: duration, for kinds that end something
    :param counts: number of servers by stage; empty for kinds that do not report it
    :param result: the result of the run, of ``RUN_ENDED`` only
    """

    kind: DrainEventKind
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
    result: RunResult | None = None


DrainObserver = Callable[[Event | DrainEvent], None]
"""Receives the events of a drain and of its moves, from any thread. It is an :data:`cellmove.engine.events.Observer` as well."""


def server_event(kind: DrainEventKind, at: str, cell: CellRef, task: Task) -> DrainEvent:
    """Return an event about one server of the queue."""
    return DrainEvent(
        kind,
        at,
        cell,
        server_id=task.server_id,
        server_name=task.name,
        move_id=task.move_id,
        host=task.host,
        target_host=task.target_host,
        disk_gb=task.disk_gb,
    )
