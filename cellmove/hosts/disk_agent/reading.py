"""Reads and hashes the blocks of a file, in threads."""

import collections
import concurrent.futures
import errno
import hashlib
import mmap
import os
import threading
from typing import Any, Deque, Dict, Iterable, Iterator, List, Optional, Tuple

from .protocol import ZERO, Refusal

CHUNK = 1048576  # bytes that a thread reads at once
HOLE_BLOCKS = 4096  # blocks of a hole in one chunk, so that no answer grows too long


class Workers:
    """The threads that read and hash."""

    def __init__(self, threads: int, block: int) -> None:
        self.threads, self.block, self.direct_fails = threads, block, False
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)


def data_blocks(file: int, start: int, end: int, block: int) -> List[Tuple[int, int]]:
    """Return the blocks with data between two offsets: ranges of block numbers, ends excluded."""
    ranges: List[Tuple[int, int]] = []
    while start < end:
        try:
            data = os.lseek(file, start, os.SEEK_DATA)
            hole = min(os.lseek(file, data, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only holes follow
                break
            if error.errno != errno.EINVAL:
                raise
            data, hole = start, end  # a filesystem without holes
        if data >= end:
            break
        first, last = data // block, -(-hole // block)
        if ranges and first <= ranges[-1][1]:
            first = ranges.pop()[0]
        ranges.append((first, last))
        start = hole
    return ranges


class Reader:
    """Reads and hashes the chunks of one file in threads. Each thread has its own buffer and its own open file."""

    def __init__(self, workers: Workers, file: int, size: int, cache: str) -> None:
        self.workers, self.file, self.size, self.block = workers, file, size, workers.block
        self.direct = cache == "direct" and not workers.direct_fails
        self.local = threading.local()
        self.files: List[Any] = []
        self.zeros: Dict[int, bytes] = {}
        self.chunk = max(1, CHUNK // self.block)
        if cache != "keep":
            os.fsync(file)
            if not self.direct:
                self._drop()

    def _drop(self) -> None:
        """Drop the clean pages of the file from the cache. It takes half a second a GiB."""
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def zero(self, length: int) -> bytes:
        """Return the hash of so many zeros."""
        if length not in self.zeros:
            self.zeros[length] = hashlib.sha256(bytes(length)).digest()
        return self.zeros[length]

    def _open(self) -> None:
        path = f"/proc/self/fd/{self.file}"
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if self.direct else 0))
        except OSError as error:
            if not (self.direct and error.errno == errno.EINVAL):
                raise
            self.direct, self.workers.direct_fails = False, True
            self._drop()
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.local.file = open(file, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self.local.buffer = memoryview(mmap.mmap(-1, self.chunk * self.block))  # O_DIRECT needs whole pages
        self.files.append(self.local.file)

    def read(self, first: int, count: int, known: Optional[bytearray]) -> List[Tuple[int, bytes, bytes]]:
        """Return number, hash and content of the blocks that differ from `known`; without `known`, of all, without content."""
        if not hasattr(self.local, "file"):
            self._open()
        view, block, start = self.local.buffer, self.block, first * self.block
        length, got = min(count * block, self.size - start), 0
        self.local.file.seek(start)
        while got < length:
            more = self.local.file.readinto(view[got : count * block])
            if not more:
                raise Refusal("changed", "the file became shorter while it was read")
            got += more
        result = []
        for number in range(first, first + -(-length // block)):
            part = view[(number - first) * block : min((number - first + 1) * block, length)]
            digest = hashlib.sha256(part).digest()
            if digest == self.zero(len(part)):
                digest = ZERO
            if known is None:
                result.append((number, digest, b""))
            elif known[number * 32 : number * 32 + 32] != digest:
                result.append((number, digest, b"" if digest == ZERO else bytes(part)))
        return result

    def ahead(
        self, chunks: Iterable[Tuple[bool, int, int]], known: Optional[bytearray]
    ) -> Iterator[Tuple[int, int, Any]]:
        """Yield chunks that threads read a few ahead of the caller. Chunks without data are not read (None)."""
        waiting: Deque[Tuple[int, int, Any]] = collections.deque()
        for has_data, first, count in chunks:
            read = self.workers.pool.submit(self.read, first, count, known) if has_data else None
            waiting.append((first, count, read))
            if len(waiting) > 2 * self.workers.threads:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    @staticmethod
    def _result(waiting: Tuple[int, int, Any]) -> Tuple[int, int, Any]:
        return waiting[0], waiting[1], waiting[2].result() if waiting[2] else None

    def chunks(self, ranges: List[Tuple[int, int]], first: int, end: int) -> Iterator[Tuple[bool, int, int]]:
        """Yield all blocks between two numbers as chunks: whether they hold data, the first block, the number of blocks."""
        for start, stop in [*ranges, (end, end)]:
            for number in range(first, start, HOLE_BLOCKS):
                yield False, number, min(HOLE_BLOCKS, start - number)
            for number in range(start, stop, self.chunk):
                yield True, number, min(self.chunk, stop - number)
            first = stop

    def close(self) -> None:
        """Close the files of all threads."""
        for file in self.files:
            file.close()


def digests_of(workers: Workers, file: int, ranges: List[Tuple[int, int]], cache: str) -> Tuple[bytearray, int]:
    """Return the hashes of the blocks in some ranges, in order, and the number of bytes read for them."""
    size, block = os.fstat(file).st_size, workers.block
    reader = Reader(workers, file, size, cache)
    result, read = bytearray(), 0
    chunks = (
        chunk
        for first, end in ranges
        for chunk in reader.chunks(data_blocks(file, first * block, min(end * block, size), block), first, end)
    )
    try:
        for start, count, blocks in reader.ahead(chunks, None):
            read += count * block if blocks is not None else 0
            part = bytearray(count * 32)
            for number, digest, _content in blocks or ():
                part[(number - start) * 32 : (number - start + 1) * 32] = digest
            result += part
    finally:
        reader.close()
    return result, read
