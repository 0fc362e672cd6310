"""The connection of oslo.messaging's RabbitMQ driver, with what cellmove needs beside it.

Three faults of oslo_messaging/_drivers/impl_rabbit.py (18.3) are avoided here:

- A connection is opened with an unlimited number of attempts, whatever the timeout of the call.
- ``/`` is left as it is in a user name, a password or a virtual host, and kombu then cannot parse its URL.
- With several brokers kombu verifies the certificates of all of them against the name of the one that it tried first.
"""

from __future__ import annotations

from urllib.parse import quote

from oslo_messaging._drivers import impl_rabbit

from cellmove.hosts import rabbit_login
from cellmove.hosts.oslo_types import Conf, OptionValue, OsloTransport, TransportHost, TransportUrl

ATTEMPTS_PER_BROKER = 2
"""How often each broker is tried when a connection is opened. The broker was probed just before."""

REPLY_QUEUE_TTL_SECONDS = 300
"""After how long RabbitMQ removes the reply queue of a process that has ended, instead of the half hour of nova's services."""

OWN_OPTIONS = {
    "use_queue_manager": "false",
    "rabbit_transient_queues_ttl": str(REPLY_QUEUE_TTL_SECONDS),
    "rabbit_stream_fanout": "false",
}
"""Options that are always cellmove's own, whatever nova.conf and the URL say.

- The queue manager numbers the reply queues of a process group in ``/dev/shm``: two commands on one host get the same queue
  and take each other's replies. It also needs nova's ``lock_path``. Without it a reply queue has a random name.
- Fanout queues are never used, and streams for them make further options necessary.

All others are nova's own, since a queue or exchange that is declared with other options is refused (PRECONDITION_FAILED).
"""


class Connection(impl_rabbit.Connection):  # type: ignore[misc]  # has no types
    """A connection that is opened within a limit of attempts and from then on renewed without a limit."""

    def __init__(self, conf: Conf, url: TransportUrl, purpose: str, retry: int | None = None) -> None:
        self._broker_url = url
        self._driver_conf = conf
        super().__init__(conf, url, purpose, retry=ATTEMPTS_PER_BROKER * len(url.hosts) - 1)
        self.max_retries = retry

    def _transform_transport_url(
        self, url: TransportUrl, host: TransportHost, *_defaults: str, **_named_defaults: str
    ) -> str:
        """The URL of one broker for kombu."""
        login = f"{quote(host.username or '', safe='')}:{quote(host.password or '', safe='')}"
        name = f"[{host.hostname}]" if ":" in host.hostname else host.hostname
        return f"amqp://{login}@{name}:{host.port or rabbit_login.PORT}/{quote(url.virtual_host or '')}"

    def _fetch_ssl_params(self) -> OptionValue:
        """How TLS is spoken; of several brokers kombu puts in the name of the one that it connects to."""
        hosts = self._broker_url.hosts
        name = hosts[0].hostname if len(hosts) == 1 else None  # kombu would put 127.0.0.1 in the place of localhost
        options = rabbit_login.tls_options(self._broker_url, self._driver_conf, name)
        return False if options is None else dict(options) or True

    def ensure_connection(self) -> None:
        """See the driver's. Whenever kombu goes to another broker it has to forget the name of the one before."""
        if "maybe_switch_next" not in vars(self.connection):
            switch = self.connection.maybe_switch_next

            def switch_and_forget() -> None:
                switch()
                self.connection.ssl = self._fetch_ssl_params()

            self.connection.maybe_switch_next = switch_and_forget
        super().ensure_connection()


def prepare(transport: OsloTransport) -> None:
    """Make a transport of oslo.messaging open its connections with :class:`Connection`."""
    driver = getattr(transport, "_driver", None)
    if isinstance(driver, impl_rabbit.RabbitDriver):
        driver._connection_pool.connection_cls = Connection
