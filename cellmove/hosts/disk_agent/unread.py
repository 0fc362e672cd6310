"""Records which blocks of a file were written and not yet read back."""

from typing import List, Tuple


class UnreadBlocks:
    """The blocks of a target's unfinished file that were written since they were last read back."""

    def __init__(self, block: int) -> None:
        self.block, self.flags = block, bytearray()

    def resize(self, size: int) -> None:
        """Follow a change of the size: new blocks are holes; the last block, of another length now, counts as written."""
        before, blocks = len(self.flags), -(-size // self.block)
        del self.flags[blocks:]
        self.flags.extend(bytes(blocks - len(self.flags)))
        for last in (before, blocks):
            self.written((last - 1) * self.block, 1)

    def written(self, start: int, length: int) -> None:
        """Record a write."""
        first, end = max(0, start // self.block), min(len(self.flags), -(-(start + length) // self.block))
        self.flags[first:end] = b"\1" * max(0, end - first)

    def all_written(self, size: int) -> None:
        """Record that all blocks have to be read back."""
        self.flags = bytearray(b"\1" * -(-size // self.block))

    def was_read(self, first: int, end: int) -> None:
        """Record that blocks were read back."""
        end = min(end, len(self.flags))
        self.flags[first:end] = bytes(max(0, end - first))

    def ranges(self, first: int, limit: int) -> List[Tuple[int, int]]:
        """Return the ranges of unread blocks from a block on, `limit` blocks at limit, ends excluded."""
        ranges: List[Tuple[int, int]] = []
        while limit > 0:
            first = self.flags.find(1, first)
            if first < 0:
                break
            end = self.flags.find(0, first)
            end = min(end if end >= 0 else len(self.flags), first + limit)
            ranges.append((first, end))
            first, limit = end, limit - (end - first)
        return ranges
