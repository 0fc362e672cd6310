"""Runs cellmove and ends it with SIGKILL at one point of one action, as a power cut would.

    python tests/kill_at.py STEP:ACTION:POINT -- ARGUMENTS OF CELLMOVE

The journal's methods are wrapped from outside: cellmove itself knows nothing of this. The process dies
of the signal (a parent sees -9), or ends with 99 when the command was over and never came to that point.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

NEVER_REACHED = 99

POINTS = {
    "before-intent": ("intend", "before"),
    "after-intent": ("intend", "after"),
    "after-effect": ("done", "before"),
    "after-done": ("done", "after"),
    "before-undoing": ("undoing", "before"),
    "after-undoing": ("undoing", "after"),
    "after-undo": ("undone", "before"),
    "after-undone": ("undone", "after"),
}
"""Which method of the journal a point lies next to, and on which side of its commit."""


def whose(method: str, arguments: tuple[Any, ...]) -> tuple[str, str]:
    """The step and action that a call of one of the journal's methods is about."""
    if method == "intend":
        return arguments[1], arguments[2]
    return arguments[0].step, arguments[0].action


def die() -> None:
    """End at once; nothing is cleaned up and nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str, action: str, point: str) -> None:
    """Wrap the journal's method so that it kills at this point."""
    from cellmove.journal import Journal

    method, side = POINTS[point]
    original: Callable[..., Any] = getattr(Journal, method)

    def wrapped(journal: Journal, *arguments: Any) -> Any:
        here = whose(method, arguments) == (step, action)
        if here and side == "before":
            die()
        result = original(journal, *arguments)
        if here and side == "after":
            die()
        return result

    setattr(Journal, method, wrapped)


def run(arguments: list[str]) -> object:
    """Run a command line as the console script does; how it ended."""
    from cellmove.cli import main

    sys.argv = ["cellmove", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def kill_at(where: str, arguments: list[str]) -> int:
    """Run the command; this comes back only if the point was never reached."""
    step, action, point = where.split(":")
    arm(step, action, point)
    code = run(arguments)
    sys.stderr.write(f"kill_at: {where} was never reached; cellmove {' '.join(arguments)} ended with {code}\n")
    return NEVER_REACHED


if __name__ == "__main__":
    place, separator, *words = sys.argv[1:]
    if separator != "--":
        sys.exit("usage: kill_at.py STEP:ACTION:POINT -- ARGUMENTS OF CELLMOVE")
    sys.exit(kill_at(place, words))
