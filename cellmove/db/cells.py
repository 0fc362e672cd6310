"""The cells of the cloud, and the one way to open a database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib import parse

from cellmove.core import bus_login, database_url
from cellmove.core.cell_names import CELL0_UUID, CellRef, display_names
from cellmove.core.errors import BadSetting, CallFailed, CallUncertain, CannotConnect, Misconfigured, Usage
from cellmove.core.reference import means
from cellmove.db.types import AnyRow, Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import ExceptionContext
    from sqlalchemy.exc import DBAPIError

    from cellmove.core.settings import Settings

API_DATABASE = "the API database"

READ_TIMEOUT = 30  # seconds that one statement may take before the connection counts as lost
LOCK_WAIT_TIMEOUT = 20  # seconds; below READ_TIMEOUT, so that a lock ends in a clean error 1205

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
class Cell:
    """One row of ``cell_mappings``, its URLs resolved.

    :param nova_name: its name as nova stores it: None, blank, or equal to another cell's, too. Nothing is found by it
        but what an operator types
    :param database_problem: why the URL of its database cannot be used, without secrets; empty: nothing is known against it
    :param transport_problem: the same of its message bus
    :param display_name: its name for people among all cells of the cloud; empty: it is the only one
    """

    id: int
    uuid: str
    nova_name: str | None
    disabled: bool
    transport_url: str = field(repr=False)
    database_url: str = field(repr=False)
    database_problem: str = ""
    transport_problem: str = ""
    display_name: str = ""

    @property
    def label(self) -> str:
        """Return what people read: see :func:`cellmove.core.cell_names.display_names`."""
        return self.display_name or display_names([(self.uuid, self.nova_name)])[self.uuid]

    @property
    def words(self) -> tuple[str, str]:
        """Return what a setting may call it."""
        return self.uuid, self.label

    @property
    def ref(self) -> CellRef:
        """Return the cell as data that travels holds it."""
        return CellRef(self.uuid, self.label)


def resolve_url(template: str, default: str | None) -> str:
    """Fill in a cell mapping's URL template as nova does.

    Follows ``nova/objects/cell_mapping.py`` (``_format_url``, ``_parse_netloc``): values are put in
    as they stand in the default URL, percent-encoding and all; with several comma-separated hosts
    there are also ``{username1}``, ``{hostname1}`` … counted from 1; and whatever goes wrong, the
    template itself is returned.

    :param template: ``cell_mappings.database_connection`` or ``.transport_url``
    :param default: ``[database]connection`` or ``[DEFAULT]transport_url`` of the local nova.conf;
        None or empty when it is not set
    """
    if not default:
        return template
    try:
        return template.format(**_template_values(default))
    except Exception:  # noqa: BLE001  (nova catches just this much)
        return template


def _template_values(default: str) -> Record:
    url = parse.urlparse(default)
    values: Record = {
        "username": url.username,
        "password": url.password,
        "hostname": url.hostname,
        "port": url.port,
        "scheme": url.scheme,
        "query": url.query,
        "fragment": url.fragment,
        "path": url.path.lstrip("/"),
    }
    if "," in url.netloc:
        for number, location in enumerate(url.netloc.split(","), start=1):
            values |= {f"{name}{number}": value for name, value in _parse_location(location).items()}
    return values


def _parse_location(location: str) -> Record:
    """Take ``user:password@host:port`` apart as nova does (which splits at the first ``@``)."""
    from oslo_utils import netutils

    login, at, address = location.partition("@")
    if not at:
        login, address = "", location
    username, colon, password = login.partition(":")
    host, port = netutils.parse_host_port(address)
    return {
        "username": username,
        "password": password if colon else None,
        "hostname": host,
        "port": port,
    }


def read_cells(api_engine: Engine, settings: Settings) -> tuple[Cell, ...]:
    """All cells but cell0, in order of their ids. Whether their URLs can be used is said in the cells."""
    return tuple(cell for cell in _read_all(api_engine, settings) if cell.uuid != CELL0_UUID)


def read_cell0(api_engine: Engine, settings: Settings) -> Cell | None:
    """The cell of the API level and of servers that were never built; None when its URL cannot be used."""
    cell0 = next((cell for cell in _read_all(api_engine, settings) if cell.uuid == CELL0_UUID), None)
    return None if cell0 is None or cell0.database_problem else cell0


def _read_all(api_engine: Engine, settings: Settings) -> list[Cell]:
    """All cells, cell0 included, with names for people that tell them apart."""
    rows = _mappings(api_engine)
    names = display_names((row.uuid, row.name) for row in rows)
    return [_cell(row, settings, names[row.uuid]) for row in rows]


def _mappings(api_engine: Engine) -> Sequence[AnyRow]:
    from sqlalchemy import text

    statement = text(
        "SELECT id, uuid, name, disabled, transport_url, database_connection FROM cell_mappings ORDER BY id"
    )
    with translate_errors(API_DATABASE), api_engine.connect() as connection:
        return connection.execute(statement).all()


def _cell(row: AnyRow, settings: Settings, display_name: str) -> Cell:
    transport, database = row.transport_url or "", row.database_connection or ""
    # nova opens each cell with the options of [database]: nova/db/main/api.py, create_context_manager.
    opened = database_url.with_parameters(
        resolve_url(database, settings.main_database_url), settings.cell_database_parameters
    )
    return Cell(
        id=row.id,
        uuid=row.uuid,
        nova_name=row.name,
        disabled=bool(row.disabled),
        transport_url=bus_login.with_login(resolve_url(transport, settings.transport_url), settings.bus_login),
        database_url=database_url.with_login(opened, settings.database_login),
        transport_problem=problem_of(transport, settings.transport_url, "[DEFAULT]transport_url"),
        database_problem=problem_of(database, settings.main_database_url, "[database]connection"),
        display_name=display_name,
    )


PLACEHOLDER = re.compile(r"\{((?:username|password|hostname|port|scheme|query|fragment|path)\d*)\}")


def problem_of(template: str, default: str, key: str) -> str:
    """Why a cell mapping's URL cannot be used; empty when nothing is known against it.

    :param key: where the URL is set that fills the template in
    """
    if not template:
        return "it is empty"
    names = PLACEHOLDER.findall(template)
    if not names:
        return ""
    how = f"it is a template that is filled in from {key}"
    if not default:
        return f"{how}, which is not set; name the nova.conf of the API or superconductor host with --nova-conf"
    try:
        values = _template_values(default)
    except Exception:  # noqa: BLE001  (see resolve_url; the words would quote the URL)
        return f"{how}, which cannot be parsed; {database_url.ENCODE}"
    missing = [name for name in names if name not in values]
    if missing:
        return (
            f"{how}, which has no {{{missing[0]}}}: it names {default.count(',') + 1 if ',' in default else 'one'} host"
        )
    empty = [name for name in names if values[name] in (None, "") and name.startswith(("port", "hostname", "scheme"))]
    return f"{how}, which names no {empty[0]}" if empty else ""


def set_disabled(api_engine: Engine, uuid: str, *, disabled: bool) -> bool:
    """Keep the scheduler from choosing a cell, or let it again: nova-manage cell_v2 update_cell --disable, --enable.

    :returns: whether it was otherwise before
    """
    from sqlalchemy import column, table, update

    mappings = table("cell_mappings", column("uuid"), column("disabled"))
    query = update(mappings).where(mappings.c.uuid == uuid, mappings.c.disabled != disabled).values(disabled=disabled)
    with translate_errors(API_DATABASE), api_engine.begin() as connection:
        return bool(connection.execute(query).rowcount == 1)


def find_cell(cells: Sequence[Cell], word: str) -> Cell:
    """Find the cell that a word means: its UUID, its name, or the name that people are shown.

    :param word: what an operator typed, or what an older journal holds. What has the form of a UUID is never a name
    :raises Usage: it means no cell, or several of that name; the message lists the choices
    """
    found = [cell for cell in cells if means(word, cell.uuid, cell.nova_name or "")]
    found = found or [cell for cell in cells if word == cell.label]
    if len(found) == 1 and word:
        return found[0]
    if len(found) > 1 and word:
        raise Usage(f"several cells are called {word}; use the UUID: {_listed(found)}")
    choices = _listed(cells) if cells else "none (besides cell0)"
    raise Usage(f"there is no cell {word or repr(word)}; the cells are: {choices}")


def _listed(cells: Sequence[Cell]) -> str:
    return ", ".join(f"{cell.label} ({cell.uuid})" if cell.nova_name else cell.uuid for cell in cells)


def open_database(url: str, *, connect_timeout: float, name: str = "the database", setting: str = "") -> Engine:
    """The one way to open a database. Connects lazily; :func:`probe_database` finds out.

    MySQL and MariaDB are reached with PyMySQL whatever driver the URL names. Each session is set to

    - ``READ COMMITTED``: we watch rows that nova changes meanwhile, which a REPEATABLE READ
      transaction would never show; and the gap locks of that level, taken by deletes by
      ``instance_uuid``, would hold up nova's inserts.
    - explicit transactions (:func:`begin_at_writer`), reads included, so that no proxy sends a read to a replica;
    - ``sql_mode=TRADITIONAL``, as oslo.db does for nova: a value that does not fit is an error and
      is never cut off silently.

    ``rowcount`` is the number of rows matched, not of those changed, so that a compare-and-swap that
    writes the same value again still counts (SQLAlchemy sets CLIENT.FOUND_ROWS).

    Statements and their parameters are kept out of exception messages.

    :param url: an SQLAlchemy URL: mysql or sqlite
    :param connect_timeout: seconds until an unreachable server counts as such
    :param name: the database in messages, such as ``the database of cell1``; every error of the engine has it
    :param setting: where the URL is set, for messages about the URL
    :raises Misconfigured: no URL, or one that cannot be used
    """
    import sqlalchemy
    from sqlalchemy import event

    try:
        parsed = database_url.parse(url)
    except BadSetting as error:
        raise Misconfigured(f"{name}: the URL{f' in {setting}' if setting else ''} cannot be used: {error}") from None
    options: Record = {"hide_parameters": True, "execution_options": {NAME_OPTION: name}}
    if parsed.is_sqlite:
        arguments = {"timeout": connect_timeout} | parsed.options
        options |= {"pool_size": 0}
        statements = ["PRAGMA foreign_keys=ON"]
    else:
        arguments = {
            "connect_timeout": max(1, round(connect_timeout)),
            # While logging in; a server that accepts and then says nothing must not cost READ_TIMEOUT.
            "read_timeout": max(1, round(connect_timeout)),
            "write_timeout": READ_TIMEOUT,
        } | parsed.options
        options |= {
            "isolation_level": "READ COMMITTED",
            "pool_pre_ping": True,
            "pool_size": 32,  # all of them kept: those above it would be opened anew each time
            "max_overflow": 0,
            "pool_timeout": 30,
            "pool_recycle": 600,
        }
        statements = [f"SET SESSION sql_mode = 'TRADITIONAL', innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT}"]
    engine = sqlalchemy.create_engine(parsed.url, connect_args=arguments, **options)

    database_url.guard(engine, lambda words: CannotConnect(f"{name}: {words}"))
    if not parsed.is_sqlite:
        event.listen(engine, "begin", begin_at_writer)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        if "read_timeout" not in parsed.options and hasattr(connection, "_read_timeout"):
            connection._read_timeout = READ_TIMEOUT

    @event.listens_for(engine, "handle_error")
    def remember_when(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is None:
            return
        context.sqlalchemy_exception.add_detail(_Name(name))
        # A lost connection (2013) means one thing while connecting and another at a commit.
        if context.connection is None:
            context.sqlalchemy_exception.add_detail(_WHILE_CONNECTING)

    return engine


def begin_at_writer(connection: Connection) -> None:
    """Begin a transaction on the server, so that a proxy that splits reads from writes sends all of it to the writer.

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
    """Connect, log in and ask something harmless.

    :raises CannotConnect: no answer in time, or we are not let in
    """
    with translate_errors(engine), engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")


@contextmanager
def translate_errors(source: Engine | str) -> Iterator[None]:
    """Turn SQLAlchemy's exceptions into ours. Messages hold neither URL nor password nor statement.

    A connection lost during a statement is a plain failure, because the server rolls back what was
    not committed. Lost during the commit, it is uncertain; so is every error there but those of :data:`KINDS`:
    behind a proxy (MaxScale, ProxySQL) even "cannot connect" may mean that the server died while it
    committed, and 1180, 1047 and 3024 leave that open, too.

    :param source: an engine that :func:`open_database` opened, or the name of its database, for the message
    :raises CannotConnect: not reachable, not let in, or no connection free in the pool
    :raises CallUncertain: the connection was lost during a commit
    :raises CallFailed: the database said no. ``kind`` is ``deadlock`` (also for a lock wait timeout:
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
    """Our exception for an error of the driver."""
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
