"""Disks from one host to another, through the operator's machine, in passes: each sends only what differs.

A pass may be made while the guest runs; the last one when it no longer does. The source reads ahead in threads and
sends blocks whose hash is not the one that the target has; this end carries them over, never more than a few at a time;
the target checks each against its hash before it writes it. After a pass was broken off, the target's file is read
once and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cellmove.core.clock import Clock
from cellmove.core.errors import CallError, CallFailed
from cellmove.hosts.disk_link import Answer, Link, expect
from cellmove.hosts.disks import File, look, marked, prepare, sync

Cache = Literal["keep", "drop", "direct"]
"""How a file is read: as it comes; after its pages in the host's cache were dropped; past the cache (O_DIRECT, where there is such a
thing, else as ``drop``). While a guest writes past the cache, the cached pages may be stale: do not use ``keep`` for the last pass."""

PORTION = 4 << 20  # bytes asked of the source at a time
WRITES = 3  # portions that the target may be behind
SEEN = 0.2  # seconds between two looks of an observer

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


def run_pass(
    source: Link,
    target: Link,
    files: Sequence[Transfer],
    *,
    clock: Clock | None = None,
    bwlimit: float = 0,
    cache: Cache = "keep",
    still: bool = False,
    observer: Observer | None = None,
) -> PassResult:
    """Bring the target's unfinished files to what the source's are now.

    :param bwlimit: bytes a second, at most; 0: as fast as it goes
    :param cache: how the source reads
    :param still: the guest is off: it is an error if a file changes meanwhile
    :param observer: called with the progress, a few times a second
    :returns: what was done; all of it is on the target's disk
    :raises NotFound: a file is not there
    :raises CallFailed: ``no-space``, ``changed``, ``damaged``, ``denied``, ``path``, ``nonsense``. What was copied stays
    :raises CallUncertain: a connection broke; what was copied stays
    """
    if source is target:  # two threads would take each other's answers
        raise CallFailed("both ends of a pass need a connection of their own", kind="usage")
    run = _Run(source, target, clock or Clock(), bwlimit, observer)
    try:
        begun = [_begin(run, each, cache) for each in files]
        run.total = sum(each.data for each in begun)
        results = tuple(_bring(run, each, still=still) for each in begun)
    except BaseException:
        _leave(source, target, files)
        raise
    run.tell(files[-1].path if files else "", last=True)
    return PassResult(results, run.seconds())


def read_back(
    source: Link,
    target: Link,
    files: Sequence[Transfer],
    *,
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> tuple[str, ...] | None:
    """Read from the target's disk what was written since it was last read, and compare it with what was sent.

    A file that another process has written to is read whole. If nothing differs, the unfinished copy has the digest of
    :class:`FileResult`.

    :returns: the files, by their paths at the source, in which something differs: the next pass sends that again; None
        when this source does not know yet what the target has: no pass was made
    :raises CallFailed: a file cannot be read
    :raises CallUncertain: a connection broke
    """
    run, wrong = _Run(source, target, clock or Clock(), 0, observer), []
    try:
        for each in files:
            source.request("matches", path=each.path, ranges=[], size=None)
    except CallFailed as error:
        if error.kind != "uncertain":
            raise
        return None
    for each in files:
        start, done, differ = 0, False, 0
        while not done:
            reply = target.request("reread", path=each.unfinished(target.move_id), start=start)
            ranges, size = expect(target, reply, "ranges", list), expect(target, reply, "size", int)
            answer = source.request("matches", reply.payload, path=each.path, ranges=ranges, size=size)
            start, done = expect(target, reply, "next", int), expect(target, reply, "done", bool)
            differ += expect(source, answer, "differ", int)
            run.done += expect(target, reply, "read", int)
            run.total = max(run.total, run.done)
            run.tell(each.path)
        if differ:
            wrong.append(each.path)
    run.tell(files[-1].path if files else "", last=True)
    return tuple(wrong)


def compare(
    source: Link,
    target: Link,
    transfer: Transfer,
    *,
    path: str = "",
    cache: Cache = "direct",
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> Comparison:
    """Read a file at both ends, at the same time, from the disks, and compare their hashes.

    :param path: at the target; empty: where :func:`run_pass` left it
    :raises CallFailed: a file became shorter, or cannot be read
    :raises CallUncertain: a connection broke
    """
    run = _Run(source, target, clock or Clock(), 0, observer)
    ends = (_Hashed(source, transfer.path), _Hashed(target, path or transfer.unfinished(target.move_id)))
    run.total = sum(entry.file.allocated for entry in look(source, transfer.path))
    differs_at: int | None = None
    while not all(end.done for end in ends):
        asked = [end for end in ends if not end.done]
        for end in asked:
            end.ask(cache)
        try:
            parts = {end: end.take() for end in asked}
        except CallError:
            source.drain()
            target.drain()
            raise
        first, second = (parts.get(end, (0, b"")) for end in ends)
        run.done += first[0]
        run.total = max(run.total, run.done)
        if differs_at is None and first[1] != second[1]:
            differs_at = (ends[0].block(first[1]) + _common(first[1], second[1])) * source.destination.block
        run.tell(transfer.path)
    run.tell(transfer.path, last=True)
    if differs_at is None and ends[0].size != ends[1].size:
        differs_at = min(end.size for end in ends)
    digests = [end.digest(source.destination.block) for end in ends]
    return Comparison(digests[0] == digests[1], digests[0], digests[1], differs_at)


def digest_of(
    link: Link, path: str, *, cache: Cache = "direct", observer: Observer | None = None, clock: Clock | None = None
) -> str:
    """Read one file from its host's disk; the same bytes give the digest that :class:`FileResult` and :func:`compare` have.

    :raises CallFailed: it became shorter, or cannot be read
    :raises CallUncertain: the connection broke
    """
    run, end = _Run(link, link, clock or Clock(), 0, observer), _Hashed(link, path)
    run.total = sum(entry.file.allocated for entry in look(link, path))
    while not end.done:
        end.ask(cache)
        run.done += end.take()[0]
        run.total = max(run.total, run.done)
        run.tell(path)
    run.tell(path, last=True)
    return end.digest(link.destination.block)


def _common(one: bytes, other: bytes) -> int:
    """How many hashes are the same at the beginning of two sequences."""
    length = min(len(one), len(other)) // 32
    return next((n for n in range(length) if one[n * 32 : n * 32 + 32] != other[n * 32 : n * 32 + 32]), length)


class _Hashed:
    """One file's hashes, as they come."""

    def __init__(self, link: Link, path: str) -> None:
        self.link, self.path, self.next, self.size, self.done = link, path, 0, 0, False
        self._entries = bytearray()

    def ask(self, cache: Cache) -> None:
        self.link.ask("hashes", path=self.path, start=self.next, cache=cache)

    def take(self) -> tuple[int, bytes]:
        """How many bytes were read, and the hashes."""
        answer = self.link.take()
        size = expect(self.link, answer, "size", int)
        if self._entries and size != self.size:
            raise CallFailed(f"{self.link.host}: {self.path} changed while it was read", kind="changed")
        self.size, self.done = size, expect(self.link, answer, "done", bool)
        self.next = expect(self.link, answer, "next", int)
        self._entries += answer.payload
        return expect(self.link, answer, "read", int), bytes(answer.payload)

    def block(self, part: bytes) -> int:
        """The number of the block that the last part began with."""
        return (len(self._entries) - len(part)) // 32

    def digest(self, block: int) -> str:
        return hashlib.sha256(f"{self.size} {block}\n".encode() + self._entries).hexdigest()


@dataclass(frozen=True)
class _Begun:
    transfer: Transfer
    unfinished: str
    data: int
    rescanned: bool
    size: int


class _Run:
    """One pass: its two ends, its clock, how much may be sent and how far it is."""

    def __init__(self, source: Link, target: Link, clock: Clock, bwlimit: float, observer: Observer | None) -> None:
        self.source, self.target, self.clock, self.bwlimit, self.observer = source, target, clock, bwlimit, observer
        self.began = self.free_at = clock.monotonic()
        self.reported_at = self.began - SEEN
        self.done = self.total = self.sent = 0
        # Small portions where little may be sent, so that it does not come in bursts of many seconds.
        self.portion = min(PORTION, max(65536, int(bwlimit / 4))) if bwlimit else PORTION

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

    def tell(self, path: str, *, last: bool = False) -> None:
        now = self.clock.monotonic()
        if self.observer is not None and (last or now - self.reported_at >= SEEN):
            self.reported_at = now
            self.observer(Progress(path, self.done, self.total, self.sent, now - self.began))


def _begin(run: _Run, transfer: Transfer, cache: Cache) -> _Begun:
    """Open the file at both ends, and make sure that the source knows what the target has."""
    source, target = run.source, run.target
    if source.destination.block != target.destination.block:
        raise CallFailed("both ends of a pass need blocks of the same size", kind="usage")
    unfinished = transfer.unfinished(target.move_id)
    existed, token = prepare(target, unfinished)
    answer = source.request("begin", path=transfer.path, token=token, cache=cache)
    size, certain = expect(source, answer, "size", int), expect(source, answer, "certain", bool)
    rescan = existed and not certain
    start, done = 0, not rescan
    while not done:
        reply = target.request("hashes", path=unfinished, start=start, cache="drop")
        source.request("known", reply.payload, path=transfer.path, start=start)
        start, done = expect(target, reply, "next", int), expect(target, reply, "done", bool)
    prepare(target, unfinished, size)
    return _Begun(transfer, unfinished, expect(source, answer, "data", int), rescan, size)


def _bring(run: _Run, begun: _Begun, *, still: bool) -> FileResult:
    """Carry the changed blocks of one file over, then see to it that they are on the disk."""
    path, transfer = begun.transfer.path, begun.transfer
    read = blocks = sent = emptied = 0
    with _pulled(run.source, path, run.portion) as portions:
        for answer in portions:
            changed, holes = expect(run.source, answer, "blocks", list), expect(run.source, answer, "holes", list)
            length = len(answer.payload)
            if changed or holes:
                run.pace(length)
                run.target.ask("write", answer.payload, path=begun.unfinished, blocks=changed, holes=holes)
            while run.target.outstanding > WRITES:
                run.target.take()
            here = expect(run.source, answer, "read", int)
            read, blocks, sent = read + here, blocks + len(changed), sent + length
            emptied += sum(hole[1] for hole in holes)
            run.done, run.sent = run.done + here, run.sent + length
            run.tell(path)
    while run.target.outstanding:
        run.target.take()
    made = sync(run.target, begun.unfinished, mode=transfer.mode, uid=transfer.uid, gid=transfer.gid)
    settled = run.source.request("settle", path=path, still=still)
    digest = expect(run.source, settled, "digest", str)
    return FileResult(path, begun.size, read, blocks, sent, emptied, begun.rescanned, digest, made)


class _Pulled:
    """A source's portions, fetched by a thread while the one before is sent on."""

    def __init__(self, source: Link, path: str, portion: int) -> None:
        self._source, self._path, self._portion = source, path, portion
        self._portions: queue.Queue[Answer | BaseException | None] = queue.Queue(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pull, daemon=True)
        self._thread.start()

    def __iter__(self) -> _Pulled:
        return self

    def __next__(self) -> Answer:
        got = self._portions.get()
        if got is None:
            raise StopIteration
        if isinstance(got, BaseException):
            raise got
        return got

    def end(self) -> None:
        """Stop asking; take what was asked for already, so that the link can be used."""
        self._stop.set()
        self._thread.join(10)
        if self._thread.is_alive():  # the source hangs: nothing can be asked of it any more
            self._source.kill()
            self._thread.join(10)

    def _pull(self) -> None:
        last: BaseException | None = None
        try:
            self._ask()
            while not self._stop.is_set():
                self._ask()  # one more than is being waited for: the source never stands idle
                answer = self._source.take()
                self._put(answer)
                if expect(self._source, answer, "done", bool):
                    break
        except CallError as error:
            last = error
        self._source.drain()
        self._put(last)

    def _ask(self) -> None:
        self._source.ask("more", path=self._path, bytes=self._portion)

    def _put(self, what: Answer | BaseException | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._portions.put(what, timeout=0.2)
                return


@contextlib.contextmanager
def _pulled(source: Link, path: str, portion: int) -> Iterator[_Pulled]:
    pulled = _Pulled(source, path, portion)
    try:
        yield pulled
    finally:
        pulled.end()


def _leave(source: Link, target: Link, files: Sequence[Transfer]) -> None:
    """After a failure: whatever link still works can be used for another pass."""
    target.drain()
    source.drain()
    for each in files:
        if source.usable:
            with contextlib.suppress(CallError):
                source.request("leave", path=each.path)
