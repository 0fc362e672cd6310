"""Runs a drain: opens it or continues it, cordons the cell, processes the servers and ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cellmove.core.documents import to_document
from cellmove.core.errors import (
    CallError,
    Interrupted,
    JournalLost,
    Locked,
    Refused,
    RolledBack,
    Stopped,
    Unreachable,
    Usage,
)
from cellmove.core.move import DRAIN, Move, State
from cellmove.core.shell import command_line
from cellmove.db import census as cell_census
from cellmove.drain import cordon, window
from cellmove.drain.capacity import cell_capacities
from cellmove.drain.control import is_shared, release_soaking
from cellmove.drain.decommission import with_decommission
from cellmove.drain.events import DrainEvent, DrainEventKind, server_event
from cellmove.drain.item import IN_PROGRESS, TROUBLED, Stage, Task
from cellmove.drain.job import MoveJob
from cellmove.drain.plan import tasks_of
from cellmove.drain.planning import open_record, parse_probes_and_hours, plan_of_cell, resolve_cells, target_cells
from cellmove.drain.queue import Queue, open_queue
from cellmove.drain.request import DrainRequest
from cellmove.drain.result import RunResult, error_of
from cellmove.drain.status import unconfirmed_tasks
from cellmove.drain.worker import RunPlan, Worker
from cellmove.engine.events import Event, EventKind
from cellmove.engine.locks import server_lock
from cellmove.operations import permission
from cellmove.operations.context import before_anything_is_written

if TYPE_CHECKING:
    from cellmove.db.cells import Cell
    from cellmove.drain.events import DrainObserver
    from cellmove.drain.options import DrainOptions
    from cellmove.drain.plan import DrainPlan
    from cellmove.operations.context import Session
    from cellmove.operations.probe import Probe


@dataclass(frozen=True)
class _Run:
    """The values of one run.

    :param command: the command of the run, for messages
    :param hours: the time window
    """

    session: Session
    source: Cell
    options: DrainOptions
    observe: DrainObserver
    command: str
    targets: Sequence[Cell]
    probes: Sequence[Probe]
    hours: window.Hours

    def report(self, kind: DrainEventKind, *, reason: str = "") -> None:
        """Report an event of the drain."""
        self.observe(DrainEvent(kind, self.session.clock.text(), self.source.ref, reason=reason))

    def report_server(self, kind: DrainEventKind, task: Task) -> None:
        """Report a server with its reason and the next command."""
        event = server_event(kind, self.session.clock.text(), self.source.ref, task)
        self.observe(replace(event, reason=task.reason, next_command=task.next_command))

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.session.clock.utc_now().timestamp()


def run_drain(
    session: Session, cell: str, options: DrainOptions, observe: DrainObserver, *, cordons: bool, command: str
) -> RunResult:
    """Drain a cell, from the point that an earlier run reached.

    :param cell: name or UUID
    :param cordons: whether to cordon the cell
    :param command: the command of this run, for messages
    :raises Locked: another run drains this cell, and the journal is not shared by machines
    :raises Refused: the operator did not agree
    :raises Interrupted: a signal arrived
    :raises Stopped: the journal was lost during the run
    """
    with before_anything_is_written():
        source = session.gateway.cell(cell)
        _uuid, options = resolve_cells(session, cell, options)
        targets = target_cells(session, source, options)
    probes, hours = parse_probes_and_hours(session, options)
    run = _Run(session, source, options, observe, command, targets, probes, hours)
    with _only_run(session, source):
        record = open_record(session, source)
        if record is not None and record.state is State.ROLLING_BACK:
            raise Refused(
                f"{record.id} is being aborted",
                state=f"{source.label} is partly cordoned; nothing was written",
                next_command=command_line("drain abort", source.uuid),
            )
        with before_anything_is_written():
            plan = plan_of_cell(session, source, options)
            session.gateway.reach([source], one_of=targets)
        result = _run_plan(run, record, plan, cordons=cordons)
        if result.had_work:
            _report_end(run, result)
        return result


def _run_plan(run: _Run, record: Move | None, plan: DrainPlan, *, cordons: bool) -> RunResult:
    """Run what the plan needs: nothing for an empty cell or outside of the window, otherwise a worker."""
    session, source = run.session, run.source
    unfinished = _unfinished(session, record, plan) if record is not None else []
    closed_reason = window.closed_reason(run.hours, session.clock.utc_now().astimezone())
    if not plan.items and not unfinished:
        return _end_of_empty_cell(session, source, record)
    if closed_reason and not unfinished:
        if plan.movable:
            permission.require_attended(session, run.command)  # also outside of the window, so that cron fails early
        return RunResult(record, source.ref, closed_reason, tuple(_tasks_with_past(session, record, plan)))
    if record is None and not plan.movable:
        return with_decommission(session, source, RunResult(None, source.ref, "", tuple(tasks_of(plan))))
    if plan.movable or unfinished or (record is not None and record.state is State.CORDONING):
        permission.ask(session, _question(plan, source), run.command)
    if record is None:
        record = _open_record(session, source, cordons=cordons, command=run.command)
    elif cordons and (plan.movable or unfinished):
        with before_anything_is_written():
            record = cordon.plan_cordon(session, record, source)
    with _continued_by(run.command):
        return _work(run, record, plan)


def _work(run: _Run, record: Move, plan: DrainPlan) -> RunResult:
    """Cordon the cell and process its servers."""
    session, source = run.session, run.source
    queue = open_queue(session, record)
    names = {uuid: session.gateway.cell(uuid).label for uuid in plan.options.to}
    queue.prepare(DrainRequest(plan.options, run.command, names))
    if not is_shared(session):
        queue.release_all()
    began = queue.renew_leases(run.now())
    try:
        failed_before = frozenset(task.server_id for task in queue.tasks(*TROUBLED))
        _synchronise(run, record, queue, plan, began)
        record = _cordon(run, record)
        stop_reason = Worker(session, queue, _run_plan_of(run, queue, plan, began, failed_before), run.observe).run()
    finally:
        with suppress(Unreachable):  # then the leases expire
            queue.release()
    if queue.control() == "abort" and not queue.other_workers(run.now()):
        for task in release_soaking(session, queue):
            run.report_server(DrainEventKind.SERVER_MOVED, task)
        record = cordon.uncordon_cell(session, record, run.observe)
        if cordon.plan_of(record).closes_cell:
            run.report(DrainEventKind.UNCORDONED)
    return _result(session, source, record, stop_reason)


def _run_plan_of(run: _Run, queue: Queue, plan: DrainPlan, began: float, failed_before: frozenset[str]) -> RunPlan:
    return RunPlan(
        cell=run.source.ref,
        options=run.options,
        job=MoveJob(run.options, run.source, run.probes, queue.set_move),
        hours=run.hours,
        read_capacities=partial(cell_capacities, run.session.gateway, run.session.clock, run.targets),
        target_hosts=tuple(host for capacity in plan.capacities for host in capacity.hosts),
        began=began,
        failed_before=failed_before,
    )


def _synchronise(run: _Run, record: Move, queue: Queue, plan: DrainPlan, began: float) -> None:
    """Update the queue from the census, and report the start of the run."""
    is_alone, open_moves = not queue.other_workers(began), _servers_with_open_move(run.session)
    gone = queue.synchronise(tasks_of(plan), is_alone=is_alone, now=began, open_moves=open_moves)
    counts = {stage.value: number for stage, number in queue.counts().items()}
    run.observe(DrainEvent(DrainEventKind.RUN_STARTED, run.session.clock.text(), run.source.ref, counts=counts))
    for text in plan.excluded_cells:
        run.observe(Event(EventKind.NOTE, record.id, run.source.label, text=f"warning: {text}"))
    for task in gone:
        run.report_server(DrainEventKind.SERVER_GONE, task)


def _cordon(run: _Run, record: Move) -> Move:
    """Cordon the cell if that is not done yet."""
    if record.state is not State.CORDONING:
        return record
    record = cordon.cordon_cell(run.session, record, run.observe, run.command)
    if not record.is_open:
        raise RolledBack(
            f"another run could not cordon {run.source.label}",
            state="that run rolled back its changes to the services, or its message says why it could not",
            next_command=run.command,
        )
    if cordon.plan_of(record).closes_cell:
        run.report(DrainEventKind.CORDONED)
    return record


@contextmanager
def _continued_by(command: str) -> Iterator[None]:
    """Let the errors that end a run early name the command that continues it."""
    try:
        yield
    except (Interrupted, JournalLost) as error:
        error.next_command = command
        raise
    except (Unreachable, Usage) as error:
        raise Stopped(
            error.message,
            state="no further server is started; the journal records every server that was started",
            next_command=command,
        ) from None


def _tasks_with_past(session: Session, record: Move | None, plan: DrainPlan) -> list[Task]:
    """Return the servers of the census, preceded by those that left the cell in earlier runs."""
    current = tasks_of(plan)
    known = {task.server_id for task in current}
    past = open_queue(session, record).tasks(Stage.MOVED, Stage.GONE) if record is not None else []
    return [*(task for task in past if task.server_id not in known), *current]


def _unfinished(session: Session, record: Move, plan: DrainPlan) -> list[Task]:
    """Return the servers that an earlier run started and did not end. They are processed at any hour."""
    waiting = {item.server_id for item in plan.items} - _servers_with_open_move(session)
    tasks = open_queue(session, record).tasks(*IN_PROGRESS, Stage.SOAKING, Stage.FAILED, Stage.UNVERIFIED)
    return [task for task in tasks if task.stage in (*IN_PROGRESS, Stage.SOAKING) or task.server_id not in waiting]


def _servers_with_open_move(session: Session) -> set[str]:
    return {move.server_id for move in session.journal.open_moves() if not move.is_repair}


CONFIRM_TEXTS = {
    "never": "No server is confirmed.",
    "verified": "Each server that passes verification is confirmed, which deletes its source copy.",
    "after": "Each server is confirmed later, which deletes its source copy.",
}


def _question(plan: DrainPlan, source: Cell) -> str:
    """Return one line about the effects of the run."""
    options = plan.options
    targets = ", ".join(capacity.cell.label for capacity in plan.capacities) or "no other cell"
    number = min(len(plan.movable), options.limit or len(plan.movable))
    return (
        f"{number} of {len(plan.items)} servers move from {source.label} to {targets}, {options.parallel} at a time. "
        f"Each guest is stopped during its move. {CONFIRM_TEXTS[options.confirm]}"
    )


@contextmanager
def _only_run(session: Session, source: Cell) -> Iterator[None]:
    """Hold the lock of a cell. With a journal that machines share, several runs may drain a cell together."""
    if is_shared(session):
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(server_lock(session.lock_directory, source.uuid, source.label))
        except Locked as error:
            error.message = f"another run is draining {source.label}"
            error.next_command = command_line("drain status", source.uuid)
            raise
        yield  # outside of the try, because a server of the drain can be locked as well


def _open_record(session: Session, source: Cell, *, cordons: bool, command: str) -> Move:
    """Open a new drain in the journal."""
    with before_anything_is_written():
        plan = cordon.new_plan(session, source, closes_cell=cordons, command=command)
    now = session.clock.text()
    record = Move(
        f"drain-{session.clock.new_token()}",
        source.uuid,
        source.label,
        DRAIN,
        State.CORDONING,
        now,
        now,
        to_document(plan),
    )
    try:
        session.journal.open_move(record)
    except Refused:
        other = open_record(session, source)  # another machine has opened the drain
        if other is None:
            raise
        return other
    return record


def _end_of_empty_cell(session: Session, source: Cell, record: Move | None) -> RunResult:
    """End the drain of a cell that is empty."""
    if record is None:
        ended = [drain for drain in session.journal.drains() if drain.server_id == source.uuid][-1:]
        unconfirmed = tuple(
            task for drain in ended for task in unconfirmed_tasks(session, open_queue(session, drain).tasks())
        )
        result = RunResult(None, source.ref, "", (), unconfirmed=unconfirmed, had_work=False)
        return with_decommission(session, source, result)
    queue = open_queue(session, record)
    queue.prepare()  # the run that opened the drain may have died before this
    queue.synchronise((), is_alone=True, now=session.clock.utc_now().timestamp())
    session.journal.set_state(record.id, State.DRAINED)
    tasks = tuple(queue.tasks())
    unconfirmed = tuple(unconfirmed_tasks(session, tasks))
    return with_decommission(session, source, RunResult(record, source.ref, "", tasks, unconfirmed=unconfirmed))


def _result(session: Session, source: Cell, record: Move, stop_reason: str) -> RunResult:
    """Return the result of a run, and end the drain if the cell is empty."""
    queue = open_queue(session, record)
    tasks, incomplete = tuple(queue.tasks()), tuple(queue.incomplete(Stage.FAILED))
    unconfirmed = tuple(unconfirmed_tasks(session, tasks))
    result = RunResult(record, source.ref, stop_reason, tasks, unconfirmed=unconfirmed, incomplete=incomplete)
    try:
        mapped = cell_census.mapped(session.gateway.api_engine, source.id)
    except CallError as error:
        return replace(result, unchecked_reason=str(error))
    is_empty = all(mapped.values())
    if (
        is_empty
        and record.is_open
        and not result.in_stages(*IN_PROGRESS, Stage.SOAKING, Stage.FAILED, Stage.UNVERIFIED)
    ):
        result = replace(result, record=session.journal.set_state(record.id, State.DRAINED))
    return result if result.in_stages(Stage.WAITING, *IN_PROGRESS) else with_decommission(session, source, result)


def _report_end(run: _Run, result: RunResult) -> None:
    error = error_of(result, run.command)
    run.observe(
        DrainEvent(
            DrainEventKind.RUN_ENDED,
            run.session.clock.text(),
            run.source.ref,
            reason=error.message if error is not None else "",
            next_command=error.next_command if error is not None else "",
            counts=result.counts,
            result=result,
        )
    )
