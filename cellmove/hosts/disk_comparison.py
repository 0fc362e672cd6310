"""Compares files on two hosts, read from their disks."""

from __future__ import annotations

import hashlib

from cellmove.core.clock import Clock
from cellmove.core.errors import CallError, CallFailed
from cellmove.hosts.disk_link import Link, expect
from cellmove.hosts.disk_transfer import (
    Cache,
    Comparison,
    Observer,
    Transfer,
    TransferRun,
)
from cellmove.hosts.disks import look


def compare(
    source: Link,
    target: Link,
    transfer: Transfer,
    *,
    path: str = "",
    cache: Cache = "direct",
    observer: Observer | None = None,
) -> Comparison:
    """Read a file at both ends, at the same time, from the disks, and compare their hashes.

    :param path: at the target; empty: where :func:`run_pass` left it
    :raises CallFailed: a file became shorter, or cannot be read
    :raises CallUncertain: a connection broke
    """
    run = TransferRun(source, target, Clock(), 0, observer)
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
        run.report(transfer.path)
    run.report(transfer.path, last=True)
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
    run, end = TransferRun(link, link, clock or Clock(), 0, observer), _Hashed(link, path)
    run.total = sum(entry.file.allocated for entry in look(link, path))
    while not end.done:
        end.ask(cache)
        run.done += end.take()[0]
        run.total = max(run.total, run.done)
        run.report(path)
    run.report(path, last=True)
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
