"""The bus of the sandbox: calls as HTTP requests to the process that plays the cloud (``sandbox://host:port/bus``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect

if TYPE_CHECKING:
    from requests import Session

    from cellmove.hosts.bus import Notice, Target

SCHEME = "sandbox://"

POOL = 64
"""Connections that are kept: as many as a drain has threads."""


def _session() -> Session:
    import requests

    made = requests.Session()
    made.trust_env = False  # no proxy leads to the sandbox
    made.mount("http://", requests.adapters.HTTPAdapter(POOL, POOL))
    return made


@dataclass(frozen=True)
class LoopbackTransport:
    """A bus of the sandbox.

    :param url: where it is, as http
    :param name: whose bus it is, for messages
    """

    url: str
    name: str
    connect_timeout: float
    session: Session = field(default_factory=_session, repr=False, compare=False)

    def named(self, name: str) -> LoopbackTransport:
        """The same connections under the name of another cell that shares them."""
        return replace(self, name=name)

    def probe(self) -> None:
        """See :func:`cellmove.hosts.bus.probe_broker`."""
        import requests

        try:
            answer = self.session.get(self.url, timeout=self.connect_timeout)
        except requests.RequestException:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        if answer.status_code != 200:
            raise CannotConnect(f"message bus of {self.name} cannot be reached ({answer.status_code})")

    def send(
        self, target: Target, context: Mapping[str, Any], method: str, arguments: Mapping[str, Any], timeout: float,
        long: bool,
    ) -> Any:  # fmt: skip
        """See :func:`cellmove.hosts.bus.call`."""
        import requests

        message: Any = {
            "topic": target.topic, "server": target.server, "namespace": target.namespace, "version": target.version,
            "method": method, "context": dict(context), "arguments": dict(arguments),
        }  # fmt: skip
        try:
            answer = self.session.post(self.url, json=message, timeout=(self.connect_timeout, timeout))
            body = answer.json()
        except requests.ConnectTimeout:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        except (requests.RequestException, ValueError):
            raise CallUncertain(f"{method} on the bus of {self.name} got no answer in time") from None
        if answer.status_code == 503:
            raise CannotConnect(f"{method} could not be delivered on the bus of {self.name}")
        if "nobody" in body:
            raise CallUncertain(f"{method} on the bus of {self.name} got no answer in time")
        if "error" in body:
            raise CallFailed(f"{body['error']['kind']}: {body['error']['message']}", kind=body["error"]["kind"])
        return body["answer"]

    def notify(self, context: Mapping[str, Any], notice: Notice) -> None:
        """See :func:`cellmove.hosts.bus.notify`."""
        import requests

        message: Any = {
            "notification": notice.event_type, "topics": list(notice.topics), "publisher": notice.publisher,
            "context": dict(context), "payload": dict(notice.payload),
        }  # fmt: skip
        try:
            answer = self.session.post(self.url, json=message, timeout=self.connect_timeout)
        except requests.RequestException:
            raise CannotConnect(f"message bus of {self.name} cannot be reached") from None
        if answer.status_code != 200:
            raise CannotConnect(f"message bus of {self.name} did not take it ({answer.status_code})")
