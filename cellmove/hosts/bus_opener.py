"""Opens message buses.

The scheme of a URL selects the transport: oslo.messaging (:mod:`cellmove.hosts.rabbit`) for every bus of a real cloud, HTTP
(:mod:`cellmove.hosts.loopback`) for the sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.hosts import loopback
from cellmove.hosts.bus import Bus, probe_broker

if TYPE_CHECKING:
    from cellmove.core.settings import Settings
    from cellmove.hosts.rabbit import OsloMessaging
    from cellmove.hosts.transport import Transport


class BusOpener:
    """Opens the buses of a run and holds what oslo.messaging shares between them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._library: OsloMessaging | None = None

    def open(self, url: str, name: str, *, setting: str = "") -> Bus:
        """Prepare a bus and make sure that its broker answers.

        :param name: for messages
        :param setting: where the URL is set, for messages about the URL
        :raises Misconfigured: the URL, or an option of nova.conf, cannot be used
        :raises CannotConnect: no broker of the URL answers or accepts the login
        """
        settings = self._settings
        transport = self._transport(url, name, setting)
        bus = Bus(name, url, transport, settings.rpc_response_timeout, settings.long_rpc_timeout)
        probe_broker(bus)
        return bus

    def _transport(self, url: str, name: str, setting: str) -> Transport:
        if url.startswith(loopback.SCHEME):
            address = url.replace(loopback.SCHEME, "http://", 1)
            return loopback.LoopbackTransport(address, name, self._settings.connect_timeout)
        from cellmove.hosts import rabbit

        self._library = self._library or rabbit.OsloMessaging()
        return rabbit.open_transport(url, name, self._settings, self._library, setting)
