"""Files and directories that are this user's alone, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, with mode 0700.

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
    """A descriptor for reading and writing of a file; one that is new gets the mode 0600.

    :raises OSError: it cannot be opened
    """
    try:
        return make_file(path)
    except FileExistsError:
        return os.open(path, os.O_RDWR)


def make_file(path: Path) -> int:
    """A descriptor of a new file with mode 0600.

    :raises FileExistsError: there is one
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
