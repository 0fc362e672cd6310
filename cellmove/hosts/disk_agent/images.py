"""Image formats, as the first bytes of a file tell them."""

import os
import struct

from .protocol import Fields


def header(file: int) -> Fields:
    """Return the format of an image, from its first bytes.

    Not by qemu-img: when it guesses the format, it believes what a guest wrote into a raw disk (CVE-2024-32498).
    """
    head = os.pread(file, 65536, 0)
    image: Fields = {
        "format": "raw",
        "virtual_size": os.fstat(file).st_size,
        "backing": "",
        "backing_format": "",
        "data_file": False,
        "encrypted": head[:6] == b"LUKS\xba\xbe",
        "snapshots": 0,
        "bitmaps": 0,
    }
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
