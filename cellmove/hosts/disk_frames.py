"""Part of the program on a compute host (:mod:`cellmove.hosts.disk_program`): what goes over the wire, for both ends.

A frame is :data:`PREFIX` (magic, length of the header, length of the payload, CRC-32 of the header), a header in JSON, a
payload. Written, like the other parts, for the standard library of Python 3.6.
"""

import json
import os
import struct
import sys
import zlib
from typing import Any, Dict, Tuple

VERSION = 1
PREFIX = struct.Struct(">4sIII")
MAGIC = b"cmD1"
MOST_HEADER, MOST_PAYLOAD = 1 << 20, 1 << 24


def read(file: int, length: int) -> Any:
    """Just so many bytes; EOFError when nobody sends any more."""
    buffer, got = bytearray(length), 0  # not copied into bytes: it may be megabytes
    view = memoryview(buffer)
    while got < length:
        more_bytes = os.readv(file, [view[got:]])
        if not more_bytes:
            raise EOFError
        got += more_bytes
    return buffer


def read_frame(file: int) -> Tuple[Dict[str, Any], bytes]:
    """The next request; SystemExit when it is none, because nothing can be believed after that."""
    magic, header_length, payload_length, check = PREFIX.unpack(read(file, PREFIX.size))
    if magic != MAGIC or header_length > MOST_HEADER or payload_length > MOST_PAYLOAD:
        sys.exit("cellmove: what came in is no request")
    text = read(file, header_length)
    if zlib.crc32(text) != check:
        sys.exit("cellmove: a request came in damaged")
    return json.loads(text.decode()), read(file, payload_length)


def write_frame(file: int, answer: Tuple[Dict[str, Any], bytes]) -> None:
    text = json.dumps(answer[0]).encode()
    for part in (PREFIX.pack(MAGIC, len(text), len(answer[1]), zlib.crc32(text)) + text, answer[1]):
        view = memoryview(part)
        while len(view):
            view = view[os.write(file, view) :]
