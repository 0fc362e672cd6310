"""A command at a terminal, and what a person types there."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time

from tests.support.sandbox.environment import Sandbox

INTERRUPT, END = "^C", "^D"


def at_a_terminal(sandbox: Sandbox, env: dict[str, str], answer: str, *arguments: str) -> tuple[int, str]:
    """Type a command at a terminal, and an answer when it asks; gives its exit code and what was on the terminal."""
    above, below = pty.openpty()
    environment = {**sandbox.environment, **env, "TERM": "xterm", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = subprocess.Popen(
        [sys.executable, "-m", "cellmove", *arguments],
        stdin=below, stderr=below, stdout=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(below)
    shown, answered, deadline = b"", False, time.monotonic() + 300
    while time.monotonic() < deadline:
        ready, _, _ = select.select([above], [], [], 0.2)
        if ready:
            try:
                shown += os.read(above, 4096)
            except OSError:
                break
        elif command.poll() is not None:
            break
        if b"[y/N]" in shown and not answered:
            answered = True
            if answer == INTERRUPT:
                command.send_signal(signal.SIGINT)
            elif answer == END:
                os.write(above, b"\x04")
            else:
                os.write(above, f"{answer}\n".encode())
    with contextlib.suppress(OSError):
        os.close(above)
    return command.wait(60), shown.decode(errors="replace")
