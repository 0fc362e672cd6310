"""A server that has been moved, as verification looks at it: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellmove.checks.suitability import STARTS_FROM_SNAPSHOT
from cellmove.core.transfer import VOLUMES
from cellmove.db.types import Record

if TYPE_CHECKING:
    from cellmove.cloud.network import Port
    from cellmove.cloud.volume import Attachment
    from cellmove.db.records import Rows
    from cellmove.db.shapes import Group


@dataclass(frozen=True)
class RootDisk:
    """How a root disk compares with the one that the source keeps.

    :param samples: at how many places they were compared; 0: they were not
    :param same: at how many of them the guest reads the same
    :param source_size: bytes; ``target_size`` likewise
    :param why: why they were not compared
    """

    samples: int = 0
    same: int = 0
    source_size: int = 0
    target_size: int = 0
    why: str = ""


@dataclass(frozen=True)
class Arrival:
    """A moved server at present and before its move.

    :param before: its live rows in the source cell; ``after``: in the target cell
    :param detached: UUIDs of block devices that the owner detached since the move
    :param mapped: whether its mapping points at the target cell
    :param active: whether the guest ran before
    :param flavor_id: the flavor that the move gives it
    :param volumes: cinder's status by volume id
    :param transfer: how its root disk travelled; ``volumes`` when it did not
    :param target_version: the service version of nova-compute there when it started the guest
    :param disk: how the root disk compares with the source's; None when they were not compared
    :param group_wanted: the server group that it was booted into, by its request spec
    """

    name: str
    kind: str
    target_cell: str
    target_host: str
    mapped: bool
    active: bool
    flavor_id: str
    before: Rows
    after: Rows
    detached: frozenset[str] = frozenset()
    ports: tuple[Port, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    group: Group | None = None
    group_wanted: str = ""
    group_hosts: tuple[str, ...] = ()
    transfer: str = VOLUMES
    target_version: int = STARTS_FROM_SNAPSHOT
    disk: RootDisk | None = None

    def row(self, table: str) -> Record:
        """The target's one row of a table."""
        return next(iter(self.after.get(table, ())), {})
