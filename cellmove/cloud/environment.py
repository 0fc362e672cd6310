"""How openstacksdk's calls are sent: with the proxies and CA bundles of the environment, which is looked at once for each server.

``requests`` looks at it anew for every call, which is a fifth of what a call costs us.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests


class OnceRead(requests.Session):
    """A session that remembers what the environment says of a server.

    :param adapters: of the session in whose place it is put
    """

    def __init__(self, adapters: Any) -> None:
        super().__init__()
        self.adapters = adapters
        self._found: dict[Any, Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """See ``requests.Session``; proxies that are given for one call are not remembered."""
        if proxies:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        where = urlsplit(url)
        key = where.scheme, where.netloc, stream, verify, cert
        if key not in self._found:
            self._found[key] = super().merge_environment_settings(url, proxies, stream, verify, cert)
        return self._found[key]
