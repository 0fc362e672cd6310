"""Part of the program on a compute host (:mod:`cellmove.hosts.disk_program`): what was written to a file since a moment.

Only XFS tells. A file and its clone (``FICLONE``) share their extents; whatever is written to the file afterwards, by
whomever and past which cache ever, is given another place on the disk, as the clone still needs the old one. So two
lists of extents (``FIEMAP``) say which blocks may differ, and nothing but those has to be read. Other file systems that
clone may move extents by themselves (btrfs balances) or do not list them, so their files are read as a whole.

A clone has no name (``O_TMPFILE``): whatever becomes of this process, nothing is left of it. While it is there, what a
guest overwrites takes room of its own.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
from typing import Iterator, List, Optional, Tuple

# As most architectures number them; elsewhere the call is refused, and the file is read as a whole.
FICLONE, FIEMAP = 0x40049409, 0xC020660B
HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped, room for, reserved
EXTENT = struct.Struct("=QQQ2QI3I")  # in the file, on the disk, length, reserved, flags, reserved
SYNC, LAST, UNWRITTEN = 0x1, 0x1, 0x800
# Not yet written, compressed, within other data, ...: not to be compared.
PLACELESS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
AT_ONCE = 512  # extents asked of the kernel in one call
MOST_EXTENTS = 20000  # cloning more keeps the guest waiting for its disk, some 30 microseconds each
MARGIN = 256 << 20  # bytes that stay free on the file system whatever a guest overwrites
# Before it, a write could slip in while a clone was made (5d888b481e6a, "fix reflink source file racing").
KERNEL = (5, 3)
Extent = Tuple[int, int, int]  # from, to, and where on the disk; below zero: nowhere that could be compared


def file_system(device: int) -> str:
    """The type of the file system with this device number; empty when it is not known here."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        for line in mounts:
            words = line.split()
            if words[2] == wanted:
                return words[words.index("-") + 1]
    return ""


def is_trusted(file: int) -> bool:
    """Whether it lies where clones tell what was written."""
    matched = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (
        matched is not None
        and (int(matched.group(1)), int(matched.group(2))) >= KERNEL
        and file_system(os.fstat(file).st_dev) == "xfs"
    )


def room(file: int) -> int:
    """Bytes that are free where it lies."""
    there = os.fstatvfs(file)
    return there.f_bavail * there.f_frsize


def extents(file: int, size: int) -> List[Extent]:
    """A file's data as it lies on the disk, in order; holes, and what is reserved but not written, are left out.

    :raises OSError: they are not told, or too many
    """
    result: List[Extent] = []
    start, last = 0, False
    while start < size and not last:
        answer = bytearray(HEAD.size + AT_ONCE * EXTENT.size)
        HEAD.pack_into(answer, 0, start, size - start, SYNC, 0, AT_ONCE, 0)
        fcntl.ioctl(file, FIEMAP, answer)
        mapped = HEAD.unpack_from(answer)[3]
        for number in range(mapped):
            told = EXTENT.unpack_from(answer, HEAD.size + number * EXTENT.size)
            begin, place, length, flags = told[0], told[1], told[2], told[5]
            if not flags & UNWRITTEN:
                result.append((begin, begin + length, -1 if flags & PLACELESS else place))
            start, last = begin + length, bool(flags & LAST)
        last = last or not mapped
        if len(result) > MOST_EXTENTS:
            raise OSError(errno.E2BIG, "the file is in too many pieces")
    return result


def differing(one: List[Extent], other: List[Extent]) -> Iterator[Tuple[int, int]]:
    """The ranges, in bytes, that do not lie at the same place in both."""
    points = sorted({point for each in (one, other) for extent in each for point in extent[:2]})
    places = [_places(one, points), _places(other, points)]
    for start, end, here, there in zip(points, points[1:], *places):  # noqa: B905 - the last point begins nothing
        if here != there or (here is not None and here < 0):
            yield start, end


def _places(those: List[Extent], points: List[int]) -> Iterator[Optional[int]]:
    """For each point where on the disk its data lies; None: in a hole; below zero: nowhere that could be compared."""
    number = 0
    for point in points:
        while number < len(those) and those[number][1] <= point:
            number += 1
        if number == len(those) or those[number][0] > point:
            yield None
        else:
            begin, _end, place = those[number]
            yield place if place < 0 else place + point - begin


def written_since(clone: int, file: int, block: int) -> List[Tuple[int, int]]:
    """The blocks in which a file may differ from its clone: ranges of numbers, the second one not included.

    :param file: the file, or a later clone of it
    :raises OSError: it cannot be told
    """
    if os.fstat(clone).st_dev != os.fstat(file).st_dev:
        raise OSError(errno.EXDEV, "the file lies elsewhere now")
    before, size = os.fstat(clone).st_size, os.fstat(file).st_size
    result: List[Tuple[int, int]] = []
    changed = [*differing(extents(clone, max(before, size)), extents(file, max(before, size)))]
    if before != size:  # what the last block holds of it, and all behind
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


def cloned(file: int, directory: int, taken: int) -> Optional[int]:
    """A clone of a file, without a name; None where there can be none.

    :param directory: where the file lies
    :param taken: bytes that clones which are there already may take when a guest overwrites all of its disks
    """
    clone = -1
    with contextlib.suppress(OSError):
        status = os.fstat(file)
        if not is_trusted(file) or room(file) < taken + status.st_blocks * 512 + MARGIN:
            return None
        extents(file, status.st_size)
        os.fsync(file)  # what is in the cache would be written while the guest is kept waiting
        clone = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        fcntl.ioctl(clone, FICLONE, file)
        return clone
    if clone >= 0:
        os.close(clone)
    return None
