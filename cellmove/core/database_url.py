"""Database URLs: what SQLAlchemy and PyMySQL are given for one, and what is wrong with one that cannot be used.

A cloud's URLs are written for nova's driver, which may be PyMySQL or mysqlclient, and name files of nova's own hosts.
PyMySQL raises a TypeError, FileNotFoundError or AttributeError for what it does not know. Everything is therefore looked at here.
"""

from __future__ import annotations

import configparser
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core import tls_files
from cellmove.core.errors import BadSetting
from cellmove.core.host_names import is_host_name
from cellmove.core.login import Login

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

IGNORED = frozenset(
    {
        "plugin",
        "compress",
        "named_pipe",
        "auth_plugin",
        "use_pure",
        "reconnect",
        "multi_statements",
        "autocommit",
        "conv",
        "cursorclass",
    }
)
"""Options of other drivers and of nova's own hosts (devstack's ``plugin=dbcounter``) that mean nothing here."""

SSL_MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")

TRUE, FALSE = ("1", "true", "yes", "on", "t", "y"), ("0", "false", "no", "off", "f", "n")

ENCODE = "in a user name or password, / : @ # ? % have to be written %2F %3A %40 %23 %3F %25"


@dataclass(frozen=True)
class Database:
    """How a database is reached.

    :param url: for SQLAlchemy, without any option
    :param options: for PyMySQL
    """

    url: URL
    options: dict[str, object] = field(repr=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"


def with_login(text: str, login: Login | None) -> str:
    """Return a database URL with another login.

    :param text: a URL of nova's; one that cannot be parsed is returned as it is, for :func:`parse` to refuse
    :param login: None leaves the URL as it is
    """
    if not text or login is None:
        return text
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        return text
    if url.get_backend_name() == "sqlite":
        return text
    return url.set(username=login.user, password=login.password).render_as_string(hide_password=False)


def with_parameters(text: str, parameters: str) -> str:
    """Return a database URL with more options in its query, as oslo.db opens it (oslo_db/sqlalchemy/engines.py, ``create_engine``).

    :param text: a URL of nova's; one that cannot be parsed is returned as it is, for :func:`parse` to refuse
    :param parameters: ``connection_parameters`` of nova.conf: ``name=value&name=value``
    """
    if not text or not parameters:
        return text
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text).update_query_string(parameters, append=True)
    except (ArgumentError, ValueError):
        return text
    return url.render_as_string(hide_password=False)


def parse(text: str) -> Database:
    """Read a database URL.

    :raises BadSetting: it cannot be used here, or a file that it names cannot
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not text:
        raise BadSetting("it is empty")
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):  # their own words quote the URL
        raise BadSetting(
            f"it cannot be parsed. It has to begin with mysql+pymysql://, its port has to be a number, and {ENCODE}"
        ) from None
    options = _options(url)
    if backend == "sqlite":
        given = {"timeout": _seconds("timeout", options["timeout"])} if "timeout" in options else {}
        return Database(url.set(query={}), dict(given))
    if backend not in ("mysql", "mariadb"):
        raise BadSetting(f"databases of the kind {backend} are not supported; nova's are MySQL or MariaDB")
    named = _read_default_file(options)
    _check_address(url, options, named)
    arguments = _tls(options, named, strict_host=url.drivername.endswith("+pymysql"))
    arguments |= {name: _PLAIN[name](name, options.pop(name)) for name in tuple(options) if name in _PLAIN}
    plugin = options.get("plugin")  # of SQLAlchemy, with options of its own; TripleO: plugin=collectd&collectd_host=…
    unknown = sorted(name for name in set(options) - IGNORED if not (plugin and name.startswith(f"{plugin}_")))
    if unknown:
        raise BadSetting(f"the option {unknown[0]} is not known; known: {', '.join(sorted({*_PLAIN, *_TLS_OPTIONS}))}")
    arguments |= _password(url)
    return Database(url.set(drivername="mysql+pymysql", query={}), arguments)


def _options(url: URL) -> dict[str, str]:
    options: dict[str, str] = {}
    if any(
        "@" in text
        for name, value in url.query.items()
        for text in (name, *([value] if isinstance(value, str) else value))
    ):
        raise BadSetting(f"it has an @ in its query; {ENCODE}")  # and may be cut in the middle of the password
    for name, value in url.query.items():
        if isinstance(value, str):
            options[name] = value
        elif len(set(value)) == 1:
            options[name] = value[0]
        else:
            raise BadSetting(f"the option {name} is given {len(value)} times, with different values")
    return options


def _check_address(url: URL, options: dict[str, str], named: dict[str, str]) -> None:
    if not url.database and "database" not in named:
        raise BadSetting("it names no database: that is what follows the host and a slash")
    if url.port is not None and not 0 < url.port < 65536:
        raise BadSetting(f"{url.port} is no port: it has to be between 1 and 65535")
    host = url.host or named.get("host") or ""
    if not host and "unix_socket" not in options and "socket" not in named:
        raise BadSetting("it names neither a host nor a unix_socket")
    # Not shown: an @ that was not encoded makes the rest of the password a part of it.
    if host and not is_host_name(host):
        raise BadSetting(f"its host is no host name; {ENCODE}")


def _password(url: URL) -> dict[str, object]:
    """PyMySQL encodes a password as latin-1, and takes bytes as they are; mysqlclient sends UTF-8."""
    password = url.password or ""
    try:
        password.encode("latin-1")
    except UnicodeEncodeError:
        return {"password": password.encode()}
    return {}


def _read_default_file(options: dict[str, str]) -> dict[str, str]:
    """What the file named by ``read_default_file`` says of the address and of TLS, by PyMySQL's names."""
    path = options.get("read_default_file")
    if path is None:
        return {}
    from pymysql.optionfile import Parser

    group = options.get("read_default_group", "client")
    parser = Parser()
    what = f"read_default_file={path}"
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise BadSetting(f"{what}: {tls_files.reason(error)}") from None
    except (ValueError, RuntimeError):  # not UTF-8; no such user
        raise BadSetting(f"{what}: it is not text that can be read") from None
    except configparser.Error as error:  # its own words quote the line
        line = getattr(error, "lineno", None) or next((number for number, _text in getattr(error, "errors", ())), 0)
        raise BadSetting(f"{what}: line {line} is not of the form NAME=VALUE in a [SECTION]") from None
    values = dict(parser.items(group)) if parser.has_section(group) else {}
    port = values.get("port")
    if port is not None:
        _number(f"{what}: port", port)
    return {name: parser.get(group, name) for name, value in values.items() if value}


def guard(engine: Engine, make: Callable[[str], Exception]) -> None:
    """Translate what the driver raises besides its own errors while it connects: it is none of SQLAlchemy's then.

    :param make: makes an exception of a few words, which hold no secret
    """
    from sqlalchemy import event

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, positional: Any, named: Any) -> Any:
        try:
            return dialect.connect(*positional, **named)
        except dialect.loaded_dbapi.Error:
            raise
        except Exception as error:  # noqa: BLE001 - its words may hold a password
            words = error.strerror if isinstance(error, OSError) else None
            raise make(f"the connection failed: {words or type(error).__name__}") from None


# --- options ---


def _boolean(name: str, value: str) -> bool:
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise BadSetting(f"{name}={value} is neither true nor false")


def _number(name: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise BadSetting(f"{name}={value} is no number")
    return number


def _seconds(name: str, value: str) -> int:
    number = _number(name, value)
    if not 0 < number <= 31536000:
        raise BadSetting(f"{name}={value} has to be a number of seconds above 0")
    return number


def _text(_name: str, value: str) -> str:
    return value


def _charset(name: str, value: str) -> str:
    from pymysql.charset import charset_by_name

    if charset_by_name(value) is None:
        raise BadSetting(f"{name}={value}: there is no such character set")
    return value


_PLAIN: dict[str, Callable[[str, str], object]] = {
    "bind_address": _text,
    "binary_prefix": _boolean,
    "charset": _charset,
    "client_flag": _number,
    "collation": _text,
    "connect_timeout": _seconds,
    "init_command": _text,
    "local_infile": _boolean,
    "max_allowed_packet": _number,
    "program_name": _text,
    "read_default_file": _text,
    "read_default_group": _text,
    "read_timeout": _seconds,
    "sql_mode": _text,
    "unix_socket": _text,
    "use_unicode": _boolean,
    "write_timeout": _seconds,
}
"""Options that PyMySQL takes, besides those about TLS."""

# --- TLS ---

_TLS_OPTIONS = (
    "ssl",
    "ssl_mode",
    "ssl_ca",
    "ssl_capath",
    "ssl_cert",
    "ssl_key",
    "ssl_key_password",
    "ssl_cipher",
    "ssl_check_hostname",
    "ssl_verify_cert",
    "ssl_verify_identity",
    "ssl_disabled",
)


def _tls(options: dict[str, str], named: dict[str, str], *, strict_host: bool) -> dict[str, object]:
    """What PyMySQL is given, for its own options, SQLAlchemy's and mysqlclient's (``ssl_mode``, MySQL's --ssl-mode).

    :param options: those about TLS are taken out
    :param named: what ``read_default_file`` says, which holds where the URL says nothing
    :param strict_host: a CA alone means that the host name is checked too, as SQLAlchemy's dialect for PyMySQL has it;
        MySQL's own clients check the CA only
    """
    given = {name: options.pop(name) for name in _TLS_OPTIONS if name in options}
    flags = {
        name: _boolean(name, given[name])
        for name in ("ssl", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity", "ssl_check_hostname")
        if name in given
    }
    mode = given.get("ssl_mode", "").upper()
    if "ssl_mode" in given and mode not in SSL_MODES:
        raise BadSetting(f"ssl_mode={given['ssl_mode']} is none of {', '.join(SSL_MODES)}")
    if flags.get("ssl_disabled") or mode == "DISABLED":
        return {"ssl_disabled": True}
    for option in ("ca", "capath", "cert", "key", "cipher"):
        if named.get(f"ssl-{option}"):
            given.setdefault(f"ssl_{option}", named[f"ssl-{option}"])
    wanted = given.keys() - {
        "ssl",
        "ssl_mode",
        "ssl_disabled",
        "ssl_verify_cert",
        "ssl_verify_identity",
        "ssl_check_hostname",
    }
    if not wanted and not any(flags.values()) and mode in ("", "PREFERRED"):
        # PyMySQL then takes TLS where the server offers it.
        return {}
    has_ca = "ssl_ca" in given or "ssl_capath" in given
    verify = flags.get("ssl_verify_cert", has_ca)
    verify = verify or mode.startswith("VERIFY") or flags.get("ssl_verify_identity", False)
    by_default = mode == "VERIFY_IDENTITY" if mode else strict_host and "ssl_verify_cert" not in flags and has_ca
    check_hostname = flags.get("ssl_check_hostname", flags.get("ssl_verify_identity", by_default))
    return {"ssl": _context(given, verify=verify, check_hostname=verify and check_hostname)}


def _context(given: dict[str, str], *, verify: bool, check_hostname: bool) -> ssl.SSLContext:
    ca, capath = (given.get(name) for name in ("ssl_ca", "ssl_capath"))
    if capath is not None and not Path(capath).is_dir():
        raise BadSetting(f"ssl_capath={capath}: there is no such directory on this machine")
    context = tls_files.loading("ssl_ca", ca, lambda: ssl.create_default_context(cafile=ca, capath=capath))
    # Certificates that MySQL makes for itself do not pass the strict check of Python 3.13.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    cert, key = given.get("ssl_cert"), given.get("ssl_key")
    if cert is not None:
        tls_files.check_readable("ssl_cert", cert)
        if key is not None:
            tls_files.check_readable("ssl_key", key)
        password = given.get("ssl_key_password", "")  # without one OpenSSL would ask for it at the terminal
        tls_files.loading("ssl_cert", cert, lambda: context.load_cert_chain(cert, key, password), tls_files.NO_PAIR)
    cipher = given.get("ssl_cipher")
    if cipher is not None:
        try:
            context.set_ciphers(cipher)
        except ssl.SSLError:
            raise BadSetting(f"ssl_cipher={cipher}: there is no such cipher") from None
    return context
