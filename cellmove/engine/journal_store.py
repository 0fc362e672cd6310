"""Transactions and locks of an open journal. What the transactions read and write: :mod:`cellmove.engine.journal`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from cellmove.core.errors import JournalUnreachable, Locked, Stopped
from cellmove.engine import integrity, journal_file

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class JournalStore:
    """Transactions and locks of an open journal.

    :param engine: its database
    :param now: returns the current time as UTC, ISO 8601
    :param location: its path or URL without a password, for messages
    :param is_read_only: the journal was opened for reading
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
                next_command="cellmove resume --all  # when the journal works again",
            ) from None

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """One transaction that writes. In a file it excludes all others; in a database it locks the rows that it reads.

        The threads of a process wait for each other here, because SQLite makes writers wait by sleeping.

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
    def one_view(self) -> Iterator[Connection]:
        """One transaction whose reads all see the same moment; others may be writing."""
        # The threads of a journal that is only read share one connection.
        turn = self._turn if self.is_read_only else nullcontext()
        with turn, self.transaction() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that changes moves or entries, and with them the digests of the journal."""
        with self.exclusive() as connection:
            integrity.lock_digest(connection, self.metadata.tables["about"])
            yield connection

    @contextmanager
    def server_lock(self, server_id: str, server_name: str) -> Iterator[None]:
        """Hold a server's lock in a journal that machines share. It ends with the connection.

        A journal in a file needs no such lock: a lock file beside it is used.

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
        """Wait for a lock between the machines that share a journal, and hold it. A journal in a file needs none.

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
