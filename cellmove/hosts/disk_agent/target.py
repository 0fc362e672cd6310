"""Requests to the target of a pass."""

import ctypes
import hashlib
import os
import stat
from typing import Tuple

from .protocol import READ_AT_ONCE, Answer, Fields, Refusal
from .reading import CHUNK, digests_of
from .state import State, file_state, is_expected, lookup, opened, owned, split, within
from .unread import UnreadBlocks


def prepare(state: State, request: Fields, _payload: bytes) -> Answer:
    """Create the unfinished file, or open the existing one, and set its size."""
    path = owned(state, request["path"])
    with within(state, path) as (directory, name):
        existed = lookup(directory, name) is not None
    with opened(state, path, os.O_RDWR | (0 if existed else os.O_CREAT | os.O_EXCL)) as file:
        blocks = unread_blocks(state, path, file, is_new=not existed)
        state.unfinished.add(path)
        if request["size"] is not None and os.fstat(file).st_size != request["size"]:
            os.ftruncate(file, request["size"])
            blocks.resize(request["size"])
        state.stamps[path] = stamp(file)
        # What a source remembers of this file holds for this process and revision only.
        token = f"{state.session}:{state.revisions[path]}:{path}"
        return {"existed": existed, "size": os.fstat(file).st_size, "token": token}, b""


def unread_blocks(state: State, path: str, file: int, *, is_new: bool = False) -> UnreadBlocks:
    """Return the blocks to be read back: all, when another process wrote to the file or the file is older than this process.

    :param is_new: just created (its inode number may have been used before, so its stamp proves nothing)
    """
    if is_new or state.stamps.get(path) != stamp(file):
        changed(state, path)
        state.unread[path] = UnreadBlocks(state.workers.block)
        if not is_new:
            state.unread[path].all_written(os.fstat(file).st_size)
        state.stamps[path] = stamp(file)
    return state.unread[path]


def stamp(file: int) -> Tuple[int, ...]:
    """Return a value that changes when another process writes to the file or replaces it."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def write(state: State, request: Fields, payload: bytes) -> Answer:
    """Write blocks whose SHA-256 matches, and make holes."""
    place, view = 0, memoryview(payload)
    with opened(state, owned(state, request["path"]), os.O_RDWR) as file:
        unread = unread_blocks(state, request["path"], file)
        for start, length, digest in request["blocks"]:
            part = view[place : place + length]
            if len(part) != length or hashlib.sha256(part).hexdigest() != digest:
                raise Refusal("damaged", f"the block at {start} of {request['path']} did not arrive as it was sent")
            place += length
            unread.written(start, length)
            while len(part):
                written = os.pwrite(file, part, start)
                part, start = part[written:], start + written
        if place != len(payload):
            raise Refusal("damaged", f"more bytes came for {request['path']} than were announced")
        for start, length in request["holes"]:
            unread.written(start, length)
            punch(file, start, length)
        state.stamps[request["path"]] = stamp(file)
    return {"written": place}, b""


def reread(state: State, request: Fields, _payload: bytes) -> Answer:
    """Return the hashes of unread blocks from one number on, read past the cache. The operator repeats it until `done`."""
    path = owned(state, request["path"])
    with opened(state, path) as file:
        unread = unread_blocks(state, path, file)
        ranges = unread.ranges(request["start"], READ_AT_ONCE // state.workers.block)
        digests, read = digests_of(state.workers, file, ranges, "direct")
        for first, end in ranges:
            unread.was_read(first, end)
        last = ranges[-1][1] if ranges else len(unread.flags)
        fields = {"size": os.fstat(file).st_size, "ranges": ranges, "next": last, "read": read}
        return dict(fields, done=not unread.ranges(last, 1)), bytes(digests)


def punch(file: int, start: int, length: int) -> None:
    """Make a hole (FALLOC_FL_PUNCH_HOLE and KEEP_SIZE), or write zeros where the file system has no holes."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None or call(file, 3, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
        for place in range(start, start + length, CHUNK):
            os.pwrite(file, bytes(min(CHUNK, start + length - place)), place)


def sync(state: State, request: Fields, _payload: bytes) -> Answer:
    """Sync a file to the disk, with its owner, mode and name."""
    with opened(state, owned(state, request["path"]), os.O_RDWR) as file:
        unread_blocks(state, request["path"], file)  # before the stamp changes: another process may have written
        own(state, file, request)
        os.fsync(file)
        state.stamps[request["path"]] = stamp(file)
        with within(state, request["path"]) as (directory, _name):
            os.fsync(directory)
        return {"file": file_state(os.fstat(file))}, b""


def own(state: State, file: int, request: Fields) -> None:
    """Set mode and owner. The default owner, for root, is the owner of instances_path: nova."""
    root, status = os.fstat(state.root), os.fstat(file)
    is_root = os.geteuid() == 0
    uid = request["uid"] if request["uid"] is not None else root.st_uid if is_root else status.st_uid
    gid = request["gid"] if request["gid"] is not None else root.st_gid if is_root else status.st_gid
    if (uid, gid) != (status.st_uid, status.st_gid):
        os.fchown(file, uid, gid)
    os.fchmod(file, request["mode"] & 0o777)


def changed(state: State, path: str) -> None:
    """Make the next pass read what this file holds: a source's knowledge of it is void."""
    state.revisions[path] = state.revisions.get(path, 0) + 1


def rename(state: State, request: Fields, _payload: bytes) -> Answer:
    """Rename a finished file. An existing file of that name is replaced only if it is the expected one.

    The request is idempotent: if the name already belongs to the expected file, it succeeds.
    """
    name = split(request["to"])[-1]
    with within(state, owned(state, request["path"])) as (directory, marked):
        if request["to"] != name or name.startswith("."):
            raise Refusal("path", f"{request['to']} is not a valid name for {request['path']}")
        ours, there = lookup(directory, marked), lookup(directory, name)
        for status in (ours, there if ours is None else None):
            if status is not None and not (stat.S_ISREG(status.st_mode) and is_expected(status, request["file"])):
                raise Refusal("identity", f"{request['path']} is not the file that was written")
        if ours is None and there is None:
            raise Refusal("absent", f"{request['path']} is not there")
        if ours is not None and (there is None or not os.path.samestat(ours, there)):
            if there is not None and is_expected(there, request["over"]) and stat.S_ISREG(there.st_mode):
                os.unlink(name, dir_fd=directory)
            # Unlike rename, link never replaces a file that another process has created meanwhile.
            os.link(marked, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        if ours is not None:
            os.unlink(marked, dir_fd=directory)
        os.fsync(directory)
        state.unfinished.discard(request["path"])
        changed(state, request["path"])
        return {"file": file_state(os.stat(name, dir_fd=directory, follow_symlinks=False))}, b""


def remove(state: State, request: Fields, _payload: bytes) -> Answer:
    """Remove a file of this move, or the expected file, or the expected empty directory."""
    changed(state, request["path"])
    with within(state, request["path"]) as (directory, name):
        there = lookup(directory, name)
        if there is None:
            return {"removed": False}, b""
        if request["file"] is None and not stat.S_ISDIR(there.st_mode):
            owned(state, request["path"])
        elif not is_expected(there, request["file"]):
            raise Refusal("identity", f"{request['path']} is not the expected file, and stays")
        if stat.S_ISDIR(there.st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
        os.fsync(directory)
    state.unfinished.discard(request["path"])
    return {"removed": True}, b""


def mkdir(state: State, request: Fields, _payload: bytes) -> Answer:
    """Create a directory unless it exists."""
    with within(state, request["path"]) as (directory, name):
        made = lookup(directory, name) is None
        if made:
            os.mkdir(name, 0o700, dir_fd=directory)
        file = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if made:
                own(state, file, request)
                os.fsync(directory)
            return {"made": made, "file": file_state(os.fstat(file))}, b""
        finally:
            os.close(file)
