"""Settings of a credential: URLs and files. keystoneauth and requests report an unusable one late, and do not name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cellmove.core import tls_files
from cellmove.core.errors import BadSetting
from cellmove.core.host_names import is_host_name

if TYPE_CHECKING:
    from keystoneauth1.session import Session

IN_CLOUDS_YAML = ("cacert", "cert", "key")
IN_NOVA_CONF = ("[neutron]cafile", "[neutron]certfile", "[neutron]keyfile")


def check(session: Session, names: tuple[str, str, str]) -> None:
    """Make sure that a session logs in to keystone, by a URL, a CA bundle and a client certificate that can be used.

    :param names: what the settings of the three files are called
    :raises BadSetting: it does not
    """
    from keystoneauth1.identity.base import BaseIdentityPlugin

    if not isinstance(session.auth, BaseIdentityPlugin):
        raise BadSetting("its auth_type does not log in to keystone, whose catalog is needed")
    url = str(session.auth.auth_url)
    check_url("auth_url", url)
    if url.startswith("http://"):
        return
    verify: Any = session.verify
    if isinstance(verify, str):
        tls_files.check_ca(names[0], verify)
    if session.cert:
        cert, key = session.cert if isinstance(session.cert, tuple) else (session.cert, None)
        if not cert:
            raise BadSetting(f"{names[2]} is set, and {names[1]} is not")
        tls_files.check_certificate(names[1:], cert, key)


def check_url(setting: str, url: str) -> None:
    """Make sure that a URL names a host that can be called.

    :param setting: where it is set, for the message, which does not show the URL: it may hold a password
    :raises BadSetting: it does not
    """
    if not url.startswith(("http://", "https://")):
        raise BadSetting(f"{setting} has to begin with http:// or https://")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise BadSetting(f"{setting} cannot be parsed") from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port is not None and not port:
        raise BadSetting(f"the port of {setting} has to be a number between 1 and 65535")
    if not host:
        raise BadSetting(f"{setting} names no host")
    if any(character.isspace() for character in url) or not is_host_name(host):
        raise BadSetting(f"the host of {setting} is no host name")
