"""Limits the memory that many threads take."""

from __future__ import annotations

import ctypes
from contextlib import suppress

ARENAS = 2
M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Let all threads share few arenas of glibc's malloc, for any number of processors.

    By default glibc has up to eight arenas a processor, and free memory of one arena is not available to the others: a run
    of 32 threads held twice the memory that it needed. Other C libraries have no arenas.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
