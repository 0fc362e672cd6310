"""Files that settings name: CA bundles, certificates and keys. Loaded once, so that a message can name the option."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cellmove.core.errors import BadSetting

T = TypeVar("T")

NO_PAIR = "it or its key is not in PEM form, or the key needs a password"
"""What is wrong with a certificate and its key, where OpenSSL gives no reason."""


def check_readable(option: str, path: str) -> None:
    """Make sure that a file is there and may be read.

    :param option: its setting, for the message
    :raises BadSetting: it is not
    """
    try:
        Path(path).open("rb").close()
    except (OSError, ValueError) as error:
        raise BadSetting(f"{option}={path}: {reason(error)}") from None


def check_ca(option: str, path: str) -> None:
    """Make sure that a CA bundle, which may be a directory of certificates, can be used.

    :raises BadSetting: it cannot
    """
    if Path(path).is_dir():
        return
    check_readable(option, path)
    loading(option, path, lambda: ssl.create_default_context(cafile=path))


def check_certificate(options: tuple[str, str], cert: str, key: str | None) -> None:
    """Make sure that a client certificate and its key can be used.

    :param options: the settings of the two, for the message
    :raises BadSetting: they cannot
    """
    check_readable(options[0], cert)
    if key:
        check_readable(options[1], key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Without a password OpenSSL would ask for one at the terminal.
    loading(options[0], cert, lambda: context.load_cert_chain(cert, key or None, ""), NO_PAIR)


def loading(option: str, path: str | None, load: Callable[[], T], otherwise: str = "it is not in PEM form") -> T:
    """Call a function of the module ssl.

    :param otherwise: what is wrong, where OpenSSL gives no reason
    :raises BadSetting: it does not take the file
    """
    try:
        return load()
    except ssl.SSLError as error:
        said = (error.reason or "").replace("_", " ").lower()
        raise BadSetting(f"{option}={path}: {said or otherwise}") from None
    except (OSError, ValueError) as error:
        raise BadSetting(f"{option}={path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What is wrong with a file, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file on this machine"
    return (error.strerror if isinstance(error, OSError) else "") or "it cannot be read"
