"""The meaning of an operator's word for a move, a server or a cell: an id, or else a name.

Users choose the names of servers, and a name may look like the UUID of another server or the id of a move.
"""

from __future__ import annotations

import enum
import re
import uuid

_MOVE_ID = re.compile(r"(?:move|audit|drain)-[0-9a-f]{6}")


class Kind(enum.Enum):
    """The form of a word."""

    UUID = "uuid"
    MOVE_ID = "move id"
    NAME = "name"


def kind_of(word: str) -> Kind:
    """Return the form of a word. A word with the form of an id is never a name."""
    if is_uuid(word):
        return Kind.UUID
    return Kind.MOVE_ID if _MOVE_ID.fullmatch(word) else Kind.NAME


def is_uuid(word: str) -> bool:
    """Return whether a word is a UUID in the form that nova uses, in either case."""
    try:
        return str(uuid.UUID(word)) == word.lower()
    except ValueError:
        return False


def means(word: str, identity: str, name: str) -> bool:
    """Return whether a word means the server or cell with this UUID and this name."""
    return word.lower() == identity.lower() if kind_of(word) is Kind.UUID else word in (identity, name)
