"""The operator's hooks: commands that get the JSON of a move on their standard input.

They stand in the table ``[hooks]`` of config.toml. A hook never changes what becomes of a move: what goes wrong with it
is returned as a text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmove.core.errors import Usage, scrub

AFTER_MOVE, ON_FAILURE = "after_move", "on_failure"

LONGEST_TIMEOUT_SECONDS = 3600.0

HIDDEN_VARIABLES = ("OS_", "CELLMOVE_")
"""Prefixes of variables that may hold passwords. No hook gets these variables."""

SHOWN_CHARACTERS = 200
"""Of a hook's standard error."""

READ_BYTES = 1 << 16
"""Of the end of a hook's standard error."""


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


def call(arguments: tuple[str, ...], document: Mapping[str, Any], timeout: float) -> str:
    """Run a hook to its end.

    Its output goes nowhere, and it gets no variable of cellmove or OpenStack. It runs in a session of its own, so a
    Ctrl-C does not reach it. Files instead of pipes: a hook need not read its input, and what it leaves in the
    background keeps nothing waiting.

    :param timeout: seconds after which it is killed, with its children
    :returns: what went wrong; empty when nothing did
    """
    import signal
    import subprocess
    import tempfile
    from contextlib import suppress

    environment = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN_VARIABLES)}
    try:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
            given.write(json.dumps(document).encode() + b"\n")
            given.seek(0)
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                arguments, stdin=given, stdout=subprocess.DEVNULL, stderr=complaints, env=environment,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"did not end within {timeout:g} s and was killed"
            complaints.seek(max(os.fstat(complaints.fileno()).st_size - READ_BYTES, 0))
            said = complaints.read(READ_BYTES).decode(errors="replace").strip().splitlines()
    except OSError as error:
        return f"cannot be started: {error.strerror or type(error).__name__}"
    if not code:
        return ""
    words = f": {scrub(said[-1])[:SHOWN_CHARACTERS]}" if said else ""
    return f"{f'ended with {code}' if code > 0 else f'was killed by signal {-code}'}{words}"
