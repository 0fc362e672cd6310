"""URLs of message buses, and the options of nova.conf and of their query that say how a bus is opened.

oslo.messaging raises DriverLoadFailure, ValueError or NoSuchOptError for what it does not take, when a bus is opened or as late
as the first call, without saying where that is set. Everything is therefore looked at here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core import tls_files
from cellmove.core.bus_login import is_cut
from cellmove.core.errors import BadSetting
from cellmove.core.host_names import is_host_name
from cellmove.hosts.oslo_types import Conf, Opt, OptionValue, TransportHost

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "oslo_messaging_rabbit"
DRIVERS = ("rabbit", "kombu")
SSL_VERSIONS = ("tlsv1", "tlsv1_1", "tlsv1_2", "sslv23")
ENCODE = "in a user name or password, / : @ # ? % , have to be written %2F %3A %40 %23 %3F %25 %2C"


def check(conf: Conf, url: str) -> None:
    """Make sure that a bus can be opened, as far as that can be seen without its broker.

    :param conf: oslo.config's, which has read nova.conf
    :raises BadSetting: it cannot
    """
    import oslo_messaging

    try:
        parsed = oslo_messaging.TransportURL.parse(conf, url) if url and not is_cut(url) else None
    except Exception:  # noqa: BLE001 - ValueError, InvalidTransportURL and more; their words quote the URL
        parsed = None
    if parsed is None:
        raise BadSetting(
            f"it cannot be parsed. It has to begin with rabbit://, its port has to be a number, and {ENCODE}"
        )
    if parsed.transport not in DRIVERS:
        raise BadSetting(f"buses of the kind {parsed.transport}:// are not supported; nova's are rabbit://")
    _check_hosts(parsed.hosts)
    options = {option.dest: option for option in _options(conf)}
    chosen = {name: _configured(conf, option) for name, option in options.items()}
    for name, value in parsed.query.items():
        if name not in options:
            raise BadSetting(f"the option {name} is not known to oslo.messaging")
        chosen[name] = _converted(name, value, options[name])
    if chosen["rabbit_ha_queues"] and (chosen["rabbit_quorum_queue"] or chosen.get("rabbit_transient_quorum_queue")):
        raise BadSetting(
            f"[{GROUP}] asks for mirrored queues (rabbit_ha_queues) and for quorum queues; only one is possible"
        )
    if chosen["ssl"]:
        _check_tls(chosen, parsed.query)


def _check_hosts(hosts: list[TransportHost]) -> None:
    if not hosts:
        raise BadSetting(
            "it names no broker: rabbit:// is followed by the user name and password, the host and the port"
        )
    for number, host in enumerate(hosts, 1):
        which = f"its broker number {number}" if len(hosts) > 1 else "its broker"
        if not is_host_name(host.hostname or ""):
            raise BadSetting(f"the host of {which} is no host name; {ENCODE}")
        if host.port is not None and not 0 < host.port < 65536:
            raise BadSetting(f"{host.port} is no port of {which}: it has to be between 1 and 65535")


def _options(conf: Conf) -> list[Opt]:
    """The options of oslo.messaging's driver, registered."""
    from oslo_messaging import opts

    options: list[Opt] = next(known for group, known in opts.list_opts() if group == GROUP)
    conf.register_opts(options, group=GROUP)
    return options


def _configured(conf: Conf, option: Opt) -> OptionValue:
    """The value that nova.conf has, or the default."""
    try:
        return conf[GROUP][option.dest]
    except Exception as error:  # noqa: BLE001 - of oslo.config; several kinds
        said = str(error).rpartition("is not valid: ")[2].splitlines()
        raise BadSetting(
            f"[{GROUP}]{option.dest} of nova.conf has a value that cannot be used: {said[0] if said else ''}"
        ) from None


def _converted(name: str, value: str, option: Opt) -> OptionValue:
    try:
        return option.type(value)
    except ValueError as error:
        raise BadSetting(f"{name}={value} in its query: {error}") from None


def _check_tls(chosen: Mapping[str, OptionValue], query: Mapping[str, str]) -> None:
    def named(option: str) -> str:
        return option if option in query else f"[{GROUP}]{option}"

    version = chosen["ssl_version"]
    if version and version.lower() not in SSL_VERSIONS:
        raise BadSetting(f"{named('ssl_version')}={version} is none of {', '.join(SSL_VERSIONS)}")
    if chosen["ssl_ca_file"]:
        tls_files.check_ca(named("ssl_ca_file"), chosen["ssl_ca_file"])
    if chosen["ssl_cert_file"]:
        options = named("ssl_cert_file"), named("ssl_key_file")
        tls_files.check_certificate(options, chosen["ssl_cert_file"], chosen["ssl_key_file"])
