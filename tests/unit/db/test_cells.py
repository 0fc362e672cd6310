"""Cells: URL templates as nova fills them in, choosing a cell, and what database errors mean."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib import parse

import pymysql.err
import pytest
import sqlalchemy
from sqlalchemy import QueuePool, create_engine, exc, text

from cellmove.core import database_url
from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect, Usage
from cellmove.core.login import Login
from cellmove.core.settings import Settings
from cellmove.db import cells, engines

DATABASE = "mysql+pymysql://nova:p%40ss@DB.Example:3307/nova_api?charset=utf8mb4&a=b#f"
TWO_HOSTS = "rabbit://u1:p1@H1:5671,u2:p2@H2:5672/"
FULL = "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}"
NUMBERED = "rabbit://{username1}:{password1}@{hostname1}:{port1},{username2}:{password2}@{hostname2}:{port2}/cell1"
THIRD = "{hostname3}:{port3}"
BRACKETS = "rabbit://u:p@h1,u2@h2:1,[fe80::1]:2/"
BUS = "rabbit://{username}:{password}@{hostname}:{port}/"


def takes(url: str) -> bool:
    """Whether this Python takes such a URL apart. Newer ones refuse text before a bracket; nova then leaves the template as it is."""
    try:
        parse.urlparse(url)
    except ValueError:
        return False
    return True


# The expected values are what nova's own CellMapping._format_url returned for the same arguments.
@pytest.mark.parametrize(
    ("template", "default", "expected"),
    [
        (FULL, DATABASE, "mysql+pymysql://nova:p%40ss@db.example:3307/nova_api?charset=utf8mb4&a=b"),
        ("{path}#{fragment}", DATABASE, "nova_api#f"),
        ("mysql://u:p%40w@h/d", DATABASE, "mysql://u:p%40w@h/d"),
        (NUMBERED, TWO_HOSTS, "rabbit://u1:p1@H1:5671,u2:p2@H2:5672/cell1"),
        (NUMBERED, BRACKETS, "rabbit://u:p@h1:None,u2:None@h2:1/cell1" if takes(BRACKETS) else NUMBERED),
        (THIRD, BRACKETS, "fe80::1:2" if takes(BRACKETS) else THIRD),
        (NUMBERED, "rabbit://u:p@h1,u2@h2,h3:2/", "rabbit://u:p@h1:None,u2:None@h2:None/cell1"),
        (THIRD, "rabbit://u:p@h1,u2@h2,h3:2/", "h3:2"),
        (NUMBERED, "rabbit://u:a@b@h1:1,u2:p2@h2:2//x", "rabbit://u:a@b@h1:1,u2:p2@h2:2/cell1"),
        (BUS, "rabbit://u:p@[::1]:5672/v", "rabbit://u:p@::1:5672/"),
        (BUS, TWO_HOSTS, "rabbit://u1:p1@H1:5671,u2:p2@h2:5672/"),
        (BUS, "rabbit://u:p@h1:1,h2:2/", BUS),
        (BUS, "rabbit://u:p@h:notaport/", BUS),
        (
            "mysql://{username}:{password}@{hostname}/c?{query}",
            "mysql://root@localhost/x",
            "mysql://root:None@localhost/c?",
        ),
        ("mysql://u:{{x}}@h/d", DATABASE, "mysql://u:{x}@h/d"),
        ("mysql://u:{{x}}@h/d", None, "mysql://u:{{x}}@h/d"),
        ("mysql://u:p{x@h/d", DATABASE, "mysql://u:p{x@h/d"),
        ("mysql://u:{0}@h/d", DATABASE, "mysql://u:{0}@h/d"),
        ("{nosuch}", DATABASE, "{nosuch}"),
        ("none:///", TWO_HOSTS, "none:///"),
        (FULL, None, FULL),
    ],
)
def test_url_templates_are_filled_in_as_nova_does(template: str, default: str | None, expected: str) -> None:
    assert cells.resolve_url(template, default) == expected


@pytest.fixture
def api_engine(tmp_path: Path) -> sqlalchemy.Engine:
    engine = engines.open_database(f"sqlite:///{tmp_path}/api.db", connect_timeout=1)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE cell_mappings (id INTEGER, uuid TEXT, name TEXT, transport_url TEXT, "
                "database_connection TEXT, disabled BOOLEAN)"
            )
        )
        for row in (
            {"i": 3, "u": "33333333-3333-3333-3333-333333333333", "n": None, "t": "rabbit://x/3", "d": 1},
            {"i": 1, "u": cells.CELL0_UUID, "n": "cell0", "t": "none:///", "d": 0},
            {"i": 2, "u": "22222222-2222-2222-2222-222222222222", "n": "two", "t": "rabbit://{hostname}/2", "d": 0},
        ):
            connection.execute(
                text("INSERT INTO cell_mappings VALUES (:i, :u, :n, :t, 'mysql://{username}@h/c', :d)"), row
            )
    return engine


def test_cells_are_read_without_cell0_and_with_their_urls_filled_in(api_engine: sqlalchemy.Engine) -> None:
    settings = Settings(main_database_url="mysql://nova:pw@h/cell0", transport_url="rabbit://bus/")
    two, three = cells.read_cells(api_engine, settings)
    assert (two.id, two.nova_name, two.label, two.disabled) == (2, "two", "two", False)
    assert (two.transport_url, two.database_url) == ("rabbit://bus/2", "mysql://nova@h/c")
    assert (three.nova_name, three.label, three.disabled) == (None, "33333333", True)
    assert "mysql" not in repr(two)


def test_its_own_database_user_replaces_that_of_every_cells_url(api_engine: sqlalchemy.Engine) -> None:
    login = Login("cellmove", "own")
    settings = Settings(
        main_database_url="mysql://nova:pw@h/cell0", transport_url="rabbit://bus/", database_login=login
    )
    assert {cell.database_url for cell in cells.read_cells(api_engine, settings)} == {"mysql://cellmove:own@h/c"}
    unfilled = Settings(transport_url="rabbit://bus/", database_login=login)
    assert cells.read_cells(api_engine, unfilled)[0].database_problem.startswith("it is a template")


def test_connection_parameters_of_the_main_database_hold_for_every_cell(api_engine: sqlalchemy.Engine) -> None:
    with api_engine.begin() as connection:
        statement = "UPDATE cell_mappings SET database_connection = 'mysql://{username}@h/c?charset=utf8&ssl_ca=/ca' WHERE id < 3"
        connection.execute(text(statement))
    found = Settings(
        main_database_url="mysql://nova:pw@h/cell0?a=b", cell_database_parameters="ssl_ca=/ca&read_timeout=7",
        database_login=Login("cellmove", "own"),
    )  # fmt: skip
    one, other = cells.read_cells(api_engine, found)
    assert one.database_url == "mysql://cellmove:own@h/c?charset=utf8&read_timeout=7&ssl_ca=%2Fca&ssl_ca=%2Fca"
    assert other.database_url == "mysql://cellmove:own@h/c?read_timeout=7&ssl_ca=%2Fca"
    cell0 = cells.read_cell0(api_engine, found)
    assert cell0 is not None
    assert cell0.database_url == one.database_url


PARAMETERS = (
    "a=1",
    "ssl_ca=/ca%2Fx&read_timeout=7",
    "charset=utf8",
    "charset=utf8&charset=latin1",
    "a",
    "=",
    "a=%C3%A4&b=",
)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize(
    "url", ["mysql+pymysql://u:p%40%2F@[::1]:3306/d?charset=utf8", "mysql://u@h/d", DATABASE.partition("#")[0]]
)
def test_connection_parameters_are_appended_as_oslo_db_does(url: str, parameters: str) -> None:
    """oslo_db/sqlalchemy/engines.py, create_engine."""
    expected = sqlalchemy.make_url(url).update_query_string(parameters, append=True)
    assert sqlalchemy.make_url(database_url.with_parameters(url, parameters)) == expected
    assert database_url.with_parameters(url, "") == url
    assert database_url.with_parameters("", parameters) == ""
    assert database_url.with_parameters("mysql://h:x/", parameters) == "mysql://h:x/"


def test_its_own_bus_user_replaces_that_of_every_cells_url(api_engine: sqlalchemy.Engine) -> None:
    settings = Settings(transport_url="rabbit://u:p@bus/", bus_login=Login("cellmove", "own"))
    urls = {cell.transport_url for cell in cells.read_cells(api_engine, settings)}
    assert all(url.startswith("rabbit://cellmove:own@") for url in urls)


def test_a_template_without_the_url_to_fill_it_in_is_a_problem_of_that_cell_alone(
    api_engine: sqlalchemy.Engine,
) -> None:
    two, three = cells.read_cells(api_engine, Settings(main_database_url="mysql://nova:pw@h/cell0"))
    assert two.transport_problem == (
        "it is a template that is filled in from [DEFAULT]transport_url, which is not set; "
        "name the nova.conf of the API or superconductor host with --nova-conf"
    )
    assert (two.database_problem, three.transport_problem, three.database_problem) == ("", "", "")
    assert cells.read_cells(api_engine, Settings())[1].database_problem.startswith("it is a template that is filled in")


@pytest.mark.parametrize(
    ("template", "default", "problem"),
    [
        (
            "rabbit://{username1}:{password1}@{hostname1}:{port1}/",
            "rabbit://u:s3cret@h:5672/",
            r"no \{username1\}: it names one host",
        ),
        ("rabbit://{username3}:x@h/", TWO_HOSTS, r"no \{username3\}: it names 2 host"),
        (BUS, "rabbit://u:s3cret@h/", "names no port"),
        (BUS, "rabbit:///", "names no hostname"),
        (BUS, "rabbit://u:s3cret@h:notaport/", "cannot be parsed"),
        (BUS, "rabbit://u:s3/cret@h:1/", "cannot be parsed"),
        ("", TWO_HOSTS, "it is empty"),
        (None, TWO_HOSTS, "it is empty"),
        ("rabbit://u:{x@h/", TWO_HOSTS, "^$"),
        ("rabbit://u:p@h/", "", "^$"),
        (NUMBERED, TWO_HOSTS, "^$"),
        (BUS, "rabbit://h:1/", "^$"),
    ],
)
def test_what_is_wrong_with_a_template_is_said_without_its_secrets(
    api_engine: sqlalchemy.Engine, template: str | None, default: str, problem: str
) -> None:
    with api_engine.begin() as connection:
        connection.execute(text("UPDATE cell_mappings SET transport_url = :template"), {"template": template})
    found = cells.read_cells(api_engine, Settings(transport_url=default))[0].transport_problem
    assert re.search(problem, found)
    assert "cret" not in found


def cell(number: int, name: str) -> cells.Cell:
    return cells.Cell(number, f"{str(number) * 8}-0000-0000-0000-00000000000a", name, False, "", "")


def test_a_cell_is_found_by_uuid_before_name() -> None:
    some = (cell(1, "a"), cell(2, "b"), cell(3, cell(1, "a").uuid))
    assert cells.find_cell(some, "b") is some[1]
    assert cells.find_cell(some, some[0].uuid.upper()) is some[0]
    with pytest.raises(Usage, match=rf"no cell c; the cells are: a \({some[0].uuid}\), b"):
        cells.find_cell(some, "c")
    with pytest.raises(Usage, match="several cells are called a"):
        cells.find_cell((cell(1, "a"), cell(2, "a")), "a")


AT_COMMIT = (2002, 2003, 2005, 9001, 1180, 1047, 1040, 1317, 3024)
"""Errors at a commit of which nobody knows whether it happened: of a proxy whose server died, or of the server itself."""


def connecting(error: Exception) -> exc.DBAPIError:
    """The error as :func:`engines.open_database` marks it when there was no connection yet."""
    made = wrapped(error, None)
    made.add_detail("while connecting")
    return made


def wrapped(
    error: Exception,
    statement: str | None = "UPDATE x",
    *,
    lost: bool = False,
    kind: type[exc.DBAPIError] | None = None,
) -> exc.DBAPIError:
    """The error as SQLAlchemy raises it: without a statement when it happened in a commit."""
    return (kind or exc.OperationalError)(statement, {}, error, connection_invalidated=lost)


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        (connecting(pymysql.err.OperationalError(2003, "Can't connect")), CannotConnect, None),
        (connecting(pymysql.err.OperationalError(1045, "Access denied")), CannotConnect, None),
        (connecting(pymysql.err.OperationalError(1049, "Unknown database")), CannotConnect, None),
        (connecting(pymysql.err.OperationalError(2013, "Lost connection")), CannotConnect, None),
        *((wrapped(pymysql.err.OperationalError(code, "Galera")), CannotConnect, None) for code in (1047, 9001, 2003)),
        *((wrapped(pymysql.err.OperationalError(code, "x"), None), CallUncertain, None) for code in AT_COMMIT),
        (wrapped(pymysql.err.OperationalError(2013, "Lost connection"), None, lost=True), CallUncertain, None),
        (wrapped(pymysql.err.OperationalError(2013, "Lost connection"), lost=True), CallFailed, "lost"),
        (wrapped(pymysql.err.InterfaceError(0, ""), kind=exc.InterfaceError), CallFailed, "lost"),
        (wrapped(pymysql.err.OperationalError(1213, "Deadlock found")), CallFailed, "deadlock"),
        (wrapped(pymysql.err.OperationalError(1205, "Lock wait timeout")), CallFailed, "deadlock"),
        (wrapped(pymysql.err.OperationalError(1213, "WSREP conflict"), None), CallFailed, "deadlock"),
        (
            wrapped(pymysql.err.IntegrityError(1062, "Duplicate entry"), kind=exc.IntegrityError),
            CallFailed,
            "duplicate",
        ),
        (wrapped(pymysql.err.ProgrammingError(1064, "Syntax"), kind=exc.ProgrammingError), CallFailed, "1064"),
        (exc.TimeoutError("QueuePool limit"), CannotConnect, None),
        (exc.PendingRollbackError("UPDATE x"), CallFailed, "lost"),
        (exc.NoSuchTableError("instances"), CallFailed, "no-table"),
        (exc.StatementError("bad value", "UPDATE x", {}, ValueError("UPDATE x")), CallFailed, "database"),
    ],
)
def test_what_a_database_error_means(error: Exception, expected: type[Exception], kind: str | None) -> None:
    with pytest.raises(expected) as caught, engines.translate_errors("cell one"):
        raise error
    assert str(caught.value).startswith("cell one: ")
    assert "UPDATE" not in str(caught.value)
    assert getattr(caught.value, "kind", None) == kind


def test_an_error_of_the_pool_names_the_database_of_its_engine(tmp_path: Path) -> None:
    engine = engines.open_database(f"sqlite:///{tmp_path}/c.db", connect_timeout=1, name="the database of cell7")
    with (
        pytest.raises(CannotConnect, match=r"^the database of cell7: no database connection"),
        engines.translate_errors(engine),
    ):
        raise exc.TimeoutError("QueuePool limit")


def test_a_pool_without_a_free_connection_is_told_with_its_database(tmp_path: Path) -> None:
    name = "the database of cell7"
    opened = engines.open_database(f"sqlite:///{tmp_path}/c.db", connect_timeout=1, name=name)
    options = opened.get_execution_options()
    engine = create_engine(
        opened.url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01, execution_options=dict(options)
    )
    with engine.connect(), pytest.raises(CannotConnect, match=f"^{name}: no database connection became free"):
        engines.probe_database(engine)


def test_other_exceptions_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), engines.translate_errors("cell one"):
        raise ZeroDivisionError


def test_a_server_that_hangs_up_while_logging_in_counts_as_not_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mysql://user:s3cret@127.0.0.1:{server.getsockname()[1]}/nova"
        # Nobody accepts: the kernel takes the connection, and no greeting ever comes.
        with pytest.raises(CannotConnect) as caught:
            engines.probe_database(engines.open_database(url, connect_timeout=1))
    assert "2013" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://u@h/d", "mysql+mysqldb://u@h/d?plugin=dbcounter", "mariadb+mariadbconnector://u@h/d"]
)
def test_mysql_is_always_reached_with_pymysql(url: str) -> None:
    engine = engines.open_database(url, connect_timeout=1)
    assert engine.url.drivername == "mysql+pymysql"
    assert dict(engine.url.query) == {}


def test_every_transaction_of_a_mysql_server_begins_with_a_statement_that_proxies_send_to_the_writer(
    tmp_path: Path,
) -> None:
    nova = engines.open_database("mysql://u:p@h/d", connect_timeout=1)
    assert sqlalchemy.event.contains(nova, "begin", engines.begin_at_writer)
    # SQLite takes the same statement, so that the order can be seen without a server.
    engine = create_engine(f"sqlite:///{tmp_path}/cell.db")
    sqlalchemy.event.listen(engine, "begin", engines.begin_at_writer)
    said: list[str] = []
    sqlalchemy.event.listen(
        engine, "before_cursor_execute", lambda _connection, _cursor, statement, *_: said.append(statement)
    )
    for _number in range(2):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            connection.execute(text("SELECT 2"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT 3"))
    assert said == [*["BEGIN", "SELECT 1", "SELECT 2"] * 2, "SELECT 3"]


def test_sqlite_keeps_foreign_keys_as_innodb_does(tmp_path: Path) -> None:
    engine = engines.open_database(f"sqlite:///{tmp_path}/c.db", connect_timeout=1)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE child (parent INTEGER REFERENCES parent(id))"))
    with pytest.raises(CallFailed) as caught, engines.translate_errors(engine), engine.begin() as connection:
        connection.execute(text("INSERT INTO child VALUES (1)"))
    assert caught.value.kind == "foreign-key"
