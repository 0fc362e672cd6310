"""The other end of the disks' transport: runs on a compute host, from its standard input to its standard output.

Nothing is installed there: this file's text is sent over ssh and executed (:mod:`cellmove.hosts.disk_link`), or it is
installed once as the only thing that a key may start (docs/stream.md). It therefore stands alone: the standard library
of Python 3.6, no import of the rest. It answers requests in their order, one frame each, until its input ends.

All paths are relative to nova's ``instances_path``; they are walked name by name, and no symbolic link is followed.
Only files whose name carries the move's mark are ever written.
"""

import collections
import concurrent.futures
import ctypes
import errno
import hashlib
import os
import re
import select
import shutil
import socket
import stat
import subprocess
import sys
from typing import Any, Callable, Deque, Dict, List, Tuple

# isort: off
from cellmove.hosts.disk_frames import VERSION, read, read_frame, write_frame
from cellmove.hosts.disk_reading import (
    CHUNK, READ_AT_ONCE, Answer, Pass, Reader, Refusal, State, Table, Workers, data_blocks, found, header, is_expected, opened,
    owned, picture, split, within,
)  # fmt: skip
# isort: on

IDLE = 6 * 3600  # seconds without a request after which nobody is there any more, whatever TCP believes
KINDS = {
    errno.ENOENT: "absent", errno.EEXIST: "exists", errno.ENOTEMPTY: "not-empty", errno.EACCES: "denied", errno.EPERM: "denied",
    errno.EROFS: "denied", errno.ELOOP: "path", errno.ENOTDIR: "path", errno.ENXIO: "path", errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space", errno.EFBIG: "no-space",
}  # fmt: skip


# What is asked of a source


def begin(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Open a file for a pass. `certain`: this process knows what the target holds; else it has to be told (`known`)."""
    path = asked["path"]
    if path in state.passes:
        state.passes.pop(path).close()
    table = state.tables.get(path)
    if table is None or table.token != asked["token"] or not table.certain:
        table = Table(asked["token"])
    certain, table.certain = table.certain, False
    with opened(state, path) as file:
        begun = Pass(state.workers, os.dup(file), table, asked["cache"])
    state.tables[path], state.passes[path] = table, begun
    return {"size": begun.size, "data": begun.data, "certain": certain, "file": picture(begun.status)}, b""


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
    now = os.fstat(begun.file)
    with within(state, path) as (directory, name):
        there = found(directory, name)
    state.passes.pop(path).close()
    if there is None or (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
        raise Refusal("changed", f"{path} was removed or replaced while it was read")
    before = begun.status
    if asked["still"] and (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        raise Refusal("changed", f"{path} was written to while it was read, though nothing should run on it any more")
    begun.table.certain = True
    return {"digest": begun.digest(), "file": picture(now)}, b""


def leave(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Give up a pass."""
    if asked["path"] in state.passes:
        state.passes.pop(asked["path"]).close()
    return {}, b""


def _pass(state: State, asked: Dict[str, Any]) -> Pass:
    if asked["path"] not in state.passes:
        raise Refusal("usage", f"no pass over {asked['path']} is under way")
    return state.passes[asked["path"]]


# What is asked of a target


def prepare(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Make the unfinished file, or open the one that is there; give it a size."""
    path = owned(state, asked["path"])
    with within(state, path) as (directory, name):
        existed = found(directory, name) is not None
    with opened(state, path, os.O_RDWR | (0 if existed else os.O_CREAT | os.O_EXCL)) as file:
        if not existed or state.stamps.get(path) != stamp(file):
            changed(state, path)  # made anew (an inode number may come again), or somebody else has written to it
        state.unfinished.add(path)
        if asked["size"] is not None and os.fstat(file).st_size != asked["size"]:
            os.ftruncate(file, asked["size"])
        state.stamps[path] = stamp(file)
        # What a source remembers of this file is true of this very process and revision only.
        token = f"{state.session}:{state.revisions[path]}:{path}"
        return {"existed": existed, "size": os.fstat(file).st_size, "token": token}, b""


def stamp(file: int) -> Tuple[int, ...]:
    """What is another one after somebody has written to a file, or put another in its place."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def write(state: State, asked: Dict[str, Any], payload: bytes) -> Answer:
    """Write blocks, each only if it is what its SHA-256 says, and make holes."""
    place, view = 0, memoryview(payload)
    with opened(state, owned(state, asked["path"]), os.O_RDWR) as file:
        for start, length, digest in asked["blocks"]:
            part = view[place : place + length]
            if len(part) != length or hashlib.sha256(part).hexdigest() != digest:
                raise Refusal("damaged", f"the block at {start} of {asked['path']} did not arrive as it was sent")
            place += length
            while len(part):
                written = os.pwrite(file, part, start)
                part, start = part[written:], start + written
        if place != len(payload):
            raise Refusal("damaged", f"more bytes came for {asked['path']} than were announced")
        for start, length in asked["holes"]:
            punch(file, start, length)
        state.stamps[asked["path"]] = stamp(file)
    return {"written": place}, b""


def punch(file: int, start: int, length: int) -> None:
    """Make a hole (FALLOC_FL_PUNCH_HOLE and KEEP_SIZE), or write zeros where there are none."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None or call(file, 3, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
        for place in range(start, start + length, CHUNK):
            os.pwrite(file, bytes(min(CHUNK, start + length - place)), place)


def sync(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Everything of the file, its owner and mode too, and its name, onto the disk."""
    with opened(state, owned(state, asked["path"]), os.O_RDWR) as file:
        own(state, file, asked)
        os.fsync(file)
        state.stamps[asked["path"]] = stamp(file)
        with within(state, asked["path"]) as (directory, _name):
            os.fsync(directory)
        return {"file": picture(os.fstat(file))}, b""


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
        return {"file": picture(os.stat(name, dir_fd=directory, follow_symlinks=False))}, b""


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
            return {"made": made, "file": picture(os.fstat(file))}, b""
        finally:
            os.close(file)


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


# What is asked of either


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
    room, root = os.fstatvfs(state.root), os.fstat(state.root)
    program = shutil.which("qemu-img")
    version = subprocess.check_output([program, "--version"], stdin=subprocess.DEVNULL) if program else b""  # noqa: S603
    matched = re.search(r"version (\S+?)[,\s(]", version.decode(errors="replace"))
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {
        "python": ".".join(map(str, sys.version_info[:3])), "hostname": socket.gethostname(), "boot_id": boot, "uid": os.geteuid(),
        "qemu_img": matched.group(1) if matched else "", "free": room.f_bavail * room.f_frsize, "total": room.f_blocks * room.f_frsize,
        "device": root.st_dev, "inode": root.st_ino, "owner": root.st_uid, "group": root.st_gid, "threads": state.workers.threads,
        "readable": os.access(".", os.R_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
        "writable": os.access(".", os.W_OK | os.X_OK, dir_fd=state.root, effective_ids=True),
    }, b""  # fmt: skip


def look(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """A directory's files, or one file: what they are; of an image its header."""
    with within(state, asked["path"]) as (directory, name):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            return {"file": picture(status), "entries": [_entry(state, asked["path"], name, status)]}, b""
        here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            entries = []
            for each in sorted(os.listdir(here))[:1000]:
                there = found(here, each)
                if there is not None:
                    entries.append(_entry(state, asked["path"] + "/" + each, each, there))
            return {"file": picture(status), "entries": entries}, b""
        finally:
            os.close(here)


def _entry(state: State, path: str, name: str, status: os.stat_result) -> Dict[str, Any]:
    entry = dict(picture(status), name=name, image=None, text=None)
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
        reader = Reader(
            state.workers, file, size, asked["cache"] if first == 0 or asked["cache"] == "direct" else "keep"
        )
        result = bytearray(max(0, end - first) * 32)
        read = 0
        try:
            chunks = reader.chunks(data_blocks(file, first * block, min(end * block, size), block), first, end)
            for _start, count, found_there in reader.ahead(chunks, None):
                read += count * block if found_there is not None else 0
                for number, digest, _content in found_there or ():
                    result[(number - first) * 32 : (number - first + 1) * 32] = digest
        finally:
            reader.close()
    return {"size": size, "next": end, "read": read, "done": end >= blocks}, bytes(result)


def tidy(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Whether the unfinished files go when the input ends. They stay unless it is asked for: a later pass goes on from them."""
    state.tidy = bool(asked["on"])
    return {}, b""


REQUESTS: Dict[str, Callable[[State, Dict[str, Any], bytes], Answer]] = {
    function.__name__: function
    for function in (
        begin, known, more, settle, leave, prepare, write, sync, rename, remove, mkdir, rebase, hello, facts, look, hashes, tidy,
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
        if not is_readable(state, IDLE):
            raise EOFError
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
