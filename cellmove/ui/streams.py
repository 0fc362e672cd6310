"""The standard streams, made safe to use before anything else happens."""

from __future__ import annotations

import contextlib
import os
import sys

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The streams in the order of their descriptors."""


def open_closed_streams() -> None:
    """Let a stream that the caller closed (``>&-``) lead to /dev/null.

    Its descriptor is taken as well: otherwise the journal, or a connection, would get it, and whatever writes to
    descriptor 2 would write into that.
    """
    for number in range(len(MODES)):  # all of them first, or one would be taken for another
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
    """Open /dev/null as this descriptor where nothing is open."""
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
