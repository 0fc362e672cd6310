"""The durable record of moves and their actions.

Every ``intent`` is committed before the effect it announces and every ``done`` after it, so that a
run which dies anywhere leaves a true account behind. SQLite by default (one file, mode 0600, WAL
with ``synchronous=FULL``: a commit that returned survives a power cut); any SQLAlchemy URL works.
Nothing secret is ever written: what actions record are ids, states and before-images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.errors import Locked, Refused, Stopped, Unreachable, Usage
from cellmove.move import CLOSED, SCHEMA_VERSION, Entry, Move, Phase, State

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, MetaData, Row
    from sqlalchemy.exc import DBAPIError

MOVE_COLUMNS = ("id", "server_id", "server_name", "kind", "state", "created_at", "updated_at", "plan", "aim")
ENTRY_COLUMNS = (
    "move_id", "sequence", "step", "action", "phase", "intent", "result", "error", "started_at", "finished_at",
)  # fmt: skip


class Journal:
    """An open journal. Every method is one transaction.

    :param engine: where it is kept
    :param now: gives the current time as UTC ISO 8601 text
    :param location: how to name the journal to a person; without any password
    """

    def __init__(self, engine: Engine, now: Callable[[], str], location: str) -> None:
        self.engine = engine
        self.now = now
        self.location = location
        self.metadata = _metadata()
        self.moves = self.metadata.tables["moves"]
        self.entries = self.metadata.tables["entries"]

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        from sqlalchemy.exc import DBAPIError, IntegrityError

        try:
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise Unreachable(
                f"the journal {self.location} cannot be written or read: {_words(error)}",
                state="nothing was sent to the cloud after the last action shown",
                next_command="cellmove resume --all  (when the journal is well again)",
            ) from None

    # moves

    def open_move(self, move: Move) -> None:
        """Record a new move.

        :raises Refused: when the server already has an open move
        """
        from sqlalchemy import insert
        from sqlalchemy.exc import IntegrityError

        values = _move_values(move) | {"open_server": move.server_id if move.is_open else None}
        try:
            with self._transaction() as connection:
                connection.execute(insert(self.moves).values(values))
        except IntegrityError:
            other = self.open_move_of(move.server_id)
            name = other.id if other else "unknown"
            raise Refused(
                f"{move.server_name} already has an open move, {name}",
                next_command=f"cellmove show {name}",
            ) from None

    def move(self, move_id: str) -> Move | None:
        """The move with this id, or None."""
        found = self._select(self.moves.c.id == move_id)
        return found[0] if found else None

    def open_move_of(self, server_id: str) -> Move | None:
        """The server's open move, or None."""
        found = self._select(self.moves.c.open_server == server_id)
        return found[0] if found else None

    def all_moves(self) -> list[Move]:
        """Every move, oldest first."""
        return self._select(None)

    def find(self, reference: str) -> list[Move]:
        """Moves that a move id, a server UUID or a server name may mean.

        An id wins; otherwise the open moves of that server, and if there is none its closed ones.
        """
        exact = self.move(reference)
        if exact is not None:
            return [exact]
        found = self._select((self.moves.c.server_id == reference) | (self.moves.c.server_name == reference))
        return [move for move in found if move.is_open] or found

    def set_state(self, move_id: str, state: State) -> Move:
        """Record how far a move has come; closing it frees the server for another move."""
        from sqlalchemy import update

        values: dict[str, Any] = {"state": state.value, "updated_at": self.now()}
        if state in CLOSED:
            values["open_server"] = None
        with self._transaction() as connection:
            connection.execute(update(self.moves).where(self.moves.c.id == move_id).values(values))
        return self._known(move_id)

    def set_aim(self, move_id: str, aim: str) -> Move:
        """Record to which state a whole run is to bring the move, so that ``resume`` goes on to it."""
        from sqlalchemy import update

        with self._transaction() as connection:
            connection.execute(update(self.moves).where(self.moves.c.id == move_id).values(aim=aim))
        return self._known(move_id)

    def _known(self, move_id: str) -> Move:
        move = self.move(move_id)
        if move is None:
            raise Stopped(f"move {move_id} has vanished from the journal {self.location}")
        return move

    def _select(self, condition: Any) -> list[Move]:
        from sqlalchemy import select

        query = select(*(self.moves.c[name] for name in MOVE_COLUMNS)).order_by(
            self.moves.c.created_at, self.moves.c.id
        )
        if condition is not None:
            query = query.where(condition)
        with self._transaction() as connection:
            return [_move(row) for row in connection.execute(query)]

    @contextmanager
    def server_lock(self, server_id: str, server_name: str) -> Iterator[None]:
        """Hold a server's lock in a journal that machines share; it goes with the connection.

        A journal in a file needs none: the lock file beside it does.

        :raises Locked: another machine holds it
        :raises Usage: the journal's database has no such locks
        """
        if self.engine.dialect.name == "sqlite":
            yield
            return
        from sqlalchemy import text

        if self.engine.dialect.name not in ("mysql", "mariadb"):
            raise Usage(f"a journal shared by machines has to be in MySQL or MariaDB, not {self.engine.dialect.name}")
        with self._transaction() as connection:
            name = f"cellmove-{server_id}"
            if connection.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": name}).scalar() != 1:
                raise Locked(
                    f"another run of cellmove, on another machine, is working on {server_name}",
                    state="this run touched nothing",
                    next_command=f"cellmove show {server_id}",
                )
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})

    # entries

    def entries_of(self, move_id: str) -> list[Entry]:
        """All lines of a move, in the order in which they were begun."""
        from sqlalchemy import select

        columns = [self.entries.c[name] for name in ENTRY_COLUMNS]
        query = select(*columns).where(self.entries.c.move_id == move_id).order_by(self.entries.c.sequence)
        with self._transaction() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def intend(self, move_id: str, step: str, action: str, intent: Mapping[str, Any]) -> Entry:
        """Commit that an action is about to have its effect."""
        from sqlalchemy import func, insert, select

        with self._transaction() as connection:
            last = connection.execute(
                select(func.max(self.entries.c.sequence)).where(self.entries.c.move_id == move_id)
            ).scalar()
            values = {
                "move_id": move_id, "sequence": (last or 0) + 1, "step": step, "action": action,
                "phase": Phase.INTENT.value, "intent": json.dumps(dict(intent)), "result": "{}", "error": "",
                "started_at": self.now(), "finished_at": "",
            }  # fmt: skip
            connection.execute(insert(self.entries).values(values))
        return _entry_from_values(values)

    def done(self, entry: Entry, result: Mapping[str, Any]) -> None:
        """Commit that the effect happened, with the ids it gave."""
        self._mark(entry, phase=Phase.DONE, result=json.dumps(dict(result)), error="")

    def failed(self, entry: Entry, error: str) -> None:
        """Commit that the action was tried and came back with an error."""
        self._mark(entry, phase=Phase.FAILED, error=error)

    def undoing(self, entry: Entry) -> None:
        """Commit that the action is about to be taken back."""
        self._mark(entry, phase=Phase.UNDOING)

    def undone(self, entry: Entry) -> None:
        """Commit that nothing of the action is left."""
        self._mark(entry, phase=Phase.UNDONE)

    def _mark(self, entry: Entry, *, phase: Phase, **values: str) -> None:
        from sqlalchemy import update

        table = self.entries
        statement = (
            update(table)
            .where(table.c.move_id == entry.move_id, table.c.sequence == entry.sequence)
            .values(phase=phase.value, finished_at=self.now(), **values)
        )
        with self._transaction() as connection:
            if connection.execute(statement).rowcount != 1:
                raise Stopped(f"line {entry.sequence} of move {entry.move_id} has vanished from the journal")


def open_journal(where: str, now: Callable[[], str]) -> Journal:
    """Open the journal, making it if there is none.

    :param where: a path, or an SQLAlchemy URL
    :raises Usage: when it was written by a newer cellmove, or the URL cannot be used
    :raises Unreachable: when it cannot be opened for writing
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    url = _url(where)
    path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    location = str(path or url.render_as_string(hide_password=True))
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise Unreachable(
                f"the journal {path} cannot be opened for writing: {error.strerror}",
                state="nothing was written to the cloud",
                next_command="cellmove --journal PATH …",
            ) from None
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise Usage(f"the journal {location} needs a database driver that is not there: {url.drivername}") from None
    if path is not None:

        @event.listens_for(engine, "connect")
        def _durable(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA busy_timeout=10000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    journal = Journal(engine, now, location)
    try:
        version = _prepare(journal)
    except DBAPIError as error:
        raise Unreachable(
            f"the journal {location} cannot be opened: {_words(error)}", state="nothing was written to the cloud"
        ) from None
    if version > SCHEMA_VERSION:
        raise Usage(
            f"the journal {journal.location} was written by a newer cellmove (schema {version}; this one "
            f"knows {SCHEMA_VERSION}); use that version"
        )
    return journal


def _url(where: str) -> URL:
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if "://" not in where:
        return URL.create("sqlite", database=str(Path(where).expanduser()))
    try:
        return make_url(where)
    except (ArgumentError, ValueError):
        # Not shown: a URL that does not parse may have its password anywhere.
        raise Usage(
            "the journal's URL does not parse; it has to be a path or driver://user:password@host/name"
        ) from None


def _prepare(journal: Journal) -> int:
    """Make the tables where there are none.

    :returns: the version of the schema that is there
    """
    from sqlalchemy import insert, inspect, select

    about = journal.metadata.tables["about"]
    if inspect(journal.engine).has_table("about"):
        with journal.engine.begin() as connection:
            version = connection.execute(select(about.c.schema_version)).scalar()
            if version is not None:
                return int(version)
    with journal.engine.begin() as connection:
        if journal.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # two first runs at once: one makes the tables, one waits
        journal.metadata.create_all(connection)
        if connection.execute(select(about.c.schema_version)).scalar() is None:
            connection.execute(insert(about).values(schema_version=SCHEMA_VERSION))
    return SCHEMA_VERSION


def _words(error: DBAPIError) -> str:
    """What the database said, first line."""
    return next(iter(str(error.orig).splitlines()), type(error).__name__)


def _metadata() -> MetaData:
    from sqlalchemy import Column, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    Table("about", metadata, Column("schema_version", Integer, primary_key=True))
    Table(
        "moves",
        metadata,
        Column("id", String(32), primary_key=True),
        Column("server_id", String(36), nullable=False, index=True),
        Column("server_name", String(255), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("state", String(32), nullable=False),
        # Holds the server's id while the move is open and NULL afterwards: at most one open move a server.
        Column("open_server", String(36), unique=True),
        Column("created_at", String(32), nullable=False),
        Column("updated_at", String(32), nullable=False),
        Column("plan", Text(16_000_000), nullable=False),
        Column("aim", String(32), nullable=False, server_default=""),
    )
    Table(
        "entries",
        metadata,
        Column("move_id", String(32), primary_key=True),
        Column("sequence", Integer, primary_key=True, autoincrement=False),
        Column("step", String(32), nullable=False),
        Column("action", String(64), nullable=False),
        Column("phase", String(16), nullable=False),
        Column("intent", Text(16_000_000), nullable=False),
        Column("result", Text(16_000_000), nullable=False),
        Column("error", Text, nullable=False),
        Column("started_at", String(32), nullable=False),
        Column("finished_at", String(32), nullable=False),
    )
    return metadata


def _move_values(move: Move) -> dict[str, Any]:
    values = {name: getattr(move, name) for name in MOVE_COLUMNS}
    return values | {"state": move.state.value, "plan": json.dumps(dict(move.plan))}


def _move(row: Row[Any]) -> Move:
    values = dict(row._mapping)
    return Move(**(values | {"state": State(values["state"]), "plan": json.loads(values["plan"])}))


def _entry(row: Row[Any]) -> Entry:
    return _entry_from_values(dict(row._mapping))


def _entry_from_values(values: Mapping[str, Any]) -> Entry:
    return Entry(
        **(
            dict(values)
            | {
                "phase": Phase(values["phase"]),
                "intent": json.loads(values["intent"]),
                "result": json.loads(values["result"]),
            }
        )
    )
