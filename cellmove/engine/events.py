"""What the pipeline tells whoever watches: plain values handed to one injected function."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class EventKind(enum.StrEnum):
    """What happened."""

    STEP_STARTED = "step-started"
    STEP_FINISHED = "step-finished"
    STEP_FAILED = "step-failed"
    ACTION_STARTED = "action-started"
    ACTION_FINISHED = "action-finished"
    ACTION_FAILED = "action-failed"
    WAITING = "waiting"
    PROGRESS = "progress"  # how far an action is; nothing new has happened
    UNDO_STARTED = "undo-started"
    UNDO_FINISHED = "undo-finished"
    NOTE = "note"


@dataclass(frozen=True)
class Event:
    """One change worth showing.

    :param title: what a person reads ("copy the records to cell2, hidden")
    :param seconds: how long it took, for the kinds that end something
    :param text: an error's or note's words
    """

    kind: EventKind
    move_id: str
    server_name: str
    step: str = ""
    action: str = ""
    title: str = ""
    seconds: float = 0.0
    text: str = ""


Observer = Callable[[Event], None]


def unobserved(_event: Event) -> None:
    """An observer for callers that do not watch."""
