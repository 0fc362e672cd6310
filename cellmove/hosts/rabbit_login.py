"""Logs in to a broker as oslo.messaging will, to learn within seconds whether it lets us in.

oslo.messaging itself tries for ever, and says nothing (oslo_messaging/_drivers/impl_rabbit.py, ``ensure_connection``).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from cellmove.errors import CannotConnect

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 5672
GROUP = "oslo_messaging_rabbit"
FILES = {"ssl_key_file": "keyfile", "ssl_cert_file": "certfile", "ssl_ca_file": "ca_certs"}
"""oslo.messaging's options and what amqp calls them."""


def log_in(url: Any, conf: Any, timeout: float) -> None:
    """Log in to the first broker of a URL that lets us in.

    :param url: an ``oslo_messaging.TransportURL``
    :param conf: oslo.config's, with the options of the driver
    :param timeout: seconds for each broker
    :raises CannotConnect: none did; the text says what each said, and never holds a password
    """
    said = []
    for host in url.hosts:
        error = _refusal(host, url.virtual_host or "/", tls_options(url, conf), timeout)
        if error is None:
            return
        said.append(f"{host.hostname}:{host.port or PORT}: {error}")
    raise CannotConnect("; ".join(said) or "the URL names no broker")


def tls_options(url: Any, conf: Any) -> Mapping[str, Any] | None:
    """How TLS is spoken; None: it is not.

    What the URL's query says goes before ``[oslo_messaging_rabbit]``, as in oslo_messaging/_drivers/common.py,
    ``ConfigOptsProxy``; the rest is ``_fetch_ssl_params`` of impl_rabbit.py.
    """

    def option(name: str) -> Any:
        group = getattr(conf, GROUP, None)
        text = url.query.get(name)
        if text is None or group is None:
            return getattr(group, name, None)
        return conf._get_opt_info(name, GROUP)["opt"].type(text)

    if not option("ssl"):
        return None
    found: dict[str, Any] = {theirs: option(ours) for ours, theirs in FILES.items() if option(ours)}
    if version := option("ssl_version"):
        names = {"tlsv1": "PROTOCOL_TLSv1", "sslv23": "PROTOCOL_SSLv23"}
        names |= {"tlsv1_1": "PROTOCOL_TLSv1_1", "tlsv1_2": "PROTOCOL_TLSv1_2"}
        found["ssl_version"] = getattr(ssl, names.get(str(version).lower(), ""), None)
    if "ca_certs" in found:
        found["cert_reqs"] = ssl.CERT_REQUIRED
        if len(url.hosts) == 1 and option("ssl_enforce_hostname_verification"):
            found["server_hostname"] = url.hosts[0].hostname
    return found


def _refusal(host: Any, virtual_host: str, tls: Mapping[str, Any] | None, timeout: float) -> str | None:
    """Try to log in to one broker; None when it lets us in, else what it said."""
    import amqp

    connection = amqp.Connection(
        host=f"{host.hostname}:{host.port or PORT}",
        userid=host.username or "guest",
        password=host.password or "guest",
        virtual_host=virtual_host,
        connect_timeout=timeout,
        read_timeout=timeout,
        write_timeout=timeout,
        ssl=False if tls is None else dict(tls) or True,
    )
    try:
        connection.connect()
        connection.close()
    except amqp.exceptions.AccessRefused:
        return "the user name or password is refused"
    except amqp.exceptions.NotAllowed:
        return f"no access to the virtual host {virtual_host}"
    except (amqp.exceptions.AMQPError, OSError, ValueError) as error:
        return _words(error, tls)
    return None


def _words(error: Exception, tls: Mapping[str, Any] | None) -> str:
    """What a broken connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'the handshake failed').replace('_', ' ').lower()}"
    if isinstance(error, FileNotFoundError | PermissionError) and tls:
        return f"TLS: {', '.join(str(tls[name]) for name in FILES.values() if name in tls)}: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, ConnectionResetError | BrokenPipeError) or "closed connection" in first:
        if tls is None:
            return f"{first}; if it wants TLS, say so with ssl=1 in the URL or [{GROUP}]ssl"
        return f"{first}; perhaps it does not speak TLS"
    return first
