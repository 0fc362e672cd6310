"""Requests that look at a host and its files."""

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys

from .extents import free_bytes, is_trusted
from .frames import VERSION
from .images import header
from .protocol import READ_AT_ONCE, Answer, Fields, Refusal
from .reading import Workers, digests_of
from .state import State, file_state, lookup, opened, within


def hello(state: State, request: Fields, _payload: bytes) -> Answer:
    """Start: which move to work for, and where."""
    path = request["instances_path"]
    if state.fixed_path and os.path.normpath(path) != os.path.normpath(state.fixed_path):
        raise Refusal("path", f"this key may work in {state.fixed_path} only, not in {path}")
    if not os.path.isabs(path) or not re.match(r"[\w-]{1,64}\Z", request["move"]):
        raise Refusal("usage", "an absolute path and the id of a move are required")
    if request["block"] % 4096 or not 4096 <= request["block"] <= 4 << 20:
        raise Refusal("usage", "the size of a block has to be a multiple of 4096 bytes, 4 MiB at most")
    state.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    state.path, state.move = os.path.normpath(path), request["move"]
    state.workers = Workers(request["threads"] or min(4, os.cpu_count() or 1), request["block"])
    return {"version": VERSION, "session": state.session}, b""


def facts(state: State, _request: Fields, _payload: bytes) -> Answer:
    """Describe this host and the rights of this process."""
    system, root = os.fstatvfs(state.root), os.fstat(state.root)
    program = shutil.which("qemu-img")
    version = subprocess.check_output([program, "--version"], stdin=subprocess.DEVNULL) if program else b""  # noqa: S603
    matched = re.search(r"version (\S+?)[,\s(]", version.decode(errors="replace"))
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "hostname": socket.gethostname(),
        "boot_id": boot,
        "uid": os.geteuid(),
        "qemu_img": matched.group(1) if matched else "",
        "free": free_bytes(state.root),
        "total": system.f_blocks * system.f_frsize,
        "device": root.st_dev,
        "inode": root.st_ino,
        "owner": root.st_uid,
        "group": root.st_gid,
        "threads": state.workers.threads,
        "tells": is_trusted(state.root),
        "readable": os.access(".", os.R_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
        "writable": os.access(".", os.W_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
    }, b""


def look(state: State, request: Fields, _payload: bytes) -> Answer:
    """Describe the files of a directory, or one file; images with their headers."""
    with within(state, request["path"]) as (directory, name):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return {"file": file_state(status), "entries": [_entry(state, request["path"], name, status)]}, b""
        here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            entries = []
            for child in sorted(os.listdir(here))[:1000]:
                there = lookup(here, child)
                if there is not None:
                    entries.append(_entry(state, request["path"] + "/" + child, child, there))
            return {"file": file_state(status), "entries": entries}, b""
        finally:
            os.close(here)


def _entry(state: State, path: str, name: str, status: os.stat_result) -> Fields:
    entry = dict(file_state(status), name=name, image=None, text=None)
    if entry["kind"] == "file":
        with opened(state, path) as file:
            entry["image"] = header(file)
            if name == "disk.info":  # the format of each disk, as nova recorded it
                entry["text"] = os.pread(file, 65536, 0).decode(errors="replace")
    return entry


def hashes(state: State, request: Fields, _payload: bytes) -> Answer:
    """Return the hashes of a file's blocks, from one number on. The operator repeats it until `done`."""
    with opened(state, request["path"]) as file:
        size, block = os.fstat(file).st_size, state.workers.block
        blocks, first = -(-size // block), request["start"]
        end = min(blocks, first + max(1, READ_AT_ONCE // block))
        cache = request["cache"] if first == 0 or request["cache"] == "direct" else "keep"
        digests, read = digests_of(state.workers, file, [(first, end)], cache)
    return {"size": size, "next": end, "read": read, "done": end >= blocks}, bytes(digests)


def holders(state: State, request: Fields, _payload: bytes) -> Answer:
    """Count the other processes that have a file open, as far as they are visible.

    It reads the links in /proc and does not follow them: their targets may be on storage that hangs.
    """
    count = 0
    for process in os.listdir("/proc"):
        if not process.isdigit() or int(process) == os.getpid():
            continue
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except OSError:  # it has ended, or belongs to another user
            continue
        for number in numbers:
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(f"/proc/{process}/fd/{number}").endswith("/" + request["path"]):
                    count += 1
                    break
    return {"open": count}, b""
