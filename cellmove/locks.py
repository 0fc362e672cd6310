"""One run per server: a lock that the kernel lets go of when the process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellmove.errors import Locked, Unreachable


@contextmanager
def server_lock(directory: Path, server_id: str, server_name: str) -> Iterator[None]:
    """Hold the lock of one server.

    ``flock`` and not a file with a process id: after a SIGKILL there is nothing to clean up. The
    file itself stays; removing it would let two runs hold "the" lock on two different inodes.

    :raises Locked: when another run holds it
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / f"{server_id}.lock", os.O_CREAT | os.O_RDWR, 0o600)
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
