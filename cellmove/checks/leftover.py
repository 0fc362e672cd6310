"""Leftovers of moves, as plain data."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field

from cellmove.core.cell_names import CellRef


class LeftoverKind(enum.StrEnum):
    """The kinds of leftovers; see docs/audit.md."""

    STUCK = "stuck-migration"
    TWO_VISIBLE = "two-visible-rows"
    MAPPING_HIDDEN = "mapping-hidden"
    MAPPING_ELSEWHERE = "mapping-elsewhere"
    HIDDEN_ROW = "hidden-row"
    DELETED_ROW = "deleted-row"
    BINDING = "inactive-binding"
    ATTACHMENT = "empty-attachment"
    ALLOCATION = "dead-allocation"
    IMAGE = "temporary-image"
    MARK = "stale-mark"
    KEYPAIRS = "lost-keypairs"
    STASH = "stale-context"
    OLD_MIGRATION = "old-migration"
    RESERVED = "reserved-volume"
    UNATTACHED = "unattached-volume"
    DUPLICATE_CELL = "duplicate-cell"


@dataclass(frozen=True)
class RepairDetails:
    """Values that the repair of a leftover needs besides its kind and subject.

    :param allocation: of an allocation: ``give-up`` or ``give-back``; empty: neither is safe
    :param keypair_from: of keypairs: the UUID of the cell that has them, or ``api``
    :param migration_number: of an old migration: its id in its cell
    :param migration_status: of an old migration: the status that the repair expects
    """

    allocation: str = ""
    keypair_from: str = ""
    migration_number: int = 0
    migration_status: str = ""


@dataclass(frozen=True)
class Owner:
    """The move, or nova, that works or waits with a server.

    :param by: "move": a move of this journal; "journal": a move that another journal records; "nova"
    """

    by: str
    text: str
    move_id: str = ""
    next_command: str = ""


@dataclass(frozen=True)
class Leftover:
    """One result of an audit; it is a leftover only without an owner.

    :param subject: the id of the port, attachment, consumer, image or move; of the server for all other kinds
    :param text: a description
    :param since: the time from which it exists, as far as records show it
    :param owner: what still needs it; None: nothing does
    :param safe: whether ``--repair`` repairs it
    :param remedy: what ``--repair`` does, or what the operator has to type
    :param details: values that the repair needs
    """

    kind: LeftoverKind
    server_id: str
    subject: str
    text: str
    cell: CellRef | None = None
    host: str = ""
    server_name: str = ""
    project_id: str = ""
    since: datetime.datetime | None = None
    owner: Owner | None = None
    safe: bool = False
    remedy: str = ""
    details: RepairDetails = field(default_factory=RepairDetails)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What identifies it in another audit."""
        return (self.kind.value, self.server_id, self.subject, self.cell_uuid, self.host)

    @property
    def cell_uuid(self) -> str:
        """The UUID of its cell; empty when it is in none."""
        return self.cell.uuid if self.cell else ""
