"""Frames on the connection, for both ends.

A frame is :data:`PREFIX` (magic, length of the header, length of the payload, CRC-32 of the header), a header in JSON, and a
payload.
"""

import json
import os
import struct
import sys
import zlib
from typing import Tuple

from .protocol import Answer, Fields

VERSION = 1
PREFIX = struct.Struct(">4sIII")
MAGIC = b"cmD1"
MAX_HEADER, MAX_PAYLOAD = 1 << 20, 1 << 24


def read(file: int, length: int) -> bytes:
    """Return exactly so many bytes; EOFError when the input ends."""
    buffer, got = bytearray(length), 0  # not copied into bytes: it may be megabytes
    view = memoryview(buffer)
    while got < length:
        count = os.readv(file, [view[got:]])
        if not count:
            raise EOFError
        got += count
    return buffer  # type: ignore[return-value]  # a bytearray, to copy no megabytes


def read_frame(file: int) -> Tuple[Fields, bytes]:
    """Return the next request; SystemExit when it is damaged, because the rest of the input is useless then."""
    magic, header_length, payload_length, check = PREFIX.unpack(read(file, PREFIX.size))
    if magic != MAGIC or header_length > MAX_HEADER or payload_length > MAX_PAYLOAD:
        sys.exit("cellmove: the input is not a request")
    text = read(file, header_length)
    if zlib.crc32(text) != check:
        sys.exit("cellmove: a request arrived damaged")
    return json.loads(text.decode()), read(file, payload_length)


def write_frame(file: int, answer: Answer) -> None:
    """Write an answer as a frame."""
    text = json.dumps(answer[0]).encode()
    for part in (PREFIX.pack(MAGIC, len(text), len(answer[1]), zlib.crc32(text)) + text, answer[1]):
        view = memoryview(part)
        while len(view):
            view = view[os.write(file, view) :]
