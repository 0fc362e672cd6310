"""Open a journal: find or make it, bring it up to date, refuse one that is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import JournalUnreachable, Unreachable
from cellmove.engine import integrity, journal_file, journal_upgrade
from cellmove.engine.journal import Journal

if TYPE_CHECKING:
    from sqlalchemy import Connection


def open_journal(where: str, now: Callable[[], str], *, only_reads: bool = False) -> Journal:
    """Open the journal, and make it if there is none.

    :param where: a path, or an SQLAlchemy URL
    :param now: returns the current time as UTC, ISO 8601
    :param only_reads: the command writes nothing: a missing journal is taken as an empty one, and a journal that this
        user may not write is opened for reading
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
    # A transaction reads one view whatever the server's default is, and a connection that the server has closed is
    # detected before it is used.
    shared = {"isolation_level": "REPEATABLE READ", "pool_pre_ping": True}
    options: dict[str, Any] = {} if path is not None else shared
    # The pool is unlimited (size 0): each thread may hold a server's lock, and no thread may wait for another's
    # connection. A limited pool would open the connections beyond its size anew each time.
    engine = create_engine(database.url, connect_args=database.options, pool_size=0, **options)
    database_url.guard(engine, lambda words: JournalUnreachable(f"the journal {location} cannot be opened: {words}"))
    if path is not None:
        event.listen(engine, "connect", journal_file.make_durable)
    journal = Journal(engine, now, location)
    _require_sound(journal, only_reads=only_reads)
    return journal


def _without_writing(path: Path, now: Callable[[], str]) -> Journal | None:
    """Open a journal for reading whose file is missing or may not be written; None for any other file."""
    try:
        has_file = journal_file.is_file(path)
        is_there = has_file and path.stat().st_size > 0
        if is_there and journal_file.can_be_written(path):
            return None
    except OSError as error:
        raise Unreachable(f"the journal {path} cannot be read: {error.strerror}", state="nothing was written") from None
    if has_file and not is_there:
        return None  # a truncated journal, which the caller refuses
    journal_file.require_known(str(path), journal_file.version_of(path) if is_there else integrity.VERSION)
    engine = journal_file.open_copy(path) if is_there else journal_file.open_empty()
    journal = Journal(engine, now, str(path), is_read_only=True)
    _require_sound(journal, only_reads=True)
    return journal


def _require_sound(journal: Journal, *, only_reads: bool) -> None:
    """Upgrade a journal, and check that it is what was written.

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
    """Return the version of the journal's tables. In a shared database they are made when there are none.

    :param only_reads: without tables the journal is replaced by an empty one in memory
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
