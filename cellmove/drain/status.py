"""The status of a drain, as ``drain status`` shows it. Only the journal and the queue are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cellmove.core.move import Move, State, next_commands
from cellmove.core.shell import command_line
from cellmove.drain.cordon import plan_of
from cellmove.drain.item import IN_PROGRESS, Stage, Task
from cellmove.drain.queue import Queue, open_queue
from cellmove.drain.request import is_dead, target_cells
from cellmove.engine.executor import busy_step
from cellmove.steps.cordon import cell_of

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.drain.options import DrainOptions
    from cellmove.operations.context import Session


@dataclass(frozen=True)
class DrainStatus:
    """The status of a drain.

    :param control: what an operator has asked of all runs: "", "pause" or "abort"
    :param runs: names of the runs at work
    :param next_command: the command that continues the drain; empty while a run is at work, and after the end
    :param options: of the newest run; None when no run stored any
    :param targets: the target cells of the newest run
    :param tasks: every server of the drain
    :param unconfirmed: servers in VERIFY_RESIZE that no run will confirm
    :param generated_at: time of this status, seconds since the epoch
    """

    drain_id: str
    cell: CellRef
    state: str
    control: str
    runs: tuple[str, ...]
    next_command: str
    options: DrainOptions | None
    targets: tuple[CellRef, ...]
    tasks: tuple[Task, ...]
    unconfirmed: tuple[Task, ...]
    generated_at: float


def read_status(session: Session, record: Move) -> DrainStatus:
    """Read the status of a drain."""
    queue = open_queue(session, record)
    runs = active_runs(session, record)
    incomplete = {task.server_id: task for task in ([] if runs else incomplete_tasks(session, record))}
    tasks = tuple(incomplete.get(task.server_id, task) for task in queue.tasks())
    request = queue.request()
    return DrainStatus(
        drain_id=record.id,
        cell=cell_of(record),
        state=record.state.value,
        control=queue.control() if record.is_open else "",
        runs=tuple(runs),
        next_command=_next_command(record, queue, runs, list(incomplete.values())),
        options=request.options,
        targets=target_cells(request),
        tasks=tasks,
        unconfirmed=tuple(unconfirmed_tasks(session, tasks)),
        generated_at=session.clock.utc_now().timestamp(),
    )


def active_runs(session: Session, record: Move) -> list[str]:
    """Return the names of the runs that work on a drain."""
    queue = open_queue(session, record)
    return [worker for worker in queue.other_workers(session.clock.utc_now().timestamp()) if not is_dead(worker)]


def incomplete_tasks(session: Session, record: Move) -> list[Task]:
    """Return the servers with an incomplete move, each with the command that continues it. No run may be at work."""
    tasks = []
    for task in open_queue(session, record).incomplete(*IN_PROGRESS, Stage.FAILED):
        move = session.journal.open_move_of(task.server_id)
        if move is not None:
            commands = next_commands(move, busy_step(session.journal.entries_of(move.id), move))
            tasks.append(replace(task, next_command=task.next_command or commands[0]))
    return tasks


def unconfirmed_tasks(session: Session, tasks: Sequence[Task]) -> list[Task]:
    """Return the servers in VERIFY_RESIZE that no run will confirm."""
    finished = {move.id for move in session.journal.open_moves() if move.state is State.FINISHED}
    return [task for task in tasks if task.stage is Stage.MOVED and task.move_id in finished]


def _next_command(record: Move, queue: Queue, runs: Sequence[str], incomplete: Sequence[Task]) -> str:
    """Return the command that continues this drain: that of the newest run, or one that lets runs continue."""
    if not record.is_open:
        return incomplete[0].next_command if incomplete else ""
    if record.state is State.ROLLING_BACK or queue.control() == "abort":
        return "" if runs else command_line("drain abort", record.server_id)
    if queue.control() == "pause":
        return command_line("drain resume", record.server_id)
    return "" if runs else queue.request().command or plan_of(record).command
