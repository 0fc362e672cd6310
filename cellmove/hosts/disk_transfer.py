"""A transfer of disks: what is sent, how far it is, and its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cellmove.core.clock import Clock
from cellmove.hosts.disk_link import Link
from cellmove.hosts.disks import File, marked

Cache = Literal["keep", "drop", "direct"]
"""How a file is read: as it comes; after its pages in the host's cache were dropped; past the cache (O_DIRECT, where there is such a
thing, else as ``drop``). While a guest writes past the cache, the cached pages may be stale: do not use ``keep`` for the last pass."""


PORTION_BYTES = 4 << 20  # of one request to the source


REPORT_INTERVAL_SECONDS = 0.2  # between two calls of an observer


Observer = Callable[["Progress"], None]


@dataclass(frozen=True)
class Transfer:
    """A file to be brought over.

    :param path: at the source, relative to instances_path
    :param to: at the target, without the mark, which it carries until it is renamed; empty: the same path
    :param mode: permissions there
    :param uid: owner there; None: nova's
    :param gid: group there; None: nova's
    """

    path: str
    to: str = ""
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None

    def unfinished(self, move_id: str) -> str:
        """Where it lies at the target until it is renamed."""
        return marked(self.to or self.path, move_id)


@dataclass(frozen=True)
class Progress:
    """How far a pass is.

    :param path: of the current file, at the source
    :param done: bytes of data read so far, of all files; holes do not count
    :param total: bytes of data to read, of all files
    :param sent: bytes sent so far
    :param seconds: since the pass began
    """

    path: str
    done: int
    total: int
    sent: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes read a second, on average; 0 at the beginning."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None while it is not known."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class FileResult:
    """What a pass did for one file.

    :param size: bytes it has
    :param read: bytes of data that were read; the rest are holes
    :param blocks: blocks sent
    :param sent: bytes sent
    :param emptied: bytes that became holes at the target
    :param rescanned: whether the target had to be asked for its hashes first
    :param digest: of the whole file as the target has it now; :func:`compare` gives the same one, from the disk
    :param made: the unfinished file at the target
    """

    path: str
    size: int
    read: int
    blocks: int
    sent: int
    emptied: int
    rescanned: bool
    digest: str
    made: File


@dataclass(frozen=True)
class PassResult:
    """What a pass did, and how long it took, in seconds."""

    files: tuple[FileResult, ...]
    seconds: float

    @property
    def sent(self) -> int:
        """Bytes sent."""
        return sum(file.sent for file in self.files)

    @property
    def read(self) -> int:
        """Bytes read at the source."""
        return sum(file.read for file in self.files)

    @property
    def blocks(self) -> int:
        """Blocks sent."""
        return sum(file.blocks for file in self.files)


@dataclass(frozen=True)
class Verdict:
    """Whether another pass is worth it while the guest runs, and why, for a person."""

    again: bool
    why: str


@dataclass(frozen=True)
class Comparison:
    """Two files, each read from its host's disk.

    :param differs_at: the offset of the first block that differs; None when they are equal
    """

    same: bool
    source_digest: str
    target_digest: str
    differs_at: int | None


def another_pass(
    history: Sequence[PassResult], *, small: int = 64 << 20, shrinks: float = 0.7, most: int = 6
) -> Verdict:
    """Whether to make another pass before the guest is stopped. What the last one sent is what the next one may have to.

    :param history: the passes so far, oldest first
    :param small: bytes that are soon sent while the guest is down
    :param shrinks: a pass has to send less than this part of what the one before it sent
    :param most: so many passes at most
    """
    if not history:
        return Verdict(True, "nothing is there yet")
    last = history[-1].sent
    if last <= small:
        return Verdict(False, f"the last pass sent {last} bytes: few enough to be sent while the guest is down")
    if len(history) >= most:
        return Verdict(False, f"{most} passes were made; the last one still sent {last} bytes")
    if len(history) > 1 and last > history[-2].sent * shrinks:
        return Verdict(False, f"the guest writes as fast as is sent: {history[-2].sent} bytes, then {last}")
    return Verdict(True, f"the last pass sent {last} bytes, the next one will send less")


class TransferRun:
    """One pass: its two ends, its clock, how much may be sent and how far it is."""

    def __init__(self, source: Link, target: Link, clock: Clock, bwlimit: float, observer: Observer | None) -> None:
        self.source, self.target, self.clock, self.bwlimit, self.observer = source, target, clock, bwlimit, observer
        self.began = self.free_at = clock.monotonic()
        self.reported_at = self.began - REPORT_INTERVAL_SECONDS
        self.done = self.total = self.sent = 0
        # Small portions where little may be sent, so that it does not come in bursts of many seconds.
        self.portion = min(PORTION_BYTES, max(65536, int(bwlimit / 4))) if bwlimit else PORTION_BYTES

    def seconds(self) -> float:
        return self.clock.monotonic() - self.began

    def pace(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        if not self.bwlimit:
            return
        now = self.clock.monotonic()
        if self.free_at > now:
            self.clock.sleep(self.free_at - now)
        self.free_at = max(self.free_at, now) + size / self.bwlimit

    def report(self, path: str, *, last: bool = False) -> None:
        now = self.clock.monotonic()
        if self.observer is not None and (last or now - self.reported_at >= REPORT_INTERVAL_SECONDS):
            self.reported_at = now
            self.observer(Progress(path, self.done, self.total, self.sent, now - self.began))
