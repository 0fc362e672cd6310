"""Command lines that a person can type or paste.

:func:`command_line` is the only function that makes one. Options in front of the verb (``--journal``,
``--os-cloud`` …) belong to the shell in which a command is typed: they are never stored, :class:`GlobalOptions`
adds them when a text is shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellmove.core.errors import scrub

VERBS = (
    "plan",
    "prep-dest",
    "prep-source",
    "finish",
    "verify",
    "confirm",
    "revert",
    "resize",
    "migrate",
    "resume",
    "rollback",
    "adopt",
    "audit",
    "list",
    "show",
    "drain-cell",
    "drain",
    "journal",
    "metrics",
    "schema",
    "demo",
)
"""Every command. A test holds this equal to the table of click."""

OptionValue = str | bool | int | float | tuple[str, ...] | None


def command_line(verb: str, *arguments: str, **options: OptionValue) -> str:
    """A command line that does the same in every shell that knows ``$'…'``, quoted where it has to be.

    :param arguments: empty ones are left out
    :param options: by name with ``_`` for ``-``. True is a flag, a tuple is an option given several times; None, False
        and an empty text are left out
    """
    words = [argument for argument in arguments if argument]
    given = [word for name, value in options.items() for word in _option(f"--{name.replace('_', '-')}", value)]
    if any(word.startswith("-") for word in words):
        words, given = [*given, "--", *words], []
    return " ".join(("cellmove", verb, *map(quote, (*words, *given))))


def _option(option: str, value: OptionValue) -> Iterator[str]:
    if isinstance(value, tuple):
        for each in value:
            yield from _option(option, each)
    elif value is True:
        yield option
    elif value is not None and value is not False and value != "":
        text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
        yield from (f"{option}={text}",) if text.startswith("-") else (option, text)


def quote(word: str) -> str:
    """Quote one word for the shell. Characters that a terminal cannot show, or would obey, are written as bytes: ``$'\\xc2\\xa0'``."""
    if word.isprintable():
        return shlex.quote(word)
    quoted = (
        character
        if character.isprintable() and character not in "\\'"
        else "".join(f"\\x{byte:02x}" for byte in _bytes(character))
        for character in word
    )
    return f"$'{''.join(quoted)}'"


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogateescape")


def resume_elsewhere(owner: str, move_id: str) -> str:
    """Return the command that resumes a move of another journal.

    :param owner: ``user@machine:path`` or the address of a shared journal, as a server's mark has it; may be empty
    """
    if "://" in owner:
        return f"cellmove --journal {quote(owner.replace('://', '://USER:PASSWORD@', 1))} resume {move_id}"
    path = owner.partition(":")[2]
    return f"cellmove --journal {quote(path)} resume {move_id}" if path else f"cellmove resume {move_id}"


# commands as they are shown in this shell


_COMMAND = re.compile(
    rf"\bcellmove (?P<own>--journal (?:'[^']*'|\S+) )?(?=(?:{'|'.join(map(re.escape, VERBS))})(?![\w-]))"
)

NAMES = ("name", "cell")
"""Keys of documents whose values are names."""


@dataclass(frozen=True)
class GlobalOptions:
    """The options in front of the verb, as they were typed; None where one was not."""

    nova_conf: str | None = None
    os_cloud: str | None = None
    os_region_name: str | None = None
    journal: str | None = None
    config: str | None = None

    def words(self, *, with_journal: bool = True) -> str:
        """The options as a shell reads them, each followed by a space.

        A password in the URL of a journal is not shown: the operator types it again.
        """
        given = {
            "--nova-conf": self.nova_conf,
            "--os-cloud": self.os_cloud,
            "--os-region-name": self.os_region_name,
            "--journal": scrub(self.journal or "") if with_journal else "",
            "--config": self.config,
        }
        return "".join(f"{quote(word)} " for option, value in given.items() for word in _option(option, value))

    def inserted(self, text: str) -> str:
        """A text with these options in every command of cellmove that it names. Doing it twice changes nothing.

        A command that names another journal keeps that one.
        """
        if "cellmove " not in text or not any(vars(self).values()):
            return text

        def insert(found: re.Match[str]) -> str:
            own = found["own"] or ""
            if text.startswith("cellmove ") and _is_quoted(text, found.start()):
                return found[0]
            return f"cellmove {self.words(with_journal=not own)}{own}"

        return _COMMAND.sub(insert, text)

    def inserted_everywhere(self, value: Any) -> Any:
        """Plain values with :meth:`inserted` for every text but names, which other people choose."""
        if isinstance(value, str):
            return self.inserted(value)
        if isinstance(value, Mapping):
            return {name: each if name in NAMES else self.inserted_everywhere(each) for name, each in value.items()}
        if isinstance(value, Sequence):
            return [self.inserted_everywhere(each) for each in value]
        return value


def _is_quoted(command: str, position: int) -> bool:
    """Return whether a position of a command line is within quotes."""
    quotes, place = "", 0
    while place < position:
        character = command[place]
        if quotes:
            place += character == "\\" and quotes in ('"', "$'")
            quotes = "" if character == quotes[-1] else quotes
        elif command.startswith("$'", place):
            quotes, place = "$'", place + 1
        elif character in "'\"":
            quotes = character
        elif command.startswith(" # ", place):
            return False
        place += 1
    return bool(quotes)
