"""The standard streams, made safe to use before anything else happens."""

from __future__ import annotations

import contextlib
import os
import sys

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The streams in the order of their descriptors."""


def open_closed_streams() -> None:
    """Connect a stream that the caller closed (``>&-``) to /dev/null.

    Its descriptor is reserved as well. Otherwise the journal, or a connection, would get descriptor 2, and error
    messages would be written into it.
    """
    for number in range(len(MODES)):  # before any stream is opened, which would get the lowest free descriptor
        with contextlib.suppress(OSError):
            _reserve(number)
    for name, mode in MODES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def _reserve(number: int) -> None:
    """Open /dev/null as this descriptor, unless the descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
