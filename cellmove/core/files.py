"""Files and directories that only this user can read, whatever the umask; :func:`publish` is the exception."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_directories(path: Path) -> None:
    """Make a directory and its missing parents with mode 0700.

    :raises OSError: it cannot be made
    """
    missing: list[Path] = []
    for each in (path, *path.parents):
        if each.exists():
            break
        missing.append(each)
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:  # another run was quicker
            continue
        each.chmod(0o700)


def open_or_make(path: Path) -> int:
    """Open a file for reading and writing; a new file has mode 0600.

    :raises OSError: it cannot be opened
    """
    try:
        return make_file(path)
    except FileExistsError:
        return os.open(path, os.O_RDWR)


def make_file(path: Path) -> int:
    """Make a new file with mode 0600, and return its descriptor.

    :raises FileExistsError: there is one
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def publish(path: Path, content: bytes) -> None:
    """Replace a file atomically by another one that every user may read.

    :raises OSError: it cannot be written, or is no regular file. The old file is unchanged then
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")  # node_exporter reads only names that end in .prom
    # In a directory that others may write to, the name could be a link of theirs.
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
