"""Folders in which a cloud is played."""

from __future__ import annotations

import multiprocessing.util
import shutil
import tempfile
from pathlib import Path


def own_folder(prefix: str) -> Path:
    """A new folder, gone again when this process ends; not with its forks, which are killed on purpose."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=shared_memory()))
    # Workers of multiprocessing run its own finalizers at their end, and not those of atexit.
    multiprocessing.util.Finalize(None, shutil.rmtree, args=(path, True), exitpriority=1)
    return path


def shared_memory() -> Path | None:
    """Where files are quicker than on a disk, if there is such a place."""
    place = Path("/dev/shm")  # noqa: S108 - only ever a folder of our own in it
    return place if place.is_dir() else None
