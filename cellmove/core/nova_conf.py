"""nova.conf, read by oslo.config with nova's own definitions of the options that cellmove needs.

oslo.config is imported as late as possible: commands that print help do without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import BadSetting, Usage

if TYPE_CHECKING:
    from keystoneauth1.session import Session
    from oslo_config.cfg import ConfigOpts

DEFAULT = "DEFAULT"
NEUTRON = "neutron"
NOTIFICATION_FORMATS = ("unversioned", "versioned", "both")
BUS_DRIVERS = ("messaging", "messagingv2")
SESSION_OPTIONS = ("cafile", "certfile", "keyfile", "insecure", "timeout")


@dataclass(frozen=True)
class Assignment:
    """The last assignment of an option in the files.

    :param value: as it stands there; may be a secret
    """

    path: Path
    value: str = field(repr=False)


Assignments = Mapping[tuple[str, str], Assignment]
"""By section and option."""


@dataclass(frozen=True)
class NovaConf:
    """An open nova.conf.

    :param conf: oslo.config's, with nova's options registered
    """

    conf: ConfigOpts
    assignments: Assignments = field(repr=False)


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
class NovaOptions:
    """What nova.conf says of the things that cellmove needs. An empty string means: not set. Timeouts are in seconds.

    :param api_database_parameters: options that oslo.db appends to the URL of the API database
    :param main_database_parameters: options that oslo.db appends to ``main_database_url`` and to the URL of every cell
    """

    api_database_url: str = field(default="", repr=False)
    api_database_parameters: str = field(default="", repr=False)
    main_database_url: str = field(default="", repr=False)
    main_database_parameters: str = field(default="", repr=False)
    transport_url: str = field(default="", repr=False)
    control_exchange: str = "nova"
    rpc_response_timeout: int = 60
    long_rpc_timeout: int = 1800
    service_down_time: int = 60
    default_availability_zone: str = "nova"
    cross_az_attach: bool = True
    non_inheritable_image_properties: tuple[str, ...] = ("cache_in_nova", "bittorrent")
    notifications: Notifications = field(default_factory=Notifications)


@dataclass(frozen=True)
class ServiceLogin:
    """nova's login for neutron, as keystoneauth loads it from ``[neutron]``.

    :param interfaces: in order of preference
    :param endpoint_override: empty: the catalog decides
    """

    session: Session
    region_name: str
    interfaces: tuple[str, ...]
    endpoint_override: str


def read_options(paths: Sequence[Path], environ: Mapping[str, str]) -> NovaOptions:
    """Read what cellmove needs of nova.conf.

    :param environ: the environment; oslo.config itself looks at the one of the process
    :raises Usage: a file, or a value in it, cannot be read
    """
    if not paths and not any(name.startswith("OS_") and "__" in name for name in environ):
        return NovaOptions()  # without oslo.config, whose import takes a tenth of a second
    opened = open_nova_conf(paths)
    register_references(opened.conf, opened.assignments)

    def option(name: str, section: str = DEFAULT) -> Any:
        return value(opened, section, name)

    return NovaOptions(
        api_database_url=option("connection", "api_database") or "",
        api_database_parameters=option("connection_parameters", "api_database"),
        main_database_url=option("connection", "database") or "",
        main_database_parameters=option("connection_parameters", "database"),
        transport_url=option("transport_url") or "",
        control_exchange=option("control_exchange"),
        rpc_response_timeout=option("rpc_response_timeout"),
        long_rpc_timeout=option("long_rpc_timeout"),
        service_down_time=option("service_down_time"),
        default_availability_zone=option("default_availability_zone"),
        cross_az_attach=option("cross_az_attach", "cinder"),
        non_inheritable_image_properties=tuple(option("non_inheritable_image_properties")),
        notifications=_notifications(opened),
    )


def _notifications(opened: NovaConf) -> Notifications:
    """What is to be sent over the bus; drivers that use no bus count as none."""
    section = "oslo_messaging_notifications"
    drivers = [name for name in value(opened, section, "driver") if name in BUS_DRIVERS]
    return Notifications(
        driver=drivers[-1] if drivers else "",
        form=value(opened, "notifications", "notification_format"),
        topics=tuple(value(opened, section, "topics")),
        versioned_topics=tuple(value(opened, "notifications", "versioned_notifications_topics")),
        url=value(opened, section, "transport_url") or "",
    )


def open_nova_conf(paths: Sequence[Path]) -> NovaConf:
    """Read the files in order, later ones winning. A variable ``OS_<GROUP>__<OPTION>`` of the environment beats them.

    :raises Usage: a file cannot be read or parsed
    """
    from oslo_config import cfg

    conf = cfg.ConfigOpts()
    _register(conf)
    assignments = load(conf, paths)
    if (DEFAULT, "my_ip") not in assignments and any("my_" in found.value for found in assignments.values()):
        from oslo_utils import netutils

        conf.set_default("my_ip", netutils.get_my_ipv4())
    return NovaConf(conf, assignments)


def load(conf: ConfigOpts, paths: Sequence[Path]) -> Assignments:
    """Let oslo.config read the files. :func:`register_references` comes later, when all other options are registered.

    :returns: what the files assign
    :raises Usage: a file cannot be read or parsed; the message names file and line, and does not quote it
    """
    assignments = _scan(paths)
    files = [str(path) for path in paths]
    # Its warnings of deprecated names would be printed between our own lines.
    logging.getLogger("oslo_config").addHandler(logging.NullHandler())
    logging.getLogger("oslo_config").propagate = False
    try:
        conf([], project="nova", default_config_files=files, default_config_dirs=[])
    except Exception as error:  # noqa: BLE001 - several kinds; their words may quote a line, which may hold a password
        raise Usage(f"oslo.config cannot read {', '.join(files)}: {type(error).__name__}") from None
    return assignments


def _scan(paths: Sequence[Path]) -> dict[tuple[str, str], Assignment]:
    """The assignments of files, by oslo.config's own parser. It tells which line is wrong, which ``ConfigOpts`` does not.

    :raises Usage: a file cannot be read or parsed
    """
    from oslo_config import iniparser

    found: dict[tuple[str, str], Assignment] = {}

    class Parser(iniparser.BaseParser):  # type: ignore[misc]  # has no types
        section = ""
        path = Path()

        def new_section(self, section: str) -> None:
            self.section = section if section == DEFAULT else section.lower()

        def assignment(self, key: str, value: list[str]) -> None:
            if not self.section:
                raise iniparser.ParseError("Section must be started before assignment", self.lineno, key)
            found[self.section, key.replace("-", "_")] = Assignment(self.path, "\n".join(value))

    for path in paths:
        parser = Parser()
        parser.path = path
        try:
            parser.parse(path.read_text(encoding="utf-8").splitlines(keepends=True))
        except OSError as error:
            raise Usage(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Usage(f"{path} is not UTF-8 text") from None
        except iniparser.ParseError as error:  # its str() quotes the line
            raise Usage(f"{path}, line {error.lineno}: {error.msg}") from None
    return found


def register_references(conf: ConfigOpts, assignments: Assignments) -> None:
    """Register the options that values of others refer to, as ``$my_ip`` or ``${section.option}``.

    nova has registered all of its options; here those that are only referred to are texts.
    """
    from oslo_config import cfg

    for (section, _option), assignment in assignments.items():
        for reference in _references(assignment.value):
            for place in _places(reference, section):
                if place in assignments and not _is_registered(conf, *place):
                    conf.register_opt(cfg.StrOpt(place[1]), group=None if place[0] == DEFAULT else place[0])


def _references(value: str) -> Iterator[str]:
    """The names of the options that a value refers to (oslo_config/cfg.py, ``ConfigOpts._substitute``)."""
    if "$" in value:
        from oslo_config import cfg

        for match in cfg.ConfigOpts.Template.pattern.finditer(value.replace(r"\$", "$$")):
            if name := match["named"] or match["braced"]:
                yield name


def _places(reference: str, section: str) -> tuple[tuple[str, str], ...]:
    """Where oslo.config looks for an option that is referred to in a section."""
    group, dot, option = reference.partition(".")
    return (
        ((group if group == DEFAULT else group.lower(), option),)
        if dot
        else ((section, reference), (DEFAULT, reference))
    )


def _is_registered(conf: ConfigOpts, section: str, option: str) -> bool:
    if section == DEFAULT:
        return option in conf
    return section in conf and option in conf[section]


def _register(conf: ConfigOpts) -> None:
    """Register the options that cellmove reads, as nova does.

    Sources: nova/conf (netconf.py, rpc.py, service.py, availability_zone.py, compute.py, cinder.py, notifications.py),
    oslo_db/options.py, oslo_messaging (rpc/client.py, notify/notifier.py, transport.py). Deprecated names are those of all
    releases since Ussuri.
    """
    import socket

    from oslo_config import cfg

    def old(*names: tuple[str, str]) -> list[Any]:
        return [cfg.DeprecatedOpt(name, group=section) for section, name in names]

    conf.register_opts(
        [
            cfg.StrOpt("transport_url", secret=True),
            cfg.StrOpt("control_exchange", default="nova"),
            cfg.IntOpt("rpc_response_timeout", default=60),
            cfg.IntOpt("long_rpc_timeout", default=1800),
            cfg.IntOpt("service_down_time", default=60),
            cfg.StrOpt("default_availability_zone", default="nova"),
            cfg.ListOpt("non_inheritable_image_properties", default=["cache_in_nova", "bittorrent"]),
            cfg.StrOpt("my_ip"),
            cfg.StrOpt("my_block_storage_ip", default="$my_ip"),
            cfg.StrOpt("host", default=socket.gethostname()),
        ]
    )
    parameters = cfg.StrOpt("connection_parameters", default="", secret=True)
    conf.register_opts([cfg.StrOpt("connection", secret=True), parameters], group="api_database")
    names = old((DEFAULT, "sql_connection"), ("DATABASE", "sql_connection"), ("sql", "connection"))
    conf.register_opts([cfg.StrOpt("connection", secret=True, deprecated_opts=names), parameters], group="database")
    conf.register_opt(cfg.BoolOpt("cross_az_attach", default=True), group="cinder")
    conf.register_opts(
        [
            cfg.StrOpt(
                "notification_format",
                default="unversioned",
                choices=NOTIFICATION_FORMATS,
                deprecated_opts=old((DEFAULT, "notification_format")),
            ),
            cfg.ListOpt("versioned_notifications_topics", default=["versioned_notifications"]),
        ],
        group="notifications",
    )
    conf.register_opts(
        [
            cfg.MultiStrOpt("driver", default=[], deprecated_opts=old((DEFAULT, "notification_driver"))),
            cfg.ListOpt(
                "topics",
                default=["notifications"],
                deprecated_opts=old(("rpc_notifier2", "topics"), (DEFAULT, "notification_topics")),
            ),
            cfg.StrOpt("transport_url", secret=True, deprecated_opts=old((DEFAULT, "notification_transport_url"))),
        ],
        group="oslo_messaging_notifications",
    )


def value(opened: NovaConf, section: str, option: str) -> Any:
    """The value of an option, its references replaced; of the type that nova gives it.

    :raises Usage: it is of another type, or refers to an option that is not set; the message names file, section and option
    """
    from oslo_config import cfg

    conf = opened.conf
    try:
        return conf[option] if section == DEFAULT else conf[section][option]
    except (cfg.ConfigFileValueError, cfg.ConfigSourceValueError, ValueError) as error:
        words = str(error).rpartition("is not valid: ")[2].splitlines()
        raise Usage(
            f"{_where(opened, section, option)} has a value that cannot be used: {''.join(words[:1])}"
        ) from None
    except (cfg.Error, KeyError, RecursionError):  # their words may quote a part of a password with a dollar sign in it
        raise Usage(
            f"{_where(opened, section, option)} refers to an option that is not set in the files that were read, or to "
            "itself; a dollar sign that stands for itself is written $$"
        ) from None


def _where(opened: NovaConf, section: str, option: str) -> str:
    """The file, section and name under which an option is set."""
    group = opened.conf if section == DEFAULT else opened.conf[section]
    known = (group._opts if section == DEFAULT else group._group._opts)[option]["opt"]
    names = [(section, option), *((old.group or section, old.name) for old in known.deprecated_opts)]
    for place in names:
        normal = place[0] if place[0] == DEFAULT else place[0].lower(), place[1]
        if normal in opened.assignments:
            return f"{opened.assignments[normal].path}: [{place[0]}]{place[1]}"
    return f"nova.conf: [{section}]{option}"


def service_login(paths: Sequence[Path]) -> ServiceLogin | None:
    """nova's login for neutron (nova/network/neutron.py, ``_load_auth_plugin`` and ``get_client``).

    Nothing is sent.

    :returns: None when ``[neutron]`` (or the section that its ``auth_section`` names) has no ``auth_type``
    :raises Usage: a file, or a value in it, cannot be read
    :raises BadSetting: the login is not complete
    :raises Exception: what keystoneauth raises for options that its plug-in does not take
    """
    from keystoneauth1 import loading
    from oslo_config import cfg

    opened = open_nova_conf(paths)
    conf = opened.conf
    loading.register_session_conf_options(conf, NEUTRON)
    adapter_options = loading.get_adapter_conf_options(include_deprecated=False)
    cfg.set_defaults(adapter_options, valid_interfaces=["internal", "public"], service_type="network")
    conf.register_opts(adapter_options, group=NEUTRON)
    loading.register_auth_conf_options(conf, NEUTRON)
    section = value(opened, NEUTRON, "auth_section") or NEUTRON
    auth_type = value(opened, section, "auth_type")
    if not auth_type:
        return None
    plugin_options = loading.get_auth_plugin_conf_options(auth_type)
    conf.register_opts(plugin_options, group=section)
    register_references(conf, opened.assignments)
    for place in [
        *((section, option.dest) for option in plugin_options),
        *((NEUTRON, name) for name in SESSION_OPTIONS),
    ]:
        value(opened, *place)  # so that one that cannot be read is named
    if value(opened, NEUTRON, "keyfile") and not value(opened, NEUTRON, "certfile"):
        raise BadSetting("[neutron]keyfile is set, and [neutron]certfile is not")
    auth = loading.load_auth_from_conf_options(conf, NEUTRON)
    return ServiceLogin(
        session=loading.load_session_from_conf_options(conf, NEUTRON, auth=auth, app_name="cellmove"),
        region_name=value(opened, NEUTRON, "region_name") or "",
        interfaces=tuple(value(opened, NEUTRON, "valid_interfaces")),
        endpoint_override=value(opened, NEUTRON, "endpoint_override") or "",
    )
