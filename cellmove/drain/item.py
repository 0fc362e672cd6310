"""What a drain knows of the servers in its cell, and what becomes of them: plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cellmove.core.cell_names import CellRef


class Verdict(enum.StrEnum):
    """What a look at a server comes to."""

    MOVABLE = "movable"
    SKIPPED = "skipped"  # the operator does not want it moved: a filter, a tag
    REFUSED = "refused"  # a check speaks against it


@dataclass(frozen=True, slots=True)
class Item:
    """One server of the cell.

    :param flavor: the name of the flavor that it has; ``new_flavor`` that of the one it gets, empty when it keeps it
    :param flavor_id: the id of the one that it has
    :param vcpus: what it will need where it goes, by the flavor that it gets; so is ``memory_mb``
    :param disk_gb: GiB of local disk that have to travel; 0 for a volume-backed server
    :param created_at: UTC, ISO 8601
    :param codes: of the checks or filters that speak against it; ``reasons`` are their words, with what to do about it.
        A movable server that a move of this journal is about has the code ``open-move``
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
    """Every server of a cell, classified.

    :param items: those that are mapped to it, in the order of their ids: one that is just being deleted, too, as long
        as it has a row, and one that is missing
    :param mapped: how many servers the API maps to the cell (those that are queued for delete aside)
    :param missing: servers that are mapped to it and have no live, visible row in it
    :param strays: servers with a live row in it that are mapped elsewhere: hidden ones are the source's copies of
        moves, and none of the cell's servers any more
    :param deleting: servers that are queued for delete and still have a live row in it
    """

    cell: CellRef
    items: tuple[Item, ...]
    mapped: int
    missing: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    deleting: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every server that is mapped to the cell was seen there."""
        return not self.missing and len(self.items) == self.mapped + len(self.deleting)


class Stage(enum.StrEnum):
    """Where a server of a drain stands."""

    WAITING = "waiting"
    MOVING = "moving"
    SOAKING = "soaking"  # finished, verified once; to be confirmed when it is due
    CONFIRMING = "confirming"
    MOVED = "moved"  # and confirmed, or left in VERIFY_RESIZE because nothing is to be confirmed
    REVERTED = "reverted"  # was not what it had been, and is back at its source
    UNVERIFIED = "unverified"  # is not what it was; left in VERIFY_RESIZE
    FAILED = "failed"
    SKIPPED = "skipped"
    REFUSED = "refused"
    GONE = "gone"  # its owner deleted it, or somebody else moved it


UNDER_WAY = (Stage.MOVING, Stage.CONFIRMING)
"""Stages in which somebody is at work on a server."""

TROUBLED = (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED)
"""Stages of servers that did not go as they should have."""

ARRIVED = (Stage.SOAKING, Stage.CONFIRMING, Stage.MOVED, Stage.UNVERIFIED)
"""Stages of servers that run at the target."""


def place_of(stage: str, source: str, target: str) -> str:
    """The host on which a server is that stands there."""
    return target if stage in ARRIVED and target else source


@dataclass(frozen=True, slots=True)
class Task:
    """One server of a drain.

    :param position: its place in the order
    :param due: seconds since the epoch: when a soaking server is to be looked at again, or a waiting one to be begun
    :param began: of the last try, ``ended`` likewise; 0 when there was none
    :param worker: the run that is at work on it, or was
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
class Bar:
    """A step of a server's move on the time line; seconds since the epoch. ``ended`` is None while it runs."""

    step: str
    began: float
    ended: float | None
    failed: bool = False


@dataclass(frozen=True)
class Tale:
    """What became of one server, for whoever looks back.

    :param downtime: seconds for which the guest did not run; None when it was off anyway, or is not known
    """

    server_id: str
    name: str
    project_id: str
    source_host: str
    target_host: str
    disk_gb: int
    stage: Stage
    reason: str = ""
    next_command: str = ""
    move_id: str = ""
    bars: tuple[Bar, ...] = ()
    downtime: float | None = None


@dataclass(frozen=True)
class Story:
    """A whole drain, for whoever looks back.

    :param begun: seconds since the epoch, as all times here; ``told`` is when the story was told, or the drain was over
    """

    drain_id: str
    cell: CellRef
    to: tuple[CellRef, ...]
    state: str
    begun: float
    told: float
    tales: tuple[Tale, ...]
