"""What the journal says of one move, read by type: its plan, and the results of the actions that are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from cellmove.core.cell_names import DIGITS
from cellmove.core.documents import Document, required_keys, structure
from cellmove.core.errors import Unexpected
from cellmove.core.move import Entry, Move, Phase
from cellmove.core.move_plan import MovePlan, plan_of

I = TypeVar("I")  # noqa: E741 - the type of an intent
R = TypeVar("R")


@dataclass(frozen=True)
class ActionKey:
    """What tells an action from all others.

    :param name: its name in the journal; never changed once released
    """

    name: str


@dataclass(frozen=True)
class ActionType(ActionKey, Generic[I, R]):
    """What the journal keeps of an action.

    :param intent: the type of what is recorded before its effect
    :param result: the type of what is recorded after it
    """

    intent: type[I]
    result: type[R]


@dataclass(frozen=True)
class EndpointLabels:
    """The two ends of a move for people: cells by display name and UUID, and hosts. Empty where it is not known."""

    source_cell: str = ""
    source_cell_uuid: str = ""
    source_host: str = ""
    target_cell: str = ""
    target_cell_uuid: str = ""
    target_host: str = ""
    wanted_cell: str = ""
    wanted_cell_uuid: str = ""
    wanted_host: str = ""


LABELS = frozenset(field.name for field in dataclasses.fields(EndpointLabels))


def labels_from(*documents: Document) -> EndpointLabels:
    """The ends that a plan and results name; a later document goes before an earlier one.

    Earlier versions recorded a blank name for a cell without one. The UUID beside it says which cell it was.
    """
    found = {name: str(value or "") for each in documents for name, value in each.items() if name in LABELS}
    for end in ("source", "target"):
        uuid = found.get(f"{end}_cell_uuid", "")
        if uuid and not found.get(f"{end}_cell", "").strip():
            found[f"{end}_cell"] = uuid[:DIGITS]
    return EndpointLabels(**found)


class MoveRecord:
    """A move as the journal has it.

    :param results: what the actions that are done have recorded, by the action's name, oldest first
    """

    def __init__(self, move: Move, results: Mapping[str, Document]) -> None:
        self.move = move
        self._results = results

    @cached_property
    def plan(self) -> MovePlan:
        """The move's plan.

        :raises JournalUnreachable: the journal lacks a part of it
        """
        return plan_of(self.move)

    @property
    def labels(self) -> EndpointLabels:
        """The two ends of the move, for people."""
        return labels_from(self.move.plan, *self._results.values())

    def get(self, action: ActionType[I, R]) -> R | None:
        """The result of an action; None while it is not done, and where a rebuilt journal does not know the result.

        :raises JournalUnreachable: the journal lacks a part of it
        """
        document = self._results.get(action.name)
        if document is None:
            return None
        return result_from(action, document, f"the result of {action.name} of {self.move.id}")

    def __getitem__(self, action: ActionType[I, R]) -> R:
        """The result of an action that is done.

        :raises Unexpected: it is not
        """
        result = self.get(action)
        if result is None:
            raise Unexpected(f"the journal has no result of {action.name}, which this action needs")
        return result

    def with_result(self, entry: Entry) -> MoveRecord:
        """The same, with what one more line has recorded."""
        known = {name: result for name, result in self._results.items() if name != entry.action}
        return MoveRecord(self.move, known | {entry.action: entry.result} if entry.result else self._results)


def result_from(action: ActionType[I, R], document: Document, name: str) -> R | None:
    """A stored result; None where nothing was recorded although the action has one."""
    if not document and required_keys(action.result):
        return None
    return structure(action.result, document, name)


def record_of(move: Move, entries: Iterable[Entry]) -> MoveRecord:
    """What the journal's lines say of a move."""
    results: dict[str, Document] = {}
    for entry in entries:
        if entry.phase is Phase.DONE:
            results.pop(entry.action, None)
            results[entry.action] = entry.result
    return MoveRecord(move, results)
