"""A RabbitMQ bus, by oslo.messaging.

Two properties of the library shape this module:

- A call to a broker that cannot be reached may never return, whatever its timeout. So each broker is probed first.
- Its options live on the global configuration object.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cellmove.core import nova_conf
from cellmove.core.errors import BadSetting, CannotConnect, Misconfigured, Usage
from cellmove.hosts import bus_url, rabbit_login
from cellmove.hosts.rabbit_errors import translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellmove.core.settings import Settings
    from cellmove.hosts.oslo_types import Conf, OsloTransport, RpcClient, TransportUrl
    from cellmove.hosts.transport import Call, Notification, Primitive, Result, RpcContext

LIBRARY_LOGGERS = ("amqp", "oslo", "oslo_messaging", "oslo.messaging", "oslo_service", "kombu")


class OsloMessaging:
    """The state of oslo.messaging that the buses of a run share: its options and the connections for notifications.

    A notification would otherwise open a connection and log in each time.
    """

    def __init__(self) -> None:
        self._is_configured = False
        self._notification_transports: dict[str, OsloTransport] = {}
        self._lock = threading.Lock()

    def configure(self, conf: Conf, settings: Settings) -> None:
        """Load nova.conf into oslo's global configuration, once: TLS, heartbeats and queues are set there.

        :raises Misconfigured: oslo.config cannot read it
        """
        if self._is_configured:
            return
        import oslo_messaging
        from oslo_config import cfg
        from oslo_messaging import opts

        oslo_messaging.set_transport_defaults(settings.control_exchange)
        for group, options in opts.list_opts():
            with suppress(cfg.DuplicateOptError):  # where the library has registered it itself
                conf.register_opts(options, group=group)
        try:
            assignments = nova_conf.load(conf, [path for path in settings.nova_conf if path.exists()])
        except Usage as error:
            raise Misconfigured(str(error)) from None
        nova_conf.register_references(conf, assignments)
        self._is_configured = True

    def notification_transport(self, url: str) -> tuple[OsloTransport, bool]:
        """Return the transport for notifications on a bus, and whether this call created it."""
        import oslo_messaging
        from oslo_config import cfg

        from cellmove.hosts import rabbit_connection

        with self._lock:
            is_new = url not in self._notification_transports
            if is_new:
                transport = oslo_messaging.get_notification_transport(cfg.CONF, url=_with_own_options(url))
                rabbit_connection.prepare(transport)
                self._notification_transports[url] = transport
            return self._notification_transports[url], is_new

    def discard_notification_transport(self, url: str, transport: OsloTransport) -> None:
        """Close a transport for notifications; the next notification opens another one."""
        with self._lock:
            if self._notification_transports.get(url) is transport:
                del self._notification_transports[url]
        transport.cleanup()


@dataclass
class LastBroker:
    """The address of the broker that accepted the last login; empty before the first."""

    address: str = ""


@dataclass(frozen=True)
class RabbitTransport:
    """A bus by oslo.messaging.

    :param name: for messages
    :param url: with its password; never shown
    :param connect_timeout: seconds
    :param response_timeout: seconds between two heartbeats of a long call
    """

    name: str
    url: str = field(repr=False)
    transport: OsloTransport = field(repr=False)
    library: OsloMessaging = field(repr=False, compare=False)
    connect_timeout: float
    response_timeout: float
    control_exchange: str = "nova"
    last_broker: LastBroker = field(default_factory=LastBroker, repr=False, compare=False)

    def named(self, name: str) -> RabbitTransport:
        """See :class:`cellmove.hosts.transport.Transport`."""
        return replace(self, name=name)

    def probe(self) -> None:
        """See :class:`cellmove.hosts.transport.Transport`.

        The first probe also compares nova's exchange with the options.
        """
        import oslo_messaging
        from oslo_config import cfg

        url = oslo_messaging.TransportURL.parse(cfg.CONF, self.url)
        last = self.last_broker.address
        exchange = None if last else _exchange(url, cfg.CONF, self.control_exchange)
        try:
            self.last_broker.address = rabbit_login.log_in(
                url, cfg.CONF, self.connect_timeout, preferred=last, exchange=exchange
            )
        except CannotConnect as error:
            raise CannotConnect(f"message bus of {self.name} cannot be reached ({error})") from None

    def send(self, call: Call) -> Result:
        """See :class:`cellmove.hosts.transport.Transport`."""
        try:
            return self._client(call).call(dict(call.context), call.method, **call.arguments)
        except Exception as error:  # noqa: BLE001 - exceptions of the receiver arrive as themselves
            raise translated(error, self.name, call.method) from None

    def notify(self, context: RpcContext, notification: Notification) -> None:
        """See :class:`cellmove.hosts.transport.Transport`. The library does not retry: the caller would not wait for it.

        If the broker closed the connection since the last notification, the notification is sent again over a new one.
        """
        while True:
            transport, is_new = self.library.notification_transport(self.url)
            if _send_notification(transport, context, notification):
                return
            self.library.discard_notification_transport(self.url, transport)
            if is_new:
                raise CannotConnect(f"the bus of {self.name} did not accept a notification")

    def _client(self, call: Call) -> RpcClient:
        import oslo_messaging

        class _Serializer(oslo_messaging.NoOpSerializer):  # type: ignore[misc]
            def serialize_context(self, context: Mapping[str, object]) -> Primitive:
                return dict(context)

        target = oslo_messaging.Target(
            topic=call.target.topic,
            server=call.target.server or None,
            namespace=call.target.namespace or None,
            version=call.target.version,
        )
        client = oslo_messaging.get_rpc_client(self.transport, target, serializer=_Serializer())
        if call.is_long:
            return client.prepare(timeout=call.timeout, call_monitor_timeout=self.response_timeout)
        return client.prepare(timeout=call.timeout)


def open_transport(
    url: str, name: str, settings: Settings, library: OsloMessaging, setting: str = ""
) -> RabbitTransport:
    """Prepare a transport. Nothing is sent yet.

    :param setting: where the URL is set, for messages about the URL
    :raises Misconfigured: the URL, or an option of nova.conf, cannot be used
    """
    problem = f"the message bus of {name}: the URL{f' in {setting}' if setting else ''} cannot be used: "
    with _quiet_imports():
        import oslo_messaging
        from oslo_config import cfg

        from cellmove.hosts import rabbit_connection

        library.configure(cfg.CONF, settings)
        try:
            bus_url.check(cfg.CONF, url)
            transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=_with_own_options(url))
        except BadSetting as error:
            raise Misconfigured(problem + str(error)) from None
        except Exception as error:  # noqa: BLE001 - of any driver; its text may quote the URL
            raise Misconfigured(f"{problem}oslo.messaging does not accept it ({type(error).__name__})") from None
        rabbit_connection.prepare(transport)
    timeouts = settings.connect_timeout, settings.rpc_response_timeout
    return RabbitTransport(name, url, transport, library, *timeouts, settings.control_exchange)


def _send_notification(transport: OsloTransport, context: RpcContext, notification: Notification) -> bool:
    """Send a notification and return whether the broker accepted it.

    The driver only logs a failure (oslo_messaging/notify/messaging.py), so this function reads its log.
    """
    import oslo_messaging

    failures: list[logging.LogRecord] = []
    handler, logger = logging.Handler(logging.ERROR), logging.getLogger("oslo_messaging.notify.messaging")
    thread = threading.get_ident()  # other threads log to the same logger
    handler.addFilter(lambda record: record.thread == thread)
    handler.emit = failures.append  # type: ignore[method-assign,assignment]
    logger.addHandler(handler)
    try:
        notifier = oslo_messaging.Notifier(
            transport, notification.publisher, driver=notification.driver, topics=list(notification.topics), retry=0
        )
        notifier.info(dict(context), notification.event_type, dict(notification.payload))
    finally:
        logger.removeHandler(handler)
    return not failures


def _exchange(url: TransportUrl, conf: Conf, name: str) -> rabbit_login.Exchange:
    """Return nova's exchange as oslo.messaging will declare it (impl_rabbit.py, ``durable`` and ``topic_send``)."""
    is_durable = rabbit_login.option(url, conf, "amqp_durable_queues")
    is_quorum = rabbit_login.option(url, conf, "rabbit_quorum_queue")
    auto_delete = rabbit_login.option(url, conf, "amqp_auto_delete")
    return rabbit_login.Exchange(name, durable=bool(is_durable or is_quorum), auto_delete=bool(auto_delete))


def _with_own_options(url: str) -> TransportUrl:
    """Return the URL with the options that always have cellmove's own values."""
    import oslo_messaging
    from oslo_config import cfg

    from cellmove.hosts import rabbit_connection

    parsed = oslo_messaging.TransportURL.parse(cfg.CONF, url)
    parsed.query |= rabbit_connection.OWN_OPTIONS
    return parsed


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Suppress warnings: oslo.messaging imports eventlet where it is installed, and both warn about it at every start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _silence_libraries()
        yield


def _silence_libraries() -> None:
    """Keep the libraries' log ("Connection failed … retrying") off the operator's terminal."""
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
