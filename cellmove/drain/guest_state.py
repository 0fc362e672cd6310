"""Tracks whether the guest of a server is down during its move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cellmove.core.move import Phase, State, Step
from cellmove.drain.durations import STOP_START_ACTIONS
from cellmove.engine.events import EventKind

if TYPE_CHECKING:
    from cellmove.core.move import Entry, Move
    from cellmove.engine.events import Event


class GuestState:
    """Tracks whether a guest is down, or nova does not show it on its host yet.

    A signal waits until the guest is up again, so that an interrupted drain does not leave guests down until the next run.

    :param move: the open move that an earlier run left; None without one. ``entries`` are its lines in the journal
    """

    def __init__(self, move: Move | None = None, entries: Sequence[Entry] = ()) -> None:
        in_effect = {entry.action for entry in entries if entry.phase is not Phase.UNDONE}
        stop_there, stop_back = (stop for stop, _start in STOP_START_ACTIONS)
        self.is_down = (
            move is not None
            and move.is_open
            and (stop_back in in_effect or (stop_there in in_effect and move.state is not State.FINISHED))
        )

    def update(self, event: Event) -> None:
        """Update the state from an event of the move."""
        stops = [stop for stop, _start in STOP_START_ACTIONS]
        if event.kind is EventKind.ACTION_STARTED and event.action in stops:
            self.is_down = True
        elif (event.kind is EventKind.UNDO_FINISHED and event.action in stops) or (
            event.kind is EventKind.STEP_FINISHED and event.step in (Step.FINISH, Step.REVERT)
        ):
            self.is_down = False
