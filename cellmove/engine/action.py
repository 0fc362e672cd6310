"""What an action is, and what it may look at. Plain values; :mod:`cellmove.engine.executor` runs them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellmove.core.clock import Clock
    from cellmove.core.move import Entry, Move
    from cellmove.gateway import Gateway


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
class ProbeResult:
    """A probe's answer: what was seen, the result if it happened, and words for a person."""

    outcome: ProbeOutcome
    result: Mapping[str, Any] = field(default_factory=dict)
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
    """What an action may look at: the move, what is known so far, and the way to the cloud.

    ``facts`` is the plan overlaid with the results of every action done so far. ``tried`` are the
    earlier choices of this attempt at the step that came to nothing, oldest first (see ``retry_from``).
    ``progress`` tells how far an action is, ``note`` what a person should know afterwards as well.
    ``leave_if_asked`` is for actions that take long and may be broken off: it raises Interrupted after a signal.
    """

    move: Move
    facts: Mapping[str, Any]
    gateway: Gateway
    clock: Clock
    note: Callable[[str], None]
    progress: Callable[[str], None] = lambda _text: None
    leave_if_asked: Callable[[], None] = lambda: None
    host_restarted: bool = False  # the operator's word: see Runner
    tried: tuple[Entry, ...] = ()
    generation: str = ""  # of the server's mark, for an action that writes the mark


def _no_intent(_context: Context) -> Mapping[str, Any]:
    return {}


def _always(_context: Context) -> bool:
    return True


def _never(_context: Context) -> bool:
    return False


@dataclass(frozen=True)
class Action:
    """The smallest side effect.

    :param name: its name in the journal; never changed once released
    :param title: what a person reads; may name facts in braces
    :param do: has the effect; given the context and the recorded intent, returns the result ids
    :param intend: chooses ids and takes before-images; what it returns is durable before ``do``
    :param probe: says whether the effect happened. None: ``do`` may be repeated at will
    :param undo: rolls it back, given intent and result (empty when unknown); must be repeatable,
        also when the effect never happened. None: there is nothing to roll back
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

    name: str
    title: str
    do: Callable[[Context, Mapping[str, Any]], Mapping[str, Any] | None]
    intend: Callable[[Context], Mapping[str, Any]] = _no_intent
    probe: Callable[[Context, Mapping[str, Any]], ProbeResult] | None = None
    undo: Callable[[Context, Mapping[str, Any], Mapping[str, Any]], None] | None = None
    pivot: Pivot = Pivot.NO
    rolls_back_move: bool = False
    uninterruptible_with_next: bool = False
    applies: Callable[[Context], bool] = _always
    retry_from: str = ""
    has_alternative: Callable[[Context], bool] = _never
    sets_mark: bool = False
    clears_mark: bool = False
    reach_for_undo: Callable[[Context], None] | None = None
    undo_restores_guest: bool = False

    @property
    def is_fenced(self) -> bool:
        """Whether the mark's generation is raised before it, so that a journal which does not know of it is refused.

        Left out are actions that leave nothing to undo and may be repeated at will: to miss one does no harm.
        """
        changes_mark = self.sets_mark or self.clears_mark
        return changes_mark or self.undo is not None or self.probe is not None or self.pivot is not Pivot.NO


def describe(action: Action, facts: Mapping[str, Any]) -> str:
    """The action's title with the facts filled in; what follows its colon is left out while a fact of it is not known."""

    class _Missing(dict[str, Any]):
        def __missing__(self, key: str) -> str:
            return UNKNOWN

    before, colon, after = action.title.format_map(_Missing(facts)).partition(": ")
    return before if UNKNOWN in after else f"{before}{colon}{after}"


UNKNOWN = "…"
