"""The table ``[hooks]`` of config.toml: commands that get the JSON of a move on their standard input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmove.core.errors import Usage

AFTER_MOVE, ON_FAILURE = "after_move", "on_failure"

LONGEST_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class Hooks:
    """The operator's hooks. Each is an argument list; an empty one is not set.

    :param after_move: for a move that came to a new state in which it may stay
    :param on_failure: for a move that failed
    :param timeout: seconds after which a hook is killed
    """

    after_move: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: float = 30.0


def read_hooks(table: Mapping[str, Any], file: str) -> Hooks:
    """Return the hooks of a configuration.

    :param table: ``[hooks]`` as it was read
    :param file: where it stands, for messages
    :raises Usage: a key that is not known, or a value that cannot be used
    """
    known = (AFTER_MOVE, ON_FAILURE, "timeout")
    for key in table:
        if key not in known:
            raise Usage(f"{file}: unknown key hooks.{key}; known: {', '.join(known)}")
    timeout = table.get("timeout", Hooks.timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST_TIMEOUT_SECONDS:
        raise Usage(f"{file}: hooks.timeout has to be a number of seconds above 0 and of at most an hour")
    commands = {name: _arguments(table.get(name), f"{file}: hooks.{name}") for name in (AFTER_MOVE, ON_FAILURE)}
    return Hooks(commands[AFTER_MOVE], commands[ON_FAILURE], float(timeout))


def _arguments(value: object, where: str) -> tuple[str, ...]:
    """A hook as an argument list: a text is one for the shell."""
    if value is None:
        return ()
    words = ["/bin/sh", "-c", value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise Usage(f"{where} has to be a command line for /bin/sh, or a list of a program and its arguments")
    if (
        any("\0" in word for word in words)
        or not words[0].strip()
        or (not words[-1].strip() and isinstance(value, str))
    ):
        raise Usage(f"{where} names no program, or has a NUL character in it")
    return tuple(words)
