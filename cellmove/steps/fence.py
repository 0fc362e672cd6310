"""Keeps a journal that is older than the move from acting: by the generation of the server's mark (:mod:`cellmove.core.ownership`).

Reads before anything is written, and raises the generation before effects that other journals have to know of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cellmove.core import ownership
from cellmove.core.errors import CallFailed, OlderJournal, Stopped
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.db import generation, history, state
from cellmove.engine.action import AnyAction, Context, Pivot
from cellmove.steps import ACTIONS, endpoints
from cellmove.steps.reconcile import BEFORE_THE_SWITCH
from cellmove.steps.undo_checks import is_deleted

if TYPE_CHECKING:
    from cellmove.db.tables import CellDatabase

MOST_KNOWN = 40
"""Generations that a journal keeps; a normal run knows three."""

UNFENCED = (Step.SWEEP, Step.REPAIR, Step.CORDON)
"""Steps that act on no move: what is left of a deleted server, leftovers, a cell's services."""


class Fence:
    """One run's view of the mark.

    :param known: the generations that the journal knows, oldest first; none in a journal of an earlier version
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self.wanted = ""
        self.is_raised = False
        self.has_raised = False
        self._current: str | None = None
        self._owner = ""

    def begin(self) -> None:
        """A run of a step or of an undo begins: the mark is looked at anew, and raised before its first effect."""
        self.is_raised = False
        self._current = None

    def announce(
        self, context: Context, entries: Sequence[Entry], step: Step, action: AnyAction, *, undoing: bool = False
    ) -> tuple[str, ...] | None:
        """What the journal is to know before an action or its undo; None when nothing is raised for it.

        :raises OlderJournal: the cloud has a generation that the journal does not know
        """
        if step in UNFENCED:
            return None
        if self._current is None:
            metadata = state.read_system_metadata(_row(context, step), context.move.server_id)
            self._current = require_current(context, entries, step, self.known, metadata)
            self._owner = _new_owner(context, metadata)
        clears = action.sets_mark if undoing else action.clears_mark
        sets = action.sets_mark and not undoing
        if self.is_raised and not clears and (undoing or not action.is_fenced):
            return None
        if self._current == ownership.ABSENT and not sets:
            return None
        self.wanted = ownership.next_generation((*self.known, self._current), context.clock.new_token())
        kept = self.known[self.known.index(self._current) :] if self._current in self.known else (self._current,)
        self.known = (*kept, self.wanted, *((ownership.ABSENT,) if clears else ()))[-MOST_KNOWN:]
        return self.known

    def raise_(self, context: Context, step: Step) -> None:
        """Give the mark the announced generation; a mark that is not there yet gets it from the action itself.

        :raises OlderJournal: another journal went on since the look; this run has written nothing yet
        :raises Stopped: the same, and this run has written something before
        """
        if self._current not in (None, ownership.ABSENT):
            database = _row(context, step)
            try:
                generation.raise_generation(
                    database,
                    context.move.server_id,
                    str(self._current),
                    self.wanted,
                    endpoints.now(context),
                    owner=self._owner,
                )
            except CallFailed as error:
                if error.kind != "conflict":
                    raise
                if _generation(context, database) == ownership.ABSENT and is_deleted(context):
                    self._current = ownership.ABSENT  # what is to be done finds that out by itself
                    return
                raise self._overtaken(context, database, error) from None
            self._current, self._owner = self.wanted, ""
        self.is_raised = self.has_raised = True

    def _overtaken(self, context: Context, database: CellDatabase, error: CallFailed) -> OlderJournal | Stopped:
        older = _older(context, database, str(error))
        if not self.has_raised:
            return older
        return Stopped(older.message, state="this run stopped before its next action", next_command=older.next_command)

    def settled(self, action: AnyAction, *, undoing: bool = False) -> None:
        """An action, or its undo, has had its effect."""
        if action.sets_mark and not undoing:
            self._current = self.wanted or self._current
        elif action.clears_mark or action.sets_mark:
            self._current = ownership.ABSENT


def _row(context: Context, step: Step) -> CellDatabase:
    """The cell whose row of the server is authoritative."""
    return endpoints.target(context) if step is Step.CONFIRM else endpoints.source(context)


def _other_row(context: Context, step: Step) -> CellDatabase | None:
    """The other cell's; None while no target is chosen."""
    if not endpoints.has_chosen(context.record):
        return None
    return endpoints.source(context) if step is Step.CONFIRM else endpoints.target(context)


def require_current(
    context: Context,
    entries: Sequence[Entry],
    step: Step,
    known: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Make sure that this journal knows the generation that the cloud has.

    :param entries: the move's lines
    :param step: that is about to run, or to be undone
    :param known: the generations that the journal knows
    :param metadata: the server's system metadata in the authoritative cell, if they were read already
    :returns: the mark's generation
    :raises OlderJournal: it does not
    :raises CallError: the cloud cannot be asked
    """
    database = _row(context, step)
    known_there = state.read_system_metadata(database, context.move.server_id) if metadata is None else metadata
    current = ownership.generation_of(known_there, context.move.id)
    if current not in _known(context.move, entries, known) and not (
        current == ownership.ABSENT and is_deleted(context)
    ):
        raise _older(context, database, _difference(current, known))
    if context.move.state is State.FINISHED or current == ownership.ABSENT:
        other = _other_row(context, step)
        there = _generation(context, other) if other is not None else ownership.ABSENT
        if other is not None and ownership.number_of(there) > max(
            (ownership.number_of(each) for each in known), default=0
        ):
            raise _older(context, other, _difference(there, known))
    if current == ownership.ABSENT and context.move.state in BEFORE_THE_SWITCH and not _may_have_switched(entries):
        mapped = state.mapped_cell(context.gateway.api_engine, context.move.server_id)
        if mapped is not None and mapped != endpoints.source_cell(context).id:
            cells = {cell.id: cell.label for cell in context.gateway.cells}
            raise _older(context, database, f"the server is in {cells.get(mapped, 'another cell')} by now")
        if _was_begun_elsewhere(context, entries, database):
            raise _older(context, database, "another journal started it, and it was rolled back or reverted since")
    return current


def _was_begun_elsewhere(context: Context, entries: Sequence[Entry], database: CellDatabase) -> bool:
    """Return whether the server's history names the request of a move that this journal never saw begin.

    The action that writes the mark records the request too, and no undo removes it. Its id was chosen when the move was
    planned, so every copy of the journal has it. A move that nova began has nova's own.
    """
    move = context.move
    own = [entry for entry in entries if (entry.step, entry.action) in _setters() and entry.step == Step.PREP_DEST]
    is_natives = bool(context.plan.begun_by) or any("begun_by" in entry.intent for entry in own)
    if move.state is not State.PLANNED or is_natives or any(entry.phase is not Phase.INTENT for entry in own):
        return False
    return history.is_recorded(database, move.server_id, context.plan.request_id)


def _new_owner(context: Context, metadata: Mapping[str, str]) -> str:
    """The mark's first value, if it names another journal than this one: it was adopted, or its file was moved."""
    here, found = ownership.owner_of_journal(context.gateway.settings.journal), metadata.get(ownership.KEY)
    ours = ownership.rows_of(ownership.OwnershipMark(context.move.id, here))[ownership.KEY]
    return ours if found is not None and found != ours else ""


def _generation(context: Context, database: CellDatabase) -> str:
    server = context.move.server_id
    return ownership.generation_of(state.read_system_metadata(database, server), context.move.id)


def _known(move: Move, entries: Sequence[Entry], known: Sequence[str]) -> Sequence[str]:
    """What the mark may be. A journal that knows none is of an earlier version, or has a move that did not begin."""
    setters = _setters()
    own = [entry for entry in entries if (entry.step, entry.action) in setters]
    if known:
        # That there was no mark is over once the action is done that wrote it.
        is_set = len(known) > 1 and known[0] == ownership.ABSENT and bool(own) and own[-1].phase is Phase.DONE
        return known[1:] if is_set else known
    own = [entry for entry in own if entry.step == Step.PREP_DEST]
    if not own or own[-1].phase is Phase.UNDONE:
        return (ownership.ABSENT,)
    is_there = own[-1].phase is Phase.DONE and not _has_cleared(entries) and move.state is not State.FINISHED
    return (ownership.UNNUMBERED,) if is_there else (ownership.UNNUMBERED, ownership.ABSENT)


def _setters() -> set[tuple[str, str]]:
    """The actions that write the mark, by step and name."""
    return {(step.value, action.name) for step, actions in ACTIONS.items() for action in actions if action.sets_mark}


def _has_cleared(entries: Sequence[Entry]) -> bool:
    """Whether an action began that removes the mark at the end of finish."""
    clearing = {
        (step.value, action.name) for step, actions in ACTIONS.items() for action in actions if action.clears_mark
    }
    return any((entry.step, entry.action) in clearing for entry in entries)


def _may_have_switched(entries: Sequence[Entry]) -> bool:
    """Whether finish came to its pivot, so that the server may be in the target cell."""
    pivots = {action.name for action in ACTIONS[Step.FINISH] if action.pivot is not Pivot.NO}
    phases = (Phase.INTENT, Phase.DONE)
    return any(entry.step == Step.FINISH and entry.action in pivots and entry.phase in phases for entry in entries)


def known_anew(context: Context, step: Step | None) -> tuple[str, ...]:
    """The generations that a journal knows which is written anew from the cloud.

    :param step: that is under way; None for a server that waits for confirm or revert
    """
    if step is not None:
        there, other = _generation(context, _row(context, step)), _other_row(context, step)
        if there != ownership.ABSENT or other is None:
            return (there,)
        # Its owner deleted the server, or only the copy that travelled is left of the mark.
        return tuple(dict.fromkeys((_generation(context, other), ownership.ABSENT)))
    found = (
        _generation(context, endpoints.source(context)),
        _generation(context, endpoints.target(context)),
        ownership.ABSENT,
    )
    return tuple(dict.fromkeys(sorted(found, key=ownership.number_of, reverse=True)))


def _difference(current: str, known: Sequence[str]) -> str:
    """What is different, for a person."""
    if current == ownership.ABSENT:
        return "the server carries no mark of the move any more, so it was finished or rolled back"
    latest = max((ownership.number_of(each) for each in known), default=-1)
    says = f"the server's mark says generation {ownership.number_of(current)}"
    if latest < 0:
        return f"{says}, and this journal knows of none"
    return f"{says}, and this journal knows {'another' if latest >= ownership.number_of(current) else 'only'} {latest}"


def _older(context: Context, database: CellDatabase, difference: str) -> OlderJournal:
    move, settings = context.move, context.gateway.settings
    found = ownership.mark_of(state.read_system_metadata(database, move.server_id))
    owner = found.owner if found is not None and found.move_id == move.id else ""
    here = ownership.owner_of_journal(settings.journal)
    adopt = f"cellmove adopt {move.server_id} --journal-is-lost  # only when every newer copy is gone for good"
    if owner and not ownership.is_same_owner(owner, here, move.id):
        where, path = f"the newest journal is {owner}: use that one", ownership.local_path(owner)
        again = f"cellmove --journal {path} show {move.id}" if path else adopt
    elif owner:
        where, again = (
            "the mark names this very journal, so an older copy was put in its place: use the newest copy",
            adopt,
        )
    else:
        where, again = "use the newest copy of the journal", adopt
    return OlderJournal(
        f"this journal is older than the move {move.id} of {move.server_name}: {difference} ({database.name})",
        state=f"nothing was written by this run; {where}",
        next_command=again,
    )
