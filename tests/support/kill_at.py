"""Ends a process with SIGKILL at one point of one action, as a power cut would.

The journal's methods are wrapped from outside: cellmove itself knows nothing of this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

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


def pause() -> None:
    """Stop until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(step: str, action: str, point: str, act: Callable[[], None] = die) -> None:
    """Wrap the journal's method so that it kills, or does something else, at this point."""
    from cellmove.engine.journal import Journal

    method, side = POINTS[point]
    original: Callable[..., Any] = getattr(Journal, method)

    def wrapped(journal: Journal, *arguments: Any) -> Any:
        here = whose(method, arguments) == (step, action)
        if here and side == "before":
            act()
        result = original(journal, *arguments)
        if here and side == "after":
            act()
        return result

    setattr(Journal, method, wrapped)
