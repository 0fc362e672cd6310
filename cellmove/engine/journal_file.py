"""The file of a journal, and the errors of a file that cannot be used. Its content: :mod:`cellmove.engine.journal`."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core import files
from cellmove.core.errors import BadSetting, JournalUnreachable, Unreachable, Usage
from cellmove.core.files import make_directories
from cellmove.engine import integrity

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError

    from cellmove.core.database_url import Database

DURABLE = ("PRAGMA busy_timeout=10000", "PRAGMA cell_size_check=ON", "PRAGMA synchronous=FULL")


def damaged(location: str, how: str) -> Unreachable:
    """Return the error for a damaged journal."""
    return JournalUnreachable(
        f"the journal {location} is damaged: {how}",
        state="it is not used, and nothing was written. Move it away, then rebuild each move from the cloud",
        next_command=(
            "cellmove --journal ANOTHER adopt SERVER"
            if "://" in location
            else f"mv {shlex.quote(location)} {shlex.quote(location + '.damaged')} && cellmove adopt SERVER"
        ),
    )


def is_corrupt(error: DBAPIError) -> bool:
    """Return whether SQLite can open the file and cannot read its content."""
    import sqlite3

    if not isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # undecodable text comes without a code
    return code not in (
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_CONSTRAINT,
    )


def make_durable(connection: Any, _record: Any) -> None:
    """Configure a new connection so that a commit that returned survives a power failure."""
    for statement in DURABLE:
        connection.execute(statement)
    # A file of the first version (or of a newer one) may be in WAL mode, which setting a mode would end.
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=TRUNCATE")


def make_file(path: Path) -> None:
    """Make an empty journal atomically, unless there is a file.

    An empty file is therefore no new journal, but one that was truncated.

    :raises Unreachable: it cannot be written, or is empty
    """
    try:
        is_there = is_file(path)
        make_directories(path.parent)
        if is_there:
            os.close(os.open(path, os.O_RDWR))
            if path.stat().st_size == 0:
                raise damaged(str(path), "it is empty: it was truncated")
            return
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        os.close(files.make_file(fresh))
        try:
            _make_tables(fresh)
            with suppress(FileExistsError):  # another first run made it
                os.link(fresh, path)
        finally:
            fresh.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the name of the file has to survive a power failure
        finally:
            os.close(directory)
    except OSError as error:
        raise Unreachable(
            f"the journal {path} cannot be opened for writing: {error.strerror}",
            state="nothing was written to the cloud",
            next_command="cellmove --journal PATH …",
        ) from None


def is_file(path: Path) -> bool:
    """Return whether there is a file.

    :raises OSError: something else is there, or it cannot be found out
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(errno.ENOENT, f"it is a symbolic link to {path.readlink()}, which is not there") from None
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return True


def _make_tables(path: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        _fill(engine)
    except DBAPIError as error:
        raise OSError(errno.EIO, words_of(error)) from None
    finally:
        engine.dispose()


def _fill(engine: Engine) -> None:
    metadata = integrity.make_metadata()
    with engine.begin() as connection:
        metadata.create_all(connection)
        integrity.make_about(connection, metadata.tables["about"], integrity.EMPTY, integrity.EMPTY)


# without writing


def can_be_written(path: Path) -> bool:
    """Return whether this user may write the journal and the file that SQLite makes beside it."""
    return os.access(path, os.W_OK, effective_ids=True) and os.access(
        path.parent, os.W_OK | os.X_OK, effective_ids=True
    )


def open_empty() -> Engine:
    """Return an empty journal in memory, for a command that only reads when there is no journal."""
    import sqlite3

    engine = _kept_open(sqlite3.connect(":memory:", check_same_thread=False))
    _fill(engine)
    return engine


def open_copy(path: Path) -> Engine:
    """Open a journal for a command that only reads. An older one is copied into memory, to be upgraded there.

    :raises Unreachable: it cannot be read, or not without writing
    """
    import sqlite3
    from urllib.parse import quote

    try:
        source = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise damaged(str(path), str(error)) from None
        raise Unreachable(
            f"the journal {path} cannot be read without being written: {error}",
            state="nothing was written",
            next_command="cellmove list  # as a user who may write the journal",
        ) from None
    if version_of(path) == integrity.VERSION:
        return _kept_open(source)
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with closing(source):
        source.backup(memory)
    return _kept_open(memory)


def _kept_open(connection: Any) -> Engine:
    """Return an engine with this connection only, which threads use in turn."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    return create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)


def require_known(location: str, version: int) -> None:
    """Refuse a journal of a newer cellmove.

    :raises Usage: it is one
    """
    if version > integrity.VERSION:
        raise Usage(
            f"the journal {location} was written by a newer cellmove (schema {version}; this one "
            f"knows {integrity.VERSION}); use that version"
        )


def version_of(path: Path) -> int:
    """Return the version of a journal's file, read without a lock or a write: a newer cellmove may have written it.

    :returns: 0 when it cannot be read that way
    """
    import sqlite3
    from urllib.parse import quote

    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as connection:
            (version,) = connection.execute("SELECT schema_version FROM about").fetchone()
            with suppress(sqlite3.Error):
                *digests, written = connection.execute("SELECT digest, open_digest, seal FROM about").fetchone()
                if written == integrity.about_checksum(integrity.VERSION, *digests):
                    return integrity.VERSION  # only the number is damaged, which the check finds later
            return int(version)
    except (sqlite3.Error, TypeError, ValueError):
        return 0


def database_of(where: str) -> Database:
    """Return the database of a journal.

    :param where: a path or a URL

    :raises Usage: the URL cannot be used
    """
    from sqlalchemy.engine import URL

    from cellmove.core import database_url

    if "://" not in where:
        _check_path(where)
        return database_url.Database(URL.create("sqlite", database=where), {})
    try:
        database = database_url.parse(where)
    except BadSetting as error:
        raise Usage(f"the journal's URL (--journal, CELLMOVE_JOURNAL, journal) cannot be used: {error}") from None
    if database.is_sqlite and (database.url.database or ":memory:").startswith(":"):
        raise Usage(
            "the journal's URL (--journal, CELLMOVE_JOURNAL, journal) names no file; what is in memory is lost at the end"
        )
    return database


def _check_path(text: str) -> None:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise Usage(
            "the journal's path (--journal, CELLMOVE_JOURNAL, journal) has characters of no file name"
        ) from None
    if "\0" in text:
        raise Usage("the journal's path has a NUL character in it")
    if not text.strip() or text.startswith(":"):
        raise Usage(f"the journal's path (--journal, CELLMOVE_JOURNAL, journal) names no file: {text!r}")


def words_of(error: DBAPIError) -> str:
    """Return the first line of the database's message."""
    arguments = getattr(error.orig, "args", ())
    words = str(arguments[-1]) if arguments else ""  # PyMySQL puts a number before them
    return next(iter(words.splitlines()), type(error).__name__)[:200]
