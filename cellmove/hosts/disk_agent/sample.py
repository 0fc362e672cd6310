"""Reads samples of a disk at places that its guest addresses.

Two disks may have the same content for their guests and different files, for instance after a transfer through an image. So the
sample reads through the tables of qcow2 (docs/interop/qcow2 in QEMU) and the backing files of an overlay. It writes nothing, and
a guest may have the file open.
"""

import contextlib
import hashlib
import os
import struct
import zlib
from typing import Any, Iterator, List, Optional

from .images import header
from .protocol import Answer, Fields, Refusal
from .reading import data_blocks
from .state import State, opened

UNIT = 4096  # bytes that are compared at one place
CLUSTER = 65536  # bytes, for a raw disk
MAX_LAYERS = 8  # in a chain of backing files
AT, COMPRESSED, IS_ZERO = 0x00FFFFFFFFFFFE00, 1 << 62, 1


class RawLayer:
    """A raw disk."""

    def __init__(self, file: int) -> None:
        self.file, self.cluster, self.size = file, CLUSTER, os.fstat(file).st_size

    def read(self, place: int, length: int) -> Optional[bytes]:
        """Return the content; a raw disk has no backing file."""
        return os.pread(self.file, length, place).ljust(length, b"\0")

    def written(self, most: int) -> List[int]:
        """Return places with data, evenly distributed."""
        blocks = [block for first, end in data_blocks(self.file, 0, self.size, CLUSTER) for block in range(first, end)]
        return [block * CLUSTER for block in evenly(blocks, most)]


class QcowLayer:
    """An overlay in qcow2; its backing file shows through its holes."""

    def __init__(self, file: int, path: str) -> None:
        head = os.pread(file, 112, 0).ljust(112, b"\0")
        version, _name, _length, bits, self.size, encrypted, count, table = struct.unpack_from(">IQIIQIIQ", head, 4)
        (features,) = struct.unpack_from(">Q", head, 72) if version > 2 else (0,)
        # 1: not closed, 2: damaged, 8: another compression. Other features change the meaning of the tables.
        if head[:4] != b"QFI\xfb" or encrypted or features & ~11 or not 12 <= bits <= 21:
            raise Refusal("image", f"{path} is not a qcow2 image of a supported kind")
        self.file, self.path, self.bits, self.cluster, self.version = file, path, bits, 1 << bits, version
        self.zlib = not features & 8
        tables = os.pread(file, count * 8, table)
        self.tables = struct.unpack(f">{len(tables) // 8}Q", tables[: len(tables) // 8 * 8])

    def read(self, place: int, length: int) -> Optional[bytes]:
        """Return the content; None where the backing file shows through."""
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
            raise Refusal("image", f"{self.path} has an unsupported compression")
        shift = 62 - (self.bits - 8)
        place, sectors = entry & ((1 << shift) - 1), (entry >> shift) & ((1 << (self.bits - 8)) - 1)
        packed = os.pread(self.file, (sectors + 1) * 512 - place % 512, place)
        return zlib.decompressobj(-12).decompress(packed, self.cluster).ljust(self.cluster, b"\0")

    def written(self, most: int) -> List[int]:
        """Return places with data, evenly distributed: some clusters of some tables, so that the cost has a limit."""
        rows = self.cluster // 8
        found: List[int] = []
        chosen = evenly([number for number, entry in enumerate(self.tables) if entry & AT], most)
        for number in chosen:
            table = os.pread(self.file, self.cluster, self.tables[number] & AT)
            entries = struct.unpack(f">{len(table) // 8}Q", table[: len(table) // 8 * 8])
            data = [
                row
                for row, entry in enumerate(entries)
                if entry & AT and not entry & COMPRESSED and not (entry & IS_ZERO and self.version > 2)
            ]
            found += [(number * rows + row) << self.bits for row in evenly(data, -(-most // len(chosen)))]
        return found


def evenly(items: List[int], most: int) -> List[int]:
    """Return at most so many items, evenly distributed."""
    return items if len(items) <= most else [items[number * len(items) // most] for number in range(most)]


def layers_of(state: State, stack: contextlib.ExitStack, path: str, form: str) -> Iterator[Any]:
    """Yield the layers of a disk, from the top."""
    for _layer in range(MAX_LAYERS):
        file = stack.enter_context(opened(state, path))
        if form == "raw":
            yield RawLayer(file)
            return
        if form != "qcow2":
            raise Refusal("image", f"{path} has the format {form or 'unknown'}, which is not supported")
        yield QcowLayer(file, path)
        image = header(file)
        if not image["backing"]:
            return
        # An absolute path has to be below instances_path, too; otherwise it is refused.
        path, form = (
            os.path.relpath(os.path.join(state.path, os.path.dirname(path), image["backing"]), state.path),
            image["backing_format"],
        )
    raise Refusal("image", f"{path} has too many backing files")


def content_at(layers: List[Any], place: int) -> bytes:
    """Return what the guest reads at a place."""
    for layer in layers:
        if place >= layer.size:
            break  # an overlay may be larger than its backing file: zeros follow
        content = layer.read(place, UNIT)
        if content is not None:
            return bytes(content).ljust(UNIT, b"\0")
    return bytes(UNIT)


def places_of(layer: Any, most: int) -> List[int]:
    """Return places with data that is not all zeros, evenly distributed."""
    clusters = layer.written(most)
    found: List[int] = []
    for start in clusters:
        content = layer.read(start, layer.cluster) or b""
        filled = [at for at in range(0, layer.cluster, UNIT) if content[at : at + UNIT].strip(b"\0")]
        found += [start + at for at in evenly(filled, -(-most // len(clusters)))]
    return evenly([place for place in found if place < layer.size], most)


def sample(state: State, request: Fields, _payload: bytes) -> Answer:
    """Return hashes of what the guest reads at the given places, or at places with data (`places` null)."""
    with contextlib.ExitStack() as stack:
        layers = list(layers_of(state, stack, request["path"], request["format"]))
        places = places_of(layers[0], request["most"]) if request["places"] is None else request["places"]
        digests = b"".join(hashlib.sha256(content_at(layers, place)).digest() for place in places)
    return {"virtual_size": layers[0].size, "places": places}, digests
