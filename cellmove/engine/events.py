"""Events of a run: plain values, given to one injected observer."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class EventKind(enum.StrEnum):
    """The kinds of events."""

    STEP_STARTED = "step-started"
    STEP_FINISHED = "step-finished"
    STEP_FAILED = "step-failed"
    ACTION_STARTED = "action-started"
    ACTION_FINISHED = "action-finished"
    ACTION_FAILED = "action-failed"
    WAITING = "waiting"
    PROGRESS = "progress"  # the progress of an action; no state has changed
    UNDO_STARTED = "undo-started"
    UNDO_FINISHED = "undo-finished"
    NOTE = "note"


@dataclass(frozen=True)
class Event:
    """One event of a run.

    :param title: a description for the operator ("copy the records to cell2, hidden")
    :param seconds: the duration, for kinds that end a step or an action
    :param text: the message of an error or a note
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
    """Ignore an event."""
