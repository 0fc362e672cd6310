"""Serves requests until the input ends."""

import collections
import concurrent.futures
import errno
import os
import select
import subprocess
import sys
import time
from typing import Any, Callable, Deque, Dict, List

from . import inspection, qemu, sample, source, target
from .frames import VERSION, read, read_frame, write_frame
from .protocol import Answer, Fields, Refusal
from .state import State

IDLE_SECONDS = 6 * 3600  # without a request after which no operator is there, whatever TCP believes
FREE_SPACE_INTERVAL_SECONDS = 5.0  # between two looks at the free space
KINDS = {
    errno.ENOENT: "absent",
    errno.EEXIST: "exists",
    errno.ENOTEMPTY: "not-empty",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ELOOP: "path",
    errno.ENOTDIR: "path",
    errno.ENXIO: "path",
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space",
    errno.EFBIG: "no-space",
}


def tidy(state: State, request: Fields, _payload: bytes) -> Answer:
    """Choose whether unfinished files are removed when the input ends. By default they stay, and a later pass continues them."""
    state.tidy = bool(request["on"])
    return {}, b""


REQUESTS: Dict[str, Callable[[State, Fields, bytes], Answer]] = {
    "begin": source.begin,
    "known": source.known,
    "more": source.more,
    "settle": source.settle,
    "matches": source.matches,
    "leave": source.leave,
    "prepare": target.prepare,
    "write": target.write,
    "reread": target.reread,
    "sync": target.sync,
    "rename": target.rename,
    "remove": target.remove,
    "mkdir": target.mkdir,
    "rebase": qemu.rebase,
    "hello": inspection.hello,
    "facts": inspection.facts,
    "look": inspection.look,
    "hashes": inspection.hashes,
    "holders": inspection.holders,
    "sample": sample.sample,
    "tidy": tidy,
}


def answered(state: State, request: Fields, payload: bytes) -> Answer:
    """Return the answer to a request. An error is an answer, too."""
    try:
        if request.get("do") not in REQUESTS:
            raise Refusal("usage", f"there is no request {request.get('do')!r}")
        return REQUESTS[request["do"]](state, request, payload)
    except Refusal as refusal:
        return {"error": refusal.kind, "text": str(refusal)}, b""
    except OSError as error:
        text = f"{request.get('path') or request.get('instances_path')}: {error.strerror or error}"
        return {"error": KINDS.get(error.errno or 0, "io"), "text": text}, b""
    except (KeyError, TypeError, ValueError, subprocess.CalledProcessError) as error:
        return {"error": "usage", "text": f"{request.get('do')}: {type(error).__name__} {error}"}, b""


def is_readable(state: State, wait: float) -> bool:
    """Whether the input has more bytes, within so many seconds."""
    poll = select.poll()
    poll.register(state.input, select.POLLIN)
    return bool(poll.poll(wait * 1000))


def serve(state: State, output: int) -> None:
    """Answer until the input ends. A thread writes blocks while the next ones arrive."""
    writer = concurrent.futures.ThreadPoolExecutor(1)
    writing: Deque[Any] = collections.deque()
    while True:
        while writing and (len(writing) > 2 or not is_readable(state, 0)):
            write_frame(output, writing.popleft().result())
        until = time.monotonic() + IDLE_SECONDS
        while not is_readable(state, FREE_SPACE_INTERVAL_SECONDS):
            source.relieve(state)
            if time.monotonic() > until:
                raise EOFError
        source.relieve(state)
        request, payload = read_frame(state.input)
        if request.get("do") == "write":
            writing.append(writer.submit(answered, state, request, payload))
            continue
        while writing:
            write_frame(output, writing.popleft().result())
        write_frame(output, answered(state, request, payload))


def main(arguments: List[str], archive: str) -> int:
    """Serve. An installed agent reads the agent that is sent, and ends if that differs from itself.

    :param arguments: ``--instances-path PATH`` when installed; empty otherwise
    :param archive: the zip application that this code runs from
    """
    state = State(arguments[1] if arguments[:1] == ["--instances-path"] else "")
    # The output of a child process must never get between the frames.
    state.input, output, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        if arguments and not _is_same(state.input, archive):
            os.write(output, f"cellmove-disks {VERSION} differs\n".encode())
            return 1
        os.write(output, f"cellmove-disks {VERSION} ready\n".encode())
        serve(state, output)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the operator has disconnected
    finally:
        for path in state.unfinished if state.tidy else ():
            answered(state, {"do": "remove", "path": path, "file": None}, b"")
        sys.stderr.flush()
    os._exit(0)  # without waiting for threads that still read ahead


def _is_same(file: int, archive: str) -> bool:
    """Whether the agent that is sent equals the installed one."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 200:
        line += read(file, 1)
    sent = read(file, int(line.split()[2]))
    with open(archive, "rb") as installed:
        return installed.read() == sent
