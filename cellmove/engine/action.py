"""What an action is, and what it may look at. Plain values; :mod:`cellmove.engine.executor` runs them.

An action declares the types of its intent and its result (:class:`ActionType`), and which other actions' results it
needs (``requires``). The executor sees :class:`AnyAction`: there, intents and results are documents of the journal.
"""

from __future__ import annotations

import enum
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from cellmove.core.documents import Document, required_keys, structure, to_document
from cellmove.core.move import EARLIER, Step
from cellmove.engine.record import LABELS, ActionKey, ActionType, EndpointLabels, result_from

if TYPE_CHECKING:
    from cellmove.core.clock import Clock
    from cellmove.core.move import Entry, Move
    from cellmove.core.move_plan import MovePlan
    from cellmove.engine.record import MoveRecord
    from cellmove.gateway import Gateway

I = TypeVar("I")  # noqa: E741 - the type of an intent
R = TypeVar("R")


class ProbeOutcome(enum.Enum):
    """What a probe found."""

    HAPPENED = "happened"
    NOT_HAPPENED = "not happened"
    FAILED = "failed"
    UNDER_WAY = "under way"
    UNKNOWN = "unknown"


class Pivot(enum.Enum):
    """From when on an action is a point of no return."""

    NO = "no"
    WHEN_DONE = "when done"  # a failure says that it did not happen
    WHEN_BEGUN = "when begun"  # a failure may leave it half done: only forward from its intent on


@dataclass(frozen=True)
class ProbeResult(Generic[R]):
    """A probe's answer.

    :param result: of the action if it happened; None where it cannot be known any more
    :param text: for a person
    """

    outcome: ProbeOutcome
    result: R | None = None
    text: str = ""


@dataclass(frozen=True)
class HomeReport:
    """What was seen of a server after its move was rolled back.

    :param text: what was looked at and what was seen; and what could not be looked at
    :param wrong: what is not as it was before the move
    """

    text: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What an action may look at: the move, what the journal says of it, and the way to the cloud.

    :param record: the plan, and the results of the actions that are done
    :param note: tells what a person should know afterwards as well
    :param progress: tells how far an action is
    :param leave_if_asked: for actions that take long and may be broken off: raises Interrupted after a signal
    :param host_restarted: the operator's word: see :class:`cellmove.engine.executor.Runner`
    :param tried: the earlier choices of this attempt at the step that failed, oldest first (see ``retry_from``)
    :param was_begun: an earlier run recorded the intent of this action, and may have had its effect
    :param generation: of the server's mark, for an action that writes the mark
    """

    move: Move
    record: MoveRecord
    gateway: Gateway
    clock: Clock
    note: Callable[[str], None]
    progress: Callable[[str], None] = lambda _text: None
    leave_if_asked: Callable[[], None] = lambda: None
    host_restarted: bool = False
    tried: tuple[Entry, ...] = ()
    was_begun: bool = False
    generation: str = ""

    @property
    def plan(self) -> MovePlan:
        """The move's plan."""
        return self.record.plan

    def get(self, action: ActionType[I, R]) -> R | None:
        """The result of an action; None while it is not done, and where a rebuilt journal does not know the result."""
        return self.record.get(action)

    def __getitem__(self, action: ActionType[I, R]) -> R:
        """The result of an action that is done; the action that reads it names it in ``requires``."""
        return self.record[action]

    def last_tried(self, action: ActionType[I, R]) -> R | None:
        """The newest result of an action among the choices that failed; None when there is none."""
        own = [entry for entry in self.tried if entry.action == action.name]
        return result_from(action, own[-1].result, f"the result of {action.name}") if own else None


def always(_context: Context) -> bool:
    """For an action that every move needs."""
    return True


def _never(_context: Context) -> bool:
    return False


class AnyAction(Protocol):
    """An action of whatever types, as the executor sees it; the parameters are those of :class:`Action`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def requires(self) -> tuple[ActionKey, ...]: ...
    @property
    def pivot(self) -> Pivot: ...
    @property
    def rolls_back_move(self) -> bool: ...
    @property
    def uninterruptible_with_next(self) -> bool: ...
    @property
    def applies(self) -> Callable[[Context], bool]: ...
    @property
    def retry_from(self) -> ActionKey | None: ...
    @property
    def has_alternative(self) -> Callable[[Context], bool]: ...
    @property
    def sets_mark(self) -> bool: ...
    @property
    def clears_mark(self) -> bool: ...
    @property
    def reach_for_undo(self) -> Callable[[Context], None] | None: ...
    @property
    def undo_restores_guest(self) -> bool: ...
    @property
    def is_fenced(self) -> bool: ...
    @property
    def has_probe(self) -> bool: ...
    @property
    def has_undo(self) -> bool: ...
    def make_intent(self, context: Context) -> Document: ...
    def perform(self, context: Context, intent: Document) -> Document: ...
    def look(self, context: Context, intent: Document) -> ProbeResult[Document]: ...
    def take_back(self, context: Context, intent: Document, result: Document | None) -> None: ...


@dataclass(frozen=True)
class Action(Generic[I, R]):
    """The smallest side effect.

    :param kind: its name in the journal, and the types of its intent and its result
    :param title: what a person reads; may name the fields of :class:`EndpointLabels` in braces
    :param do: has the effect; given the context and the recorded intent
    :param intend: chooses ids and takes before-images; what it returns is durable before ``do``
    :param probe: says whether the effect happened. None: ``do`` may be repeated at will
    :param undo: rolls it back, given intent and result (None when unknown); must be repeatable,
        also when the effect never happened. None: there is nothing to roll back
    :param requires: the actions whose results it reads
    :param pivot: whether the move only goes forward after this one, and from when on
    :param rolls_back_move: rolling this one back gives up what earlier steps reserved, so the whole
        move goes back with it
    :param uninterruptible_with_next: an interrupt is not honoured between this action and the next
    :param applies: whether this move needs it at all
    :param retry_from: the action that chose what this one failed with: on a definite failure all from
        that one on is rolled back and done again with its next choice, while it has one
    :param has_alternative: asked of the action that chose: whether doing it again would choose something else
    :param sets_mark: it writes the server's mark, with the context's generation; to undo it removes the mark
    :param clears_mark: it removes the server's mark
    :param reach_for_undo: makes sure that what its undo calls can be reached; asked of what is done, before the first
        undo of a run. It raises CannotConnect
    :param undo_restores_guest: until its undo the guest is down. What only later undos call is therefore asked after it
    """

    kind: ActionType[I, R]
    title: str
    do: Callable[[Context, I], R]
    intend: Callable[[Context], I] | None = None
    probe: Callable[[Context, I], ProbeResult[R]] | None = None
    undo: Callable[[Context, I, R | None], None] | None = None
    requires: tuple[ActionKey, ...] = ()
    pivot: Pivot = Pivot.NO
    rolls_back_move: bool = False
    uninterruptible_with_next: bool = False
    applies: Callable[[Context], bool] = always
    retry_from: ActionKey | None = None
    has_alternative: Callable[[Context], bool] = _never
    sets_mark: bool = False
    clears_mark: bool = False
    reach_for_undo: Callable[[Context], None] | None = None
    undo_restores_guest: bool = False

    def __post_init__(self) -> None:
        if self.intend is None and required_keys(self.kind.intent):
            raise TypeError(f"{self.name} declares an intent, and nothing makes it")
        unknown = {name for _text, name, _spec, _conversion in string.Formatter().parse(self.title) if name} - LABELS
        if unknown:
            raise TypeError(f"the title of {self.name} names {', '.join(sorted(unknown))}, which no move has")

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return self.kind.name

    @property
    def has_probe(self) -> bool:
        """Whether it can be seen if the effect happened."""
        return self.probe is not None

    @property
    def has_undo(self) -> bool:
        """Whether there is anything to roll back."""
        return self.undo is not None

    @property
    def is_fenced(self) -> bool:
        """Whether the mark's generation is raised before it, so that a journal which does not know of it is refused.

        Left out are actions that leave nothing to undo and may be repeated at will: to miss one does no harm.
        """
        changes_mark = self.sets_mark or self.clears_mark
        return changes_mark or self.has_undo or self.has_probe or self.pivot is not Pivot.NO

    # between the journal's documents and the declared types

    def make_intent(self, context: Context) -> Document:
        """What is to be durable before the effect."""
        return to_document(self.intend(context)) if self.intend is not None else {}

    def perform(self, context: Context, intent: Document) -> Document:
        """Have the effect, given the recorded intent; returns what is to be recorded."""
        return to_document(self.do(context, self._intent(context, intent)))

    def look(self, context: Context, intent: Document) -> ProbeResult[Document]:
        """Ask whether the effect happened; unknown without a probe."""
        if self.probe is None:
            return ProbeResult(ProbeOutcome.UNKNOWN)
        found = self.probe(context, self._intent(context, intent))
        return ProbeResult(found.outcome, to_document(found.result), found.text)

    def take_back(self, context: Context, intent: Document, result: Document | None) -> None:
        """Undo it.

        :param result: None when it is unknown
        """
        if self.undo is None:
            return
        name = f"the result of {self.name} of {context.move.id}"
        known = result_from(self.kind, result, name) if result is not None else None
        self.undo(context, self._intent(context, intent), known)

    def _intent(self, context: Context, document: Document) -> I:
        return structure(self.kind.intent, document, f"the intent of {self.name} of {context.move.id}")


def describe(action: AnyAction, labels: EndpointLabels) -> str:
    """The action's title filled in; what follows its colon is left out while a part of it is not known."""
    known = {name: value or UNKNOWN for name, value in asdict(labels).items()}
    before, colon, after = action.title.format_map(known).partition(": ")
    return before if UNKNOWN in after else f"{before}{colon}{after}"


UNKNOWN = "…"


def require_order(actions: Mapping[Step, Sequence[AnyAction]]) -> None:
    """Make sure that every action comes after those that it names.

    :raises TypeError: one requires an action that is missing, comes later, or is left out of some moves that need it
    """
    for step, own in actions.items():
        before = [action for earlier in EARLIER[step] for action in actions.get(earlier, ())]
        for position, action in enumerate(own):
            _require_before(action, [*before, *own[:position]])


def _require_before(action: AnyAction, before: Iterable[AnyAction]) -> None:
    earlier = {each.name: each for each in before}
    for key in (*action.requires, *((action.retry_from,) if action.retry_from else ())):
        there = earlier.get(key.name)
        if there is None:
            raise TypeError(f"{action.name} requires {key.name}, which does not come before it")
        if there.applies not in (always, action.applies):
            raise TypeError(
                f"{action.name} requires {key.name}, which is left out of some moves that need {action.name}"
            )
