"""Logs in to a broker as oslo.messaging will, to learn within seconds whether it accepts cellmove.

oslo.messaging itself retries without limit and prints nothing (oslo_messaging/_drivers/impl_rabbit.py, ``ensure_connection``).
"""

from __future__ import annotations

import queue
import re
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellmove.core.errors import CannotConnect
from cellmove.hosts.oslo_types import AmqpConnection, Conf, OptionValue, TransportHost, TransportUrl

PORT = 5672
GROUP = "oslo_messaging_rabbit"
FILES = {"ssl_key_file": "keyfile", "ssl_cert_file": "certfile", "ssl_ca_file": "ca_certs"}
"""oslo.messaging's options and what amqp calls them."""

VERIFY_NAME = "ssl_enforce_hostname_verification"


@dataclass(frozen=True)
class Exchange:
    """The exchange of nova's services, as a publisher of oslo.messaging declares it (impl_rabbit.py, ``topic_send``)."""

    name: str
    durable: bool
    auto_delete: bool


@dataclass(frozen=True)
class Login:
    """How one broker is logged in to.

    :param tls: what amqp is told about TLS; None: plain AMQP
    :param timeout: seconds
    :param exchange: checked as well if it is there
    """

    host: TransportHost
    virtual_host: str
    tls: Mapping[str, OptionValue] | None
    method: str
    timeout: float
    exchange: Exchange | None

    @property
    def address(self) -> str:
        """Host and port, for messages and for amqp."""
        name = self.host.hostname or ""
        return f"{f'[{name}]' if ':' in name else name}:{self.host.port or PORT}"


def log_in(
    url: TransportUrl, conf: Conf, timeout: float, *, preferred: str = "", exchange: Exchange | None = None
) -> str:
    """Log in to a broker of a URL.

    :param url: an ``oslo_messaging.TransportURL``
    :param conf: oslo.config's, with the options of the driver
    :param timeout: seconds for each broker; several brokers are tried at the same time
    :param preferred: address of the broker to try before all others, normally the one that answered last
    :param exchange: compare it with the one that the broker has
    :returns: the address of the broker that accepted the login
    :raises CannotConnect: no broker did; the text says what each answered, and never contains a password
    """
    logins = [
        Login(
            host,
            url.virtual_host or "/",
            tls_options(url, conf, host.hostname),
            str(option(url, conf, "rabbit_login_method") or "AMQPLAIN"),
            timeout,
            exchange,
        )
        for host in url.hosts
    ]
    refusals: dict[str, str] = {}
    first = [login for login in logins if login.address == preferred or len(logins) == 1]
    others = [login for login in logins if login not in first]
    for batch in (first, others):
        accepted = _first_accepted(batch, refusals)
        if accepted:
            return accepted
    raise CannotConnect("; ".join(f"{a}: {words}" for a, words in refusals.items()) or "the URL names no broker")


def _first_accepted(logins: Sequence[Login], refusals: dict[str, str]) -> str:
    """Try several logins at once.

    :param refusals: filled with the answers of the brokers that refuse, by address, in the order of the logins
    :returns: the address of the first broker that accepts; empty when none does
    """
    if len(logins) == 1:
        refusals[logins[0].address] = words = _refusal(logins[0]) or ""
        return "" if words else logins[0].address
    answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def attempt(login: Login) -> None:
        answers.put((login.address, _refusal(login) or ""))

    for login in logins:
        threading.Thread(target=attempt, args=(login,), name=f"login-{login.address}", daemon=True).start()
    said: dict[str, str] = {}
    for _ in logins:
        address, words = answers.get()
        if not words:
            return address
        said[address] = words
    refusals |= {login.address: said[login.address] for login in logins}
    return ""


def option(url: TransportUrl, conf: Conf, name: str) -> OptionValue:
    """An option of the driver: the URL's query goes before ``[oslo_messaging_rabbit]``.

    Follows oslo_messaging/_drivers/common.py, ``ConfigOptsProxy``.

    :returns: None when this oslo.messaging does not have the option
    """
    group = getattr(conf, GROUP, None)
    text = url.query.get(name)
    if text is None or group is None:
        return getattr(group, name, None)
    return conf._get_opt_info(name, GROUP)["opt"].type(text)


def tls_options(url: TransportUrl, conf: Conf, hostname: str | None) -> Mapping[str, OptionValue] | None:
    """How TLS is spoken with one broker, in amqp's words; None: it is not.

    Follows impl_rabbit.py, ``_fetch_ssl_params``, but names the broker also where the URL has several: there kombu fills in
    the first one that it tries and then verifies the certificates of the others against that name.
    """
    if not option(url, conf, "ssl"):
        return None
    found: dict[str, OptionValue] = {
        theirs: value for ours, theirs in FILES.items() if (value := option(url, conf, ours))
    }
    if version := option(url, conf, "ssl_version"):
        names = {"tlsv1": "PROTOCOL_TLSv1", "sslv23": "PROTOCOL_SSLv23"}
        names |= {"tlsv1_1": "PROTOCOL_TLSv1_1", "tlsv1_2": "PROTOCOL_TLSv1_2"}
        found["ssl_version"] = getattr(ssl, names.get(str(version).lower(), ""), None)
    if "ca_certs" in found:
        found["cert_reqs"] = ssl.CERT_REQUIRED
        if option(url, conf, VERIFY_NAME) is not False:
            found["server_hostname"] = hostname
    return found


def _refusal(login: Login) -> str | None:
    """Try to log in to one broker; return None when it accepts, else what it answered.

    It raises nothing: with several brokers, :func:`_first_accepted` waits for an answer from the thread of each.
    """
    try:
        return _login_problem(login)
    except Exception as error:  # noqa: BLE001 - amqp raises struct.error and others for frames that are no AMQP
        return f"it does not speak AMQP ({type(error).__name__})"


def _login_problem(login: Login) -> str | None:
    """Log in to one broker and out again; return None when it accepts, else why it refuses."""
    import amqp

    connection = amqp.Connection(
        host=login.address,
        userid=login.host.username or "guest",
        password=login.host.password or "guest",
        login_method=login.method,
        virtual_host=login.virtual_host,
        connect_timeout=login.timeout,
        read_timeout=login.timeout,
        write_timeout=login.timeout,
        ssl=False if login.tls is None else dict(login.tls) or True,
    )
    try:
        connection.connect()
    except amqp.exceptions.AccessRefused:
        if login.method == "EXTERNAL":
            return "the client certificate is refused as a login"
        return "the user name or password is refused"
    except amqp.exceptions.NotAllowed:
        return f"no access to the virtual host {login.virtual_host}"
    except (amqp.exceptions.AMQPError, OSError, ValueError) as error:
        return _words(error, login.tls)
    except Exception:
        connection.collect()
        raise
    return _exchange_problem(connection, login.exchange)


def _exchange_problem(connection: AmqpConnection, exchange: Exchange | None) -> str | None:
    """Compare the broker's exchange with the one that oslo.messaging would declare, if the broker has it; and log out."""
    import amqp

    try:
        if exchange is not None:
            try:
                connection.channel().exchange_declare(exchange.name, "topic", passive=True)
            except amqp.exceptions.NotFound:
                exchange = None
        if exchange is not None:
            connection.channel().exchange_declare(
                exchange.name, "topic", durable=exchange.durable, auto_delete=exchange.auto_delete
            )
    except amqp.exceptions.PreconditionFailed as error:
        words = error.reply_text.removeprefix("PRECONDITION_FAILED - ")
        if exchange is None or not (exchange.durable and "'durable'" in words):  # there oslo.messaging gives way
            return f"nova declared its exchange with other options of [{GROUP}] than are set here: {words}"
    except amqp.exceptions.AccessRefused as error:
        return f"a permission is missing: {error.reply_text.removeprefix('ACCESS_REFUSED - ')}"
    except (amqp.exceptions.AMQPError, OSError) as error:
        return _words(error, {})
    finally:
        _close(connection)
    return None


def _close(connection: AmqpConnection) -> None:
    import amqp

    try:
        connection.close()
    except (amqp.exceptions.AMQPError, OSError):
        connection.collect()


def _words(error: Exception, tls: Mapping[str, OptionValue] | None) -> str:
    """What a broken connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"TLS: its certificate is not accepted: {error.verify_message}"
        if "mismatch" in error.verify_message:
            words += f" ({VERIFY_NAME} = false in [{GROUP}] accepts it, as oslo.messaging before 18.1 does)"
        return words
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "the handshake failed").replace("_", " ").lower()
        if re.search(r"alert .*(certificate|unknown ca)", reason):  # what the broker thinks of ours
            state = "not accepted" if (tls or {}).get("certfile") else "missing"
            return f"TLS: the client certificate is {state}: {reason}"
        if not error.reason and not (tls or {}).get("certfile"):
            reason += "; perhaps the broker requires a client certificate"
        return f"TLS: {reason}"
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
