"""Part of the program on a compute host (:mod:`cellmove.hosts.disk_program`): what is asked of a target.

Written, like the other parts, for the standard library of Python 3.6.
"""

import ctypes
import hashlib
import os
import stat
from typing import Any, Dict, List, Tuple

# isort: off
from cellmove.hosts.disk_reading import (
    CHUNK, READ_AT_ONCE, Answer, Refusal, State, digests_of, found, is_expected, opened, owned, file_state, split, within,
)  # fmt: skip
# isort: on


class Unread:
    """Which blocks of a target's unfinished file were written since they were last read back from the disk."""

    def __init__(self, block: int) -> None:
        self.block, self.flags = block, bytearray()

    def resize(self, size: int) -> None:
        """The file has another size: what comes is a hole; the last block, of another length now, counts as written."""
        before, blocks = len(self.flags), -(-size // self.block)
        del self.flags[blocks:]
        self.flags.extend(bytes(blocks - len(self.flags)))
        for last in (before, blocks):
            self.written((last - 1) * self.block, 1)

    def written(self, start: int, length: int) -> None:
        first, end = max(0, start // self.block), min(len(self.flags), -(-(start + length) // self.block))
        self.flags[first:end] = b"\1" * max(0, end - first)

    def all_written(self, size: int) -> None:
        self.flags = bytearray(b"\1" * -(-size // self.block))

    def was_read(self, first: int, end: int) -> None:
        end = min(end, len(self.flags))
        self.flags[first:end] = bytes(max(0, end - first))

    def ranges(self, first: int, most: int) -> List[Tuple[int, int]]:
        """From a block on, the runs of such blocks, `most` blocks at most; the end of a run is not included."""
        found_there: List[Tuple[int, int]] = []
        while most > 0:
            first = self.flags.find(1, first)
            if first < 0:
                break
            end = self.flags.find(0, first)
            end = min(end if end >= 0 else len(self.flags), first + most)
            found_there.append((first, end))
            first, most = end, most - (end - first)
        return found_there


def prepare(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Make the unfinished file, or open the one that is there; give it a size."""
    path = owned(state, asked["path"])
    with within(state, path) as (directory, name):
        existed = found(directory, name) is not None
    with opened(state, path, os.O_RDWR | (0 if existed else os.O_CREAT | os.O_EXCL)) as file:
        blocks = unread_blocks(state, path, file, is_new=not existed)
        state.unfinished.add(path)
        if asked["size"] is not None and os.fstat(file).st_size != asked["size"]:
            os.ftruncate(file, asked["size"])
            blocks.resize(asked["size"])
        state.stamps[path] = stamp(file)
        # What a source remembers of this file is true of this very process and revision only.
        token = f"{state.session}:{state.revisions[path]}:{path}"
        return {"existed": existed, "size": os.fstat(file).st_size, "token": token}, b""


def unread_blocks(state: State, path: str, file: int, *, is_new: bool = False) -> Unread:
    """What is to be read back of a file: all of it, when somebody else has written to it or it was here before us.

    :param is_new: made by us just now (an inode number may come again, so its stamp says nothing)
    """
    if is_new or state.stamps.get(path) != stamp(file):
        changed(state, path)
        state.unread[path] = Unread(state.workers.block)
        if not is_new:
            state.unread[path].all_written(os.fstat(file).st_size)
        state.stamps[path] = stamp(file)
    blocks: Unread = state.unread[path]
    return blocks


def stamp(file: int) -> Tuple[int, ...]:
    """What is another one after somebody has written to a file, or put another in its place."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def write(state: State, asked: Dict[str, Any], payload: bytes) -> Answer:
    """Write blocks, each only if it is what its SHA-256 says, and make holes."""
    place, view = 0, memoryview(payload)
    with opened(state, owned(state, asked["path"]), os.O_RDWR) as file:
        unread = unread_blocks(state, asked["path"], file)
        for start, length, digest in asked["blocks"]:
            part = view[place : place + length]
            if len(part) != length or hashlib.sha256(part).hexdigest() != digest:
                raise Refusal("damaged", f"the block at {start} of {asked['path']} did not arrive as it was sent")
            place += length
            unread.written(start, length)
            while len(part):
                written = os.pwrite(file, part, start)
                part, start = part[written:], start + written
        if place != len(payload):
            raise Refusal("damaged", f"more bytes came for {asked['path']} than were announced")
        for start, length in asked["holes"]:
            unread.written(start, length)
            punch(file, start, length)
        state.stamps[asked["path"]] = stamp(file)
    return {"written": place}, b""


def reread(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """The hashes of blocks written since they were last read, from one number on: read past the cache. Asked until `done`."""
    path = owned(state, asked["path"])
    with opened(state, path) as file:
        unread = unread_blocks(state, path, file)
        ranges = unread.ranges(asked["start"], READ_AT_ONCE // state.workers.block)
        digests, read = digests_of(state, file, ranges, "direct")
        for first, end in ranges:
            unread.was_read(first, end)
        last = ranges[-1][1] if ranges else len(unread.flags)
        told = {"size": os.fstat(file).st_size, "ranges": ranges, "next": last, "read": read}
        return dict(told, done=not unread.ranges(last, 1)), bytes(digests)


def punch(file: int, start: int, length: int) -> None:
    """Make a hole (FALLOC_FL_PUNCH_HOLE and KEEP_SIZE), or write zeros where there are none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None or call(file, 3, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
        for place in range(start, start + length, CHUNK):
            os.pwrite(file, bytes(min(CHUNK, start + length - place)), place)


def sync(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Everything of the file, its owner and mode too, and its name, onto the disk."""
    with opened(state, owned(state, asked["path"]), os.O_RDWR) as file:
        unread_blocks(state, asked["path"], file)  # a stranger's writing is not hidden by ours
        own(state, file, asked)
        os.fsync(file)
        state.stamps[asked["path"]] = stamp(file)
        with within(state, asked["path"]) as (directory, _name):
            os.fsync(directory)
        return {"file": file_state(os.fstat(file))}, b""


def own(state: State, file: int, asked: Dict[str, Any]) -> None:
    """Set mode and owner; by default, as root, the owner of instances_path, who is nova."""
    root, status = os.fstat(state.root), os.fstat(file)
    is_root = os.geteuid() == 0
    uid = asked["uid"] if asked["uid"] is not None else root.st_uid if is_root else status.st_uid
    gid = asked["gid"] if asked["gid"] is not None else root.st_gid if is_root else status.st_gid
    if (uid, gid) != (status.st_uid, status.st_gid):
        os.fchown(file, uid, gid)
    os.fchmod(file, asked["mode"] & 0o777)


def changed(state: State, path: str) -> None:
    """From now on a source has to be told anew what this file holds."""
    state.revisions[path] = state.revisions.get(path, 0) + 1


def rename(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Give a finished file its name. What has that name already is replaced only if it is what is expected there.

    May be asked again: where the name is that of the expected file already, all is done.
    """
    name = split(asked["to"])[-1]
    with within(state, owned(state, asked["path"])) as (directory, marked):
        if asked["to"] != name or name.startswith("."):
            raise Refusal("path", f"{asked['to']} is no name for {asked['path']}")
        ours, there = found(directory, marked), found(directory, name)
        for status in (ours, there if ours is None else None):
            if status is not None and not (stat.S_ISREG(status.st_mode) and is_expected(status, asked["file"])):
                raise Refusal("identity", f"{asked['path']} is not the file that was written")
        if ours is None and there is None:
            raise Refusal("absent", f"{asked['path']} is not there")
        if ours is not None and (there is None or not os.path.samestat(ours, there)):
            if there is not None and is_expected(there, asked["over"]) and stat.S_ISREG(there.st_mode):
                os.unlink(name, dir_fd=directory)
            # Unlike rename, link never replaces what somebody has put there since we looked.
            os.link(marked, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        if ours is not None:
            os.unlink(marked, dir_fd=directory)
        os.fsync(directory)
        state.unfinished.discard(asked["path"])
        changed(state, asked["path"])
        return {"file": file_state(os.stat(name, dir_fd=directory, follow_symlinks=False))}, b""


def remove(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Remove a file of this move, or the one that is expected there, or an expected empty directory."""
    changed(state, asked["path"])
    with within(state, asked["path"]) as (directory, name):
        there = found(directory, name)
        if there is None:
            return {"removed": False}, b""
        if asked["file"] is None and not stat.S_ISDIR(there.st_mode):
            owned(state, asked["path"])
        elif not is_expected(there, asked["file"]):
            raise Refusal("identity", f"{asked['path']} is not what was expected there, and stays")
        if stat.S_ISDIR(there.st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
        os.fsync(directory)
    state.unfinished.discard(asked["path"])
    return {"removed": True}, b""


def mkdir(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Make a directory, unless it is there."""
    with within(state, asked["path"]) as (directory, name):
        made = found(directory, name) is None
        if made:
            os.mkdir(name, 0o700, dir_fd=directory)
        file = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if made:
                own(state, file, asked)
                os.fsync(directory)
            return {"made": made, "file": file_state(os.fstat(file))}, b""
        finally:
            os.close(file)
