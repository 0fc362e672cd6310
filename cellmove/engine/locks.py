"""One run per server: a lock that the kernel lets go of when the process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellmove.core.errors import Locked, Unreachable
from cellmove.core.files import make_directories, open_or_make


@contextmanager
def server_lock(directory: Path, server_id: str, server_name: str) -> Iterator[None]:
    """Hold the lock of one server.

    ``flock`` and not a file with a process id: after a SIGKILL there is nothing to clean up. The
    file itself stays; removing it would let two runs hold "the" lock on two different inodes.

    :raises Locked: when another run holds it
    """
    try:
        make_directories(directory)
        descriptor = open_or_make(directory / f"{server_id}.lock")
    except OSError as error:
        raise Unreachable(f"the lock directory {directory} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"another run of cellmove is working on {server_name}",
                state="this run touched nothing",
                next_command=f"cellmove show {server_id}",
            ) from None
        except OSError as error:
            raise Unreachable(
                f"the lock directory {directory} cannot be used: {error.strerror}", state="nothing was written"
            ) from None
        yield
    finally:
        os.close(descriptor)
