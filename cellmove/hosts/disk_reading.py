"""Part of the program on a compute host (:mod:`cellmove.hosts.disk_program`): how a disk is read and described.

All parts are sent as one text (:func:`cellmove.hosts.disk_link.program`), so nothing is imported here but the standard
library of Python 3.6.
"""

import collections
import concurrent.futures
import contextlib
import errno
import hashlib
import mmap
import os
import stat
import struct
import threading
from typing import Any, Deque, Dict, Iterable, Iterator, List, Optional, Set, Tuple

# isort: off
from cellmove.hosts.disk_extents import written_since
# isort: on

BLOCK = 262144  # bytes; docs/stream.md says why
CHUNK = 1048576  # what a thread reads at once
ZERO = bytes(32)  # stands for a block that is a hole or all zeros, instead of its SHA-256
HOLE_BLOCKS = 4096  # of a hole looked at in one go, so that no answer grows too long
READ_AT_ONCE = 64 << 20  # bytes that one answer may stand for, so that the operator hears of progress
Answer = Tuple[Dict[str, Any], bytes]


class Refusal(Exception):
    """A request that is answered with no: a short machine word, and words for a person."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Workers:
    """The threads that read, and what they have in common."""

    def __init__(self, threads: int, block: int) -> None:
        self.threads, self.block, self.direct_fails = threads, block, False
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)


class Table:
    """Of one file: the SHA-256 of each block as the target holds it, whether that is certain, and a clone of which it is so."""

    def __init__(self, token: str) -> None:
        self.token, self.certain, self.entries, self.size = token, False, bytearray(), 0
        self.clone: Optional[int] = None

    def keep(self, clone: Optional[int]) -> None:
        """What the hashes are of, from now on; None: of nothing that is kept, so the next pass reads everything."""
        if self.clone is not None:
            os.close(self.clone)
        self.clone = clone


def file_state(status: os.stat_result) -> Dict[str, Any]:
    """What is told of a file or directory."""
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
    return {
        "kind": next((name for test, name in kinds if test(status.st_mode)), "other"), "size": status.st_size,
        "allocated": status.st_blocks * 512, "mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid,
        "device": status.st_dev, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns,
    }  # fmt: skip


def header(file: int) -> Dict[str, Any]:
    """An image's format as its first bytes tell it.

    Read here and not by qemu-img: asked to guess, that follows what a guest wrote into a raw disk (CVE-2024-32498).
    """
    head = os.pread(file, 65536, 0)
    image: Dict[str, Any] = {
        "format": "raw", "virtual_size": os.fstat(file).st_size, "backing": "", "backing_format": "", "data_file": False,
        "encrypted": head[:6] == b"LUKS\xba\xbe", "snapshots": 0, "bitmaps": 0,
    }  # fmt: skip
    for magic, name in ((b"LUKS\xba\xbe", "luks"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"QED\0", "qed")):
        if head.startswith(magic):
            image["format"] = name
    if not head.startswith(b"QFI\xfb") or len(head) < 104:
        return image
    version, backing, length, _bits, size, crypt = struct.unpack_from(">IQIIQI", head, 4)
    (snapshots,) = struct.unpack_from(">I", head, 60)
    features, start = (
        (struct.unpack_from(">Q", head, 72)[0], struct.unpack_from(">I", head, 100)[0]) if version > 2 else (0, 72)
    )
    image.update(
        format="qcow2", virtual_size=size, encrypted=crypt != 0, snapshots=snapshots, data_file=bool(features & 4)
    )
    image["backing"] = head[backing : backing + min(length, 1023)].decode(errors="surrogateescape") if backing else ""
    while start + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, start)
        content = head[start + 8 : start + 8 + length]
        if kind == 0 or len(content) < length:
            break
        if kind == 0xE2792ACA:
            image["backing_format"] = content.decode(errors="replace")
        elif kind == 0x23852875 and length >= 4:
            image["bitmaps"] = struct.unpack_from(">I", content)[0]
        start += 8 + -(-length // 8) * 8
    return image


def data_blocks(file: int, start: int, end: int, block: int) -> List[Tuple[int, int]]:
    """Which blocks between two offsets hold data: ranges of block numbers, the second one not included."""
    ranges: List[Tuple[int, int]] = []
    while start < end:
        try:
            data = os.lseek(file, start, os.SEEK_DATA)
            hole = min(os.lseek(file, data, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes from here on
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
    """Reads and hashes one file's chunks in threads; each has its own buffer and its own open file."""

    def __init__(self, workers: Workers, file: int, size: int, cache: str) -> None:
        self.workers, self.file, self.size, self.block = workers, file, size, workers.block
        self.direct = cache == "direct" and not workers.direct_fails
        self.own = threading.local()
        self.files: List[Any] = []
        self.zeros: Dict[int, bytes] = {}
        self.chunk = max(1, CHUNK // self.block)
        if cache != "keep":
            os.fsync(file)
            if not self.direct:
                self._drop()

    def _drop(self) -> None:
        """Have the clean pages of the file forgotten: half a second a GiB, so only where they would be read."""
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def zero(self, length: int) -> bytes:
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
        self.own.file = open(file, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self.own.buffer = memoryview(mmap.mmap(-1, self.chunk * self.block))  # O_DIRECT wants whole pages
        self.files.append(self.own.file)

    def read(self, first: int, count: int, known: Optional[bytearray]) -> List[Tuple[int, bytes, bytes]]:
        """Number, hash and content of the blocks that differ from `known`; of all, without content, when there is none."""
        if not hasattr(self.own, "file"):
            self._open()
        view, block, start = self.own.buffer, self.block, first * self.block
        length, got = min(count * block, self.size - start), 0
        self.own.file.seek(start)
        while got < length:
            more = self.own.file.readinto(view[got : count * block])
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
        """Reads chunks in threads, a few ahead of whoever asks. Chunks without data are passed on unread (None)."""
        waiting: Deque[Tuple[int, int, Any]] = collections.deque()
        for has_data, first, count in chunks:
            read = self.workers.pool.submit(self.read, first, count, known) if has_data else None
            waiting.append((first, count, read))
            if len(waiting) > 2 * self.workers.threads:
                yield self._come(waiting.popleft())
        while waiting:
            yield self._come(waiting.popleft())

    @staticmethod
    def _come(waiting: Tuple[int, int, Any]) -> Tuple[int, int, Any]:
        return waiting[0], waiting[1], waiting[2].result() if waiting[2] else None

    def chunks(self, ranges: List[Tuple[int, int]], first: int, end: int) -> Iterator[Tuple[bool, int, int]]:
        """All blocks between two numbers, in order: whether there is data, the first one, how many."""
        for start, stop in [*ranges, (end, end)]:
            for number in range(first, start, HOLE_BLOCKS):
                yield False, number, min(HOLE_BLOCKS, start - number)
            for number in range(start, stop, self.chunk):
                yield True, number, min(self.chunk, stop - number)
            first = stop

    def close(self) -> None:
        for file in self.files:
            file.close()


class Pass:
    """One reading of a source's file; what is sent of it is what differs from its table.

    Where the file was cloned it is the clone that is read: past the cache, in which there may be what a guest has since
    written over. Of what is known of an earlier clone only what was written since is read.
    """

    def __init__(
        self, workers: Workers, file: int, status: os.stat_result, table: Table, cache: str, clone: Optional[int]
    ) -> None:
        self.file, self.table, self.status, self.clone = file, table, status, clone
        read = file if clone is None else clone
        self.size, self.block, self.done = os.fstat(read).st_size, workers.block, False
        blocks = -(-self.size // self.block)
        changed = [(0, blocks)]
        if table.clone is not None and (clone is not None or cache == "direct"):
            with contextlib.suppress(OSError):
                changed = written_since(table.clone, read, self.block)
        ranges = [
            (each, data_blocks(read, each[0] * self.block, min(each[1] * self.block, self.size), self.block))
            for each in changed
        ]
        self.data = sum(
            min(last * self.block, self.size) - first * self.block for _each, data in ranges for first, last in data
        )
        table.size = self.size
        del table.entries[blocks * 32 :]
        table.entries.extend(bytes(blocks * 32 - len(table.entries)))
        self.reader = Reader(workers, read, self.size, cache if clone is None else "direct")
        chunks = (chunk for (first, end), data in ranges for chunk in self.reader.chunks(data, first, end))
        self.stream = self.reader.ahead(chunks, table.entries)

    def more(self, limit: int) -> Answer:
        """The next changed blocks and new holes, about `limit` bytes of them at most."""
        blocks: List[List[Any]] = []
        holes: List[List[int]] = []
        data: List[bytes] = []
        sent = read = 0
        while sent < limit and read < READ_AT_ONCE and len(holes) < HOLE_BLOCKS:
            first, count, changed = next(self.stream, (0, 0, None))
            if not count:
                self.done = True
                break
            if changed is None:
                changed = self._filled(first, count)
            else:
                read += min(count * self.block, self.size - first * self.block)
            for number, digest, content in changed:
                place, length = number * self.block, min(self.block, self.size - number * self.block)
                if digest != ZERO:
                    blocks.append([place, length, digest.hex()])
                    data.append(content)
                    sent += length
                elif holes and sum(holes[-1]) == place:
                    holes[-1][1] += length
                else:
                    holes.append([place, length])
                self.table.entries[number * 32 : number * 32 + 32] = digest
        return {"blocks": blocks, "holes": holes, "read": read, "done": self.done}, b"".join(data)

    def _filled(self, first: int, count: int) -> List[Tuple[int, bytes, bytes]]:
        known = self.table.entries[first * 32 : (first + count) * 32]
        if known == bytes(count * 32):
            return []
        return [(first + each, ZERO, b"") for each in range(count) if known[each * 32 : each * 32 + 32] != ZERO]

    def digest(self) -> str:
        """Of the whole file as the table has it; see :func:`cellmove.hosts.disk_pass.compare`."""
        return hashlib.sha256(f"{self.size} {self.block}\n".encode() + self.table.entries).hexdigest()

    def close(self) -> None:
        self.reader.close()
        os.close(self.file)
        if self.clone is not None:
            os.close(self.clone)

    def settle(self) -> None:
        """The target has all of it."""
        self.table.certain = True
        self.table.keep(self.clone)
        self.clone = None


class State:
    """What this process knows: whom it works for, and of a source's files what the target holds."""

    def __init__(self, fixed_path: str) -> None:
        self.fixed_path = fixed_path  # given on the command line: no other will do
        self.path, self.root, self.move, self.input = "", -1, "", -1
        self.session = os.urandom(8).hex()
        self.revisions: Dict[str, int] = {}  # of files, grown when something else than `write` changes one
        self.workers: Any = None
        self.tables: Dict[str, Table] = {}
        self.passes: Dict[str, Pass] = {}
        self.stamps: Dict[str, Tuple[int, ...]] = {}  # of files, as we left them
        self.unread: Dict[str, Any] = {}  # of a target's files: what was written and not yet read back
        self.unfinished: Set[str] = set()
        self.tidy = False
        self.relieved: Set[str] = set()  # files whose reading was given up because there was hardly any room left
        self.may_clone = True  # until there is hardly any room left

    def clones(self) -> List[int]:
        """All that are kept: each may come to take as much room as its file does."""
        kept = [table.clone for table in self.tables.values()] + [begun.clone for begun in self.passes.values()]
        return [clone for clone in kept if clone is not None]


def digests_of(state: State, file: int, ranges: List[Tuple[int, int]], cache: str) -> Tuple[bytearray, int]:
    """The hashes of the blocks in some ranges, in their order, and how many bytes were read for them."""
    size, block = os.fstat(file).st_size, state.workers.block
    reader = Reader(state.workers, file, size, cache)
    result, read = bytearray(), 0
    chunks = (
        chunk
        for first, end in ranges
        for chunk in reader.chunks(data_blocks(file, first * block, min(end * block, size), block), first, end)
    )
    try:
        for start, count, found_there in reader.ahead(chunks, None):
            read += count * block if found_there is not None else 0
            part = bytearray(count * 32)
            for number, digest, _content in found_there or ():
                part[(number - start) * 32 : (number - start + 1) * 32] = digest
            result += part
    finally:
        reader.close()
    return result, read


def split(path: str) -> List[str]:
    """The names of a relative path; refuses what could lead anywhere else."""
    names = path.split("/") if isinstance(path, str) else []
    if not names or any(name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > 255 for name in names):
        raise Refusal("path", f"{path!r} is no path below instances_path")
    return names


@contextlib.contextmanager
def within(state: State, path: str) -> Iterator[Tuple[int, str]]:
    """The open directory that holds `path`, and the last name."""
    if state.root < 0:
        raise Refusal("usage", "nothing has said hello yet")
    names = split(path)
    here = os.dup(state.root)
    try:
        for name in names[:-1]:
            there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = there
        yield here, names[-1]
    finally:
        os.close(here)


@contextlib.contextmanager
def opened(state: State, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """An open regular file; never one behind a link, never a pipe or a device."""
    with within(state, path) as (directory, name):
        file = os.open(
            name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600, dir_fd=directory
        )
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or (flags & os.O_ACCMODE and status.st_nlink != 1):
                raise Refusal("path", f"{path} is no regular file with one name")
            yield file
        finally:
            os.close(file)


def owned(state: State, path: str) -> str:
    """`path`, if its last name carries the mark of this move."""
    name = split(path)[-1]
    if not (name.startswith(".") and name.endswith(".cellmove-" + state.move)):
        raise Refusal("path", f"{path} does not carry the mark of {state.move}")
    return path


def is_expected(status: os.stat_result, expected: Any) -> bool:
    """Whether it is the file (device and inode) that the operator was told of."""
    return isinstance(expected, dict) and [expected.get("device"), expected.get("inode")] == [
        status.st_dev,
        status.st_ino,
    ]


def found(directory: int, name: str) -> Optional[os.stat_result]:
    """What a directory has under a name, links not followed; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
