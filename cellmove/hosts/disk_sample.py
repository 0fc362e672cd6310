"""Part of the program on a compute host (:mod:`cellmove.hosts.disk_program`): what a guest reads of its disk at some places.

Two disks may hold the same for their guests and lie differently in their files: a snapshot that went through an image
does. So disks are compared at places that the guest counts, through the tables of qcow2 (docs/interop/qcow2 in QEMU)
and down to the images that an overlay stands on. Nothing is written; a file that a guest has open may be read.
"""

import contextlib
import hashlib
import os
import struct
import zlib
from typing import Any, Dict, Iterator, List, Optional

# isort: off
from cellmove.hosts.disk_reading import Answer, Refusal, State, data_blocks, header, opened
# isort: on

UNIT = 4096  # bytes that are compared at one place
CLUSTER = 65536  # of a raw disk, which has none of its own
LAYERS = 8  # images that may stand on each other
AT, COMPRESSED, IS_ZERO = 0x00FFFFFFFFFFFE00, 1 << 62, 1


class RawLayer:
    """A raw disk."""

    def __init__(self, file: int) -> None:
        self.file, self.cluster, self.size = file, CLUSTER, os.fstat(file).st_size

    def read(self, place: int, length: int) -> Optional[bytes]:
        """What is there; a raw disk has everything itself."""
        return os.pread(self.file, length, place).ljust(length, b"\0")

    def written(self, most: int) -> List[int]:
        """Where something was written, evenly."""
        blocks = [block for first, end in data_blocks(self.file, 0, self.size, CLUSTER) for block in range(first, end)]
        return [block * CLUSTER for block in evenly(blocks, most)]


class QcowLayer:
    """An overlay: what was written to it, and holes through which another image is seen."""

    def __init__(self, file: int, path: str) -> None:
        head = os.pread(file, 112, 0).ljust(112, b"\0")
        version, _name, _length, bits, self.size, encrypted, count, table = struct.unpack_from(">IQIIQIIQ", head, 4)
        (features,) = struct.unpack_from(">Q", head, 72) if version > 2 else (0,)
        # 1: left open, 2: damaged, 8: compressed in another way. Others change what the tables mean.
        if head[:4] != b"QFI\xfb" or encrypted or features & ~11 or not 12 <= bits <= 21:
            raise Refusal("image", f"{path} is no qcow2 image of a kind that is known here")
        self.file, self.path, self.bits, self.cluster, self.version = file, path, bits, 1 << bits, version
        self.zlib = not features & 8
        tables = os.pread(file, count * 8, table)
        self.tables = struct.unpack(f">{len(tables) // 8}Q", tables[: len(tables) // 8 * 8])

    def read(self, place: int, length: int) -> Optional[bytes]:
        """What is there; None where the image below is seen."""
        number, inside = divmod(place, self.cluster)
        table, row = divmod(number, self.cluster // 8)
        if table >= len(self.tables) or not self.tables[table] & AT:
            return None
        (entry,) = struct.unpack(">Q", os.pread(self.file, 8, (self.tables[table] & AT) + row * 8).ljust(8, b"\0"))
        if entry & COMPRESSED:
            return self._unpacked(entry)[inside : inside + length]
        if entry & IS_ZERO and self.version > 2:
            return bytes(length)
        if not entry & AT:
            return None
        return os.pread(self.file, length, (entry & AT) + inside).ljust(length, b"\0")

    def _unpacked(self, entry: int) -> bytes:
        if not self.zlib:
            raise Refusal("image", f"{self.path} is compressed in a way that is not known here")
        shift = 62 - (self.bits - 8)
        place, sectors = entry & ((1 << shift) - 1), (entry >> shift) & ((1 << (self.bits - 8)) - 1)
        packed = os.pread(self.file, (sectors + 1) * 512 - place % 512, place)
        return zlib.decompressobj(-12).decompress(packed, self.cluster).ljust(self.cluster, b"\0")

    def written(self, most: int) -> List[int]:
        """Where the guest wrote something, evenly: of some tables some clusters, so that no disk is too large."""
        rows = self.cluster // 8
        found: List[int] = []
        chosen = evenly([number for number, entry in enumerate(self.tables) if entry & AT], most)
        for number in chosen:
            table = os.pread(self.file, self.cluster, self.tables[number] & AT)
            entries = struct.unpack(f">{len(table) // 8}Q", table[: len(table) // 8 * 8])
            data = [
                row for row, entry in enumerate(entries)
                if entry & AT and not entry & COMPRESSED and not (entry & IS_ZERO and self.version > 2)
            ]  # fmt: skip
            found += [(number * rows + row) << self.bits for row in evenly(data, -(-most // len(chosen)))]
        return found


def evenly(items: List[int], most: int) -> List[int]:
    """At most so many of them, from beginning to end."""
    return items if len(items) <= most else [items[number * len(items) // most] for number in range(most)]


def layers_of(state: State, stack: contextlib.ExitStack, path: str, form: str) -> Iterator[Any]:
    """A disk and what it stands on, from the top."""
    for _layer in range(LAYERS):
        file = stack.enter_context(opened(state, path))
        if form == "raw":
            yield RawLayer(file)
            return
        if form != "qcow2":
            raise Refusal("image", f"{path} is {form or 'in a format that nobody wrote down'}, which is not read here")
        yield QcowLayer(file, path)
        image = header(file)
        if not image["backing"]:
            return
        # An absolute one leads here as well, or is refused.
        path, form = (
            os.path.relpath(os.path.join(state.path, os.path.dirname(path), image["backing"]), state.path),
            image["backing_format"],
        )
    raise Refusal("image", f"too many images stand on each other below {path}")


def content_at(layers: List[Any], place: int) -> bytes:
    """What the guest reads there."""
    for layer in layers:
        if place >= layer.size:
            break  # an overlay may be larger than what it stands on: zeros follow that
        content = layer.read(place, UNIT)
        if content is not None:
            return bytes(content).ljust(UNIT, b"\0")
    return bytes(UNIT)


def places_of(layer: Any, most: int) -> List[int]:
    """Where the guest wrote something that is not all zeros, evenly."""
    clusters = layer.written(most)
    found: List[int] = []
    for start in clusters:
        content = layer.read(start, layer.cluster) or b""
        filled = [at for at in range(0, layer.cluster, UNIT) if content[at : at + UNIT].strip(b"\0")]
        found += [start + at for at in evenly(filled, -(-most // len(clusters)))]
    return evenly([place for place in found if place < layer.size], most)


def sample(state: State, asked: Dict[str, Any], _payload: bytes) -> Answer:
    """Hashes of what the guest reads: at the places that are asked for, or where it wrote something (`places` null)."""
    with contextlib.ExitStack() as stack:
        layers = list(layers_of(state, stack, asked["path"], asked["format"]))
        places = places_of(layers[0], asked["most"]) if asked["places"] is None else asked["places"]
        digests = b"".join(hashlib.sha256(content_at(layers, place)).digest() for place in places)
    return {"virtual_size": layers[0].size, "places": places}, digests
