"""The other end of the disks' transport: runs on a compute host, from its standard input to its standard output.

Nothing is installed there: this file's text is sent over ssh and executed (:mod:`cellmove.hosts.disk_link`), or it is
installed once as the only thing that a key may start (docs/stream.md). It therefore stands alone: the standard library
of Python 3.6, no import of the rest. It answers requests in their order, one frame each, until its input ends.

All paths are relative to nova's ``instances_path``; they are walked name by name, and no symbolic link is followed.
Only files whose name carries the move's mark are ever written.
"""

import collections
import concurrent.futures
import contextlib
import errno
import fcntl
import os
import re
import select
import shutil
import socket
import stat
import subprocess
import sys
import time
from typing import Any, Callable, Deque, Dict, List

# isort: off
from cellmove.hosts.disk_extents import MARGIN, cloned, is_trusted, room
from cellmove.hosts.disk_frames import VERSION, read, read_frame, write_frame
from cellmove.hosts.disk_reading import (
    READ_AT_ONCE, Answer, Pass, Refusal, State, Table, Workers, digests_of, found, header, opened, owned, file_state, split, within,
)  # fmt: skip
from cellmove.hosts.disk_sample import sample
from cellmove.hosts.disk_writing import changed, mkdir, prepare, remove, rename, reread, sync, write
# isort: on

IDLE = 6 * 3600  # seconds without a request after which nobody is there any more, whatever TCP believes
LOOK = 5.0  # seconds between two looks at how much room is left
KINDS = {
    errno.ENOENT: "absent", errno.EEXIST: "exists", errno.ENOTEMPTY: "not-empty", errno.EACCES: "denied", errno.EPERM: "denied",
    errno.EROFS: "denied", errno.ELOOP: "path", errno.ENOTDIR: "path", errno.ENXIO: "path", errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space", errno.EFBIG: "no-space",
}  # fmt: skip


# What is asked of a source


def begin(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Open a file for a pass. `certain`: this process knows what the target holds; else it has to be told (`known`)."""
    path = asked["path"]
    leave(state, asked, b"")
    table = state.tables.get(path)
    if table is None or table.token != asked["token"] or not table.certain:
        if table is not None:
            table.keep(None)
        table = Table(asked["token"])
    certain, table.certain = table.certain, False
    state.tables[path] = table
    with within(state, path) as (directory, _name), opened(state, path) as file:
        status = os.fstat(file)  # before anything is read, or cloned to be read
        clone = _cloned(state, file, directory, table) if asked["cache"] == "keep" else None
        own = os.dup(file)
        try:
            begun = Pass(state.workers, own, status, table, asked["cache"], clone)
        except BaseException:
            for each in (own, clone):
                if each is not None:
                    os.close(each)
            raise
    state.passes[path] = begun
    return {"size": begun.size, "data": begun.data, "certain": certain, "file": file_state(begun.status)}, b""


def _cloned(state: State, file: int, directory: int, table: Table) -> Any:
    """A clone to be read, if there can be one; rather than none a later one than that which is kept."""
    if not state.may_clone:
        return None
    try:  # one program at a time keeps clones, so that what guests may overwrite is counted once; its end unlocks it
        fcntl.flock(state.root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    for _try in range(2):
        taken = sum(os.fstat(clone).st_blocks * 512 for clone in state.clones())
        clone = cloned(file, directory, taken)
        if clone is not None or table.clone is None:
            return clone
        table.keep(None)
    return None


def relieve(state: State) -> None:
    """Give all clones up when there is hardly any room left: what guests write must always find some."""
    if not state.clones() or room(state.root) >= MARGIN // 2:
        return
    state.may_clone = False
    for table in state.tables.values():
        table.keep(None)
    for path in [path for path, begun in state.passes.items() if begun.clone is not None]:
        state.passes.pop(path).close()
        state.relieved.add(path)


def known(state: State, asked: Dict[str, Any], payload: bytes) -> Answer:
    """What the target holds from a block on; beyond the file's end it does not matter."""
    entries = _pass(state, asked).table.entries
    place = asked["start"] * 32
    fits = payload[: max(0, len(entries) - place)]
    entries[place : place + len(fits)] = fits
    return {}, b""


def more(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """The next changed blocks of a pass."""
    try:
        return _pass(state, asked).more(asked["bytes"])
    except BaseException:
        leave(state, asked, b"")  # what was read ahead is gone: it cannot go on behind the gap
        raise


def settle(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """The target has written and synced all of a pass. Looks whether it was one and the same file all the time."""
    path, begun = asked["path"], _pass(state, asked)
    if not begun.done:
        raise Refusal("usage", f"the pass over {path} is not at its end")
    begun.settle()  # that is what the target has; whether it is what is wanted is another question
    now = os.fstat(begun.file)
    with within(state, path) as (directory, name):
        there = found(directory, name)
    state.passes.pop(path).close()
    if there is None or (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
        raise Refusal("changed", f"{path} was removed or replaced while it was read")
    before = begun.status
    if asked["still"] and (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        raise Refusal("changed", f"{path} was written to while it was read, though nothing should run on it any more")
    return {"digest": begun.digest(), "file": file_state(now)}, b""


def matches(state: State, asked: Dict[str, Any], payload: bytes) -> Answer:
    """Whether blocks that were read back at the target are what was sent. Those that are not will be sent by the next pass."""
    table = state.tables.get(asked["path"])
    if table is None or not table.certain:
        raise Refusal("uncertain", f"what the target should have of {asked['path']} is not known here")
    place, differ = 0, 0
    if asked["size"] not in (None, table.size):  # cut off or grown: blocks that are not there have no hash
        differ += 1
    for first, end in asked["ranges"]:
        for number in range(first, end):
            theirs, entry = payload[place : place + 32], slice(number * 32, number * 32 + 32)
            if table.entries[entry] != theirs:
                differ += 1
                table.entries[entry] = theirs
            place += 32
    if differ:
        table.keep(None)  # the next pass has to look at what was not written to, too
    if place != len(payload):
        raise Refusal("usage", "as many hashes as blocks are wanted")
    return {"differ": differ}, b""


def leave(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Give up a pass."""
    if asked["path"] in state.passes:
        begun = state.passes.pop(asked["path"])
        begun.close()
        begun.table.keep(None)  # nothing will be compared with it any more
    return {}, b""


def _pass(state: State, asked: Dict[str, Any]) -> Pass:
    if asked["path"] not in state.passes:
        if asked["path"] in state.relieved:
            raise Refusal(
                "no-space", f"hardly any room is left where {asked['path']} lies, so its reading was given up"
            )
        raise Refusal("usage", f"no pass over {asked['path']} is under way")
    return state.passes[asked["path"]]


# What changes an image, or is asked of either


def rebase(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Name another backing file in an image's header, or, without one, take what it holds into the image."""
    changed(state, asked["path"])
    with opened(state, owned(state, asked["path"]), os.O_RDWR) as file:
        image = header(file)
        if image["format"] != "qcow2" or image["data_file"]:
            raise Refusal("image", f"{asked['path']} is no qcow2 image in one file")
        options = ["-b", ""]
        if asked["backing"]:
            if looked_into(state, asked["backing"])["format"] != asked["format"]:
                raise Refusal("image", f"{asked['backing']} is not in the format {asked['format']}")
            options = ["-u", "-F", asked["format"], "-b", os.path.join(state.path, *split(asked["backing"]))]
        elif not image["backing"]:
            return {"image": image}, b""
        else:
            base = looked_into(state, os.path.relpath(image["backing"], state.path))
            # A format that nobody wrote down would be guessed from what the guest may have written.
            if base["backing"] or base["data_file"] or not image["backing_format"]:
                raise Refusal("image", f"the backing file of {asked['path']} is not one plain file in a known format")
        run(state, ["qemu-img", "rebase", "-f", "qcow2", *options, f"/proc/self/fd/{file}"], file)
        os.fsync(file)
        return {"image": header(file)}, b""


def looked_into(state: State, path: str) -> Dict[str, Any]:
    try:
        with opened(state, path) as file:
            return header(file)
    except FileNotFoundError:
        raise Refusal("absent", f"{path}, its backing file, is not there") from None


def run(state: State, command: List[str], file: int) -> None:
    """Run qemu-img on an open file; ends it when the operator is gone."""
    if shutil.which(command[0]) is None:
        raise Refusal("absent", f"{command[0]} is not installed")
    child = subprocess.Popen(  # noqa: S603 - qemu-img, on a file that we opened
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[file]
    )
    while True:
        try:
            said = child.communicate(timeout=0.5)[1]
            break
        except subprocess.TimeoutExpired:
            if hung_up(state):
                child.kill()
                raise EOFError from None
    if child.returncode:
        raise Refusal("qemu-img", f"{' '.join(command[:2])}: {said.decode(errors='replace').strip()[-300:]}")


def hello(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Whom to work for, and where."""
    path = asked["instances_path"]
    if state.fixed_path and os.path.normpath(path) != os.path.normpath(state.fixed_path):
        raise Refusal("path", f"this key may work in {state.fixed_path} only, not in {path}")
    if not os.path.isabs(path) or not re.match(r"[\w-]{1,64}\Z", asked["move"]):
        raise Refusal("usage", "an absolute path and the id of a move are wanted")
    if asked["block"] % 4096 or not 4096 <= asked["block"] <= 4 << 20:
        raise Refusal("usage", "a block is a multiple of 4096 bytes, 4 MiB at most")
    state.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    state.path, state.move = os.path.normpath(path), asked["move"]
    state.workers = Workers(asked["threads"] or min(4, os.cpu_count() or 1), asked["block"])
    return {"version": VERSION, "session": state.session}, b""


def facts(state: State, _asked: Dict[str, Any], _payload: bytes) -> Answer:
    """What this host is and what may be done here."""
    system, root = os.fstatvfs(state.root), os.fstat(state.root)
    program = shutil.which("qemu-img")
    version = subprocess.check_output([program, "--version"], stdin=subprocess.DEVNULL) if program else b""  # noqa: S603
    matched = re.search(r"version (\S+?)[,\s(]", version.decode(errors="replace"))
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {
        "python": ".".join(map(str, sys.version_info[:3])), "hostname": socket.gethostname(), "boot_id": boot, "uid": os.geteuid(),
        "qemu_img": matched.group(1) if matched else "", "free": room(state.root), "total": system.f_blocks * system.f_frsize,
        "device": root.st_dev, "inode": root.st_ino, "owner": root.st_uid, "group": root.st_gid, "threads": state.workers.threads,
        "tells": is_trusted(state.root),
        "readable": os.access(".", os.R_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
        "writable": os.access(".", os.W_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
    }, b""  # fmt: skip


def look(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """A directory's files, or one file: what they are; of an image its header."""
    with within(state, asked["path"]) as (directory, name):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return {"file": file_state(status), "entries": [_entry(state, asked["path"], name, status)]}, b""
        here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            entries = []
            for each in sorted(os.listdir(here))[:1000]:
                there = found(here, each)
                if there is not None:
                    entries.append(_entry(state, asked["path"] + "/" + each, each, there))
            return {"file": file_state(status), "entries": entries}, b""
        finally:
            os.close(here)


def _entry(state: State, path: str, name: str, status: os.stat_result) -> Dict[str, Any]:
    entry = dict(file_state(status), name=name, image=None, text=None)
    if entry["kind"] == "file":
        with opened(state, path) as file:
            entry["image"] = header(file)
            if name == "disk.info":  # what nova believes each disk to be
                entry["text"] = os.pread(file, 65536, 0).decode(errors="replace")
    return entry


def hashes(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """The hashes of a file's blocks, from one number on. The operator asks until `done`."""
    with opened(state, asked["path"]) as file:
        size, block = os.fstat(file).st_size, state.workers.block
        blocks, first = -(-size // block), asked["start"]
        end = min(blocks, first + max(1, READ_AT_ONCE // block))
        cache = asked["cache"] if first == 0 or asked["cache"] == "direct" else "keep"
        digests, read = digests_of(state, file, [(first, end)], cache)
    return {"size": size, "next": end, "read": read, "done": end >= blocks}, bytes(digests)


def holders(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """How many other processes have a file open, as far as they can be seen from here.

    By what the links in /proc say, and not by looking at what they lead to: that may lie on a storage which hangs.
    """
    found_there = 0
    for process in os.listdir("/proc"):
        if not process.isdigit() or int(process) == os.getpid():
            continue
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except OSError:  # it has ended, or is somebody's whom we may not look at
            continue
        for number in numbers:
            with contextlib.suppress(OSError):  # closed since; the others count all the same
                if os.readlink(f"/proc/{process}/fd/{number}").endswith("/" + asked["path"]):
                    found_there += 1
                    break
    return {"open": found_there}, b""


def tidy(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Whether the unfinished files go when the input ends. They stay unless it is asked for: a later pass goes on from them."""
    state.tidy = bool(asked["on"])
    return {}, b""


REQUESTS: Dict[str, Callable[[State, Dict[str, Any], bytes], Answer]] = {
    function.__name__: function
    for function in (
        begin, known, more, settle, matches, leave, prepare, write, reread, sync, rename, remove, mkdir, rebase, hello, facts,
        look, hashes, holders, sample, tidy,
    )
}  # fmt: skip


# Serving


def answered(state: State, asked: Dict[str, Any], payload: bytes) -> Answer:
    """A request's answer, whatever happens: an error is an answer too."""
    try:
        if asked.get("do") not in REQUESTS:
            raise Refusal("usage", f"there is no request {asked.get('do')!r}")
        return REQUESTS[asked["do"]](state, asked, payload)
    except Refusal as refusal:
        return {"error": refusal.kind, "text": str(refusal)}, b""
    except OSError as error:
        text = f"{asked.get('path') or asked.get('instances_path')}: {error.strerror or error}"
        return {"error": KINDS.get(error.errno or 0, "io"), "text": text}, b""
    except (KeyError, TypeError, ValueError, subprocess.CalledProcessError) as error:
        return {"error": "usage", "text": f"{asked.get('do')}: {type(error).__name__} {error}"}, b""


def is_readable(state: State, wait: float) -> bool:
    poll = select.poll()
    poll.register(state.input, select.POLLIN)
    return bool(poll.poll(wait * 1000))


def hung_up(state: State) -> bool:
    """Whether the operator's end is closed, though requests may still wait to be read."""
    poll = select.poll()
    poll.register(state.input, select.POLLRDHUP)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLRDHUP) for _file, event in poll.poll(0))


def serve(state: State, output: int) -> None:
    """Answer until the input ends. Blocks are written by a thread of their own while the next ones come in."""
    writer = concurrent.futures.ThreadPoolExecutor(1)
    writing: Deque[Any] = collections.deque()
    while True:
        while writing and (len(writing) > 2 or not is_readable(state, 0)):
            write_frame(output, writing.popleft().result())
        until = time.monotonic() + IDLE
        while not is_readable(state, LOOK):
            relieve(state)
            if time.monotonic() > until:
                raise EOFError
        relieve(state)
        asked, payload = read_frame(state.input)
        if asked.get("do") == "write":
            writing.append(writer.submit(answered, state, asked, payload))
            continue
        while writing:
            write_frame(output, writing.popleft().result())
        write_frame(output, answered(state, asked, payload))


def main(arguments: List[str]) -> int:
    """Serve. Installed: take the text that is sent for read, and do nothing if it is another one than this.

    :param arguments: ``--instances-path PATH`` when installed; nothing otherwise
    """
    state = State(arguments[1] if arguments[:1] == ["--instances-path"] else "")
    # What a child prints or reads must never end up between our frames.
    state.input, output, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        if arguments:
            line = b""
            while not line.endswith(b"\n") and len(line) < 200:
                line += read(state.input, 1)
            sent = read(state.input, int(line.split()[2]))
            with open(__file__, "rb") as file:
                if file.read() != sent:
                    os.write(output, f"cellmove-disks {VERSION} differs\n".encode())
                    return 1
        os.write(output, f"cellmove-disks {VERSION} ready\n".encode())
        serve(state, output)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is there any more
    finally:
        for path in state.unfinished if state.tidy else ():
            answered(state, {"do": "remove", "path": path, "file": None}, b"")
        sys.stderr.flush()
    os._exit(0)  # without waiting for threads that still read ahead


if __name__ in ("__main__", "cellmove_disks"):
    sys.exit(main(sys.argv[1:]))
