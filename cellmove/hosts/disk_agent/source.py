"""Requests to the source of a pass."""

import fcntl
import os
from typing import Optional

from .extents import MARGIN, cloned, free_bytes
from .passes import Pass, Table
from .protocol import Answer, Fields, Refusal
from .state import State, file_state, lookup, opened, within


def begin(state: State, request: Fields, _payload: bytes) -> Answer:
    """Open a file for a pass.

    `certain` in the answer: the agent knows what the target holds. Otherwise the operator sends it (`known`).
    """
    path = request["path"]
    leave(state, request, b"")
    table = state.tables.get(path)
    if table is None or table.token != request["token"] or not table.certain:
        if table is not None:
            table.keep(None)
        table = Table(request["token"])
    certain, table.certain = table.certain, False
    state.tables[path] = table
    with within(state, path) as (directory, _name), opened(state, path) as file:
        status = os.fstat(file)  # before anything is read or cloned
        clone = _cloned(state, file, directory, table) if request["cache"] == "keep" else None
        own = os.dup(file)
        try:
            begun = Pass(state.workers, own, status, table, request["cache"], clone)
        except BaseException:
            for descriptor in (own, clone):
                if descriptor is not None:
                    os.close(descriptor)
            raise
    state.passes[path] = begun
    return {"size": begun.size, "data": begun.data, "certain": certain, "file": file_state(begun.status)}, b""


def _cloned(state: State, file: int, directory: int, table: Table) -> Optional[int]:
    """Return a clone to read, or None. If space is short, the older clone is closed first."""
    if not state.may_clone:
        return None
    try:  # one agent at a time keeps clones, so that their space is counted once; the lock ends with the process
        fcntl.flock(state.root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    for _try in range(2):
        reserved = sum(os.fstat(clone).st_blocks * 512 for clone in state.clones())
        clone = cloned(file, directory, reserved)
        if clone is not None or table.clone is None:
            return clone
        table.keep(None)
    return None


def relieve(state: State) -> None:
    """Close all clones when space runs out, so that guests can still write."""
    if not state.clones() or free_bytes(state.root) >= MARGIN // 2:
        return
    state.may_clone = False
    for table in state.tables.values():
        table.keep(None)
    for path in [path for path, begun in state.passes.items() if begun.clone is not None]:
        state.passes.pop(path).close()
        state.relieved.add(path)


def known(state: State, request: Fields, payload: bytes) -> Answer:
    """Receive the hashes of the target's blocks from a block on. Those beyond the file's end are ignored."""
    entries = _pass(state, request).table.entries
    place = request["start"] * 32
    fits = payload[: max(0, len(entries) - place)]
    entries[place : place + len(fits)] = fits
    return {}, b""


def more(state: State, request: Fields, _payload: bytes) -> Answer:
    """Return the next changed blocks of a pass."""
    try:
        return _pass(state, request).more(request["bytes"])
    except BaseException:
        leave(state, request, b"")  # the blocks that were read ahead are lost, so the pass cannot continue
        raise


def settle(state: State, request: Fields, _payload: bytes) -> Answer:
    """End a pass whose blocks the target has written and synced. Check that the file was not replaced meanwhile."""
    path, begun = request["path"], _pass(state, request)
    if not begun.done:
        raise Refusal("usage", f"the pass over {path} is not at its end")
    begun.settle()
    now = os.fstat(begun.file)
    with within(state, path) as (directory, name):
        there = lookup(directory, name)
    state.passes.pop(path).close()
    if there is None or (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
        raise Refusal("changed", f"{path} was removed or replaced while it was read")
    before = begun.status
    if request["still"] and (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        raise Refusal("changed", f"{path} was written to while it was read, although its guest should be off")
    return {"digest": begun.digest(), "file": file_state(now)}, b""


def matches(state: State, request: Fields, payload: bytes) -> Answer:
    """Compare blocks that the target has read back with what was sent. The next pass sends those that differ."""
    table = state.tables.get(request["path"])
    if table is None or not table.certain:
        raise Refusal("uncertain", f"the expected content of {request['path']} at the target is unknown")
    place, differ = 0, 0
    if request["size"] not in (None, table.size):  # truncated or extended: missing blocks have no hash
        differ += 1
    for first, end in request["ranges"]:
        for number in range(first, end):
            theirs, entry = payload[place : place + 32], slice(number * 32, number * 32 + 32)
            if table.entries[entry] != theirs:
                differ += 1
                table.entries[entry] = theirs
            place += 32
    if differ:
        table.keep(None)  # the next pass has to read the whole file
    if place != len(payload):
        raise Refusal("usage", "the number of hashes differs from the number of blocks")
    return {"differ": differ}, b""


def leave(state: State, request: Fields, _payload: bytes) -> Answer:
    """Abandon a pass."""
    if request["path"] in state.passes:
        begun = state.passes.pop(request["path"])
        begun.close()
        begun.table.keep(None)
    return {}, b""


def _pass(state: State, request: Fields) -> Pass:
    if request["path"] not in state.passes:
        if request["path"] in state.relieved:
            raise Refusal("no-space", f"the pass over {request['path']} was abandoned: its file system is almost full")
        raise Refusal("usage", f"no pass over {request['path']} is running")
    return state.passes[request["path"]]
