"""Where things are: databases, buses, credentials, the journal.

Precedence: flag, environment, ``config.toml``, ``nova.conf``, default. Read once by :func:`load`;
everything else takes the frozen :class:`Settings`. Nothing is contacted here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellmove.core import bus_login
from cellmove.core.database_url import with_login, with_parameters
from cellmove.core.errors import BadSetting, Usage
from cellmove.core.hook_settings import Hooks, read_hooks
from cellmove.core.login import Login, own_login
from cellmove.core.nova_conf import Notifications, NovaOptions, read_options
from cellmove.core.policy import Policy, read_policy
from cellmove.core.reference import is_uuid
from cellmove.core.tls_files import check_readable
from cellmove.core.transfer import AUTO, Ssh, read_bwlimit, read_ssh, read_transfer

LONGEST = 31536000.0  # seconds that anything may be set to wait

DEFAULT_NOVA_CONF = tuple(
    Path("/etc/nova") / name for name in ("nova.conf", "nova-conductor.conf", "nova.conf.d", "nova-conductor.conf.d")
)
"""What nova-conductor reads when started without --config-file (those that exist; oslo_config/cfg.py, ``find_config_files``)."""

CONFIG_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "nova_conf": (str, list),
    "api_database": str,
    "main_database": str,
    "database_user": str,
    "database_password": str,
    "transport_url": str,
    "bus_user": str,
    "bus_password": str,
    "control_exchange": str,
    "os_cloud": str,
    "os_region_name": str,
    "os_interface": str,
    "os_cacert": str,
    "service_cloud": str,
    "journal": str,
    "connect_timeout": (int, float),
    "rpc_response_timeout": (int, float),
    "long_rpc_timeout": (int, float),
    "service_down_time": (int, float),
    "default_availability_zone": str,
    "disk_stores": (str, dict),
    "transfer": str,
    "bwlimit": str,
    "ssh": dict,
    "policy": dict,
    "hooks": dict,
}
"""Every key that ``config.toml`` may hold."""

ENVIRONMENT: Mapping[str, str] = {
    "nova_conf": "CELLMOVE_NOVA_CONF",
    "api_database": "CELLMOVE_API_DATABASE",
    "main_database": "CELLMOVE_MAIN_DATABASE",
    "database_user": "CELLMOVE_DATABASE_USER",
    "database_password": "CELLMOVE_DATABASE_PASSWORD",
    "transport_url": "CELLMOVE_TRANSPORT_URL",
    "bus_user": "CELLMOVE_BUS_USER",
    "bus_password": "CELLMOVE_BUS_PASSWORD",
    "os_cloud": "OS_CLOUD",
    "os_region_name": "OS_REGION_NAME",
    "os_interface": "OS_INTERFACE",
    "os_cacert": "OS_CACERT",
    "service_cloud": "CELLMOVE_SERVICE_CLOUD",
    "journal": "CELLMOVE_JOURNAL",
    "connect_timeout": "CELLMOVE_CONNECT_TIMEOUT",
    "disk_stores": "CELLMOVE_DISK_STORES",
    "transfer": "CELLMOVE_TRANSFER",
    "bwlimit": "CELLMOVE_BWLIMIT",
}

HOW_TO_SET: Mapping[str, str] = {
    "api_database_url": "[api_database]connection in nova.conf (--nova-conf), or CELLMOVE_API_DATABASE",
    "main_database_url": "[database]connection in nova.conf (--nova-conf), or CELLMOVE_MAIN_DATABASE",
    "transport_url": "[DEFAULT]transport_url in nova.conf (--nova-conf), or CELLMOVE_TRANSPORT_URL",
    "service_login": "the section [neutron] of nova.conf (--nova-conf: auth_type, auth_url, username, password), "
    "or service_cloud in config.toml",
}


@dataclass(frozen=True)
class Settings:
    """Where things are. An empty string means: not configured; :func:`require` says how to."""

    nova_conf: tuple[Path, ...] = ()
    api_database_url: str = field(default="", repr=False)
    main_database_url: str = field(default="", repr=False)
    database_login: Login | None = None  # None: the login of each URL
    cell_database_parameters: str = field(default="", repr=False)  # appended to the URL of every cell's database
    transport_url: str = field(default="", repr=False)
    bus_login: Login | None = None  # None: the login of each URL
    control_exchange: str = "nova"
    rpc_response_timeout: float = 60.0  # seconds
    long_rpc_timeout: float = 1800.0  # seconds
    service_down_time: float = 60.0  # seconds
    default_availability_zone: str = "nova"
    cross_az_attach: bool = True  # whether a server may use volumes of another availability zone than its own
    non_inheritable_image_properties: tuple[str, ...] = ("cache_in_nova", "bittorrent")
    os_cloud: str = ""
    # As with openstackclient these go before what clouds.yaml says of a cloud.
    os_region_name: str = ""
    os_interface: str = ""  # public, internal or admin
    os_cacert: str = ""
    os_system_scope: str = ""
    service_cloud: str = ""  # the entry of clouds.yaml with role service; empty: the section [neutron] of nova.conf
    journal: str = field(default="", repr=False)  # a path, or an SQLAlchemy URL
    connect_timeout: float = 5.0  # seconds, for every database, bus and API
    patience: float = 30.0  # seconds that a call which may be repeated is tried again while nothing answers
    # Whether the cells' computes keep local disks in stores of their own: it cannot be seen from outside.
    disk_stores: str = "unknown"  # or "separate", "shared"
    disk_stores_between: Mapping[frozenset[str], str] = field(default_factory=dict)  # by pair of cells' names
    transfer: str = AUTO  # how the disks of image-backed servers travel: see cellmove.core.transfer
    bwlimit: int = 0  # bytes a second that are sent at most while a guest runs; 0: as fast as it goes
    ssh: Ssh | None = None  # None: hosts are never reached by ssh
    policy: Policy = field(default_factory=Policy)
    hooks: Hooks = field(default_factory=Hooks)
    notifications: Notifications = field(default_factory=Notifications)
    unreadable: tuple[str, ...] = ()  # default configuration files that exist but cannot be read


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Gather the settings.

    :param flags: what the command line says, by the names of :data:`CONFIG_KEYS` (None: not given)
    :param environ: the environment, normally ``os.environ``
    :raises Usage: a file that was named cannot be read, does not parse or holds an unknown key
    """
    config = _read_config(environ)

    def choose(name: str) -> Any:
        """The value from flag, environment or config.toml; None when none of them has it."""
        if flags.get(name):
            return flags[name]
        variable = ENVIRONMENT.get(name)
        if variable and environ.get(variable):
            return environ[variable]
        return config.get(name)

    paths, unreadable = _nova_conf_paths(choose("nova_conf"), environ)
    nova = read_options(paths, environ)

    def text(name: str, default: str) -> str:
        chosen = choose(name)
        return str(chosen) if chosen is not None else default

    def seconds(name: str, default: float) -> float:
        value = text(name, str(default))
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= LONGEST:  # "nan" and "inf" are numbers as well
            raise Usage(f"{name} has to be a number of seconds above 0 and of at most a year, not {value!r}")
        return number

    login = own_login("database", choose("database_user"), choose("database_password"))
    own = own_login("bus", choose("bus_user"), choose("bus_password"))
    notification_url = bus_login.with_login(nova.notifications.url, own)
    file = config_path(environ)
    disk_stores, between = _disk_stores(choose("disk_stores"), file)
    return Settings(
        nova_conf=paths,
        api_database_url=_api_database(choose("api_database"), nova, login),
        database_login=login,
        cell_database_parameters=nova.main_database_parameters,
        main_database_url=text("main_database", nova.main_database_url),
        transport_url=text("transport_url", bus_login.with_login(nova.transport_url, own)),
        bus_login=own,
        control_exchange=text("control_exchange", nova.control_exchange),
        rpc_response_timeout=seconds("rpc_response_timeout", nova.rpc_response_timeout),
        long_rpc_timeout=seconds("long_rpc_timeout", nova.long_rpc_timeout),
        service_down_time=seconds("service_down_time", nova.service_down_time),
        default_availability_zone=text("default_availability_zone", nova.default_availability_zone),
        cross_az_attach=nova.cross_az_attach,
        non_inheritable_image_properties=nova.non_inheritable_image_properties,
        os_cloud=str(choose("os_cloud") or ""),
        os_region_name=str(choose("os_region_name") or ""),
        os_interface=str(choose("os_interface") or ""),
        os_cacert=str(choose("os_cacert") or ""),
        os_system_scope=environ.get("OS_SYSTEM_SCOPE", ""),
        service_cloud=str(choose("service_cloud") or ""),
        journal=_journal(choose("journal"), environ),
        connect_timeout=seconds("connect_timeout", 5),
        disk_stores=disk_stores,
        disk_stores_between=between,
        transfer=read_transfer(choose("transfer")),
        bwlimit=read_bwlimit(choose("bwlimit")),
        ssh=_ssh(config.get("ssh"), str(file)),
        policy=read_policy(config.get("policy", {}), str(file)),
        hooks=read_hooks(config.get("hooks", {}), str(file)),
        notifications=replace(nova.notifications, url=notification_url),
        unreadable=unreadable,
    )


def _api_database(chosen: str | None, nova: NovaOptions, login: Login | None) -> str:
    """Return the API database's URL: the operator's as it is, or that of nova.conf with cellmove's own login."""
    if chosen is not None:
        return str(chosen)
    return with_login(with_parameters(nova.api_database_url, nova.api_database_parameters), login)


def require(settings: Settings, name: str) -> Any:
    """The setting ``name``, which the command at hand cannot do without.

    :raises Usage: it is not configured; the message says where it would be looked for
    """
    value = getattr(settings, name)
    if value:
        return value
    raise not_configured(settings, name)


def not_configured(settings: Settings, name: str) -> Usage:
    """The error that says how to set what is missing.

    :param name: one of :data:`HOW_TO_SET`, or of a setting
    """
    looked = ", ".join(str(path) for path in settings.nova_conf) or "no nova.conf was found"
    message = f"{name.replace('_', ' ')} is not configured. Set {HOW_TO_SET.get(name, name)}. Read: {looked}."
    if settings.unreadable:
        message += f" Not readable by this user: {', '.join(settings.unreadable)}."
    return Usage(message)


def config_path(environ: Mapping[str, str]) -> Path:
    """Where cellmove's own configuration file is looked for."""
    if environ.get("CELLMOVE_CONFIG"):
        return expanded(environ["CELLMOVE_CONFIG"], "CELLMOVE_CONFIG")
    base = environ.get("XDG_CONFIG_HOME")
    return expanded(f"{base or _home(environ) / '.config'}/cellmove/config.toml", "XDG_CONFIG_HOME")


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else expanded("~", "HOME is not set")


def expanded(path: str, setting: str) -> Path:
    """A path with the home directory that it may begin with.

    :param setting: where it is set, for the message
    :raises Usage: there is no such user, or it can be no path
    """
    if "\0" in path:
        raise Usage(f"{setting}: a path has no NUL character in it")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise Usage(f"{setting}: {path}: there is no such user, or the home directory is not known") from None


def _read_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """The content of config.toml (empty when the default one does not exist)."""
    path = config_path(environ)
    try:
        with path.open("rb") as file:
            config = tomllib.load(file)
    except FileNotFoundError:
        if environ.get("CELLMOVE_CONFIG"):
            raise Usage(f"{path}, named by CELLMOVE_CONFIG, does not exist") from None
        return {}
    except OSError as error:
        raise Usage(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{path} is not valid TOML: {error}") from None
    for key, value in config.items():
        expected = CONFIG_KEYS.get(key)
        if expected is None:
            close = difflib.get_close_matches(key, CONFIG_KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(CONFIG_KEYS)}"
            raise Usage(f"{path}: unknown key {key!r}; {hint}")
        if not isinstance(value, expected) or isinstance(value, bool):
            raise Usage(f"{path}: {key} has a value of the wrong type ({type(value).__name__})")
    return config


DISK_STORES = ("separate", "shared", "unknown")


def _disk_stores(chosen: Any, file: Path) -> tuple[str, dict[frozenset[str], str]]:
    """What is said of all cells, and of pairs of cells by their names.

    :param chosen: a word, or a table of words by "CELL CELL" (and ``default``)
    :raises Usage: it is neither
    """
    table = chosen if isinstance(chosen, dict) else {"default": chosen or "unknown"}
    between: dict[frozenset[str], str] = {}
    for key, value in table.items():
        if value not in DISK_STORES:
            raise Usage(f"disk_stores is either separate or shared, not {value!r}")
        pair = frozenset(word.lower() if is_uuid(word) else word for word in key.split())
        if key != "default" and len(pair) != 2:
            raise Usage(
                f'{file}: disk_stores: {key!r} has to name two cells (by UUID where a name has spaces): "cell1 cell2" = "separate"'
            )
        if key != "default":
            between[pair] = value
    return table.get("default", "unknown"), between


def disk_store_between(settings: Settings, cell: Collection[str], other: Collection[str]) -> str:
    """Whether the computes of two cells share a store for local disks, as far as was said.

    :param cell: the words that mean the cell, its UUID first; ``other`` likewise
    """
    pairs = (frozenset((one, two)) for one in cell for two in other)
    said = (settings.disk_stores_between[pair] for pair in pairs if pair in settings.disk_stores_between)
    return next(said, settings.disk_stores)


def _nova_conf_paths(
    chosen: str | list[str] | None, environ: Mapping[str, str]
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files to read as nova.conf, later ones winning, and default ones that may not be read.

    A directory stands for the ``*.conf`` in it, in order of their names, as with oslo.config's
    ``--config-dir``.
    """
    if chosen:
        names = chosen if isinstance(chosen, list) else chosen.split(":")
        if not all(isinstance(name, str) for name in names):
            raise Usage("nova_conf has to be a path or a list of paths")
        named = [expanded(name, "nova_conf (--nova-conf, CELLMOVE_NOVA_CONF)") for name in names if name]
        for path in named:
            if not os.access(path, os.R_OK):
                why = "cannot be read by this user" if path.exists() else "does not exist"
                raise Usage(f"{path} {why}; name nova's configuration with --nova-conf or CELLMOVE_NOVA_CONF")
        return _expand(named), ()
    present = [path for path in DEFAULT_NOVA_CONF if _exists(path)]
    readable = [path for path in present if os.access(path, os.R_OK)]
    return _expand(readable), tuple(str(path) for path in present if path not in readable)


def _exists(path: Path) -> bool:
    """Whether it is there; one in a directory we may not look into counts as there."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _expand(paths: list[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for path in paths:
        try:
            found.extend(sorted(path.glob("*.conf")) if path.is_dir() else [path])
        except OSError as error:
            raise Usage(f"{path} cannot be read: {error.strerror}") from None
    return tuple(found)


def _ssh(table: Mapping[str, Any] | None, file: str) -> Ssh | None:
    """The table ``[ssh]``; its file has to be there."""
    ssh = read_ssh(table, file)
    if ssh is not None and ssh.config is not None:
        try:
            check_readable(f"{file}: ssh.config", str(ssh.config))
        except BadSetting as error:
            raise Usage(str(error)) from None
    return ssh


def _journal(chosen: str | None, environ: Mapping[str, str]) -> str:
    """The journal's path (made absolute, so that it means the same from everywhere) or its URL."""
    if chosen and "://" in chosen:
        return chosen
    if chosen:
        return str(expanded(chosen, "journal (--journal, CELLMOVE_JOURNAL)").absolute())
    base = environ.get("XDG_STATE_HOME")
    state = Path(base) if base else _home(environ) / ".local" / "state"
    return str(state / "cellmove" / "journal.db")
