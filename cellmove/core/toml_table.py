"""A table of config.toml whose keys and types are declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cellmove.core.errors import Usage


@dataclass(frozen=True)
class TomlTable:
    """A table whose keys are known and whose values have the declared types.

    :param file: the file that holds it, for messages
    :param name: its name there, as ``policy``
    """

    file: str
    name: str
    values: Mapping[str, object]

    @property
    def where(self) -> str:
        """File and name, for messages."""
        return f"{self.file}: {self.name}"

    def text(self, key: str, default: str = "") -> str:
        """Return a value that is declared as text."""
        return str(self.values.get(key, default))

    def integer(self, key: str) -> int | None:
        """Return a value that is declared as an integer; None: it is not set."""
        value = self.values.get(key)
        return value if isinstance(value, int) else None

    def flag(self, key: str) -> bool:
        """Return a value that is declared as a truth value; False when it is not set."""
        return self.values.get(key) is True

    def mapping(self, key: str) -> Mapping[str, object]:
        """Return a value that is declared as a table; an empty one when it is not set."""
        value = self.values.get(key)
        return value if isinstance(value, dict) else {}


def read_table(value: object, kinds: Mapping[str, type | tuple[type, ...]], file: str, name: str) -> TomlTable:
    """Check the keys and types of a table.

    :param value: as tomllib gives it; None: there is no such table
    :param kinds: the types that the value of each key may have
    :raises Usage: an unknown key, or a value of another type
    """
    values: Mapping[str, object] = value if isinstance(value, dict) else {}
    for key, each in values.items():
        if key not in kinds:
            raise Usage(f"{file}: unknown key {name}.{key}; known: {', '.join(kinds)}")
        if not isinstance(each, kinds[key]) or (isinstance(each, bool) and kinds[key] not in (bool, object)):
            raise Usage(f"{file}: {name}.{key} has a value of the wrong type ({type(each).__name__})")
    return TomlTable(file, name, values)
