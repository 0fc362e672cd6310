"""Requests that change an image by qemu-img."""

import os
import select
import shutil
import subprocess
from typing import List

from .images import header
from .protocol import Answer, Fields, Refusal
from .state import State, opened, owned, split
from .target import changed


def rebase(state: State, request: Fields, _payload: bytes) -> Answer:
    """Change the backing file in an image's header; without a new one, copy its content into the image."""
    changed(state, request["path"])
    with opened(state, owned(state, request["path"]), os.O_RDWR) as file:
        image = header(file)
        if image["format"] != "qcow2" or image["data_file"]:
            raise Refusal("image", f"{request['path']} is not a qcow2 image in one file")
        options = ["-b", ""]
        if request["backing"]:
            if image_header(state, request["backing"])["format"] != request["format"]:
                raise Refusal("image", f"{request['backing']} is not in the format {request['format']}")
            options = ["-u", "-F", request["format"], "-b", os.path.join(state.path, *split(request["backing"]))]
        elif not image["backing"]:
            return {"image": image}, b""
        else:
            base = image_header(state, os.path.relpath(image["backing"], state.path))
            # qemu-img would guess a missing format from data that the guest may have written.
            if base["backing"] or base["data_file"] or not image["backing_format"]:
                raise Refusal("image", f"the backing file of {request['path']} is not a single file in a known format")
        run(state, ["qemu-img", "rebase", "-f", "qcow2", *options, f"/proc/self/fd/{file}"], file)
        os.fsync(file)
        return {"image": header(file)}, b""


def image_header(state: State, path: str) -> Fields:
    """Return the header of an image."""
    try:
        with opened(state, path) as file:
            return header(file)
    except FileNotFoundError:
        raise Refusal("absent", f"{path}, its backing file, does not exist") from None


def run(state: State, command: List[str], file: int) -> None:
    """Run qemu-img on an open file. Kill it when the operator disconnects."""
    if shutil.which(command[0]) is None:
        raise Refusal("absent", f"{command[0]} is not installed")
    child = subprocess.Popen(  # noqa: S603 - qemu-img, on a file that the agent opened
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[file]
    )
    while True:
        try:
            output = child.communicate(timeout=0.5)[1]
            break
        except subprocess.TimeoutExpired:
            if hung_up(state):
                child.kill()
                raise EOFError from None
    if child.returncode:
        raise Refusal("qemu-img", f"{' '.join(command[:2])}: {output.decode(errors='replace').strip()[-300:]}")


def hung_up(state: State) -> bool:
    """Whether the operator's end is closed, even if requests are still unread."""
    poll = select.poll()
    poll.register(state.input, select.POLLRDHUP)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLRDHUP) for _file, event in poll.poll(0))
