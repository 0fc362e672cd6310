"""The state of the cloud as an audit gathers it: plain data. What it means: :mod:`cellmove.checks.find_leftovers`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cellmove.checks.duplicate import Duplicate
from cellmove.core.cell_names import CellRef
from cellmove.core.ownership import OwnershipMark

ENDED = frozenset({"error", "reverted", "confirmed", "failed", "completed", "done", "cancelled"})
"""Statuses of a migration that has ended."""


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
class KnownMove:
    """A move of this journal.

    :param generation: the highest generation that the journal records for its mark; -1: none
    """

    id: str
    state: str
    is_open: bool
    next_command: str = ""
    generation: int = -1


@dataclass(frozen=True)
class Server:
    """The records of one server in all cells.

    :param mapped: the cell that its mapping points at; None when it is mapped to none of the cells (not yet, to cell0, or there is no mapping)
    :param is_mapped: whether there is a mapping at all
    :param move: its open move in this journal
    """

    id: str
    mapped: CellRef | None = None
    is_mapped: bool = True
    rows: tuple[Row, ...] = ()
    move: KnownMove | None = None

    @property
    def live(self) -> tuple[Row, ...]:
        """The rows that are not deleted."""
        return tuple(row for row in self.rows if not row.deleted)

    @property
    def visible(self) -> tuple[Row, ...]:
        """The rows that nova's API can show."""
        return tuple(row for row in self.live if not row.hidden)

    @property
    def home(self) -> Row | None:
        """The row in the cell that the mapping points at."""
        return next((row for row in self.live if row.cell == self.mapped), None)

    @property
    def at_rest(self) -> Row | None:
        """The only visible row, in the mapped cell, of an active or stopped server without a task; else None."""
        home = self.home
        whole = home is not None and self.visible == (home,) and home.task_state is None
        return home if whole and home is not None and home.vm_state in ("active", "stopped") else None

    @property
    def marks(self) -> tuple[tuple[Row, OwnershipMark], ...]:
        """The ownership marks, each with its row."""
        return tuple((row, row.mark) for row in self.live if row.mark is not None)

    @property
    def name(self) -> str:
        """The server's name."""
        best = self.home or next(iter((*self.visible, *self.rows)), None)
        return best.name if best else ""

    @property
    def project_id(self) -> str:
        """The project that owns the server."""
        return next((row.project_id for row in self.rows), "")

    @property
    def changed(self) -> datetime.datetime | None:
        """The time of the last change to any of its rows."""
        return max((row.changed for row in self.rows if row.changed), default=None)

    def migrations(self) -> tuple[Migration, ...]:
        """Return one record of each migration, that of the mapped cell before copies in other cells."""
        best: dict[str, Migration] = {}
        for row in sorted(self.live, key=lambda row: row.cell != self.mapped):
            for migration in row.migrations:
                best.setdefault(migration.uuid or f"{row.cell.uuid} {migration.number}", migration)
        return tuple(best.values())


@dataclass(frozen=True)
class Binding:
    """An inactive binding of a server's port."""

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
    """The allocations of a consumer that is no server.

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
class AuditSnapshot:
    """Everything that an audit gathered.

    :param attached: of servers whose volumes are suspicious: attachment to its volume and status
    :param hosts: compute host to its cell
    :param providers: resource provider of a compute node to its host
    :param moves: moves of this journal by id
    :param duplicates: cell mappings that lead to a database that another mapping leads to
    :param here: the owner that ownership marks of this journal name
    :param keys: keypairs of nova's API by user and name
    :param patience: seconds without a change after which a move counts as interrupted
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
    keys: Mapping[tuple[str, str], Mapping[str, object]] = field(default_factory=dict)
    moves: Mapping[str, KnownMove] = field(default_factory=dict)
    here: str = ""
    duplicates: Sequence[Duplicate] = ()
