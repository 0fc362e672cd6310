"""Finds the blocks of a file that were written since it was cloned. Only XFS provides this.

A file and its clone (``FICLONE``) share their extents. Each later write to the file gets new extents, through any cache, because
the clone still needs the old ones. Two lists of extents (``FIEMAP``) therefore show which blocks may differ. Only those are read.
Other file systems with clones may move extents by themselves (btrfs balances) or do not list them: their files are read whole.

A clone has no name (``O_TMPFILE``), so it disappears with this process. While it exists, each block that a guest overwrites takes
space of its own.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
from typing import Iterator, List, Optional, Tuple

# The numbers of most architectures. Others refuse the call, and the file is read whole.
FICLONE, FIEMAP = 0x40049409, 0xC020660B
HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped extents, extents requested, reserved
EXTENT = struct.Struct("=QQQ2QI3I")  # in the file, on the disk, length, reserved, flags, reserved
SYNC, LAST, UNWRITTEN = 0x1, 0x1, 0x800
# Not yet written, compressed, inline and others: these cannot be compared.
PLACELESS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
EXTENTS_A_CALL = 512  # extents that one call returns at most
MAX_EXTENTS = 20000  # cloning blocks the guest's disk for some 30 microseconds an extent
MARGIN = 256 << 20  # bytes of the file system that clones must leave free
# Older kernels let a write happen during a clone (fixed by 5d888b481e6a, "fix reflink source file racing").
OLDEST_KERNEL = (5, 3)
Extent = Tuple[int, int, int]  # start and end in the file, place on the disk; a negative place cannot be compared


def file_system(device: int) -> str:
    """Return the type of the file system with this device number; empty when it is unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        for line in mounts:
            words = line.split()
            if words[2] == wanted:
                return words[words.index("-") + 1]
    return ""


def is_trusted(file: int) -> bool:
    """Whether the file system of an open file shows what was written since a clone."""
    matched = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (
        matched is not None
        and (int(matched.group(1)), int(matched.group(2))) >= OLDEST_KERNEL
        and file_system(os.fstat(file).st_dev) == "xfs"
    )


def free_bytes(file: int) -> int:
    """Return the free bytes of the file system of an open file."""
    there = os.fstatvfs(file)
    return there.f_bavail * there.f_frsize


def extents(file: int, size: int) -> List[Extent]:
    """Return the extents of a file in order, without holes and without space that is reserved but not written.

    :raises OSError: the file system does not list them, or there are too many
    """
    result: List[Extent] = []
    start, last = 0, False
    while start < size and not last:
        answer = bytearray(HEAD.size + EXTENTS_A_CALL * EXTENT.size)
        HEAD.pack_into(answer, 0, start, size - start, SYNC, 0, EXTENTS_A_CALL, 0)
        fcntl.ioctl(file, FIEMAP, answer)
        mapped = HEAD.unpack_from(answer)[3]
        for number in range(mapped):
            extent = EXTENT.unpack_from(answer, HEAD.size + number * EXTENT.size)
            begin, place, length, flags = extent[0], extent[1], extent[2], extent[5]
            if not flags & UNWRITTEN:
                result.append((begin, begin + length, -1 if flags & PLACELESS else place))
            start, last = begin + length, bool(flags & LAST)
        last = last or not mapped
        if len(result) > MAX_EXTENTS:
            raise OSError(errno.E2BIG, "the file is in too many pieces")
    return result


def differing(one: List[Extent], other: List[Extent]) -> Iterator[Tuple[int, int]]:
    """Yield the ranges, in bytes, that do not have the same place on the disk in both lists."""
    points = sorted({point for each in (one, other) for extent in each for point in extent[:2]})
    places = [_places(one, points), _places(other, points)]
    for start, end, here, there in zip(points, points[1:], *places):  # noqa: B905 - no range starts at the last point
        if here != there or (here is not None and here < 0):
            yield start, end


def _places(extents_of_file: List[Extent], points: List[int]) -> Iterator[Optional[int]]:
    """Yield the place on the disk of each point; None: a hole; negative: not to be compared."""
    number = 0
    for point in points:
        while number < len(extents_of_file) and extents_of_file[number][1] <= point:
            number += 1
        if number == len(extents_of_file) or extents_of_file[number][0] > point:
            yield None
        else:
            begin, _end, place = extents_of_file[number]
            yield place if place < 0 else place + point - begin


def written_since(clone: int, file: int, block: int) -> List[Tuple[int, int]]:
    """Return the blocks in which a file may differ from its clone: ranges of block numbers, ends excluded.

    :param file: the file, or a later clone of it
    :raises OSError: the file system cannot tell
    """
    if os.fstat(clone).st_dev != os.fstat(file).st_dev:
        raise OSError(errno.EXDEV, "the file is on another file system now")
    before, size = os.fstat(clone).st_size, os.fstat(file).st_size
    result: List[Tuple[int, int]] = []
    changed = [*differing(extents(clone, max(before, size)), extents(file, max(before, size)))]
    if before != size:  # the last block and everything after it
        changed.append((min(before, size) // block * block, size))
    for start, end in sorted((start, min(end, size)) for start, end in changed):
        first, last = start // block, -(-end // block)
        if first >= last:
            continue
        if result and first <= result[-1][1]:
            first, before_last = result.pop()
            last = max(last, before_last)
        result.append((first, last))
    return result


def cloned(file: int, directory: int, reserved: int) -> Optional[int]:
    """Return a clone of a file, without a name; None when cloning is impossible or there is too little space.

    :param directory: of the file
    :param reserved: bytes that the existing clones may need when guests overwrite all of their disks
    """
    clone = -1
    with contextlib.suppress(OSError):
        status = os.fstat(file)
        if not is_trusted(file) or free_bytes(file) < reserved + status.st_blocks * 512 + MARGIN:
            return None
        extents(file, status.st_size)
        os.fsync(file)  # otherwise the cache would be written while the guest waits
        clone = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        fcntl.ioctl(clone, FICLONE, file)
        return clone
    if clone >= 0:
        os.close(clone)
    return None
