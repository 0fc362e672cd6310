"""Disks from one host to another, through the operator's machine, in passes: each sends only what differs.

A pass may be made while the guest runs; the last one when it no longer does. The source reads ahead in threads and
sends blocks whose hash is not the one that the target has; this end carries them over, never more than a few at a time;
the target checks each against its hash before it writes it. After a pass was broken off, the target's file is read
once and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellmove.core.clock import Clock
from cellmove.core.errors import CallError, CallFailed
from cellmove.hosts.disk_link import Answer, Link, expect
from cellmove.hosts.disk_transfer import (
    Cache,
    FileResult,
    Observer,
    PassResult,
    Transfer,
    TransferRun,
)
from cellmove.hosts.disks import prepare, sync

MAX_OUTSTANDING_WRITES = 3


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
    run = TransferRun(source, target, clock or Clock(), bwlimit, observer)
    try:
        begun = [_begin(run, each, cache) for each in files]
        run.total = sum(each.data for each in begun)
        results = tuple(_bring(run, each, still=still) for each in begun)
    except BaseException:
        _leave(source, target, files)
        raise
    run.report(files[-1].path if files else "", last=True)
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
    run, wrong = TransferRun(source, target, clock or Clock(), 0, observer), []
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
            run.report(each.path)
        if differ:
            wrong.append(each.path)
    run.report(files[-1].path if files else "", last=True)
    return tuple(wrong)


@dataclass(frozen=True)
class _Begun:
    transfer: Transfer
    unfinished: str
    data: int
    rescanned: bool
    size: int


def _begin(run: TransferRun, transfer: Transfer, cache: Cache) -> _Begun:
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


def _bring(run: TransferRun, begun: _Begun, *, still: bool) -> FileResult:
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
            while run.target.outstanding > MAX_OUTSTANDING_WRITES:
                run.target.take()
            here = expect(run.source, answer, "read", int)
            read, blocks, sent = read + here, blocks + len(changed), sent + length
            emptied += sum(hole[1] for hole in holes)
            run.done, run.sent = run.done + here, run.sent + length
            run.report(path)
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
