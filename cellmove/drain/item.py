"""The servers of a cell and their stages in a drain: plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cellmove.core.cell_names import CellRef


class Verdict(enum.StrEnum):
    """The result of the checks of one server."""

    MOVABLE = "movable"
    SKIPPED = "skipped"  # a filter or a tag excludes it
    REFUSED = "refused"  # a check refuses it


@dataclass(frozen=True, slots=True)
class Item:
    """One server of the cell.

    :param flavor: name of the server's flavor; ``flavor_id`` is its id
    :param new_flavor: name of the flavor that the server gets; empty when it keeps its flavor
    :param vcpus: needed at the target, by the new flavor; likewise ``memory_mb``
    :param disk_gb: GiB of local disk that travel; 0 for a volume-backed server
    :param created_at: UTC, ISO 8601
    :param codes: of the checks or filters that refuse or exclude the server; ``reasons`` are their texts with remedies.
        A movable server with an open move of this journal has the code ``open-move``
    """

    server_id: str
    name: str
    project_id: str
    host: str
    flavor: str
    vm_state: str
    volume_backed: bool
    vcpus: int
    memory_mb: int
    disk_gb: int
    created_at: str
    flavor_id: str = ""
    new_flavor: str = ""
    verdict: Verdict = Verdict.MOVABLE
    codes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Census:
    """Every server of a cell with its verdict.

    :param items: the servers that are mapped to the cell, by id. A server that is being deleted is included while it has
        a row, and so is a missing one
    :param mapped: number of servers that the API maps to the cell, without those that are queued for delete
    :param missing: servers that are mapped to the cell and have no live, visible row in it
    :param strays: servers with a live row in the cell that are mapped elsewhere. Hidden rows are the source records of
        unconfirmed moves
    :param deleting: servers that are queued for delete and still have a live row
    """

    cell: CellRef
    items: tuple[Item, ...]
    mapped: int
    missing: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    deleting: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Return whether every server that is mapped to the cell has a row there."""
        return not self.missing and len(self.items) == self.mapped + len(self.deleting)


class Stage(enum.StrEnum):
    """The stage of a server in a drain. docs/drain.md describes each."""

    WAITING = "waiting"
    MOVING = "moving"
    SOAKING = "soaking"  # at the target and verified once; confirmed when it is due
    CONFIRMING = "confirming"
    MOVED = "moved"  # and confirmed, or left in VERIFY_RESIZE because the options say so
    REVERTED = "reverted"  # failed verification and is back at its source
    UNVERIFIED = "unverified"  # failed verification and stays in VERIFY_RESIZE
    FAILED = "failed"
    SKIPPED = "skipped"
    REFUSED = "refused"
    GONE = "gone"  # deleted by its owner, or moved outside of this drain


IN_PROGRESS = (Stage.MOVING, Stage.CONFIRMING)
"""Stages in which a run works on a server."""

TROUBLED = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED)
"""Stages of servers that count as failures."""

AT_TARGET = (Stage.SOAKING, Stage.CONFIRMING, Stage.MOVED, Stage.UNVERIFIED)
"""Stages of servers that run at the target."""


def host_at(stage: str, source: str, target: str) -> str:
    """Return the host of a server in this stage."""
    return target if stage in AT_TARGET and target else source


@dataclass(frozen=True, slots=True)
class Task:
    """One server of a drain: a row of the queue.

    :param position: index in the order of the drain
    :param due: when a soaking server is confirmed, or a waiting one may be started; seconds since the epoch
    :param began: start of the last attempt, 0 without one; likewise ``ended``
    :param tries: number of attempts
    :param worker: the run that works on the server, or was the last to do so
    """

    server_id: str
    name: str
    project_id: str = ""
    host: str = ""
    target_host: str = ""
    flavor: str = ""
    new_flavor: str = ""
    disk_gb: int = 0
    vcpus: int = 0
    memory_mb: int = 0
    position: int = 0
    stage: Stage = Stage.WAITING
    move_id: str = ""
    tries: int = 0
    due: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    worker: str = ""
    lease_until: float = 0.0
    code: str = ""
    reason: str = ""
    next_command: str = ""


@dataclass(frozen=True)
class JobResult:
    """The result of one attempt on a server.

    :param stage: the new stage; WAITING queues the server again
    :param after: seconds until a soaking server is due, or until a queued one may be started
    """

    stage: Stage
    reason: str = ""
    code: str = ""
    next_command: str = ""
    after: float = 0.0
