"""A bus as oslo.messaging reaches it.

Three habits of it end in this module:

- A call to a broker that cannot be reached may never return, whatever its timeout. So the broker is probed first.
- Built-in exceptions of the other side arrive as themselves, with a remote traceback in their words.
- Its options must live on the global configuration object.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cellmove.core import nova_conf
from cellmove.core.errors import BadSetting, CallError, CallFailed, CallUncertain, CannotConnect, Misconfigured, Usage
from cellmove.hosts import bus_url, rabbit_login

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellmove.core.settings import Settings
    from cellmove.hosts.bus import Notice, Target


@dataclass
class LastBroker:
    """Which broker of a URL answered last, by its address; empty: none has answered yet."""

    address: str = ""


@dataclass(frozen=True)
class RabbitTransport:
    """An oslo.messaging transport.

    :param name: whose bus it is, for messages
    :param url: with its password; never shown
    """

    name: str
    url: str = field(repr=False)
    transport: Any = field(repr=False)
    connect_timeout: float
    response_timeout: float
    control_exchange: str = "nova"
    last_broker: LastBroker = field(default_factory=LastBroker, repr=False, compare=False)

    def named(self, name: str) -> RabbitTransport:
        """The same connections under the name of another cell that shares them."""
        return replace(self, name=name)

    def probe(self) -> None:
        """See :func:`cellmove.hosts.bus.probe_broker`."""
        probe_broker(self)

    def send(
        self, target: Target, context: Mapping[str, Any], method: str, arguments: Mapping[str, Any], timeout: float,
        long: bool,
    ) -> Any:  # fmt: skip
        """See :func:`cellmove.hosts.bus.call`."""
        try:
            return _client(self, target, timeout, long).call(dict(context), method, **arguments)
        except Exception as error:  # noqa: BLE001 - whatever the other side raised arrives as itself
            raise translated(error, self.name, method) from None

    def notify(self, context: Mapping[str, Any], notice: Notice) -> None:
        """See :func:`cellmove.hosts.bus.notify`. Without retries: its caller would not wait for them.

        One over a connection that the broker has closed meanwhile is sent once more, over a new one.
        """
        while True:
            transport, is_fresh = _notification_transport(self.url)
            if _is_taken(transport, context, notice):
                return
            _forget_notification_transport(self.url, transport)
            if is_fresh:
                raise CannotConnect(f"the bus of {self.name} did not take a notification")


_notifying: dict[str, Any] = {}
_notifying_turn = threading.Lock()


def _notification_transport(url: str) -> tuple[Any, bool]:
    """What the notifications of this process are sent with, as each would be a connection and a login otherwise.

    :returns: also whether it was made just now
    """
    import oslo_messaging
    from oslo_config import cfg

    from cellmove.hosts import rabbit_connection

    with _notifying_turn:
        is_fresh = url not in _notifying
        if is_fresh:
            _notifying[url] = oslo_messaging.get_notification_transport(cfg.CONF, url=_own_url(url))
            rabbit_connection.prepare(_notifying[url])
        return _notifying[url], is_fresh


def _forget_notification_transport(url: str, transport: Any) -> None:
    with _notifying_turn:
        if _notifying.get(url) is transport:
            del _notifying[url]
    transport.cleanup()


def _is_taken(transport: Any, context: Mapping[str, Any], notice: Notice) -> bool:
    """Send a notification. The driver only logs what it could not send (oslo_messaging/notify/messaging.py), so its log is
    listened to.
    """
    import logging

    import oslo_messaging

    failed: list[logging.LogRecord] = []
    listener, logger = logging.Handler(logging.ERROR), logging.getLogger("oslo_messaging.notify.messaging")
    own = threading.get_ident()  # what other threads could not send is theirs to tell
    listener.addFilter(lambda record: record.thread == own)
    listener.emit = failed.append  # type: ignore[method-assign,assignment]
    logger.addHandler(listener)
    try:
        notifier = oslo_messaging.Notifier(
            transport, notice.publisher, driver=notice.driver, topics=list(notice.topics), retry=0
        )
        notifier.info(dict(context), notice.event_type, dict(notice.payload))
    finally:
        logger.removeHandler(listener)
    return not failed


def open_transport(url: str, name: str, settings: Settings, setting: str = "") -> RabbitTransport:
    """Prepare a transport; nothing is sent yet.

    :param setting: where the URL is set, for messages about the URL
    :raises Misconfigured: the URL, or an option of nova.conf, cannot be used
    """
    why = f"the message bus of {name}: the URL{f' in {setting}' if setting else ''} cannot be used: "
    with _quiet_imports():
        import oslo_messaging
        from oslo_config import cfg

        from cellmove.hosts import rabbit_connection

        _configure(cfg.CONF, settings)
        try:
            bus_url.check(cfg.CONF, url)
            transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=_own_url(url))
        except BadSetting as error:
            raise Misconfigured(why + str(error)) from None
        except Exception as error:  # noqa: BLE001 - whatever a driver raises; its words may quote the URL
            raise Misconfigured(f"{why}oslo.messaging does not take it ({type(error).__name__})") from None
        rabbit_connection.prepare(transport)
    timeouts = settings.connect_timeout, settings.rpc_response_timeout
    return RabbitTransport(name, url, transport, *timeouts, settings.control_exchange)


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """For importing oslo.messaging: it imports eventlet where it is installed, and both warn about it at every start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _silence()
        yield


def _own_url(url: str) -> Any:
    """The URL with the options that are always cellmove's own."""
    import oslo_messaging
    from oslo_config import cfg

    from cellmove.hosts import rabbit_connection

    parsed = oslo_messaging.TransportURL.parse(cfg.CONF, url)
    parsed.query |= rabbit_connection.OWN_OPTIONS
    return parsed


_configured: list[bool] = []


def _configure(conf: Any, settings: Settings) -> None:
    """Load nova.conf into oslo's global configuration, once: TLS, heartbeats and queues are set there.

    :raises Misconfigured: oslo.config cannot read it
    """
    if _configured:
        return
    import oslo_messaging
    from oslo_config import cfg
    from oslo_messaging import opts

    oslo_messaging.set_transport_defaults(settings.control_exchange)
    for group, options in opts.list_opts():
        with suppress(cfg.DuplicateOptError):  # where the library has done so itself
            conf.register_opts(options, group=group)
    try:
        assignments = nova_conf.load(conf, [path for path in settings.nova_conf if path.exists()])
    except Usage as error:
        raise Misconfigured(str(error)) from None
    nova_conf.register_references(conf, assignments)
    _configured.append(True)


def _silence() -> None:
    """Keep the libraries' own words ("Connection failed … retrying") off the operator's terminal."""
    import logging

    for noisy in ("amqp", "oslo", "oslo_messaging", "oslo.messaging", "oslo_service", "kombu"):
        logging.getLogger(noisy).addHandler(logging.NullHandler())
        logging.getLogger(noisy).propagate = False


def probe_broker(bus: RabbitTransport) -> None:
    """Check within seconds that a broker of this bus answers and accepts cellmove.

    The first time, nova's exchange is compared as well with what the options say.

    :raises CannotConnect: naming the host and port, never the password
    """
    import oslo_messaging
    from oslo_config import cfg

    url = oslo_messaging.TransportURL.parse(cfg.CONF, bus.url)
    last = bus.last_broker.address
    exchange = None if last else _exchange(url, cfg.CONF, bus.control_exchange)
    try:
        bus.last_broker.address = rabbit_login.log_in(
            url, cfg.CONF, bus.connect_timeout, preferred=last, exchange=exchange
        )
    except CannotConnect as error:
        raise CannotConnect(f"message bus of {bus.name} cannot be reached ({error})") from None


def _exchange(url: Any, conf: Any, name: str) -> rabbit_login.Exchange:
    """nova's exchange as oslo.messaging will declare it (impl_rabbit.py, ``durable`` and ``topic_send``)."""
    is_durable = rabbit_login.option(url, conf, "amqp_durable_queues")
    is_quorum = rabbit_login.option(url, conf, "rabbit_quorum_queue")
    auto_delete = rabbit_login.option(url, conf, "amqp_auto_delete")
    return rabbit_login.Exchange(name, durable=bool(is_durable or is_quorum), auto_delete=bool(auto_delete))


def _client(bus: RabbitTransport, target: Target, timeout: float, long: bool) -> Any:
    import oslo_messaging

    class _Serializer(oslo_messaging.NoOpSerializer):  # type: ignore[misc]
        def serialize_context(self, context: Mapping[str, Any]) -> dict[str, Any]:
            return dict(context)

    client = oslo_messaging.get_rpc_client(
        bus.transport,
        oslo_messaging.Target(
            topic=target.topic, server=target.server or None, namespace=target.namespace or None, version=target.version
        ),
        serializer=_Serializer(),
    )
    options: dict[str, Any] = {"timeout": timeout}
    if long:
        options["call_monitor_timeout"] = bus.response_timeout
    return client.prepare(**options)


def translated(error: Exception, name: str, method: str) -> CallError:
    """What an exception of oslo.messaging means.

    Only the other side's own exceptions become :class:`CallFailed`; an error on this side is never shown as its answer.

    :param name: whose bus it is
    """
    import amqp
    import kombu
    import oslo_messaging

    if REMOTE_TRACEBACK in (words := _words(error)):
        return CallFailed(f"{type(error).__name__}: {_first_line(words)}", kind=type(error).__name__)
    if isinstance(error, oslo_messaging.MessagingTimeout):
        return CallUncertain(f"{method} on the bus of {name} got no answer in time")
    if isinstance(error, oslo_messaging.RemoteError):
        return CallFailed(f"{error.exc_type}: {_first_line(error.value)}", kind=str(error.exc_type))
    if isinstance(error, oslo_messaging.MessageDeliveryFailure):
        return _undelivered(error, name, method)
    if isinstance(error, kombu.exceptions.OperationalError):  # only of opening a connection; see impl_rabbit.py, ensure
        return CannotConnect(f"no broker of {name} can be reached for {method}: {_first_line(error)}")
    if isinstance(error, amqp.exceptions.AMQPError):
        return CannotConnect(f"the broker of {name} refused: {_first_line(error)}")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return CallUncertain(f"the connection to the broker of {name} broke during {method}")
    return CallUncertain(
        f"{method} on the bus of {name} failed on this side ({type(error).__name__}: {_first_line(words)}); "
        "whether it was sent is not known"
    )


REMOTE_TRACEBACK = "\nTraceback (most recent call last)"
"""What oslo.messaging adds to the words of the other side's built-in exceptions (_drivers/common.py,
``deserialize_remote_exception``), and nothing adds to those of this side's."""


def _undelivered(error: Exception, name: str, method: str) -> CallError:
    """What a message that could not be delivered means: a broker that refuses it takes nothing."""
    import amqp

    cause = error.__context__
    if isinstance(cause, amqp.exceptions.ChannelError):
        return CannotConnect(f"the broker of {name} refused {method}: {_first_line(cause.reply_text or cause)}")
    return CallUncertain(f"whether the broker of {name} took {method} is not known")


def _words(error: Exception) -> str:
    """What an exception says. ``str()`` of a KeyError, or of one with several arguments, is in quotes, on one line."""
    return error.args[0] if error.args and isinstance(error.args[0], str) else str(error)


def _first_line(value: object) -> str:
    text = str(value).strip()
    return text.splitlines()[0] if text else ""
