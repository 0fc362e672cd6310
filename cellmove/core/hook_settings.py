"""The table ``[hooks]`` of config.toml: commands that get the JSON of a move on their standard input."""

from __future__ import annotations

from dataclasses import dataclass

from cellmove.core.errors import Usage
from cellmove.core.toml_table import read_table

AFTER_MOVE, ON_FAILURE = "after_move", "on_failure"

LONGEST_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class Hooks:
    """The operator's hooks. Each is an argument list; an empty one is not set.

    :param after_move: runs after a move reached a new state in which it may stay
    :param on_failure: runs after a move failed
    :param timeout: seconds after which a hook is killed
    """

    after_move: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: float = 30.0


def read_hooks(value: object, file: str) -> Hooks:
    """Read the table ``[hooks]``.

    :param value: as tomllib gives it; None: there is none
    :param file: the file that holds it, for messages
    :raises Usage: an unknown key, or a value that cannot be used
    """
    table = read_table(value, dict.fromkeys((AFTER_MOVE, ON_FAILURE, "timeout"), object), file, "hooks").values
    timeout = table.get("timeout", Hooks.timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST_TIMEOUT_SECONDS:
        raise Usage(f"{file}: hooks.timeout has to be a number of seconds above 0 and of at most an hour")
    commands = {name: _arguments(table.get(name), f"{file}: hooks.{name}") for name in (AFTER_MOVE, ON_FAILURE)}
    return Hooks(commands[AFTER_MOVE], commands[ON_FAILURE], float(timeout))


def _arguments(value: object, where: str) -> tuple[str, ...]:
    """Return the argument list of a hook; a text is a command line of the shell."""
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
