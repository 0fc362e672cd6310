"""What an audit gathers of the cloud and what it finds there, as plain data; and whose a server is."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cellmove.checks.duplicate import Duplicate
from cellmove.core.cell_names import CellRef
from cellmove.core.ownership import OwnershipMark, is_same_owner, number_of
from cellmove.core.shell import resume_elsewhere
from cellmove.db.survey import MOVE_TASKS, UNDER_WAY

ENDED = frozenset({"error", "reverted", "confirmed", "failed", "completed", "done", "cancelled"})
"""Statuses of a migration of which nothing more comes."""


class Kind(enum.StrEnum):
    """What a leftover is; see docs/audit.md."""

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
class Migration:
    """One record of a migration, as one cell has it. ``changed`` is UTC.

    :param number: its id in that cell: records of before Ocata have no UUID
    """

    uuid: str
    status: str
    cell: CellRef
    kind: str = "migration"
    cross_cell: bool = True
    server_id: str = ""
    source_host: str = ""
    target_host: str = ""
    created: datetime.datetime | None = None
    changed: datetime.datetime | None = None
    number: int = 0

    @property
    def subject(self) -> str:
        """Its UUID, or its number where it has none."""
        return self.uuid or str(self.number)


@dataclass(frozen=True)
class Row:
    """One server's row in one cell, with what hangs on it there.

    :param deleted: soft-deleted
    :param attachments: that live block device mappings name
    :param volumes: of live block device mappings: the volume, and its attachment or empty
    :param keypairs: as nova's JSON; empty when none are recorded
    :param stashed: whether a migration context is recorded
    :param changed: when the row, its migrations or its history last changed
    :param open_event: the part of an action that began within the last day and has not ended; empty: none
    """

    cell: CellRef
    host: str = ""
    vm_state: str = "active"
    task_state: str | None = None
    hidden: bool = False
    deleted: bool = False
    name: str = ""
    project_id: str = ""
    user_id: str = ""
    image_ref: str = ""
    key_name: str = ""
    key_data: str = ""
    keypairs: str = ""
    stashed: bool = False
    mark: OwnershipMark | None = None
    migrations: tuple[Migration, ...] = ()
    attachments: frozenset[str] = frozenset()
    volumes: tuple[tuple[str, str], ...] = ()
    changed: datetime.datetime | None = None
    open_event: str = ""


@dataclass(frozen=True)
class Known:
    """A move that this journal has.

    :param generation: the highest one that the journal knows of its mark; -1 when it knows none
    """

    id: str
    state: str
    is_open: bool
    next_command: str = ""
    generation: int = -1


@dataclass(frozen=True)
class Server:
    """All that the databases say about a server that is looked at.

    :param mapped: the cell that its mapping points at; None when it is mapped to none of the cells (not yet, to cell0, or there is no mapping)
    :param is_mapped: whether there is a mapping at all
    :param move: its open move in this journal
    """

    id: str
    mapped: CellRef | None = None
    is_mapped: bool = True
    rows: tuple[Row, ...] = ()
    move: Known | None = None

    @property
    def live(self) -> tuple[Row, ...]:
        """The rows that are not deleted."""
        return tuple(row for row in self.rows if not row.deleted)

    @property
    def visible(self) -> tuple[Row, ...]:
        """Those that nova's API can show."""
        return tuple(row for row in self.live if not row.hidden)

    @property
    def home(self) -> Row | None:
        """The row in the cell that the mapping points at."""
        return next((row for row in self.live if row.cell == self.mapped), None)

    @property
    def at_rest(self) -> Row | None:
        """Its one visible row, where the mapping points, when nothing is being done to the server."""
        home = self.home
        whole = home is not None and self.visible == (home,) and home.task_state is None
        return home if whole and home is not None and home.vm_state in ("active", "stopped") else None

    @property
    def marks(self) -> tuple[tuple[Row, OwnershipMark], ...]:
        """Its marks and where they are."""
        return tuple((row, row.mark) for row in self.live if row.mark is not None)

    @property
    def name(self) -> str:
        """As its owner calls it."""
        best = self.home or next(iter((*self.visible, *self.rows)), None)
        return best.name if best else ""

    @property
    def project_id(self) -> str:
        """Whose it is."""
        return next((row.project_id for row in self.rows), "")

    @property
    def changed(self) -> datetime.datetime | None:
        """When anything about it last changed."""
        return max((row.changed for row in self.rows if row.changed), default=None)

    def migrations(self) -> tuple[Migration, ...]:
        """One record of each migration: that of the mapping's cell goes before copies elsewhere."""
        best: dict[str, Migration] = {}
        for row in sorted(self.live, key=lambda row: row.cell != self.mapped):
            for migration in row.migrations:
                best.setdefault(migration.uuid or f"{row.cell.uuid} {migration.number}", migration)
        return tuple(best.values())


@dataclass(frozen=True)
class Binding:
    """A binding of a server's port that is not the active one."""

    port_id: str
    server_id: str
    host: str
    active_host: str


@dataclass(frozen=True)
class Attachment:
    """An attachment that no host uses.

    :param users: whose records name it besides those of its own server, in words
    """

    id: str
    volume_id: str
    server_id: str
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allocation:
    """What a consumer that is no server holds.

    :param providers: resource providers
    :param migration: its record; None when no cell has one
    :param of_server: providers on which the migration's server holds something itself
    """

    consumer: str
    providers: frozenset[str]
    migration: Migration | None = None
    of_server: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Image:
    """A temporary image."""

    id: str
    name: str
    server_id: str
    status: str
    created: datetime.datetime | None = None


@dataclass(frozen=True)
class Cloud:
    """Everything that was gathered.

    :param attached: of servers whose volumes are suspicious: attachment to its volume and status
    :param hosts: compute host to its cell
    :param providers: resource provider of a compute node to its host
    :param moves: moves of this journal by id
    :param duplicates: cell mappings that lead to a database that another mapping leads to
    :param here: who holds this journal, as marks say it
    :param keys: keypairs of nova's API by user and name
    :param patience: seconds after which whoever was at work would have shown a sign of it
    """

    now: datetime.datetime
    patience: float
    servers: Mapping[str, Server] = field(default_factory=dict)
    hosts: Mapping[str, CellRef] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    bindings: Sequence[Binding] = ()
    attachments: Sequence[Attachment] = ()
    attached: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    allocations: Sequence[Allocation] = ()
    images: Sequence[Image] = ()
    keys: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    moves: Mapping[str, Known] = field(default_factory=dict)
    here: str = ""
    duplicates: Sequence[Duplicate] = ()


@dataclass(frozen=True)
class Owner:
    """Who works, or waits, with a server.

    :param by: "move": a move of this journal; "journal": a move that another journal records; "nova"
    """

    by: str
    text: str
    move_id: str = ""
    next_command: str = ""


@dataclass(frozen=True)
class RepairDetails:
    """What a repair has to know about a leftover of its kind.

    :param keypair_from: where the keypair is: a cell's UUID, or "api" for the owner's keypairs
    :param migration_number: id of the migration record in its cell, and ``migration_status`` its status
    :param allocation: "give-back" or "delete"; empty: neither is safe
    """

    keypair_from: str = ""
    migration_number: int = 0
    migration_status: str = ""
    allocation: str = ""


@dataclass(frozen=True)
class Leftover:
    """One thing that was found.

    :param subject: the id of what it is: a port, an attachment, a consumer, an image, a move; or the server's
    :param text: what was found
    :param since: since when, as far as that can be told
    :param owner: whose it is; None: nobody's, so it is a leftover
    :param safe: whether ``--repair`` mends it
    :param remedy: what mends it: what ``--repair`` does, or what a person is to type
    :param details: what the repair has to know
    """

    kind: Kind
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
    details: RepairDetails = RepairDetails()

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What makes it the same leftover when it is looked for again."""
        return (self.kind.value, self.server_id, self.subject, self.cell_uuid, self.host)

    @property
    def cell_uuid(self) -> str:
        """The cell in which it was found; empty where it is in none."""
        return self.cell.uuid if self.cell else ""


# whose a server is


def waits(server: Server) -> bool:
    """Whether it is in an orderly VERIFY_RESIZE: its owner, or nova, may confirm or revert it."""
    home = server.home
    if home is None or home.vm_state != "resized" or home.task_state is not None or server.visible != (home,):
        return False
    return any(migration.status == "finished" for migration in home.migrations)


def is_busy(server: Server) -> bool:
    """Whether somebody is at work on a move of it, or was when it died."""
    home = server.home
    under = any(migration.cross_cell and migration.status in UNDER_WAY for migration in server.migrations())
    task = any(row.task_state in MOVE_TASKS for row in ((home,) if home else server.live))
    half = home is not None and home.vm_state == "resized" and not waits(server)
    return under or task or half


def other_work(server: Server) -> bool:
    """Whether nova migrates it in some other way, a live migration for one: that binds ports to two hosts as well."""
    ended = (*ENDED, "finished")
    return any(migration.status not in ended and migration.status not in UNDER_WAY for migration in server.migrations())


def owner_of(server: Server, cloud: Cloud) -> Owner | None:
    """Who works or waits with a server; None when nobody does."""
    if server.move is not None:
        text = f"{server.move.id} of this journal, {server.move.state}"
        return Owner("move", text, server.move.id, server.move.next_command)
    for _row, mark in server.marks:
        move = cloud.moves.get(mark.move_id)
        if move is None or (not move.is_open and number_of(mark.generation) > move.generation):
            where = mark.owner or "it is not said where"
            text = f"{mark.move_id}, recorded in {'a journal that was lost' if _is_here(mark, cloud) else where}"
            here = _is_here(mark, cloud)
            again = f"cellmove adopt {server.id}" if here else resume_elsewhere(mark.owner, mark.move_id)
            return Owner("journal", text, mark.move_id, again)
    if waits(server):
        return Owner("nova", "nova: it waits to be confirmed or reverted")
    recent = is_recent(server.changed, cloud)
    if recent and (is_busy(server) or other_work(server) or len(server.visible) > 1):
        return Owner("nova", f"nova moves it: something changed {ago(server.changed, cloud)} ago")
    if recent:
        return Owner("nova", f"it changed {ago(server.changed, cloud)} ago; look again later")
    return None


def _is_here(mark: OwnershipMark, cloud: Cloud) -> bool:
    return is_same_owner(mark.owner, cloud.here, mark.move_id)


def is_recent(moment: datetime.datetime | None, cloud: Cloud) -> bool:
    """Whether it is too short ago to say that nobody is at work."""
    return moment is not None and (cloud.now - moment).total_seconds() < cloud.patience


def ago(moment: datetime.datetime | None, cloud: Cloud) -> str:
    """How long ago it was, for a person."""
    seconds = (cloud.now - moment).total_seconds() if moment else 0
    return f"{max(int(seconds), 0)} s" if seconds < 120 else f"{int(seconds / 60)} min"
