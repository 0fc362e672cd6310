"""The settings of cellmove: databases, buses, credentials, the journal.

Precedence: flag, environment, ``config.toml``, ``nova.conf``, default. :func:`load` reads them once; every other module
is given the frozen :class:`Settings`. No service is contacted here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cellmove.core import bus_login
from cellmove.core.database_url import with_login, with_parameters
from cellmove.core.errors import BadSetting, Usage
from cellmove.core.hook_settings import Hooks, read_hooks
from cellmove.core.login import Login, own_login
from cellmove.core.nova_conf import Notifications, NovaOptions, read_options
from cellmove.core.policy import Policy, read_policy
from cellmove.core.reference import is_uuid
from cellmove.core.settings_files import config_path, expanded, home_directory, nova_conf_paths, read_config
from cellmove.core.tls_files import check_readable
from cellmove.core.transfer import AUTO, Ssh, read_bwlimit, read_ssh, read_transfer

LONGEST_WAIT_SECONDS = 31536000.0
"""The largest value of a timeout: a year."""

DISK_STORES = ("separate", "shared", "unknown")

NUMBER = (int, float)


@dataclass(frozen=True)
class Setting:
    """A key of config.toml.

    :param types: the types that its value may have
    :param variable: the environment variable that goes before config.toml; empty: there is none
    """

    types: tuple[type, ...] = (str,)
    variable: str = ""


SETTINGS: Mapping[str, Setting] = {
    "nova_conf": Setting((str, list), "CELLMOVE_NOVA_CONF"),
    "api_database": Setting(variable="CELLMOVE_API_DATABASE"),
    "main_database": Setting(variable="CELLMOVE_MAIN_DATABASE"),
    "database_user": Setting(variable="CELLMOVE_DATABASE_USER"),
    "database_password": Setting(variable="CELLMOVE_DATABASE_PASSWORD"),
    "transport_url": Setting(variable="CELLMOVE_TRANSPORT_URL"),
    "bus_user": Setting(variable="CELLMOVE_BUS_USER"),
    "bus_password": Setting(variable="CELLMOVE_BUS_PASSWORD"),
    "control_exchange": Setting(),
    "os_cloud": Setting(variable="OS_CLOUD"),
    "os_region_name": Setting(variable="OS_REGION_NAME"),
    "os_interface": Setting(variable="OS_INTERFACE"),
    "os_cacert": Setting(variable="OS_CACERT"),
    "service_cloud": Setting(variable="CELLMOVE_SERVICE_CLOUD"),
    "journal": Setting(variable="CELLMOVE_JOURNAL"),
    "connect_timeout": Setting(NUMBER, "CELLMOVE_CONNECT_TIMEOUT"),
    "rpc_response_timeout": Setting(NUMBER),
    "long_rpc_timeout": Setting(NUMBER),
    "service_down_time": Setting(NUMBER),
    "default_availability_zone": Setting(),
    "disk_stores": Setting((str, dict), "CELLMOVE_DISK_STORES"),
    "transfer": Setting(variable="CELLMOVE_TRANSFER"),
    "bwlimit": Setting(variable="CELLMOVE_BWLIMIT"),
    "ssh": Setting((dict,)),
    "policy": Setting((dict,)),
    "hooks": Setting((dict,)),
}
"""Every key that ``config.toml`` may hold."""

ENVIRONMENT: Mapping[str, str] = {name: setting.variable for name, setting in SETTINGS.items() if setting.variable}
"""The environment variable of each setting that has one."""

HOW_TO_SET: Mapping[str, str] = {
    "api_database_url": "[api_database]connection in nova.conf (--nova-conf), or CELLMOVE_API_DATABASE",
    "main_database_url": "[database]connection in nova.conf (--nova-conf), or CELLMOVE_MAIN_DATABASE",
    "transport_url": "[DEFAULT]transport_url in nova.conf (--nova-conf), or CELLMOVE_TRANSPORT_URL",
    "service_login": "the section [neutron] of nova.conf (--nova-conf: auth_type, auth_url, username, password), "
    "or service_cloud in config.toml",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a run. An empty text means: not configured."""

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
    # As with openstackclient, these go before the values of clouds.yaml.
    os_region_name: str = ""
    os_interface: str = ""  # public, internal or admin
    os_cacert: str = ""
    os_system_scope: str = ""
    service_cloud: str = ""  # the entry of clouds.yaml with role service; empty: the section [neutron] of nova.conf
    journal: str = field(default="", repr=False)  # a path, or an SQLAlchemy URL
    connect_timeout: float = 5.0  # seconds, for every database, bus and API
    patience: float = 30.0  # seconds for which a repeatable call is retried while there is no answer
    # Whether the computes of each cell keep local disks in a store of their own: no API shows it.
    disk_stores: str = "unknown"  # or "separate", "shared"
    disk_stores_between: Mapping[frozenset[str], str] = field(default_factory=dict)  # by pair of cells' names
    transfer: str = AUTO  # how the disks of image-backed servers travel: see cellmove.core.transfer
    bwlimit: int = 0  # bytes a second that are sent at most while a guest runs; 0: as fast as it goes
    ssh: Ssh | None = None  # None: hosts are never reached by ssh
    policy: Policy = field(default_factory=Policy)
    hooks: Hooks = field(default_factory=Hooks)
    notifications: Notifications = field(default_factory=Notifications)
    unreadable: tuple[str, ...] = ()  # default configuration files that exist but cannot be read


@dataclass(frozen=True)
class _Sources:
    """Where a setting can be given.

    :param flags: the command line, by the names of :data:`SETTINGS`; None: the flag was not given
    :param config: the content of config.toml
    """

    flags: Mapping[str, str | None]
    environ: Mapping[str, str]
    config: Mapping[str, object]

    def chosen(self, name: str) -> object:
        """Return the value of the first source that has one; None when none has."""
        variable = SETTINGS[name].variable
        return self.flags.get(name) or (self.environ.get(variable) if variable else None) or self.config.get(name)

    def text(self, name: str, default: str = "") -> str:
        """Return a value as text."""
        chosen = self.chosen(name)
        return default if chosen is None else str(chosen)

    def seconds(self, name: str, default: float) -> float:
        """Return a value as a number of seconds.

        :raises Usage: it is none, or not between 0 and a year
        """
        text = self.text(name, str(default))
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= LONGEST_WAIT_SECONDS:  # "nan" and "inf" are numbers, too
            raise Usage(f"{name} has to be a number of seconds above 0 and of at most a year, not {text!r}")
        return number


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Gather the settings.

    :param flags: the command line, by the names of :data:`SETTINGS`; None: the flag was not given
    :param environ: the environment, normally ``os.environ``
    :raises Usage: a named file cannot be read, does not parse or holds an unknown key, or a value cannot be used
    """
    config = read_config(environ, {name: setting.types for name, setting in SETTINGS.items()})
    sources = _Sources(flags, environ, config)
    file = config_path(environ)
    paths, unreadable = nova_conf_paths(sources.chosen("nova_conf"))
    nova = read_options(paths, environ)
    database_login = own_login("database", sources.text("database_user"), sources.text("database_password"))
    own_bus_login = own_login("bus", sources.text("bus_user"), sources.text("bus_password"))
    disk_stores, between = _disk_stores(sources.chosen("disk_stores"), file)
    return Settings(
        nova_conf=paths,
        api_database_url=sources.text("api_database", _with_parameters(nova, database_login)),
        database_login=database_login,
        cell_database_parameters=nova.main_database_parameters,
        main_database_url=sources.text("main_database", nova.main_database_url),
        transport_url=sources.text("transport_url", bus_login.with_login(nova.transport_url, own_bus_login)),
        bus_login=own_bus_login,
        control_exchange=sources.text("control_exchange", nova.control_exchange),
        rpc_response_timeout=sources.seconds("rpc_response_timeout", nova.rpc_response_timeout),
        long_rpc_timeout=sources.seconds("long_rpc_timeout", nova.long_rpc_timeout),
        service_down_time=sources.seconds("service_down_time", nova.service_down_time),
        default_availability_zone=sources.text("default_availability_zone", nova.default_availability_zone),
        cross_az_attach=nova.cross_az_attach,
        non_inheritable_image_properties=nova.non_inheritable_image_properties,
        os_cloud=sources.text("os_cloud"),
        os_region_name=sources.text("os_region_name"),
        os_interface=sources.text("os_interface"),
        os_cacert=sources.text("os_cacert"),
        os_system_scope=environ.get("OS_SYSTEM_SCOPE", ""),
        service_cloud=sources.text("service_cloud"),
        journal=_journal(sources.text("journal"), environ),
        connect_timeout=sources.seconds("connect_timeout", 5),
        disk_stores=disk_stores,
        disk_stores_between=between,
        transfer=read_transfer(sources.text("transfer")),
        bwlimit=read_bwlimit(sources.text("bwlimit")),
        ssh=_ssh(config.get("ssh"), str(file)),
        policy=read_policy(config.get("policy"), str(file)),
        hooks=read_hooks(config.get("hooks"), str(file)),
        notifications=replace(nova.notifications, url=bus_login.with_login(nova.notifications.url, own_bus_login)),
        unreadable=unreadable,
    )


def _with_parameters(nova: NovaOptions, login: Login | None) -> str:
    """Return the URL of nova's API database with the parameters and the login that it is opened with."""
    return with_login(with_parameters(nova.api_database_url, nova.api_database_parameters), login)


def require(settings: Settings, name: str) -> str:
    """Return a text of the settings that the current command needs.

    :param name: the field of :class:`Settings`
    :raises Usage: it is not configured; the message says how to set it
    """
    value = getattr(settings, name)
    if not value:
        raise not_configured(settings, name)
    return str(value)


def not_configured(settings: Settings, name: str) -> Usage:
    """Return the error for a setting that is missing.

    :param name: a key of :data:`HOW_TO_SET`, or a field of :class:`Settings`
    """
    looked = ", ".join(str(path) for path in settings.nova_conf) or "no nova.conf was found"
    message = f"{name.replace('_', ' ')} is not configured. Set {HOW_TO_SET.get(name, name)}. Read: {looked}."
    if settings.unreadable:
        message += f" Not readable by this user: {', '.join(settings.unreadable)}."
    return Usage(message)


def _disk_stores(chosen: object, file: Path) -> tuple[str, dict[frozenset[str], str]]:
    """Read the setting ``disk_stores``.

    :param chosen: a word, or a table of words by "CELL CELL" and ``default``
    :returns: the word for all cells, and the words for pairs of cells
    :raises Usage: it is neither
    """
    table: dict[str, str] = chosen if isinstance(chosen, dict) else {"default": str(chosen or "unknown")}
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
    """Return the setting ``disk_stores`` of two cells.

    :param cell: the words that mean the cell, its UUID first; ``other`` likewise
    """
    pairs = (frozenset((one, two)) for one in cell for two in other)
    known = (settings.disk_stores_between[pair] for pair in pairs if pair in settings.disk_stores_between)
    return next(known, settings.disk_stores)


def _ssh(value: object, file: str) -> Ssh | None:
    """Read the table ``[ssh]``, and check that the file it names can be read."""
    ssh = read_ssh(value, file)
    if ssh is not None and ssh.config is not None:
        try:
            check_readable(f"{file}: ssh.config", str(ssh.config))
        except BadSetting as error:
            raise Usage(str(error)) from None
    return ssh


def _journal(chosen: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the journal, or its absolute path."""
    if chosen and "://" in chosen:
        return chosen
    if chosen:
        return str(expanded(chosen, "journal (--journal, CELLMOVE_JOURNAL)").absolute())
    base = environ.get("XDG_STATE_HOME")
    state = Path(base) if base else home_directory(environ) / ".local" / "state"
    return str(state / "cellmove" / "journal.db")
