"""What both ends of a connection agree on: blocks, answers and refusals."""

from typing import Any, Dict, Tuple

BLOCK = 262144  # bytes; docs/stream.md says why
READ_AT_ONCE = 64 << 20  # bytes that one answer may stand for, so that the operator sees progress
ZERO = bytes(32)  # stands for a block that is a hole or all zeros, instead of its SHA-256

Fields = Dict[str, Any]  # decoded JSON
Answer = Tuple[Fields, bytes]


class Refusal(Exception):
    """A request that the agent refuses.

    :param kind: a short word for the operator's end
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
