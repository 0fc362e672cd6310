"""The bus of the sandbox: each call is an HTTP request to the sandbox's process (``sandbox://host:port/bus``)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect

if TYPE_CHECKING:
    from requests import Session

    from cellmove.hosts.transport import Call, Notification, Result, RpcContext

SCHEME = "sandbox://"

POOL_SIZE = 64
"""Connections that are kept open: one for each thread of a drain."""


def _session() -> Session:
    import requests

    session = requests.Session()
    session.trust_env = False  # no proxy leads to the sandbox
    session.mount("http://", requests.adapters.HTTPAdapter(POOL_SIZE, POOL_SIZE))
    return session


@dataclass(frozen=True)
class LoopbackTransport:
    """A bus of the sandbox.

    :param url: its address, as http
    :param name: for messages
    :param connect_timeout: seconds
    """

    url: str
    name: str
    connect_timeout: float
    session: Session = field(default_factory=_session, repr=False, compare=False)

    def named(self, name: str) -> LoopbackTransport:
        """See :class:`cellmove.hosts.transport.Transport`."""
        return replace(self, name=name)

    def probe(self) -> None:
        """See :class:`cellmove.hosts.transport.Transport`."""
        import requests

        try:
            response = self.session.get(self.url, timeout=self.connect_timeout)
        except requests.RequestException:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        if response.status_code != 200:
            raise CannotConnect(f"message bus of {self.name} cannot be reached ({response.status_code})")

    def send(self, call: Call) -> Result:
        """See :class:`cellmove.hosts.transport.Transport`."""
        import requests

        message: dict[str, Any] = {
            "topic": call.target.topic,
            "server": call.target.server,
            "namespace": call.target.namespace,
            "version": call.target.version,
            "method": call.method,
            "context": dict(call.context),
            "arguments": dict(call.arguments),
        }
        try:
            response = self.session.post(self.url, json=message, timeout=(self.connect_timeout, call.timeout))
            body = response.json()
        except requests.ConnectTimeout:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        except (requests.RequestException, ValueError):
            raise CallUncertain(f"{call.method} on the bus of {self.name} got no answer in time") from None
        if response.status_code == 503:
            raise CannotConnect(f"{call.method} could not be delivered on the bus of {self.name}")
        if "unanswered" in body:
            raise CallUncertain(f"{call.method} on the bus of {self.name} got no answer in time")
        if "error" in body:
            raise CallFailed(f"{body['error']['kind']}: {body['error']['message']}", kind=body["error"]["kind"])
        return body["answer"]

    def notify(self, context: RpcContext, notification: Notification) -> None:
        """See :class:`cellmove.hosts.transport.Transport`."""
        import requests

        message: dict[str, Any] = {
            "notification": notification.event_type,
            "topics": list(notification.topics),
            "publisher": notification.publisher,
            "context": dict(context),
            "payload": dict(notification.payload),
        }
        try:
            response = self.session.post(self.url, json=message, timeout=self.connect_timeout)
        except requests.RequestException:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        if response.status_code != 200:
            raise CannotConnect(f"message bus of {self.name} did not accept a notification ({response.status_code})")
