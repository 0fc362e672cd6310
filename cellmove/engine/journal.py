"""The durable record of moves and their actions.

Every ``intent`` is committed before the effect it announces and every ``done`` after it, so that a
run which dies anywhere leaves a true account behind. SQLite by default: one file, mode 0600, with a
rollback journal and ``synchronous=FULL``, so that a commit that returned survives a power cut. (Not with
a write-ahead log: one bit turned in that and SQLite drops every commit behind it without a word.) MySQL
or MariaDB for a journal that machines share. Checksums (integrity.py) tell a damaged journal, which is refused.
Nothing secret is ever written: what actions record are ids, states and before-images.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import JournalUnreachable, Locked, Refused, Stopped, Unreachable, Usage, scrub
from cellmove.core.move import AUDIT, CLOSED, DRAIN, Entry, Move, Phase, State
from cellmove.core.reference import Kind, kind_of
from cellmove.db import statements
from cellmove.engine import integrity, journal_file, journal_upgrade

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, Connection, Engine, Row, Select, Table

MOVE_COLUMNS = ("id", "server_id", "server_name", "kind", "state", "created_at", "updated_at", "plan")
Generations = Sequence[str] | None
MANY = 500
"""Moves that one statement asks about."""


@dataclass(frozen=True)
class JournalCheck:
    """What a journal holds that was found sound.

    :param moves: moves, repairs and drains
    :param lines: actions of all of them
    """

    moves: int
    lines: int


class Journal:
    """An open journal. Every method is one transaction.

    :param engine: where it is kept
    :param now: gives the current time as UTC ISO 8601 text
    :param location: how to name the journal to a person; without any password
    :param is_read_only: nothing is ever written to it
    """

    def __init__(self, engine: Engine, now: Callable[[], str], location: str, *, is_read_only: bool = False) -> None:
        self.engine = engine
        self.is_read_only = is_read_only
        self.now = now
        self.location = location
        self._turn = threading.Lock()
        self.metadata = integrity.make_metadata()
        self.moves = self.metadata.tables["moves"]
        self.entries = self.metadata.tables["entries"]

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction.

        :raises Unreachable: the journal cannot be written or read, or is damaged
        """
        from sqlalchemy.exc import DBAPIError, IntegrityError

        try:
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except integrity.Damaged as error:
            raise journal_file.damaged(self.location, str(error)) from None
        except DBAPIError as error:
            if journal_file.is_corrupt(error):
                raise journal_file.damaged(self.location, journal_file.words_of(error)) from None
            raise JournalUnreachable(
                f"the journal {self.location} cannot be written or read: {journal_file.words_of(error)}",
                state="without the journal no further action is started",
                next_command="cellmove resume --all  # when the journal is well again",
            ) from None

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """One transaction that writes. In a file it is the only one; in a database its rows' locks say what it keeps out.

        The threads of a process take turns here: SQLite lets one writer wait for another by sleeping.

        :raises Unreachable: the journal is opened for reading only
        """
        if self.is_read_only:
            raise JournalUnreachable(
                f"the journal {self.location} is opened for reading only", state="nothing was written"
            )
        if self.engine.dialect.name != "sqlite":
            with self.transaction() as connection:
                yield connection
            return
        with self._turn, self.transaction() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _one_view(self) -> Iterator[Connection]:
        """One transaction whose reads all see the same moment; others may be writing."""
        # The threads of a journal that is only read share one connection.
        turn = self._turn if self.is_read_only else nullcontext()
        with turn, self.transaction() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.exclusive() as connection:
            integrity.lock_digest(connection, self.metadata.tables["about"])
            yield connection

    # moves

    def open_move(self, move: Move) -> None:
        """Record a new move.

        :raises Refused: when the server already has an open move
        """
        self.adopt(move, ())

    def adopt(self, move: Move, entries: Sequence[Entry]) -> Move:
        """Record a move together with what is known of its actions already.

        :returns: the move as it is recorded
        :raises Refused: when the server already has an open move
        """
        from sqlalchemy.exc import IntegrityError

        values = _move_values(move) | {"open_server": move.server_id if move.is_open else None}
        try:
            with self._writing() as connection:
                self._insert(connection, values, entries)
        except IntegrityError:
            other = self.open_move_of(move.server_id)
            name = other.id if other else "unknown"
            raise Refused(
                f"{move.server_name} already has an open move, {name}",
                next_command=f"cellmove show {name}",
            ) from None
        return self._known(move.id)

    def replace(self, old: Move, move: Move, entries: Sequence[Entry]) -> Move:
        """Record a move anew in the place of an older record of the same server, which goes.

        :param old: its lines are removed; it stays as :attr:`State.SUPERSEDED` when the new one has another id
        :returns: the move as it is recorded
        """
        values = _move_values(move) | {"open_server": move.server_id if move.is_open else None}
        with self._writing() as connection:
            if old.id == move.id:
                integrity.remove_move(connection, self.moves, old.id)
            else:
                closed = {"state": State.SUPERSEDED.value, "updated_at": self.now(), "open_server": None}
                integrity.change_move(connection, self.moves, old.id, closed)
            self._insert(connection, values, entries)
        return self._known(move.id)

    def _insert(self, connection: Connection, values: Mapping[str, Any], entries: Sequence[Entry]) -> None:
        integrity.insert_move(connection, self.moves, values)
        if entries:
            rows = [_entry_values(entry) for entry in entries]
            integrity.insert_lines(connection, self.entries, values["id"], rows, {})

    def move(self, move_id: str) -> Move | None:
        """The move with this id, or None."""
        found = self._with(id=move_id)
        return found[0] if found else None

    def open_move_of(self, server_id: str) -> Move | None:
        """The server's open move, or None."""
        found = self._with(open_server=server_id)
        return found[0] if found else None

    def all_moves(self) -> list[Move]:
        """Every move, oldest first; drains are none."""
        with self._one_view() as connection:
            rows = connection.execute(statements.rows(self.moves, order=("created_at", "id"))).all()
            moves = [_move(row) for row in rows]
            integrity.verify_moves(connection, self.metadata, [row._mapping for row in rows])
        return [move for move in moves if not move.is_drain]

    def open_moves(self) -> list[Move]:
        """Every move that is not over, repairs too, oldest first; drains are none."""
        return self._read(_open(self.moves))

    def drains(self) -> list[Move]:
        """The records of cells that were or are being emptied, oldest first."""
        return self._with(kind=DRAIN)

    def begun_since(self, moment: str) -> int:
        """How many moves had their first action begun since then; repairs and drains are no moves.

        :param moment: as the journal writes times: UTC, ISO 8601
        """
        with self.transaction() as connection:
            found = connection.execute(_begun_since(self.moves, self.entries), {"moment": moment})
            return int(found.scalar_one())

    def find(self, reference: str) -> list[Move]:
        """Moves that a move id, a server UUID or a server name may mean; what has the form of an id is no name.

        Of a server the open moves, and if there is none its closed ones (repairs last).
        """
        kind = kind_of(reference)
        exact = self.move(reference) if kind is not Kind.UUID else None
        if exact is not None:
            return [exact]
        if kind is Kind.MOVE_ID:
            return []
        found = self.moves_named(reference) if kind is Kind.NAME else self.moves_of(reference.lower())
        moves = [move for move in found if not move.is_repair]
        return [move for move in found if move.is_open] or moves or found

    def require_no_move_id(self, word: str) -> None:
        """Refuse the id of a move where a server is to be named, also when a server is called so.

        :raises Usage: it is one
        """
        move = self.move(word) if kind_of(word) is Kind.MOVE_ID else None
        if move is not None:
            raise Usage(
                f"{word} is a move of {move.server_name}; a server that is called so is named by its UUID here",
                state="nothing was written",
                next_command=f"cellmove show {word}",
            )

    def moves_named(self, server_name: str) -> list[Move]:
        """Every move of a server that was called so when the move was planned, oldest first; drains are none."""
        return [
            move
            for move in self._with(server_name=server_name)
            if not move.is_drain and move.server_name == server_name
        ]

    def moves_of(self, server_id: str) -> list[Move]:
        """Every move of a server, oldest first; drains are none."""
        return [move for move in self._with(server_id=server_id) if not move.is_drain]

    def set_state(self, move_id: str, state: State) -> Move:
        """Record how far a move has come; closing it frees the server for another move."""
        values: dict[str, Any] = {"state": state.value, "updated_at": self.now()}
        if state in CLOSED:
            values["open_server"] = None
        return self._set(move_id, values)

    def set_plan(self, move_id: str, plan: Mapping[str, Any], state: State) -> Move:
        """Record that more is meant to be done than a move's plan said so far, and where it stands with that."""
        return self._set(move_id, {"plan": json.dumps(dict(plan)), "state": state.value, "updated_at": self.now()})

    def set_goal(self, move_id: str, goal_state: str) -> Move:
        """Record to which state a whole run is to bring the move, so that ``resume`` goes on to it."""
        return self._set(move_id, {"aim": goal_state})

    def _set(self, move_id: str, values: Mapping[str, Any]) -> Move:
        with self._writing() as connection:
            integrity.change_move(connection, self.moves, move_id, values)
        return self._known(move_id)

    def _known(self, move_id: str) -> Move:
        move = self.move(move_id)
        if move is None:
            raise self._vanished(move_id)
        return move

    def _with(self, **key: str) -> list[Move]:
        return self._read(statements.rows(self.moves, *key, order=("created_at", "id")), key)

    def _read(self, query: Select[Any], values: Mapping[str, str] | None = None) -> list[Move]:
        with self.transaction() as connection:
            return [_move(row) for row in connection.execute(query, values)]

    @contextmanager
    def server_lock(self, server_id: str, server_name: str) -> Iterator[None]:
        """Hold a server's lock in a journal that machines share; it goes with the connection.

        A journal in a file needs none: the lock file beside it does.

        :raises Locked: another machine holds it
        """
        if self.engine.dialect.name == "sqlite":
            yield
            return
        from sqlalchemy import text

        with self.transaction() as connection:
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

    @contextmanager
    def named_lock(self, name: str) -> Iterator[None]:
        """Hold a lock that the machines which share a journal have in common, waiting for it. A file is one machine's.

        :raises Stopped: another machine holds it for minutes
        """
        if self.engine.dialect.name == "sqlite":
            yield
            return
        from sqlalchemy import text

        with self.transaction() as connection:
            if connection.execute(text("SELECT GET_LOCK(:name, 300)"), {"name": name}).scalar() != 1:
                raise Stopped(f"another machine has held the lock {name} for minutes")
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})

    # entries

    def entries_of(self, move_id: str) -> list[Entry]:
        """All lines of a move, in the order in which they were begun."""
        with self._one_view() as connection:
            return [_entry_from_values(values) for values in integrity.lines(connection, self.metadata, move_id)]

    def entries_of_moves(self, move_ids: Sequence[str]) -> dict[str, list[Entry]]:
        """All lines of many moves, by move; those without any are left out."""
        found: dict[str, list[Entry]] = {}
        with self._one_view() as connection:
            for at in range(0, len(move_ids), MANY):
                part = integrity.lines_of_moves(connection, self.metadata, move_ids[at : at + MANY])
                found |= {move_id: [_entry_from_values(line) for line in lines] for move_id, lines in part.items()}
        return found

    def intend(
        self, move_id: str, step: str, action: str, intent: Mapping[str, Any], generations: Generations = None
    ) -> Entry:
        """Commit that an action is about to have its effect.

        :param generations: those that the server's mark may have from now on; None: as before
        """
        with self._writing() as connection:
            last = connection.execute(_last_sequence(self.entries), {"move_id": move_id}).scalar()
            values = {
                "move_id": move_id, "sequence": (last or 0) + 1, "step": step, "action": action,
                "phase": Phase.INTENT.value, "intent": json.dumps(dict(intent)), "result": "{}", "error": "",
                "started_at": self.now(), "finished_at": "",
            }  # fmt: skip
            if not integrity.insert_lines(connection, self.entries, move_id, [values], _noted(generations)):
                raise self._vanished(move_id)
        return _entry_from_values(values)

    def done(self, entry: Entry, result: Mapping[str, Any]) -> Entry:
        """Commit that the effect happened, with the ids it gave.

        :returns: the line as it is now
        """
        return self._mark(entry, phase=Phase.DONE, result=json.dumps(dict(result)), error="")

    def failed(self, entry: Entry, error: str) -> None:
        """Commit that the action was tried and came back with an error, which may be another program's words."""
        self._mark(entry, phase=Phase.FAILED, error=scrub(error))

    def announce(self, move_id: str, generations: Generations) -> None:
        """Commit which generations the server's mark may have from now on, for an action whose line is there already."""
        with self._writing() as connection:
            if generations is not None and not integrity.change_move(
                connection, self.moves, move_id, _noted(generations)
            ):
                raise self._vanished(move_id)

    def undoing(self, entry: Entry, generations: Generations = None) -> None:
        """Commit that the action is about to be rolled back.

        :param generations: see :meth:`intend`
        """
        self._mark(entry, phase=Phase.UNDOING, generations=generations)

    def undone(self, entry: Entry) -> None:
        """Commit that nothing of the action is left."""
        self._mark(entry, phase=Phase.UNDONE)

    def _vanished(self, move_id: str) -> Stopped:
        return Stopped(f"move {move_id} has vanished from the journal {self.location}")

    def _mark(self, entry: Entry, *, phase: Phase, generations: Generations = None, **values: str) -> Entry:
        key = {"move_id": entry.move_id, "sequence": entry.sequence}
        with self._writing() as connection:
            change = {"phase": phase.value, "finished_at": self.now(), **values}
            if not integrity.change_line(connection, self.entries, key, change, _noted(generations)):
                raise Stopped(f"line {entry.sequence} of move {entry.move_id} has vanished from the journal")
        return _entry_from_values({**_entry_values(entry), **change})

    # everything

    def check(self) -> JournalCheck:
        """Check every page, move and line, and that none is missing.

        :raises Unreachable: the journal is damaged, or cannot be read
        """
        with self._one_view() as connection:
            return JournalCheck(*integrity.verify(connection, self.metadata))


def _noted(generations: Generations) -> dict[str, str]:
    """The generations that the server's mark may have from now on, as a move's row has them; None: as before."""
    return {} if generations is None else {"generations": json.dumps(list(generations))}


@functools.cache
def _but_drains(moves: Table) -> Select[Any]:
    return statements.rows(moves, order=("created_at", "id")).where(moves.c.kind != DRAIN)


@functools.cache
def _open(moves: Table) -> Select[Any]:
    return _but_drains(moves).where(moves.c.open_server > "")


@functools.cache
def _begun_since(moves: Table, entries: Table) -> Select[Any]:
    from sqlalchemy import bindparam, func, select

    moment: BindParameter[str] = bindparam("moment")
    # A move that began since then is open, or was closed since then: the lines of all others are not read.
    late = (moves.c.open_server > "") | (moves.c.updated_at >= moment)
    recent = select(moves.c.id).where(moves.c.kind.not_in([AUDIT, DRAIN]), late)
    begun = select(func.min(entries.c.started_at).label("begun")).where(entries.c.move_id.in_(recent))
    firsts = begun.group_by(entries.c.move_id).subquery()
    return select(func.count()).select_from(firsts).where(firsts.c.begun >= moment)


@functools.cache
def _last_sequence(entries: Table) -> Select[Any]:
    from sqlalchemy import bindparam, func, select

    return select(func.max(entries.c.sequence)).where(entries.c.move_id == bindparam("move_id"))


def open_journal(where: str, now: Callable[[], str], *, only_reads: bool = False) -> Journal:
    """Open the journal, making it if there is none.

    :param where: a path, or an SQLAlchemy URL
    :param only_reads: nothing has to be written: where there is no journal an empty one stands for it, and one that
        this user may not write is read
    :raises Usage: when it was written by a newer cellmove, or the URL cannot be used
    :raises Unreachable: when it cannot be opened for writing, or is damaged
    """
    from sqlalchemy import create_engine, event

    from cellmove.core import database_url

    database = journal_file.database_of(where)
    path = Path(database.url.database or "") if database.is_sqlite else None
    location = str(path or database.url.render_as_string(hide_password=True))
    if path is not None and only_reads:
        read_only = _without_writing(path, now)
        if read_only is not None:
            return read_only
    if path is not None:
        journal_file.make_file(path)
        journal_file.require_known(location, journal_file.version_of(path))
    # One view for all the reads of a transaction, whatever the server's default is; and a connection that the
    # server has closed meanwhile is found out before it is used.
    shared = {"isolation_level": "REPEATABLE READ", "pool_pre_ping": True}
    options: dict[str, Any] = {} if path is not None else shared
    # As many connections as threads want: each may hold a server's lock, and none may wait for another's.
    # They are all kept (a pool of size 0), or else those beyond some number were opened anew each time.
    engine = create_engine(database.url, connect_args=database.options, pool_size=0, **options)
    database_url.guard(engine, lambda words: JournalUnreachable(f"the journal {location} cannot be opened: {words}"))
    if path is not None:
        event.listen(engine, "connect", journal_file.make_durable)
    journal = Journal(engine, now, location)
    _check(journal, only_reads=only_reads)
    return journal


def _without_writing(path: Path, now: Callable[[], str]) -> Journal | None:
    """A journal that stands for a file which is not there, or may not be written; None for any other file."""
    try:
        has_file = journal_file.is_file(path)
        is_there = has_file and path.stat().st_size > 0
        if is_there and journal_file.can_be_written(path):
            return None
    except OSError as error:
        raise Unreachable(f"the journal {path} cannot be read: {error.strerror}", state="nothing was written") from None
    if has_file and not is_there:
        return None  # cut off at its beginning, which is told as ever
    journal_file.require_known(str(path), journal_file.version_of(path) if is_there else integrity.VERSION)
    engine = journal_file.open_copy(path) if is_there else journal_file.open_empty()
    journal = Journal(engine, now, str(path), is_read_only=True)
    _check(journal, only_reads=True)
    return journal


def _check(journal: Journal, *, only_reads: bool) -> None:
    """Bring a journal up to date, and see to it that it is what was written.

    :raises Usage: it was written by a newer cellmove
    :raises Unreachable: it cannot be used, or is damaged
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    engine, location = journal.engine, journal.location
    try:
        version = _version(journal, only_reads=only_reads)
        journal_file.require_known(location, version)
        if version < integrity.VERSION:
            journal_upgrade.upgrade(engine, journal.metadata)
        engine = journal.engine
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # one view for all the reads: others may be writing
            integrity.verify_open(connection, journal.metadata)
    except DBAPIError as error:
        if journal_file.is_corrupt(error):
            raise journal_file.damaged(location, journal_file.words_of(error)) from None
        raise Unreachable(
            f"the journal {location} cannot be opened: {journal_file.words_of(error)}",
            state="nothing was written to the cloud",
        ) from None
    except (integrity.Damaged, SQLAlchemyError, ValueError, TypeError, ArithmeticError) as error:
        words = str(error) if isinstance(error, integrity.Damaged) else f"it is no journal ({type(error).__name__})"
        raise journal_file.damaged(location, words) from None


def _version(journal: Journal, *, only_reads: bool) -> int:
    """The version of the tables that are there; in a shared database they are made when there are none.

    :param only_reads: then an empty journal stands for one without tables
    :raises Damaged: there are tables, but not the one that says the version
    """
    from sqlalchemy import inspect, select

    about = journal.metadata.tables["about"]

    def version(connection: Connection) -> int | None:
        if not inspect(connection).has_table("about"):
            return None
        found = connection.execute(select(about.c.schema_version)).scalar()
        return None if found is None else int(found)

    with journal.engine.begin() as connection:
        known = version(connection)
    if known is not None:
        return known
    if journal.engine.dialect.name == "sqlite":
        raise integrity.Damaged("it does not say its version")
    if only_reads:
        journal.engine, journal.is_read_only = journal_file.open_empty(), True
        return integrity.VERSION
    # Tables are made outside any transaction there: two first runs at once, one makes them, one waits.
    outside = journal.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with outside as connection, journal_upgrade.tables_lock(connection):
        known = version(connection)
        if known is None:
            journal.metadata.create_all(connection)
            integrity.make_about(connection, about, integrity.EMPTY, integrity.EMPTY)
    return known or integrity.VERSION


def _move_values(move: Move) -> dict[str, Any]:
    values = {name: getattr(move, name) for name in MOVE_COLUMNS}
    written = {"state": move.state.value, "plan": json.dumps(dict(move.plan)), "aim": move.goal_state}
    return values | written | {"generations": json.dumps(list(move.generations)) if move.generations else ""}


def _move(row: Row[Any]) -> Move:
    values = integrity.verified("moves", row._mapping)
    del values["open_server"], values["digest"]
    read = {
        "state": State(values["state"]),
        "plan": json.loads(values["plan"]),
        "goal_state": values.pop("aim"),
    }
    return Move(**(values | read | {"generations": tuple(json.loads(values["generations"] or "[]"))}))


def _entry_values(entry: Entry) -> dict[str, Any]:
    return {
        "move_id": entry.move_id, "sequence": entry.sequence, "step": entry.step, "action": entry.action,
        "phase": entry.phase.value, "intent": json.dumps(dict(entry.intent)), "result": json.dumps(dict(entry.result)),
        "error": entry.error, "started_at": entry.started_at, "finished_at": entry.finished_at,
    }  # fmt: skip


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
