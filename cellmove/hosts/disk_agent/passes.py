"""A pass: one reading of a source's file, which sends the blocks that differ from the target's."""

import contextlib
import hashlib
import os
from typing import Any, List, Optional, Tuple

from .extents import written_since
from .protocol import READ_AT_ONCE, ZERO, Answer
from .reading import HOLE_BLOCKS, Reader, Workers, data_blocks


class Table:
    """The SHA-256 of each block of one file as the target holds it.

    :param token: of the target's file; another token means another file
    """

    def __init__(self, token: str) -> None:
        self.token, self.certain, self.entries, self.size = token, False, bytearray(), 0
        self.clone: Optional[int] = None

    def keep(self, clone: Optional[int]) -> None:
        """Keep the clone that the hashes belong to; None: keep none, so that the next pass reads the whole file."""
        if self.clone is not None:
            os.close(self.clone)
        self.clone = clone


class Pass:
    """One reading of a source's file, which sends the blocks that differ from its table.

    If the file was cloned, the pass reads the clone, past the cache: the cache may hold later writes of the guest. If the table
    belongs to an earlier clone, the pass reads only the blocks written since.
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
        """Return the next changed blocks and new holes, about `limit` bytes at most."""
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
        """Return the digest of the whole file as the table has it."""
        return hashlib.sha256(f"{self.size} {self.block}\n".encode() + self.table.entries).hexdigest()

    def close(self) -> None:
        """Close the file and its clone."""
        self.reader.close()
        os.close(self.file)
        if self.clone is not None:
            os.close(self.clone)

    def settle(self) -> None:
        """Record that the target holds the whole pass."""
        self.table.certain = True
        self.table.keep(self.clone)
        self.clone = None
