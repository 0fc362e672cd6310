"""The report of a drain: the data that ``drain report`` shows, read from the journal and the queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.core.clock import seconds_of
from cellmove.core.move_plan import outline_of
from cellmove.drain.durations import downtime, step_bars
from cellmove.drain.queue import open_queue
from cellmove.drain.request import target_cells
from cellmove.steps.cordon import cell_of

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.move import Entry, Move
    from cellmove.drain.durations import StepBar
    from cellmove.drain.item import Stage, Task
    from cellmove.operations.context import Session


@dataclass(frozen=True)
class ServerReport:
    """The report of one server.

    :param downtime: seconds for which the guest did not run; None when it was off before, or the time is unknown
    """

    server_id: str
    name: str
    project_id: str
    source_host: str
    target_host: str
    disk_gb: int
    stage: Stage
    reason: str = ""
    next_command: str = ""
    move_id: str = ""
    bars: tuple[StepBar, ...] = ()
    downtime: float | None = None


@dataclass(frozen=True)
class DrainReport:
    """The report of a whole drain.

    :param to: the target cells; empty: every other cell
    :param begun: seconds since the epoch, as all times here
    :param generated_at: time of this report, or the end of a drain that is over
    """

    drain_id: str
    cell: CellRef
    to: tuple[CellRef, ...]
    state: str
    begun: float
    generated_at: float
    servers: tuple[ServerReport, ...]


def build_report(session: Session, record: Move) -> DrainReport:
    """Build the report of a drain. Only the journal is read."""
    queue = open_queue(session, record)
    tasks = queue.tasks()
    ids = [task.move_id for task in tasks if task.move_id]
    entries = session.journal.entries_of_moves(ids)
    moves: Mapping[str, Move] = {move.id: move for move in session.journal.all_moves() if move.id in entries}
    now = session.clock.utc_now().timestamp()
    return DrainReport(
        drain_id=record.id,
        cell=cell_of(record),
        to=target_cells(queue.request()),
        state=record.state.value,
        begun=seconds_of(record.created_at),
        generated_at=now if record.is_open else seconds_of(record.updated_at),
        servers=tuple(_server_report(task, moves.get(task.move_id), entries.get(task.move_id, [])) for task in tasks),
    )


def _server_report(task: Task, move: Move | None, entries: list[Entry]) -> ServerReport:
    active = outline_of(move).active if move is not None else False
    return ServerReport(
        server_id=task.server_id,
        name=task.name,
        project_id=task.project_id,
        source_host=task.host,
        target_host=task.target_host,
        disk_gb=task.disk_gb,
        stage=task.stage,
        reason=task.reason,
        next_command=task.next_command,
        move_id=task.move_id,
        bars=step_bars(entries),
        downtime=downtime(entries, active=active),
    )
