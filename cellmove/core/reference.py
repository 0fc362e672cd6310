"""What an operator's word for a move, a server or a cell can mean: an id first, a name only where it is no id.

A name is other people's input: anybody may call a server like another server's UUID, or like a move's id.
"""

from __future__ import annotations

import enum
import re
import uuid

_MOVE_ID = re.compile(r"(?:move|audit|drain)-[0-9a-f]{6}")


class Kind(enum.Enum):
    """What a word is by its form."""

    UUID = "uuid"
    MOVE_ID = "move id"
    NAME = "name"


def kind_of(word: str) -> Kind:
    """What a word is by its form. What has the form of an id never stands for a name."""
    if is_uuid(word):
        return Kind.UUID
    return Kind.MOVE_ID if _MOVE_ID.fullmatch(word) else Kind.NAME


def is_uuid(word: str) -> bool:
    """Whether it is a UUID in the form that nova uses; the case does not count."""
    try:
        return str(uuid.UUID(word)) == word.lower()
    except ValueError:
        return False


def means(word: str, identity: str, name: str) -> bool:
    """Whether a word means the server or cell with this UUID and this name."""
    return word.lower() == identity.lower() if kind_of(word) is Kind.UUID else word in (identity, name)
