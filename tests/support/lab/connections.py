"""What TCP connections a process has, seen from outside of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ESTABLISHED = "01"
BETWEEN_LOOKS = 0.05  # seconds: what lives shorter may go unseen


def connections(pid: int) -> dict[int, set[int]]:
    """The established connections of a process: the other end's port -> the ports at its own end.

    One that has ended has none.
    """
    found: dict[int, set[int]] = defaultdict(set)
    with contextlib.suppress(OSError):
        own = {
            f"socket:[{line.split()[9]}]": line.split()
            for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        }
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                line = own.get(str(file.readlink()))
                if line and line[3] == ESTABLISHED:
                    found[int(line[2].split(":")[1], 16)].add(int(line[1].split(":")[1], 16))
    return found


class Watch:
    """What was seen of a process's connections, by the other end's port."""

    def __init__(self) -> None:
        self.seen: dict[int, set[int]] = defaultdict(set)
        self.most: dict[int, int] = defaultdict(int)

    def look(self, pid: int) -> None:
        """Once."""
        for port, own in connections(pid).items():
            self.seen[port] |= own
            self.most[port] = max(self.most[port], len(own))


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Watch]:
    """Look at a process all the time, in a thread, until the block is left."""
    watch, over = Watch(), threading.Event()

    def keep_looking() -> None:
        while not over.is_set():
            watch.look(pid)
            time.sleep(BETWEEN_LOOKS)

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
