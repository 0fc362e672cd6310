"""Call the operator's hooks (:mod:`cellmove.core.hook_settings`).

A hook never changes the outcome of a move: its failure is returned as a text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from cellmove.core.errors import scrub

HIDDEN_VARIABLES = ("OS_", "CELLMOVE_")
"""Prefixes of variables that may hold passwords. No hook gets these variables."""

SHOWN_CHARACTERS = 200
"""Of a hook's standard error."""

READ_BYTES = 1 << 16
"""Of the end of a hook's standard error."""


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
                arguments,
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=environment,
                start_new_session=True,
            )
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
