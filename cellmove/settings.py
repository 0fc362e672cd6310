"""Where things are: databases, buses, credentials, the journal.

Precedence: flag, environment, ``config.toml``, ``nova.conf``, default. Read once by :func:`load`;
everything else takes the frozen :class:`Settings`. Nothing is contacted here.
"""

from __future__ import annotations

import difflib
import os
import string
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from cellmove.database_url import DatabaseLogin, with_login
from cellmove.errors import BadSetting, Usage
from cellmove.policy import Policy, read_policy
from cellmove.reference import is_uuid
from cellmove.tls_files import check_readable
from cellmove.transfer import AUTO, Ssh, read_bwlimit, read_ssh, read_transfer

Sections = dict[str, dict[str, str]]

LONGEST = 31536000.0  # seconds that anything may be set to wait

DEFAULT_NOVA_CONF = (Path("/etc/nova/nova.conf"), Path("/etc/nova/nova.conf.d"))
"""What nova's own services read when started without --config-file (those that exist)."""

CONFIG_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "nova_conf": (str, list),
    "api_database": str,
    "main_database": str,
    "database_user": str,
    "database_password": str,
    "transport_url": str,
    "control_exchange": str,
    "os_cloud": str,
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
}
"""Every key that ``config.toml`` may hold."""

ENVIRONMENT: Mapping[str, str] = {
    "nova_conf": "CELLMOVE_NOVA_CONF",
    "api_database": "CELLMOVE_API_DATABASE",
    "main_database": "CELLMOVE_MAIN_DATABASE",
    "database_user": "CELLMOVE_DATABASE_USER",
    "database_password": "CELLMOVE_DATABASE_PASSWORD",
    "transport_url": "CELLMOVE_TRANSPORT_URL",
    "os_cloud": "OS_CLOUD",
    "service_cloud": "CELLMOVE_SERVICE_CLOUD",
    "journal": "CELLMOVE_JOURNAL",
    "connect_timeout": "CELLMOVE_CONNECT_TIMEOUT",
    "disk_stores": "CELLMOVE_DISK_STORES",
    "transfer": "CELLMOVE_TRANSFER",
    "bwlimit": "CELLMOVE_BWLIMIT",
}

OLD_AUTH_NAMES: Mapping[str, tuple[str, ...]] = {
    "auth_type": ("auth_plugin",),
    "username": ("user_name",),
    "project_name": ("tenant_name",),
    "project_id": ("tenant_id",),
}
"""Names that keystoneauth still accepts in nova.conf."""

HOW_TO_SET: Mapping[str, str] = {
    "api_database_url": "[api_database]connection in nova.conf (--nova-conf), or CELLMOVE_API_DATABASE",
    "main_database_url": "[database]connection in nova.conf (--nova-conf), or CELLMOVE_MAIN_DATABASE",
    "transport_url": "[DEFAULT]transport_url in nova.conf (--nova-conf), or CELLMOVE_TRANSPORT_URL",
    "service_credential": "the section [neutron] of nova.conf (--nova-conf: auth_url, username, password), "
    "or service_cloud in config.toml",
}


@dataclass(frozen=True)
class ServiceCredential:
    """A credential with role ``service``, which neutron's port binding calls insist on.

    Either ``cloud`` names an entry of clouds.yaml and the rest is empty, or the rest is what
    keystoneauth's options in ``[neutron]`` say, under their own names.
    """

    cloud: str = ""
    auth_type: str = ""
    auth_url: str = ""
    username: str = ""
    user_id: str = ""
    password: str = field(default="", repr=False)
    project_name: str = ""
    project_id: str = ""
    user_domain_name: str = ""
    user_domain_id: str = ""
    project_domain_name: str = ""
    project_domain_id: str = ""
    default_domain_name: str = ""
    default_domain_id: str = ""
    system_scope: str = ""
    application_credential_id: str = ""
    application_credential_name: str = ""
    application_credential_secret: str = field(default="", repr=False)
    region_name: str = ""
    interfaces: tuple[str, ...] = ("internal", "public")
    endpoint_override: str = ""
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    insecure: bool = False


@dataclass(frozen=True)
class Notifications:
    """What nova is told to send: nothing, as long as no driver is set.

    Defaults are those of nova/conf/notifications.py and oslo_messaging/notify/notifier.py.

    :param driver: one that uses the bus, or empty
    :param form: ``unversioned``, ``versioned`` or ``both``
    :param url: of a bus of their own; empty: the API-level one
    """

    driver: str = ""
    form: str = "unversioned"
    topics: tuple[str, ...] = ("notifications",)
    versioned_topics: tuple[str, ...] = ("versioned_notifications",)
    url: str = field(default="", repr=False)


@dataclass(frozen=True)
class Settings:
    """Where things are. An empty string means: not configured; :func:`require` says how to."""

    nova_conf: tuple[Path, ...] = ()
    api_database_url: str = field(default="", repr=False)
    main_database_url: str = field(default="", repr=False)
    database_login: DatabaseLogin | None = None  # None: the login of each URL
    transport_url: str = field(default="", repr=False)
    control_exchange: str = "nova"
    rpc_response_timeout: float = 60.0  # seconds
    long_rpc_timeout: float = 1800.0  # seconds
    service_down_time: float = 60.0  # seconds
    default_availability_zone: str = "nova"
    cross_az_attach: bool = True  # whether a server may use volumes of another availability zone than its own
    non_inheritable_image_properties: tuple[str, ...] = ("cache_in_nova", "bittorrent")
    os_cloud: str = ""
    service_credential: ServiceCredential | None = None
    journal: str = field(default="", repr=False)  # a path, or an SQLAlchemy URL
    connect_timeout: float = 5.0  # seconds, for every database, bus and API
    patience: float = 30.0  # seconds that a call which may be repeated is tried again while nothing answers
    # Whether the cells' computes keep local disks in stores of their own: it cannot be seen from outside.
    disk_stores: str = "unknown"  # or "separate", "shared"
    disk_stores_between: Mapping[frozenset[str], str] = field(default_factory=dict)  # by pair of cells' names
    transfer: str = AUTO  # how the disks of image-backed servers travel: see cellmove.transfer
    bwlimit: int = 0  # bytes a second that are sent at most while a guest runs; 0: as fast as it goes
    ssh: Ssh | None = None  # None: hosts are never reached by ssh
    policy: Policy = field(default_factory=Policy)
    notifications: Notifications = field(default_factory=lambda: Notifications())
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
    conf = read_nova_conf(paths, environ)

    def text(name: str, section: str, key: str, default: str = "") -> str:
        chosen = choose(name)
        return str(chosen) if chosen is not None else conf.get(section, key) or default

    def seconds(name: str, section: str, key: str, default: float) -> float:
        value = text(name, section, key, str(default))
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= LONGEST:  # "nan" and "inf" are numbers as well
            raise Usage(f"{name} has to be a number of seconds above 0 and of at most a year, not {value!r}")
        return number

    service_cloud = choose("service_cloud")
    login = _database_login(choose("database_user"), choose("database_password"))
    file = config_path(environ)
    disk_stores, between = _disk_stores(choose("disk_stores"), file)
    return Settings(
        nova_conf=paths,
        api_database_url=_api_database(choose("api_database"), conf, login),
        database_login=login,
        main_database_url=text("main_database", "database", "connection"),
        transport_url=text("transport_url", "DEFAULT", "transport_url"),
        control_exchange=text("control_exchange", "DEFAULT", "control_exchange", "nova"),
        rpc_response_timeout=seconds("rpc_response_timeout", "DEFAULT", "rpc_response_timeout", 60),
        long_rpc_timeout=seconds("long_rpc_timeout", "DEFAULT", "long_rpc_timeout", 1800),
        service_down_time=seconds("service_down_time", "DEFAULT", "service_down_time", 60),
        default_availability_zone=text("default_availability_zone", "DEFAULT", "default_availability_zone", "nova"),
        cross_az_attach=_boolean(conf, "cinder", "cross_az_attach", default=True),
        non_inheritable_image_properties=conf.get_list(
            "DEFAULT",
            "non_inheritable_image_properties",
            ("cache_in_nova", "bittorrent"),
        ),
        os_cloud=str(choose("os_cloud") or ""),
        service_credential=ServiceCredential(cloud=str(service_cloud)) if service_cloud else _credential_of(conf),
        journal=_journal(choose("journal"), environ),
        connect_timeout=seconds("connect_timeout", "", "", 5),
        disk_stores=disk_stores,
        disk_stores_between=between,
        transfer=read_transfer(choose("transfer")),
        bwlimit=read_bwlimit(choose("bwlimit")),
        ssh=_ssh(config.get("ssh"), str(file)),
        policy=read_policy(config.get("policy", {}), str(file)),
        notifications=_notifications(conf),
        unreadable=unreadable,
    )


def _database_login(user: str | None, password: str | None) -> DatabaseLogin | None:
    """Return cellmove's own login at nova's databases, if one is set.

    :raises Usage: only one half of it is set
    """
    if bool(user) != bool(password):
        raise Usage("set both database_user and database_password, or neither (CELLMOVE_DATABASE_USER, _PASSWORD)")
    return DatabaseLogin(user, password) if user and password else None


def _api_database(chosen: str | None, conf: NovaConf, login: DatabaseLogin | None) -> str:
    """Return the API database's URL: the operator's as it is, or that of nova.conf with cellmove's own login."""
    return str(chosen) if chosen is not None else with_login(conf.get("api_database", "connection"), login)


def require(settings: Settings, name: str) -> Any:
    """The setting ``name``, which the command at hand cannot do without.

    :raises Usage: it is not configured; the message says where it would be looked for
    """
    value = getattr(settings, name)
    if value:
        return value
    looked = ", ".join(str(path) for path in settings.nova_conf) or "no nova.conf was found"
    message = f"{name.replace('_', ' ')} is not configured. Set {HOW_TO_SET.get(name, name)}. Read: {looked}."
    if settings.unreadable:
        message += f" Not readable by this user: {', '.join(settings.unreadable)}."
    raise Usage(message)


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


def _credential_of(conf: NovaConf) -> ServiceCredential | None:
    """nova's credential for neutron, as keystoneauth's conf loading reads it (``auth_section`` too)."""
    section = conf.get("neutron", "auth_section") or "neutron"

    def text(*keys: str) -> str:
        return next((value for key in keys if (value := conf.get(section, key))), "")

    if not text("auth_url"):
        return None
    options: dict[str, Any] = {
        option.name: text(option.name, *OLD_AUTH_NAMES.get(option.name, ()))
        for option in fields(ServiceCredential)
        if option.type == "str" and option.name != "cloud"
    }
    # What follows belongs to the adapter, which stays in [neutron] even with auth_section.
    for name in ("region_name", "endpoint_override", "cafile", "certfile", "keyfile"):
        options[name] = conf.get("neutron", name)
    return ServiceCredential(
        **{**options, "auth_type": options["auth_type"] or "password"},
        interfaces=conf.get_list("neutron", "valid_interfaces", ("internal", "public")),
        insecure=_boolean(conf, "neutron", "insecure"),
    )


def _boolean(conf: NovaConf, section: str, key: str, *, default: bool = False) -> bool:
    value = conf.get(section, key).lower()
    if not value:
        return default
    if value not in ("true", "1", "on", "yes", "false", "0", "off", "no"):  # oslo_config/types.py, Boolean
        raise Usage(f"nova.conf: [{section}]{key} is neither true nor false: {value!r}")
    return value in ("true", "1", "on", "yes")


FORMS = ("unversioned", "versioned", "both")


def _notifications(conf: NovaConf) -> Notifications:
    """[notifications] and [oslo_messaging_notifications] of nova.conf; drivers that use no bus count as none."""
    section, default = "oslo_messaging_notifications", Notifications()
    driver = conf.get(section, "driver")
    form = conf.get("notifications", "notification_format") or default.form
    if form not in FORMS:
        raise Usage(f"nova.conf: [notifications]notification_format is one of {', '.join(FORMS)}, not {form!r}")
    return Notifications(
        driver=driver if driver in ("messaging", "messagingv2") else "",
        form=form,
        topics=conf.get_list(section, "topics", default.topics),
        versioned_topics=conf.get_list("notifications", "versioned_notifications_topics", default.versioned_topics),
        url=conf.get(section, "transport_url"),
    )


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


class _Template(string.Template):
    idpattern = r"[_a-z][\._a-z0-9]*"  # oslo_config.cfg.ConfigOpts.Template


class NovaConf:
    """The options of nova.conf by section and key, by oslo.config's rules without nova's definitions.

    The line syntax is oslo.config's own parser; the rest follows ``oslo_config/cfg.py``: later files
    and lines win, section names but ``DEFAULT`` ignore case, ``$name``, ``${name}`` and
    ``$group.name`` are replaced by other options (same group first, then ``DEFAULT``), ``$$`` and
    ``\\$`` are a dollar sign, and a variable ``OS_<GROUP>__<OPTION>`` beats the files.
    """

    def __init__(self, sections: Sections, environ: Mapping[str, str]) -> None:
        self._sections = sections
        self._environ = environ

    def get(self, section: str, key: str) -> str:
        """The value with its references replaced; an empty string when it is not set.

        :raises Usage: it refers to an option that is not in the files (nova may have a default for
            that; we do not), or to itself
        """
        value = self._raw(section, key)
        return "" if value is None else self._replace(value, section, ((section, key),))

    def get_list(self, section: str, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """The comma-separated value; ``default`` when it is not set."""
        if self._raw(section, key) is None:
            return default
        return tuple(item.strip() for item in self.get(section, key).split(",") if item.strip())

    def _raw(self, section: str, key: str) -> str | None:
        variable = f"OS_{section}__{key}".upper()  # oslo_config/sources/_environment.py
        if variable in self._environ:
            return self._environ[variable]
        return self._sections.get(_normal(section), {}).get(key)

    def _replace(self, value: str, section: str, seen: tuple[tuple[str, str], ...]) -> str:
        lookup = _References(self, section, seen)
        return _Template(value.replace(r"\$", "$$")).safe_substitute(cast(Mapping[str, object], lookup))


class _References:
    """What ``safe_substitute`` looks names up in."""

    def __init__(self, conf: NovaConf, section: str, seen: tuple[tuple[str, str], ...]) -> None:
        self._conf, self._section, self._seen = conf, section, seen

    def __getitem__(self, name: str) -> str:
        group, dot, option = name.partition(".")
        candidates = [(group, option)] if dot else [(self._section, name), ("DEFAULT", name)]
        for candidate in candidates:
            value = self._conf._raw(*candidate)
            if value is None:
                continue
            if candidate in self._seen:
                break
            return self._conf._replace(value, candidate[0], (*self._seen, candidate))
        where = "[{}]{}".format(*self._seen[0])
        raise Usage(f"nova.conf: {where} refers to ${name}, which is not set in the files that were read")


def read_nova_conf(paths: Sequence[Path], environ: Mapping[str, str]) -> NovaConf:
    """Read the files in order, later ones winning.

    :raises Usage: a file cannot be read or does not parse
    """
    from oslo_config import iniparser

    sections: Sections = {}

    class Parser(iniparser.BaseParser):  # type: ignore[misc]  # has no types
        section = ""

        def new_section(self, section: str) -> None:
            self.section = section
            sections.setdefault(_normal(section), {})

        def assignment(self, key: str, value: list[str]) -> None:
            if not self.section:
                raise iniparser.ParseError("Section must be started before assignment", self.lineno, key)
            sections[_normal(self.section)][key.replace("-", "_")] = "\n".join(value)

    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            Parser().parse(lines)
        except OSError as error:
            raise Usage(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Usage(f"{path} is not UTF-8 text") from None
        except iniparser.ParseError as error:
            # Not str(error): it quotes the line, which may hold a password.
            raise Usage(f"{path}, line {error.lineno}: {error.msg}") from None
    return NovaConf(sections, environ)


def _normal(section: str) -> str:
    return section if section == "DEFAULT" else section.lower()
