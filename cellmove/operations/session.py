"""What the commands do, one plain function each; the command line only parses, calls and renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellmove.core.cell_names import allowed_cells
from cellmove.core.clock import Clock
from cellmove.core.errors import (
    CallError,
    CellmoveError,
    Interrupted,
    Locked,
    OlderJournal,
    Refused,
    RolledBack,
    Stopped,
    Unreachable,
    Usage,
    before_writing,
)
from cellmove.core.move import TO_FINISH, TRANSITIONS, Entry, Move, State, Step, next_commands
from cellmove.core.policy import Consent
from cellmove.core.reference import Kind, kind_of
from cellmove.core.request import command_of, continued_by, plan_values, request_of
from cellmove.core.shell import GlobalOptions, command_line
from cellmove.engine.events import EventKind, Observer
from cellmove.engine.executor import (
    Runner,
    busy_step,
    context_before,
    facts_of,
    is_undoing,
    next_choice,
    past_pivot,
    undo,
)
from cellmove.engine.executor import run_step as run_actions
from cellmove.engine.journal import Journal, open_journal
from cellmove.engine.locks import server_lock
from cellmove.engine.retry import patiently
from cellmove.operations import audit, permission
from cellmove.operations.hold import HELD, is_held, let_go
from cellmove.operations.hold import hold as hold_move
from cellmove.operations.probe import parse as parse_probe
from cellmove.operations.reporting import reported
from cellmove.operations.verify import require as require_as_before
from cellmove.steps.reconcile import BEFORE_THE_SWITCH, moved_by_others, owners_deed

if TYPE_CHECKING:
    from cellmove.core.request import MoveRequest
    from cellmove.core.settings import Settings
    from cellmove.gateway import Gateway
    from cellmove.operations.hold import Hold
    from cellmove.operations.probe import Probe


@dataclass(frozen=True)
class Session:
    """What one run of a command works with.

    :param lock_directory: where the servers' locks lie
    :param host_restarted: the operator's word that a call of an earlier run died with its host
    :param consent: of whoever typed the command; by default nobody can be asked
    :param in_front: the options in front of the verb, for the commands that hooks are told
    """

    settings: Settings
    journal: Journal
    gateway: Gateway
    clock: Clock
    observer: Observer
    interrupted: Callable[[], int]
    lock_directory: Path
    host_restarted: bool = False
    consent: Consent = field(default_factory=Consent)
    in_front: GlobalOptions = field(default_factory=GlobalOptions)


def open_session(
    settings: Settings, observer: Observer, *, interrupted: Callable[[], int] = lambda: 0,
    consent: Consent | None = None, only_reads: bool = False, in_front: GlobalOptions | None = None,
) -> Session:  # fmt: skip
    """Open the journal; the cloud is reached only when something is asked of it.

    :param only_reads: the command writes nothing, so a journal that may not be written will do, and none at all
    """
    from cellmove.gateway import Gateway

    clock = Clock()
    journal = open_journal(settings.journal, clock.text, only_reads=only_reads)
    where = Path(journal.location).parent if "://" not in settings.journal else Path.home() / ".local/state/cellmove"
    return Session(
        settings,
        journal,
        Gateway(settings),
        clock,
        observer,
        interrupted,
        where / "locks",
        consent=consent or Consent(),
        in_front=in_front or GlobalOptions(),
    )


def find_move(session: Session, reference: str) -> Move:
    """The move that an id, a server name or a server UUID means.

    What has the form of an id is one, never a name. An open move goes before closed ones; of one server's closed
    moves the newest is meant.

    :raises Usage: there is none, or several servers of that name have moves
    """
    found = session.journal.find(reference)
    if not found:
        raise _unknown(session, reference)
    if len({move.server_id for move in found}) > 1:
        raise Usage(f"{reference!r} means several moves; name one by its id:\n{_listed(found)}")
    if found[-1].is_drain:
        cell = found[-1].server_name
        raise Usage(f"{found[-1].id} is no move: it empties {cell}", next_command=f"cellmove drain status {cell}")
    return _reconciled(session, found[-1])


def _unknown(session: Session, reference: str) -> Usage:
    """There is no such move here; a server that somebody else is moving, nova itself too, can be adopted."""
    kind = kind_of(reference)
    if kind is not Kind.NAME:
        called_so = session.journal.moves_named(reference)
        if called_so:
            return Usage(
                f"{reference} has the form of an id, and the journal has no move with it; servers are called so, "
                f"name the move of one by its id:\n{_listed(called_so)}",
                state="nothing was written",
            )
    if kind is Kind.MOVE_ID:
        return Usage(f"there is no move {reference} in the journal", next_command="cellmove list --all")
    unknown = f"there is no move of {reference!r} in the journal"
    how = moved_by_others(session.gateway, reference)
    if how:
        again = command_line("adopt", reference)
        return Usage(f"{unknown}; {how}", state="nothing was written", next_command=again)
    return Usage(unknown, next_command=command_line("plan", reference))


def _listed(moves: Sequence[Move]) -> str:
    return "\n".join(f"  {move.id}  {move.server_name}  {move.server_id}  {move.state}" for move in moves)


def _check_no_other(session: Session, move: Move) -> None:
    """A move that is over says nothing of one that somebody else has begun since."""
    how = "" if move.is_open else moved_by_others(session.gateway, move.server_id)
    if how:
        raise Refused(
            f"{move.id} of {move.server_name} is {move.state}, and since then: {how}",
            state="nothing was written",
            next_command=f"cellmove adopt {move.server_id}",
        )


def run_step(session: Session, move: Move, step: Step, *, force: bool = False, probes: Sequence[Probe] = ()) -> Move:
    """Run one step; a failure takes back only this step where that is possible.

    :param force: confirm also a server that is not what it was
    :param probes: what the guest has to answer before it is confirmed
    :raises Refused: it is not this step's turn; the message names the one whose turn it is. Or the
        server is not what it was, and is not confirmed
    """
    if step is Step.FINISH and is_held(move):
        return _cut_over(session, move)
    again = command_line(step.value, move.id, force=force, probe=tuple(each.text for each in probes))
    with lock(session, move.server_id, move.server_name):
        move = _fresh(session, move)
        _check_no_other(session, move)
        _check_there(session, move, step)
        if _is_past(move, step):
            return move
        _check_turn(session, move, step)
        if step is Step.CONFIRM and not force and busy_step(session.journal.entries_of(move.id), move) is None:
            require_as_before(session, move, probes, again)
        permission.for_step(session, move, step, again)
        return _run(session, move, step, undo_whole_move=False)


def _cut_over(session: Session, move: Move) -> Move:
    """Stop the guest of a move that is held, and finish: by the run that holds it, or by this one if that one is dead.

    A move that was asked for with ``--confirm`` is confirmed in both cases.
    """
    request = request_of(move)
    confirm = request is not None and request.confirm
    permission.for_run(session, move, State.CONFIRMED if confirm else State.FINISHED, f"cellmove finish {move.id}")
    try:
        return run_to_finish(session, move, confirm=confirm)
    except Locked:
        return let_go(session, move, State.CONFIRMED if confirm else State.FINISHED)


def run_to_finish(
    session: Session, move: Move, *, confirm: bool, hold: Hold | None = None, request: MoveRequest | None = None
) -> Move:
    """Run all steps to ``finish``, and to ``confirm`` if wanted; a failure takes everything back.

    :param hold: wait before the guest is stopped, and how long
    :param request: of the command that continues the move, which the journal keeps from now on
    :returns: the move; where its gate ended it there, it is held
    """
    with lock(session, move.server_id, move.server_name):
        move = _fresh(session, move)
        _check_there(session, move)
        if move.state is State.ROLLING_BACK:
            raise Refused(
                f"{move.id} is being taken back", state="half taken back", next_command=f"cellmove rollback {move.id}"
            )
        busy = busy_step(session.journal.entries_of(move.id), move)
        if busy is Step.REVERT or (busy is Step.CONFIRM and not confirm):
            raise Refused(
                f"{busy} of {move.id} was begun and not finished",
                state="nothing was written by this run",
                next_command=f"cellmove resume {move.id}",
            )
        aim = State.CONFIRMED if confirm else State.FINISHED
        again = request.command if request is not None else f"cellmove resume {move.id}"
        permission.for_run(session, move, aim, again)
        if request is not None and move.is_open and move.state is not aim:
            move = _keep_request(session, move, request)
        if hold is not None and move.state in (State.PLANNED, HELD):
            move, goes_on = _hold(session, session.journal.set_aim(move.id, HELD.value), hold)
            if not goes_on:
                return move
        if move.is_open and move.aim != aim:
            move = session.journal.set_aim(move.id, aim.value)
        return _run_to_aim(session, move)


def _keep_request(session: Session, move: Move, request: MoveRequest) -> Move:
    """Record what the move is asked for now, so that every command that is printed later says it."""
    earlier = request_of(move)
    wanted = continued_by(earlier, request) if earlier is not None else request
    if wanted == earlier:
        return move
    return session.journal.set_plan(move.id, {**move.plan, **plan_values(wanted)}, move.state)


def _hold(session: Session, move: Move, wish: Hold) -> tuple[Move, bool]:
    """Prepare a move and wait; whether it goes on."""
    move = _run_to_aim(session, move)
    try:
        with _calls_to_consequences(session, move):
            goes_on = hold_move(session, move, wish, context_before(_runner(session), move, Step.PREP_SOURCE))
    except Interrupted as error:
        request = request_of(move)
        if request is not None and (request.hold or request.cutover_at):
            error.state = f"{move.id} is prepared and its guest runs; cellmove finish {move.id} stops the guest"
            error.next_command = request.command
        raise
    move = _fresh(session, move)
    return move, goes_on or not is_held(move)  # somebody may have said so this very moment


def _run_to_aim(session: Session, move: Move) -> Move:
    """Run the steps that lead to the move's aim; before ``finish`` is done a failure takes everything back."""
    if move.aim == HELD:
        return _run(session, move, Step.PREP_DEST, undo_whole_move=True) if move.state is State.PLANNED else move
    steps = (*TO_FINISH, Step.CONFIRM) if move.aim == State.CONFIRMED else TO_FINISH
    arrived = False
    for step in steps:
        if TRANSITIONS[step][0] is move.state:
            if step is Step.CONFIRM and busy_step(session.journal.entries_of(move.id), move) is None:
                _verify_on_the_way(session, move, arrived=arrived)
            try:
                move = _run(session, move, step, undo_whole_move=step in TO_FINISH)
            except OlderJournal as error:
                if not arrived:
                    raise
                raise Stopped(
                    error.message,
                    state=f"this run brought the move to {move.state}; it wrote nothing after that",
                    next_command=error.next_command,
                ) from None
            arrived = True
    return move


def _verify_on_the_way(session: Session, move: Move, *, arrived: bool) -> None:
    """See to it that a whole run may go on to confirm.

    :param arrived: it was this run that moved the server
    :raises Stopped: it may not, and this run has moved it
    """
    request = request_of(move)
    probes = [parse_probe(text) for text in request.probes] if request is not None else []
    again = command_line("confirm", move.id, probe=request.probes if request is not None else ())
    try:
        require_as_before(session, move, probes, again)
    except (Refused, Unreachable, Usage) as error:
        if not arrived:
            raise
        raise Stopped(
            error.message,
            state="this run moved it to the target; the move is finished, and was not confirmed",
            next_command=error.next_command,
        ) from None


def resume(session: Session, move: Move, *, host_restarted: bool = False) -> Move:
    """Go on where a run stopped: finish the step under way, or its taking back. Nothing to do is fine.

    :param host_restarted: the operator's word that the call under way died with its host
    """
    session = replace(session, host_restarted=host_restarted)
    with lock(session, move.server_id, move.server_name):
        move = _fresh(session, move)
        if not move.is_open:
            return move
        if move.is_repair:
            return audit.run_repair(session, move)
        if _is_deleted(session, move):
            return _sweep(session, move)
        _require_current(session, move)
        entries = session.journal.entries_of(move.id)
        runner = _runner(session)
        step = busy_step(entries, move)
        if move.state is State.ROLLING_BACK:
            return _undo(session, move, None)
        if step is None:
            if move.is_on_the_way and move.state is State.PLANNED:
                permission.check_rules(session, move)  # consent was given, but nothing has begun
            return _run_to_aim(session, move) if move.is_on_the_way else move
        if (
            is_undoing(entries)
            and not past_pivot(runner, entries, step)
            and next_choice(runner, move, entries, step) is None
        ):
            return _undo(session, move, step)
        move = _run(session, move, step, undo_whole_move=bool(move.aim) and step in TO_FINISH)
        return _run_to_aim(session, move) if move.is_on_the_way and step in TO_FINISH else move


def resume_all(session: Session) -> list[Move]:
    """Resume every open move; one that cannot go on does not keep the others from it.

    :raises Stopped: when any could not; its message lists them, each with what to type next
    :raises Unreachable: the journal; or what every one of them needs, and none went on
    """
    done: list[Move] = []
    failures: list[tuple[Move, CellmoveError]] = []
    went_on = False
    for move in session.journal.open_moves():
        try:
            done.append(resume(session, move))
            went_on = went_on or done[-1] != move
        except Interrupted:
            raise
        except CallError as error:
            failures.append((move, Stopped(str(error), next_command=f"cellmove resume {move.id}")))
        except CellmoveError as error:
            session.journal.move(move.id)  # without the journal there is nothing to go on with
            failures.append((move, error))
    if failures:
        nothing_reached = not went_on and all(isinstance(error, (Unreachable, Usage)) for _, error in failures)
        kind = Unreachable if nothing_reached else Stopped
        raise kind("\n".join(_left_open(*failure) for failure in failures), next_command="cellmove list")
    return done


def _left_open(move: Move, error: CellmoveError) -> str:
    again = error.next_command or f"cellmove resume {move.id}"
    return f"{move.id} ({move.server_name}): {error.message}; next: {again}"


def rollback(session: Session, move: Move, *, host_restarted: bool = False) -> Move:
    """Take a move back: undo everything before the pivot, or revert after it.

    :param host_restarted: the operator's word that the call under way died with its host
    :raises Refused: it is confirmed, or its confirm has begun to destroy the source
    """
    session = replace(session, host_restarted=host_restarted)
    with lock(session, move.server_id, move.server_name):
        move = _fresh(session, move)
        if move.state in (State.ROLLED_BACK, State.REVERTED, State.SERVER_GONE):
            return move
        if move.is_repair:
            raise Refused(
                f"{move.id} mends leftovers; what it has mended is not taken back",
                state=f"it is {move.state}; nothing was written by this run",
                next_command=f"cellmove {'resume' if move.is_open else 'show'} {move.id}",
            )
        if not move.is_open:
            raise Refused(f"{move.id} is {move.state}; there is nothing to take back any more")
        if _is_deleted(session, move):
            return _sweep(session, move)
        _require_current(session, move)
        entries = session.journal.entries_of(move.id)
        runner = _runner(session)
        step = busy_step(entries, move)
        if step is not None and past_pivot(runner, entries, step):
            if step is Step.REVERT:
                return _run(session, move, step, undo_whole_move=False)
            if step is Step.FINISH:
                move = _run(session, move, step, undo_whole_move=False)
                return _run(session, move, Step.REVERT, undo_whole_move=False)
            raise Refused(
                f"{step} of {move.id} has passed the point of no return",
                state="it has begun to remove what is at the source; nothing was written by this run",
                next_command=f"cellmove resume {move.id}",
            )
        if move.state is State.FINISHED:
            if step is Step.CONFIRM:
                try:
                    move = _undo(session, move, Step.CONFIRM)
                except (Stopped, Unreachable, Interrupted) as error:
                    error.next_command = f"cellmove rollback {move.id}"  # to resume would be to confirm
                    raise
            return _run(session, move, Step.REVERT, undo_whole_move=False)
        return _undo(session, move, None)


@contextmanager
def lock(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    """One run per server: on this machine, and on every machine that shares the journal.

    Connections to its disks end with it. Afterwards the operator's hooks run for what became of the server's move.
    """
    with reported(session, server_id, _locks(session, server_id, server_name)):
        try:
            yield
        finally:
            session.gateway.links.close(server_id)


@contextmanager
def _locks(session: Session, server_id: str, server_name: str) -> Iterator[None]:
    with (
        server_lock(session.lock_directory, server_id, server_name),
        session.journal.server_lock(server_id, server_name),
    ):
        yield


def _run(session: Session, move: Move, step: Step, *, undo_whole_move: bool) -> Move:
    facts = facts_of(move, session.journal.entries_of(move.id))
    with _calls_to_consequences(session, move, step):
        targets = [facts["target_cell_uuid"]] if "target_cell_uuid" in facts else allowed_cells(facts)
        cell = session.gateway.cell
        session.gateway.reach([cell(facts["source_cell_uuid"])], one_of=[cell(word) for word in targets])
        try:
            return run_actions(_runner(session, move), move, step, undo_whole_move=undo_whole_move)
        except RolledBack as error:
            if _is_deleted(session, _fresh(session, move)):
                error.state = "its owner deleted the server meanwhile"
                error.next_command = f"cellmove rollback {move.id}"
            raise


def _undo(session: Session, move: Move, step: Step | None) -> Move:
    again = f"cellmove rollback {move.id}" if step is None else ""
    with _calls_to_consequences(session, move, again=again):
        return undo(_runner(session, move), move, step)


def _runner(session: Session, move: Move | None = None) -> Runner:
    """What the pipeline runs with.

    :param move: that is acted on; None: the pipeline is only asked
    """
    from cellmove.steps import ACTIONS
    from cellmove.steps.fence import Fence
    from cellmove.steps.look_home import look_home

    return Runner(
        session.journal, session.gateway, session.clock, session.observer, ACTIONS, session.interrupted,
        session.host_restarted, Fence(move.generations) if move is not None else None, look_home,
    )  # fmt: skip


@contextmanager
def before_anything_is_written() -> Iterator[None]:
    """What a call came to while a command only looks.

    :raises Unreachable: it did not answer, or it failed
    """
    try:
        yield
    except CallError as error:
        raise before_writing(error) from None


@contextmanager
def _calls_to_consequences(
    session: Session, move: Move, step: Step | None = None, *, again: str = ""
) -> Iterator[None]:
    """What a call came to outside any action: the cloud was not reached, so nothing changed.

    :param step: which one could not begin; None for taking back
    :param again: what to type next; empty: what goes on with the move
    """
    try:
        yield
    except CallError as error:
        entries = session.journal.entries_of(move.id)
        busy = busy_step(entries, move)
        commands = next_commands(move, busy, step)
        # A whole run may have done steps before this one.
        part_way = busy or move.state is State.ROLLING_BACK or (move.is_on_the_way and move.state is not State.PLANNED)
        command = again or (commands[0] if commands else "")
        if not part_way:
            raise before_writing(error, next_command=command) from None
        raise Stopped(str(error), state="the move stands where it stood", next_command=command) from None


def _fresh(session: Session, move: Move) -> Move:
    """The move as the journal has it now that we hold the lock."""
    return session.journal.move(move.id) or move


def _is_past(move: Move, step: Step) -> bool:
    """Whether this step is done already: then the command is a silent no-op."""
    after = {
        Step.PREP_DEST: (State.DEST_PREPARED, State.SOURCE_PREPARED, State.FINISHED, State.CONFIRMED),
        Step.PREP_SOURCE: (State.SOURCE_PREPARED, State.FINISHED, State.CONFIRMED),
        Step.FINISH: (State.FINISHED, State.CONFIRMED),
        Step.CONFIRM: (State.CONFIRMED,),
        Step.REVERT: (State.REVERTED,),
    }
    return move.state in after[step]


def _check_there(session: Session, move: Move, step: Step | None = None) -> None:
    """Make sure that the server is there, and that this journal is not older than its move.

    :param step: that is to run
    :raises OlderJournal: another copy of the journal has gone on with the move
    """
    if _is_deleted(session, move):
        raise Refused(
            f"{move.server_name} was deleted by its owner",
            state="something of the move is left; nothing was written by this run",
            next_command=f"cellmove resume {move.id}",
        )
    _require_current(session, move, step)


def _require_current(session: Session, move: Move, step: Step | None = None) -> None:
    """Refuse a journal that is older than the move; see :mod:`cellmove.steps.fence`.

    :param step: that is to run; None: going on or back
    """
    if not move.is_open or move.is_repair or move.is_drain:
        return
    from cellmove.steps.fence import require_current

    entries = session.journal.entries_of(move.id)
    busy = busy_step(entries, move)
    context = context_before(_runner(session), move, busy or Step.PREP_DEST)
    with _calls_to_consequences(session, move, step):
        patiently(session, lambda: require_current(context, entries, busy or Step.PREP_DEST, move.generations))


def is_older(session: Session, move: Move) -> bool:
    """Whether this journal is older than an open move of it."""
    try:
        _require_current(session, move)
    except OlderJournal:
        return True
    return False


def _check_turn(session: Session, move: Move, step: Step) -> None:
    busy = busy_step(session.journal.entries_of(move.id), move)
    if TRANSITIONS[step][0] is move.state and busy in (None, step):
        return
    commands = next_commands(move, busy)
    if move.state is State.SERVER_GONE:
        why = f"the server is gone, and {move.id} is closed"
    elif busy is not None:
        why = f"{busy} of {move.id} was begun and not finished"
    else:
        why = f"it is not the turn of {step}: {move.id} is {move.state}"
    again = command_of(move) if move.state is State.ROLLED_BACK else f"cellmove show {move.id}"
    raise Refused(why, state="nothing was written", next_command=commands[0] if commands else again)


def reconcile_server(session: Session, server_id: str) -> None:
    """Close the open move of a server that its owner ended through nova's own API meanwhile."""
    move = session.journal.open_move_of(server_id)
    if move is not None:
        _reconciled(session, move)


def _reconciled(session: Session, move: Move) -> Move:
    """Close a finished move that its owner confirmed, reverted or deleted through nova's own API meanwhile."""
    runner, entries = _runner(session), session.journal.entries_of(move.id)
    reached = owners_deed(runner, move, entries)
    if reached is None or reached is State.SWEEPING:
        return move
    if session.journal.is_read_only:
        return replace(move, state=reached)
    try:
        with lock(session, move.server_id, move.server_name):
            if busy_step(entries, move) in (Step.CONFIRM, Step.REVERT):
                _drop_marks(session, move, entries)
            move = session.journal.set_state(move.id, reached)
    except Locked:
        return move
    runner.tell(EventKind.NOTE, move, text=f"{move.id} was ended outside of cellmove: {reached}")
    return move


def _drop_marks(session: Session, move: Move, entries: Sequence[Entry]) -> None:
    """Remove the mark of a confirm or revert that was announced, when the owner was quicker: nobody else would."""
    from cellmove.db.survey import drop_mark

    facts = facts_of(move, entries)
    with _calls_to_consequences(session, move):
        for name in ("source_cell_uuid", "target_cell_uuid"):
            drop_mark(session.gateway.database(session.gateway.cell(facts[name])), move.server_id, move.id)


def _is_deleted(session: Session, move: Move) -> bool:
    """Whether the owner deleted the server, and something of it is left."""
    if move.state is State.SWEEPING:
        return True
    return owners_deed(_runner(session), move, session.journal.entries_of(move.id)) is State.SWEEPING


def _has_switched(session: Session, move: Move) -> bool:
    return past_pivot(_runner(session), session.journal.entries_of(move.id), Step.FINISH)


def _sweep(session: Session, move: Move) -> Move:
    """Remove what is left of a server that its owner deleted; the caller holds the lock."""
    if move.state in BEFORE_THE_SWITCH and not _has_switched(session, move):
        move = _undo(session, move, None)
        return session.journal.set_state(move.id, State.SERVER_GONE)
    if move.state is not State.SWEEPING:
        move = session.journal.set_state(move.id, State.SWEEPING)
    return _run(session, move, Step.SWEEP, undo_whole_move=False)
