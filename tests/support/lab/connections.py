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
LASTING_SECONDS = 2.0
"""How long a connection lives that is used for calls. A login that only asks whether a broker answers is over before that."""


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
        self.most: dict[int, int] = defaultdict(int)
        self._times: dict[tuple[int, int], tuple[float, float]] = {}

    def look(self, pid: int) -> None:
        """Once."""
        now = time.monotonic()
        for port, own in connections(pid).items():
            self._times |= {(port, each): (self._times.get((port, each), (now, now))[0], now) for each in own}
            self.most[port] = max(self.most[port], len(own))

    def lasting(self, port: int) -> int:
        """How many connections to a port were seen for at least ``LASTING_SECONDS``."""
        spans = [last - first for (other, _), (first, last) in self._times.items() if other == port]
        return sum(span >= LASTING_SECONDS for span in spans)


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
