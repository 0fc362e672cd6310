"""The state of the agent, and how it opens files: always below instances_path, never through a link."""

import contextlib
import os
import stat
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from .passes import Pass, Table
from .protocol import Refusal
from .reading import Workers
from .unread import UnreadBlocks


class State:
    """The state of one connection: where it works, its passes, and what it knows of files.

    :param fixed_path: of the command line; no other instances_path is accepted then
    """

    def __init__(self, fixed_path: str) -> None:
        self.fixed_path = fixed_path
        self.path, self.root, self.move, self.input = "", -1, "", -1
        self.session = os.urandom(8).hex()
        self.revisions: Dict[str, int] = {}  # of files, raised when anything but `write` changes one
        self.workers: Workers = Workers(1, 4096)  # until hello says how many
        self.tables: Dict[str, Table] = {}
        self.passes: Dict[str, Pass] = {}
        self.stamps: Dict[str, Tuple[int, ...]] = {}  # of files, after the agent's last write
        self.unread: Dict[str, UnreadBlocks] = {}  # of a target's files
        self.unfinished: Set[str] = set()
        self.tidy = False
        self.relieved: Set[str] = set()  # files whose passes were abandoned for lack of space
        self.may_clone = True  # until the space runs out

    def clones(self) -> List[int]:
        """Return all clones that are kept. Each may come to take as much space as its file."""
        kept = [table.clone for table in self.tables.values()] + [begun.clone for begun in self.passes.values()]
        return [clone for clone in kept if clone is not None]


def split(path: str) -> List[str]:
    """Return the names of a relative path; refuse a path that leads out of instances_path."""
    names = path.split("/") if isinstance(path, str) else []
    if not names or any(name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > 255 for name in names):
        raise Refusal("path", f"{path!r} is no path below instances_path")
    return names


@contextlib.contextmanager
def within(state: State, path: str) -> Iterator[Tuple[int, str]]:
    """Yield the open directory of `path`, and the last name."""
    if state.root < 0:
        raise Refusal("usage", "no hello was received yet")
    names = split(path)
    here = os.dup(state.root)
    try:
        for name in names[:-1]:
            there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = there
        yield here, names[-1]
    finally:
        os.close(here)


@contextlib.contextmanager
def opened(state: State, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a regular file; never through a link, never a pipe or a device."""
    with within(state, path) as (directory, name):
        file = os.open(
            name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600, dir_fd=directory
        )
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or (flags & os.O_ACCMODE and status.st_nlink != 1):
                raise Refusal("path", f"{path} is no regular file with one name")
            yield file
        finally:
            os.close(file)


def owned(state: State, path: str) -> str:
    """Return `path` if its last name carries the mark of this move; refuse it otherwise."""
    name = split(path)[-1]
    if not (name.startswith(".") and name.endswith(".cellmove-" + state.move)):
        raise Refusal("path", f"{path} does not carry the mark of {state.move}")
    return path


def is_expected(status: os.stat_result, expected: Any) -> bool:
    """Whether a file is the expected one, by device and inode."""
    return isinstance(expected, dict) and [expected.get("device"), expected.get("inode")] == [
        status.st_dev,
        status.st_ino,
    ]


def lookup(directory: int, name: str) -> Optional[os.stat_result]:
    """Return the status of a name in a directory, links not followed; None when there is none."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def file_state(status: os.stat_result) -> Dict[str, Any]:
    """What is told of a file or directory."""
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
    return {
        "kind": next((name for test, name in kinds if test(status.st_mode)), "other"),
        "size": status.st_size,
        "allocated": status.st_blocks * 512,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "device": status.st_dev,
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
    }
