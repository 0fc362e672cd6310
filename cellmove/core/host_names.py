"""Host names in the URLs of settings."""

from __future__ import annotations

import re


def is_host_name(text: str) -> bool:
    """Return whether a text can be a host name or an IP address; an IPv6 address may carry its zone."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(re.fullmatch(r"[\w.:%-]+", text))
