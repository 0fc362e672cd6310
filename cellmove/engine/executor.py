"""Runs actions: intent, do, done; resume; undo. Knows no step and no action by name.

The rules (kept here and nowhere else):

* an intent is durable before its effect, and ``done`` is written after it;
* an intent without ``done`` is looked at (``probe``) before anything else is done about it;
* a call whose outcome is unknown is watched, and repeated (once) only after it was seen not to have
  happened, when the action has a probe; an action without one may be repeated at will;
* before the pivot a failure is rolled back in reverse order, after it there is only forward;
* the generation of the server's mark is raised before the first effect of every step and undo, and before every
  action that another journal would have to know of; the line that announces the effect records it first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeVar, Unpack

from cellmove.core.documents import Document
from cellmove.core.errors import (
    CallError,
    CallFailed,
    CallUncertain,
    CannotConnect,
    CellmoveError,
    Interrupted,
    JournalLost,
    MovedElsewhere,
    RollbackFailed,
    RolledBack,
    Stopped,
    Unexpected,
    Unreachable,
)
from cellmove.core.move import TRANSITIONS, Entry, Move, Phase, State, Step, next_commands
from cellmove.core.request import command_of
from cellmove.engine.action import AnyAction, Context, HomeReport, Pivot, ProbeOutcome, ProbeResult, describe
from cellmove.engine.events import Event, EventKind, Observer
from cellmove.engine.record import labels_from, record_of
from cellmove.engine.retry import patiently

if TYPE_CHECKING:
    from cellmove.core.clock import Clock
    from cellmove.engine.journal import Journal
    from cellmove.gateway import Gateway


T = TypeVar("T")


class Fence(Protocol):
    """Keeps a journal that is older than the move from acting: see :mod:`cellmove.steps.fence`."""

    @property
    def wanted(self) -> str: ...

    def begin(self) -> None: ...

    def announce(
        self, context: Context, entries: Sequence[Entry], step: Step, action: AnyAction, *, undoing: bool = False
    ) -> tuple[str, ...] | None: ...

    def raise_(self, context: Context, step: Step) -> None: ...

    def settled(self, action: AnyAction, *, undoing: bool = False) -> None: ...


class EventValues(TypedDict, total=False):
    """What an event says besides which move it is about; see :class:`Event`."""

    step: str
    action: str
    title: str
    seconds: float
    text: str


@dataclass(frozen=True)
class Runner:
    """Everything a run needs besides the move."""

    journal: Journal
    gateway: Gateway
    clock: Clock
    observer: Observer
    actions: Mapping[Step, Sequence[AnyAction]]
    interrupted: Callable[[], int]  # the signal's number, 0 for none
    host_restarted: bool = False  # the operator's word: a call that an earlier run left under way died with its host
    fence: Fence | None = None
    look_home: Callable[[Context], HomeReport] | None = None  # at a server whose move was rolled back

    def tell(self, kind: EventKind, move: Move, **values: Unpack[EventValues]) -> None:
        self.observer(Event(kind, move.id, move.server_name, **values))


def busy_step(entries: Sequence[Entry], move: Move) -> Step | None:
    """The step that was begun after the last completed one and not rolled back, if any."""
    open_steps = {entry.step for entry in entries if entry.phase is not Phase.UNDONE}
    for step, (before, _after) in TRANSITIONS.items():
        if before is move.state and step.value in open_steps:
            return step
    return None


def is_undoing(entries: Sequence[Entry]) -> bool:
    """Whether a run began to roll this move back and did not end."""
    return any(entry.phase is Phase.UNDOING for entry in entries)


def past_pivot(runner: Runner, entries: Sequence[Entry], step: Step) -> bool:
    """Whether a pivot of this step may have been passed."""
    passed_in = {
        Pivot.NO: (),
        Pivot.WHEN_DONE: (Phase.INTENT, Phase.DONE),
        Pivot.WHEN_BEGUN: (Phase.INTENT, Phase.FAILED, Phase.DONE),
    }
    phases = {action.name: passed_in[action.pivot] for action in runner.actions[step]}
    return any(entry.step == step and entry.phase in phases.get(entry.action, ()) for entry in entries)


def run_step(runner: Runner, move: Move, step: Step, *, undo_whole_move: bool) -> Move:
    """Run a step to its end, going on where an earlier run stopped.

    :param undo_whole_move: after a failure before the pivot roll back the whole move, not only
        this step (``resize`` and ``migrate`` do)
    :returns: the move in its new state
    :raises RolledBack: it failed and was rolled back
    :raises Stopped: it cannot go on now; the journal records where it stands
    :raises RollbackFailed: it failed and could not be rolled back
    """
    try:
        with _journal_needed(move):
            return _run_step(runner, move, step, undo_whole_move)
    except _NothingBegun as nothing:
        raise nothing.why from None


class _NothingBegun(Exception):
    """The journal could not take the very first line of a move: nothing was written anywhere."""

    def __init__(self, why: Unreachable) -> None:
        super().__init__(why.message)
        self.why = why
        why.state = "nothing was written"


def _run_step(runner: Runner, move: Move, step: Step, undo_whole_move: bool) -> Move:
    started = runner.clock.monotonic()
    runner.tell(EventKind.STEP_STARTED, move, step=step.value)
    _begin_fence(runner)
    entries = runner.journal.entries_of(move.id)
    if is_undoing([entry for entry in entries if entry.step == step]):
        # An earlier run died while it rolled this step back. What is half gone cannot be built upon.
        chose = next_choice(runner, move, entries, step)
        move = _undo(runner, move, step, back_to=chose.sequence if chose else 0)
    while not _walk(runner, move, step, undo_whole_move):
        pass
    move = runner.journal.set_state(move.id, TRANSITIONS[step][1])
    seconds = runner.clock.monotonic() - started
    runner.tell(EventKind.STEP_FINISHED, move, step=step.value, seconds=seconds)
    return move


def _walk(runner: Runner, move: Move, step: Step, undo_whole_move: bool) -> bool:
    """Do a step's actions that are not done yet.

    :returns: whether that was all; False: one failed, and the step begins anew from an earlier choice
    """
    actions = runner.actions[step]
    entries = runner.journal.entries_of(move.id)
    for position, action in enumerate(actions):
        context = _context(runner, move, entries, step)
        current = _current(entries, step, action)
        if current is not None and current.phase is Phase.DONE:
            continue
        if not action.applies(context):
            continue
        uninterruptible = position > 0 and actions[position - 1].uninterruptible_with_next
        if not uninterruptible and not past_pivot(runner, entries, step):
            _honour_interrupt(runner, move, step)
        try:
            done = _perform(runner, context, step, action, current, entries)
        except CallError as error:
            if _choose_again(runner, move, step, action, error):
                return False
            _after_failure(runner, move, step, action, error, undo_whole_move)
        entries = sorted(
            (*(entry for entry in entries if entry.sequence != done.sequence), done), key=lambda entry: entry.sequence
        )
    return True


def next_choice(
    runner: Runner, move: Move, entries: Sequence[Entry], step: Step, failed: Entry | None = None
) -> Entry | None:
    """The choice that did not do, when there is another one to try in its place.

    :param failed: the line of the action that failed with it; None: find the newest one that did
    :returns: the line of the action that chose; None when nothing failed so, or nothing is left to choose
    """
    choosers = {action.name: action.retry_from.name for action in runner.actions[step] if action.retry_from}
    own = [entry for entry in entries if entry.step == step]
    if failed is None:
        failed = next((entry for entry in reversed(own) if entry.error and entry.action in choosers), None)
    if failed is None:
        return None
    newest = next((entry for entry in reversed(own) if entry.action == choosers[failed.action]), None)
    if newest is None or newest.sequence > failed.sequence or newest.phase not in (Phase.DONE, Phase.UNDOING):
        return None
    chooser = next(action for action in runner.actions[step] if action.name == newest.action)
    known = _context(runner, move, [entry for entry in entries if entry.sequence < newest.sequence], step)
    context = replace(known, record=known.record.with_result(newest))
    return newest if chooser.has_alternative(context) else None


def _choose_again(runner: Runner, move: Move, step: Step, action: AnyAction, error: CallError) -> bool:
    """After a failure that another choice may not have: roll back all since that choice.

    :returns: whether the step can begin anew from there
    """
    entries = runner.journal.entries_of(move.id)
    failed = _current(entries, step, action)
    if not action.retry_from or failed is None or not isinstance(error, (CallFailed, CannotConnect)):
        return False
    chose = next_choice(runner, move, entries, step, failed)
    if chose is None:
        return False
    runner.tell(EventKind.ACTION_FAILED, move, step=step.value, action=action.name, text=str(error))
    if failed.phase is Phase.INTENT:
        runner.journal.failed(failed, str(error))
    _take_back(runner, move, step, action, error, back_to=chose.sequence)
    return True


def _current(entries: Sequence[Entry], step: Step, action: AnyAction) -> Entry | None:
    """The live line of an action: the newest that was not rolled back."""
    for entry in reversed(entries):
        if entry.step == step and entry.action == action.name and entry.phase is not Phase.UNDONE:
            return entry
    return None


def _context(runner: Runner, move: Move, entries: Sequence[Entry], step: Step | None = None) -> Context:
    def note(text: str) -> None:
        runner.tell(EventKind.NOTE, move, text=text)

    def progress(text: str) -> None:
        runner.tell(EventKind.PROGRESS, move, text=text)

    def leave_if_asked() -> None:
        if step is not None:
            _honour_interrupt(runner, move, step)

    return Context(
        move,
        record_of(move, entries),
        runner.gateway,
        runner.clock,
        note,
        progress,
        leave_if_asked,
        runner.host_restarted,
        _tried(runner, entries, step) if step else (),
    )


def context_before(runner: Runner, move: Move, step: Step) -> Context:
    """What an action of a step would look at if it began now: for what is done between two steps."""
    return _context(runner, move, runner.journal.entries_of(move.id), step)


def _tried(runner: Runner, entries: Sequence[Entry], step: Step) -> tuple[Entry, ...]:
    """The choices of this attempt at a step that were rolled back; an attempt begins with its first live action."""
    choosers = {action.retry_from.name for action in runner.actions[step] if action.retry_from}
    began = next((e.sequence for e in entries if e.step == step and e.phase is not Phase.UNDONE), None)
    if began is None:
        return ()
    taken_back = (e for e in entries if e.step == step and e.sequence > began and e.phase is Phase.UNDONE)
    return tuple(entry for entry in taken_back if entry.action in choosers)


def _honour_interrupt(runner: Runner, move: Move, step: Step) -> None:
    number = runner.interrupted()
    if number:
        entries = runner.journal.entries_of(move.id)
        commands = next_commands(move, busy_step(entries, move), step)
        raise Interrupted(
            f"interrupted during {step} of {move.server_name}; everything done so far is in the journal",
            signal_number=number,
            state=f"move {move.id} stands after its last finished action",
            next_command=commands[0] if commands else "",
        )


def _begin_fence(runner: Runner) -> None:
    if runner.fence is not None:
        runner.fence.begin()


def _announced(
    runner: Runner, context: Context, entries: Sequence[Entry], step: Step, action: AnyAction, *, undoing: bool = False
) -> tuple[str, ...] | None:
    """The generations that the journal is to know before an effect; None when none is raised for it."""
    fence = runner.fence
    if fence is None:
        return None
    return patiently(runner, lambda: fence.announce(context, entries, step, action, undoing=undoing), insists=undoing)


def _raise(
    runner: Runner, context: Context, step: Step, announced: tuple[str, ...] | None, *, undoing: bool = False
) -> Context:
    """Raise the generation that was announced.

    :param undoing: for an undo, which is tried again as its effect is
    :returns: the context for an action that writes the mark itself
    """
    fence = runner.fence
    if fence is None or announced is None:
        return context
    patiently(runner, lambda: fence.raise_(context, step), insists=undoing)
    return replace(context, generation=fence.wanted)


def _perform(
    runner: Runner, context: Context, step: Step, action: AnyAction, current: Entry | None, entries: Sequence[Entry]
) -> Entry:
    """Do one action, or find out what became of it.

    :param entries: the move's lines; none: nothing of this move stands in the journal yet
    :returns: its line, done
    :raises CallFailed: it definitely failed
    :raises CallError: its outcome could not be settled
    """
    move = context.move
    title = describe(action, context.record.labels)
    started = runner.clock.monotonic()
    runner.tell(EventKind.ACTION_STARTED, move, step=step.value, action=action.name, title=title)
    if current is None:
        announced = _announced(runner, context, entries, step, action)
        intent = patiently(runner, lambda: action.make_intent(context))
        try:
            entry = runner.journal.intend(move.id, step.value, action.name, intent, announced)
        except Unreachable as error:
            if not entries:
                raise _NothingBegun(error) from None
            raise
        context = _raise(runner, context, step, announced)
        result = _do(runner, context, action, entry)
    elif current.phase is Phase.FAILED and not past_pivot(runner, runner.journal.entries_of(move.id), step):
        raise CallFailed(current.error)
    else:
        entry = current
        announced = _announced(runner, context, entries, step, action)
        if announced is not None:
            runner.journal.announce(move.id, announced)
        context = replace(_raise(runner, context, step, announced), was_begun=True)
        result = _settle(runner, context, action, entry)
    if runner.fence is not None:
        runner.fence.settled(action)
    done = runner.journal.done(entry, result)
    seconds = runner.clock.monotonic() - started
    runner.tell(
        EventKind.ACTION_FINISHED,
        move,
        step=step.value,
        action=action.name,
        title=describe(action, context.record.with_result(done).labels),
        seconds=seconds,
    )
    return done


def _do(runner: Runner, context: Context, action: AnyAction, entry: Entry, *, again: bool = True) -> Document:
    """Have the effect.

    :param again: when the outcome was unknown and then seen not to have happened, try once more
    """
    try:
        if not action.has_probe:
            return patiently(runner, lambda: action.perform(context, entry.intent))
        return action.perform(context, entry.intent)
    except CallUncertain as error:
        if not action.has_probe:
            raise
        context.note(f"{error}; watching what becomes of it")
        return _settle(runner, context, action, entry, again=again)
    except CallFailed as error:
        runner.journal.failed(entry, str(error))
        raise


def _settle(runner: Runner, context: Context, action: AnyAction, entry: Entry, *, again: bool = True) -> Document:
    """Find out what became of an intended action: watch it until it is known, do it if it is not done."""
    if not action.has_probe:
        return _do(runner, context, action, entry)
    finding = _watch(runner, context, action, entry)
    if finding.outcome is ProbeOutcome.HAPPENED:
        return finding.result or {}
    if finding.outcome is ProbeOutcome.NOT_HAPPENED and not again:
        finding = ProbeResult(
            ProbeOutcome.FAILED, text=f"{action.name} was tried twice, got no answer, and did not happen"
        )
    elif finding.outcome is ProbeOutcome.NOT_HAPPENED or (
        finding.outcome is ProbeOutcome.FAILED and _failed_before(runner, entry)
    ):
        return _do(runner, context, action, entry, again=False)
    if finding.outcome is ProbeOutcome.FAILED:
        runner.journal.failed(entry, finding.text)
        raise CallFailed(finding.text)
    raise CallUncertain(finding.text or f"what became of {action.name} cannot be told yet")


def _watch(runner: Runner, context: Context, action: AnyAction, entry: Entry) -> ProbeResult[Document]:
    """Look until it is known what became of an action, time is up, or an interrupt comes.

    :raises CallUncertain: looking itself failed, which says nothing about the action
    """

    def look() -> ProbeResult[Document]:
        try:
            return patiently(runner, lambda: action.look(context, entry.intent))
        except CallError as error:
            raise CallUncertain(f"what became of {action.name} cannot be seen: {error}") from None

    finding = look()
    deadline = runner.clock.monotonic() + runner.gateway.settings.long_rpc_timeout
    waits = runner.clock.waits()
    while finding.outcome in (ProbeOutcome.UNDER_WAY, ProbeOutcome.UNKNOWN) and runner.clock.monotonic() < deadline:
        if runner.interrupted():
            break
        runner.tell(EventKind.WAITING, context.move, step=entry.step, action=action.name, text=finding.text)
        runner.clock.sleep(next(waits))
        finding = look()
    return finding


def _failed_before(runner: Runner, entry: Entry) -> bool:
    """Whether this failure is known already and the pivot is passed: then the way is to try again."""
    entries = runner.journal.entries_of(entry.move_id)
    return entry.phase is Phase.FAILED and past_pivot(runner, entries, Step(entry.step))


def _after_failure(
    runner: Runner, move: Move, step: Step, action: AnyAction, error: CallError, undo_whole_move: bool
) -> None:
    """Decide what a failure means, roll back what has to be rolled back, and end the run. Always raises."""
    runner.tell(EventKind.ACTION_FAILED, move, step=step.value, action=action.name, text=str(error))
    entries = runner.journal.entries_of(move.id)
    if past_pivot(runner, entries, step):
        if isinstance(error, CallUncertain):
            _honour_interrupt(runner, move, step)
        raise Stopped(
            f"{step} of {move.server_name} stopped at {action.name}: {error}",
            state="the point of no return is passed: from here the move only goes forward",
            next_command=f"cellmove resume {move.id}",
        ) from None
    current = _current(entries, step, action)
    if isinstance(error, CallUncertain) and action.has_probe and current is not None:
        _honour_interrupt(runner, move, step)
        raise Stopped(
            f"{step} of {move.server_name} stopped at {action.name}: {error}",
            state="it is not known whether that call had its effect, so nothing was rolled back",
            next_command=f"cellmove resume {move.id}",
        ) from None
    whole = undo_whole_move or _gives_all_up(runner, entries, step)
    earlier = _told(runner, entries, step)
    move = _take_back(runner, move, None if whole else step, action, error)
    failed = f"{step} of {move.server_name} failed at {action.name}: {error}{earlier}"
    at_home = _looked_at_home(runner, move, failed) if move.state is State.ROLLED_BACK else ""
    commands = next_commands(move, None, step)
    if isinstance(error, MovedElsewhere):
        commands = (f"cellmove {'rollback' if move.is_open else 'show'} {move.id}",)
    raise RolledBack(
        failed,
        state=at_home or f"{step} was rolled back; the move stays {move.state}",
        next_command=commands[0] if commands else command_of(move),
    ) from None


def _take_back(
    runner: Runner, move: Move, step: Step | None, action: AnyAction, error: CallError, *, back_to: int = 0
) -> Move:
    """Undo after a failure; when that fails as well, both are told of."""
    try:
        with _as_stop(move, f"rolling back {move.server_name}", "nothing was rolled back"):
            return _undo(runner, move, step, back_to)
    except CellmoveError as failure:
        named = step or next((s for s, actions in runner.actions.items() if action in actions), "")
        failure.message = f"{named} of {move.server_name} failed at {action.name}: {error}\n{failure.message}"
        raise


def _told(runner: Runner, entries: Sequence[Entry], step: Step) -> str:
    """What was tried before in this attempt at a step, and why it did not do: a line each."""
    lines = []
    by_name = {action.name: action for action in runner.actions[step]}
    for chose in _tried(runner, entries, step):
        failed = next((e for e in entries if e.sequence > chose.sequence and e.step == step and e.error), None)
        if failed is not None:
            lines.append(f"\nbefore that, {describe(by_name[chose.action], labels_from(chose.result))}: {failed.error}")
    return "".join(lines)


def _gives_all_up(runner: Runner, entries: Sequence[Entry], step: Step) -> bool:
    heavy = {action.name for action in runner.actions[step] if action.rolls_back_move}
    return any(e.step == step and e.action in heavy and e.phase is not Phase.UNDONE for e in entries)


def undo(runner: Runner, move: Move, step: Step | None) -> Move:
    """Roll back one step, or (None) the whole move, newest action first.

    :returns: the move: in its old state after one step, ROLLED_BACK after the whole
    :raises RollbackFailed: an undo was refused; what is left to do by hand is named
    :raises Stopped: the cloud did not answer; the same command goes on
    """
    with _journal_needed(move):
        move = _undo(runner, move, step)
    if step is None and runner.look_home is not None:
        runner.tell(EventKind.NOTE, move, text=_looked_at_home(runner, move, f"{move.id} was rolled back"))
    return move


def _looked_at_home(runner: Runner, move: Move, said: str) -> str:
    """What is to be said of a server whose move was rolled back: what a look at it shows.

    :param said: what happened, for the error
    :raises RollbackFailed: it is not as it was before the move
    """
    undone = "every action was rolled back"
    if runner.look_home is None:
        return f"{undone}; the server was not looked at since"
    entries = runner.journal.entries_of(move.id)
    if not entries:
        return "nothing of the move had begun"
    report = runner.look_home(_context(runner, move, entries))
    if report.wrong:
        raise RollbackFailed(
            f"{said}\nevery action was rolled back, and the server is not as before: {'; '.join(report.wrong)}",
            state=report.text,
            next_command=f"cellmove audit --server {move.server_id}",
        )
    return f"{undone}; {report.text}"


def _undo(runner: Runner, move: Move, step: Step | None, back_to: int = 0) -> Move:
    """See :func:`undo`.

    :param back_to: leave what the journal has before this line
    :raises CannotConnect: what the undos call cannot be reached; nothing was rolled back
    """
    _begin_fence(runner)
    by_name = {(s.value, a.name): a for s, actions in runner.actions.items() for a in actions}
    entries = runner.journal.entries_of(move.id)
    live = [e for e in entries if e.phase is not Phase.UNDONE and step in (None, e.step) and e.sequence >= back_to]
    _reach_for_undo(runner, move, entries, live)
    if step is None and move.state is not State.ROLLING_BACK:
        move = runner.journal.set_state(move.id, State.ROLLING_BACK)
    before_it = runner.interrupted()  # a failure is rolled back although the signal came before it
    for entry in reversed(live):
        if runner.interrupted() and not before_it:
            raise Interrupted(
                f"interrupted while {move.server_name} was rolled back; everything done so far is in the journal",
                signal_number=runner.interrupted(),
                state="the move is partly rolled back; the journal records where",
                next_command=_again(move),
            )
        action = by_name[entry.step, entry.action]
        if not action.has_undo:
            runner.journal.undone(entry)
            continue
        _undo_one(runner, _undo_context(runner, move, entries, entry), action, entry, entries)
        if action.undo_restores_guest:
            with _as_stop(move, f"rolling back {move.server_name}", "its guest was started at the source again"):
                _reach_for_undo(runner, move, entries, [e for e in live if e.sequence < entry.sequence])
    if step is None:
        move = runner.journal.set_state(move.id, State.ROLLED_BACK)
    return move


def _undo_context(runner: Runner, move: Move, entries: Sequence[Entry], entry: Entry) -> Context:
    """What an undo looks at: the entry's own result is added, which no other action sees once its undo was begun."""
    before = _context(runner, move, [e for e in entries if e.sequence <= entry.sequence])
    return replace(before, record=before.record.with_result(entry))


def _reach_for_undo(runner: Runner, move: Move, entries: Sequence[Entry], live: Sequence[Entry]) -> None:
    """Make sure that what these undos call can be reached, up to the one that restores the guest.

    :raises CannotConnect: it cannot
    """
    by_name = {(s.value, a.name): a for s, actions in runner.actions.items() for a in actions}
    for entry in reversed(live):
        action = by_name[entry.step, entry.action]
        if action.reach_for_undo is not None and entry.phase is Phase.DONE:
            context = _undo_context(runner, move, entries, entry)
            patiently(runner, functools.partial(action.reach_for_undo, context))
        if action.undo_restores_guest:
            return


@contextmanager
def _as_stop(move: Move, what: str, state: str) -> Iterator[None]:
    """What cannot be reached before an undo, as the end of a run that has written something.

    :param what: was about to be done
    """
    try:
        yield
    except CallError as error:
        raise Stopped(f"{what} stopped before its next undo: {error}", state=state, next_command=_again(move)) from None


@contextmanager
def _journal_needed(move: Move) -> Iterator[None]:
    """Losing the journal in the middle of a run is a stop part-way: "nothing was written" would be wrong."""
    try:
        yield
    except Unreachable as error:
        raise JournalLost(
            error.message,
            state=f"every action of {move.id} that the journal has recorded is done; one more may be done, which "
            "resume finds out when the journal can be used again",
            next_command=f"cellmove resume {move.id}",
        ) from None


def _again(move: Move) -> str:
    """What goes on with rolling back. One step alone: resume; rollback would roll back more than was asked for."""
    return f"cellmove {'rollback' if move.state is State.ROLLING_BACK else 'resume'} {move.id}"


def _undo_one(runner: Runner, context: Context, action: AnyAction, entry: Entry, entries: Sequence[Entry]) -> None:
    move, step = context.move, Step(entry.step)
    title = describe(action, context.record.labels)
    started = runner.clock.monotonic()
    runner.tell(EventKind.UNDO_STARTED, move, step=entry.step, action=action.name, title=title)
    again = _again(move)
    # An undo that was begun before may be of an action that was never done: then nothing stands in its result.
    result = entry.result or ({} if entry.phase is Phase.DONE else None)
    try:
        announced = _announced(runner, context, entries, step, action, undoing=True)
        runner.journal.undoing(entry, announced)
        _raise(runner, context, step, announced, undoing=True)
        patiently(runner, lambda: action.take_back(context, entry.intent, result), insists=True)
        if runner.fence is not None:
            runner.fence.settled(action, undoing=True)
    except (CannotConnect, CallUncertain) as error:
        raise Stopped(
            f"rolling back {action.name} of {move.server_name} got no answer: {error}",
            state="the move is partly rolled back; the journal records where",
            next_command=again,
        ) from None
    except Unexpected as error:
        raise Stopped(
            f"rolling back {action.name} ({title}) of {move.server_name} stopped: {error}",
            state=f"that is not what the journal says, so {action.name} and what came before it were left as they are",
            next_command=again,
        ) from None
    except CallFailed as error:
        raise RollbackFailed(
            f"rolling back {action.name} ({title}) of {move.server_name} failed: {error}",
            state=f"still to be rolled back: {action.name} and what came before it (cellmove show {move.id})",
            next_command=again,
        ) from None
    runner.journal.undone(entry)
    seconds = runner.clock.monotonic() - started
    runner.tell(EventKind.UNDO_FINISHED, move, step=entry.step, action=action.name, title=title, seconds=seconds)
