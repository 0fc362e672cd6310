"""Opens databases, and translates the exceptions of SQLAlchemy.

Every access to a database is a transaction of an engine that :func:`open_database` made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from cellmove.core import database_url
from cellmove.core.errors import BadSetting, CallFailed, CallUncertain, CannotConnect, Misconfigured
from cellmove.db.types import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import ExceptionContext
    from sqlalchemy.exc import DBAPIError

DriverConnection: TypeAlias = Any
"""A connection of the driver (PEP 249)."""

READ_TIMEOUT_SECONDS = 30
"""How long one statement may take before the connection counts as lost."""

LOCK_WAIT_TIMEOUT_SECONDS = 20
"""Less than :data:`READ_TIMEOUT_SECONDS`, so that waiting for a lock ends with error 1205."""

CANNOT_CONNECT = frozenset({1040, 1044, 1045, 1047, 1049, 1129, 1130, 1698, 2002, 2003, 2005, 9001})
"""MySQL errors that come before anything was executed (1047: a Galera node that is not ready; 9001: ProxySQL has
no server that it could ask)."""

CONNECTION_LOST = frozenset({1053, 1927, 2006, 2013, 2014, 2045, 2055, 4031})

KINDS = {
    1205: "deadlock",  # lock wait timeout: like a deadlock, the transaction can be tried again
    1213: "deadlock",  # also what Galera answers when another node was first
    1062: "duplicate",
    1142: "denied",
    1146: "no-table",
    1054: "no-column",
    1290: "read-only",
    1836: "read-only",
    1406: "data",
    1451: "foreign-key",
    1452: "foreign-key",
}


@dataclass(frozen=True)
class _Options:
    """How an engine is made, by kind of database.

    :param arguments: of the driver
    :param engine: of SQLAlchemy
    :param session: the statement that every new connection starts with
    """

    arguments: Record
    engine: Record
    session: str


def open_database(url: str, *, connect_timeout: float, name: str = "the database", setting: str = "") -> Engine:
    """Return an engine for a database. It connects lazily; :func:`probe_database` tests it.

    MySQL and MariaDB are reached with PyMySQL whatever driver the URL names. Each session has

    - ``READ COMMITTED``: a move watches rows that nova changes meanwhile, which a REPEATABLE READ transaction would not show.
      The gap locks of that level, from deletes by ``instance_uuid``, would also block nova's inserts;
    - explicit transactions (:func:`begin_at_writer`), reads included, so that no proxy sends a read to a replica;
    - ``sql_mode=TRADITIONAL``, as oslo.db sets it for nova: a value that does not fit is an error and is never truncated.

    ``rowcount`` is the number of rows matched, not of those changed, so that a compare-and-swap that writes the same value again
    still counts (SQLAlchemy sets CLIENT.FOUND_ROWS). Exception messages contain neither statements nor parameters.

    :param url: an SQLAlchemy URL: mysql or sqlite
    :param connect_timeout: seconds until a server counts as unreachable
    :param name: of the database in messages, such as ``the database of cell1``; every error of the engine has it
    :param setting: where the URL is set, for messages about the URL
    :raises Misconfigured: no URL, or one that cannot be used
    """
    import sqlalchemy
    from sqlalchemy import event

    try:
        parsed = database_url.parse(url)
    except BadSetting as error:
        raise Misconfigured(f"{name}: the URL{f' in {setting}' if setting else ''} cannot be used: {error}") from None
    options = _sqlite_options(connect_timeout) if parsed.is_sqlite else _mysql_options(connect_timeout)
    engine = sqlalchemy.create_engine(
        parsed.url,
        connect_args=options.arguments | parsed.options,
        hide_parameters=True,
        execution_options={NAME_OPTION: name},
        **options.engine,
    )
    database_url.guard(engine, lambda words: CannotConnect(f"{name}: {words}"))
    if not parsed.is_sqlite:
        event.listen(engine, "begin", begin_at_writer)

    @event.listens_for(engine, "connect")
    def prepare(connection: DriverConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(options.session)
        cursor.close()
        if "read_timeout" not in parsed.options and hasattr(connection, "_read_timeout"):
            connection._read_timeout = READ_TIMEOUT_SECONDS

    event.listen(engine, "handle_error", lambda context: _add_details(context, name))
    return engine


def _sqlite_options(connect_timeout: float) -> _Options:
    return _Options({"timeout": connect_timeout}, {"pool_size": 0}, "PRAGMA foreign_keys=ON")


def _mysql_options(connect_timeout: float) -> _Options:
    arguments = {
        "connect_timeout": max(1, round(connect_timeout)),
        # During the login: a silent server must not cost READ_TIMEOUT_SECONDS.
        "read_timeout": max(1, round(connect_timeout)),
        "write_timeout": READ_TIMEOUT_SECONDS,
    }
    engine = {
        "isolation_level": "READ COMMITTED",
        "pool_pre_ping": True,
        "pool_size": 32,  # all are kept: those above would be opened anew each time
        "max_overflow": 0,
        "pool_timeout": 30,
        "pool_recycle": 600,
    }
    session = f"SET SESSION sql_mode = 'TRADITIONAL', innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT_SECONDS}"
    return _Options(arguments, engine, session)


def _add_details(context: ExceptionContext, name: str) -> None:
    """Add to an exception the database's name, and whether it happened while connecting."""
    if context.sqlalchemy_exception is None:
        return
    context.sqlalchemy_exception.add_detail(_Name(name))
    # A lost connection (2013) means one thing while connecting and another at a commit.
    if context.connection is None:
        context.sqlalchemy_exception.add_detail(_WHILE_CONNECTING)


def begin_at_writer(connection: Connection) -> None:
    """Begin a transaction on the server, so that a proxy that splits reads and writes sends all of it to the writer.

    A read decides what is written next, and a replica may answer with what was true seconds ago. MaxScale
    (readwritesplit) and ProxySQL (``transaction_persistent``, its default) keep an open transaction on the writer.
    With ``autocommit=0`` alone, as drivers set it, ProxySQL still sends a SELECT to a replica.
    """
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN")


_WHILE_CONNECTING = "while connecting"


NAME_OPTION = "cellmove_name"
"""The execution option of an engine that holds the name of its database."""


def name_of(engine: Engine) -> str:
    """Return the name of a database in messages, as :func:`open_database` was given it."""
    return str(engine.get_execution_options().get(NAME_OPTION, "the database"))


class _Name(str):
    """A detail of an exception: the database that it came from."""


def probe_database(engine: Engine) -> None:
    """Connect, log in and run a harmless statement.

    :raises CannotConnect: no answer in time, or the login is refused
    """
    with translate_errors(engine), engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")


@contextmanager
def translate_errors(source: Engine | str) -> Iterator[None]:
    """Translate SQLAlchemy's exceptions into those of :mod:`cellmove.core.errors`. Messages hold neither URL nor password nor statement.

    A connection lost during a statement is a plain failure, because the server rolls back what was
    not committed. Lost during the commit, it is uncertain; so is every error there but those of :data:`KINDS`:
    behind a proxy (MaxScale, ProxySQL) even "cannot connect" may mean that the server died while it
    committed, and 1180, 1047 and 3024 leave that open, too.

    :param source: an engine that :func:`open_database` opened, or the name of its database, for the message
    :raises CannotConnect: not reachable, login refused, or no connection free in the pool
    :raises CallUncertain: the connection was lost during a commit
    :raises CallFailed: the database refused. ``kind`` is ``deadlock`` (also for a lock wait timeout:
        try again), ``lost`` (connection lost, nothing written), ``duplicate``, ``foreign-key``,
        ``data``, ``denied``, ``read-only``, ``no-table``, ``no-column``, or MySQL's error number. ``database`` when it
        is SQLAlchemy that failed
    """
    from sqlalchemy import exc

    name = source if isinstance(source, str) else name_of(source)
    prefix = f"{name}: "
    try:
        yield
    except exc.DBAPIError as error:
        own = next((detail for detail in error.detail if isinstance(detail, _Name)), name)
        raise _translated(error, f"{own}: ") from None
    except exc.TimeoutError:
        raise CannotConnect(f"{prefix}no database connection became free in time") from None
    except exc.PendingRollbackError:
        raise CallFailed(f"{prefix}the transaction had failed before", kind="lost") from None
    except exc.NoSuchModuleError:
        raise CannotConnect(f"{prefix}this installation lacks the driver for the database") from None
    except exc.NoSuchTableError as error:
        raise CallFailed(f"{prefix}it has no table {error}", kind="no-table") from None
    except exc.SQLAlchemyError as error:  # its words may hold a statement
        raise CallFailed(f"{prefix}SQLAlchemy failed: {type(error).__name__}", kind="database") from None


def _translated(error: DBAPIError, prefix: str) -> Exception:
    """Return the exception for an error of the driver."""
    from sqlalchemy import exc

    arguments: tuple[Any, ...] = getattr(error.orig, "args", ())
    code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    words = str(arguments[-1]) if arguments else type(error.orig).__name__
    message = prefix + (words.strip().splitlines() or [type(error.orig).__name__])[0][:300]
    if code:
        message += f" (error {code})"
    connecting = _WHILE_CONNECTING in error.detail
    is_commit = error.statement is None and not connecting
    if is_commit and code and code not in KINDS:
        return CallUncertain(message)
    if connecting or code in CANNOT_CONNECT or "unable to open database file" in words:
        return CannotConnect(message)
    # PyMySQL raises InterfaceError(0, "") for a connection that it has closed itself.
    if error.connection_invalidated or code in CONNECTION_LOST or isinstance(error, exc.InterfaceError):
        if error.statement is None:
            return CallUncertain(message)
        return CallFailed(message, kind="lost")
    if "database is locked" in words or "database table is locked" in words:  # SQLite
        return CallFailed(message, kind="deadlock")
    if code not in KINDS and isinstance(error, exc.IntegrityError):
        return CallFailed(message, kind="foreign-key" if "FOREIGN KEY" in words else "duplicate")
    return CallFailed(message, kind=KINDS.get(code, str(code) if code else "database"))
