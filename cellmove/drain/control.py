"""Controls a drain from another terminal: finds it, pauses it, resumes it, aborts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellmove.core.cell_names import is_called
from cellmove.core.errors import Locked, Refused, Usage
from cellmove.core.move import Move, State
from cellmove.core.shell import command_line
from cellmove.drain import cordon
from cellmove.drain.item import JobResult, Stage, Task
from cellmove.drain.queue import Queue, open_queue
from cellmove.engine.events import Event, EventKind
from cellmove.engine.locks import server_lock
from cellmove.steps.cordon import cell_of

if TYPE_CHECKING:
    from cellmove.engine.events import Observer
    from cellmove.operations.context import Session

STATE_NAMES = {State.ROLLED_BACK.value: "aborted", State.ROLLING_BACK.value: "being aborted"}
"""How messages name the states of a drain that differ from those of a move."""


def state_name(state: str) -> str:
    """Return the state of a drain for messages."""
    return STATE_NAMES.get(state, state)


def find_drain(session: Session, cell: str | None) -> Move:
    """Find a drain: the open one of a cell, or its last one.

    :param cell: name or UUID of the cell, or id of the drain; None when only one cell has a drain
    :raises Usage: there is none, or several cells match
    """
    records = session.journal.drains()
    matching = [record for record in records if cell in (None, record.id) or is_called(cell_of(record), str(cell))]
    if not matching:
        raise Usage(
            f"the journal has no drain of {cell}" if cell else "the journal has no drain",
            next_command=command_line("drain-cell", cell or "CELL", dry_run=True),
        )
    candidates = [record for record in matching if record.is_open] or (matching if cell else matching[-1:])
    if len({record.server_id for record in candidates}) > 1:
        cells = ", ".join(f"{cell_of(record)} ({record.server_id})" for record in candidates)
        raise Usage(f"several cells match; give the UUID of one: {cells}")
    return candidates[-1]


def pause_drain(session: Session, record: Move) -> None:
    """Start no more servers until :func:`resume_drain`."""
    _set_control(session, record, "pause")


def resume_drain(session: Session, record: Move) -> None:
    """Let runs start servers again."""
    _set_control(session, record, "")


def _set_control(session: Session, record: Move, word: str) -> None:
    if not record.is_open:
        raise Refused(
            f"{cell_of(record)} is not being drained: {record.id} is {state_name(record.state)}",
            state="nothing was written",
            next_command=command_line("drain-cell", record.server_id, dry_run=True),
        )
    if not open_queue(session, record).set_control(word):
        raise Refused(
            f"the drain of {cell_of(record)} is being aborted",
            state="nothing was written",
            next_command=command_line("drain status", record.server_id),
        )


def abort_drain(session: Session, record: Move, observe: Observer) -> Move:
    """Start no more servers, and uncordon the cell: now, or at the end of the run that is at work.

    :returns: the record, which is open while a run is at work
    :raises Refused: the cell was emptied, and stays cordoned so that it can be deleted
    """
    if record.state is State.DRAINED and cordon.plan_of(record).closes_cell:
        raise _stays_cordoned(record)
    if not record.is_open:
        return record
    queue = open_queue(session, record)
    queue.set_control("abort")
    if queue.other_workers(session.clock.utc_now().timestamp()):
        if is_shared(session):
            return record
        try:  # a run that was killed holds no lock, although its leases have not expired
            with server_lock(session.lock_directory, record.server_id, record.server_name):
                queue.release_all()
        except Locked:
            return record
    for task in release_soaking(session, queue):
        observe(Event(EventKind.NOTE, task.move_id, task.name, text=f"{task.reason}: {task.next_command}"))
    return cordon.uncordon_cell(session, record, observe)


def _stays_cordoned(record: Move) -> Refused:
    hosts = cordon.plan_of(record).hosts
    lines = [
        f"{cell_of(record)} is empty and stays cordoned, so that it can be deleted. To uncordon it:",
        *(f"openstack compute service set --enable {host} nova-compute" for host in hosts),
        f"nova-manage cell_v2 update_cell --cell_uuid {record.server_id} --enable",
    ]
    return Refused("\n".join(lines), state="nothing was written")


def release_soaking(session: Session, queue: Queue) -> list[Task]:
    """Leave the soaking servers in VERIFY_RESIZE, because the drain was aborted, and return them."""
    soaking, now = queue.tasks(Stage.SOAKING), session.clock.utc_now().timestamp()
    for task in soaking:
        result = JobResult(
            Stage.MOVED,
            "in VERIFY_RESIZE, because the drain was aborted",
            next_command=f"cellmove confirm {task.move_id}",
        )
        queue.put(task.server_id, result, now)
    released = {task.server_id for task in soaking}
    return [task for task in queue.tasks(Stage.MOVED) if task.server_id in released]


def is_shared(session: Session) -> bool:
    """Return whether several machines can use this journal."""
    return session.journal.engine.dialect.name != "sqlite"
