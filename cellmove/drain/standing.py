"""Where a drain stands, and what became of it: what `drain status` and `drain report` tell. Only reads the journal."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cellmove.core.cell_names import CellRef
from cellmove.core.clock import seconds_of
from cellmove.core.move import Move, State, next_commands
from cellmove.core.reference import is_uuid
from cellmove.core.shell import command_line
from cellmove.drain.drains import COMMAND, TARGET_NAMES, queue_of, unconfirmed
from cellmove.drain.item import UNDER_WAY, Stage, Story, Tale, Task
from cellmove.drain.queue import Queue
from cellmove.drain.story import downtime, tale_bars
from cellmove.drain.wish import from_document
from cellmove.engine.executor import busy_step
from cellmove.steps.cordon import cell_of

if TYPE_CHECKING:
    from cellmove.operations.context import Session


def status(session: Session, record: Move) -> dict[str, Any]:
    """Where a drain stands, as plain JSON. Only reads the journal."""
    queue = queue_of(session, record)
    now = session.clock.utc_now().timestamp()
    at_work = runs(session, record)
    stuck = {task.server_id: task for task in ([] if at_work else halfway(session, record))}
    tasks = [stuck.get(task.server_id, task) for task in queue.tasks()]
    return {
        "schema_version": 1,
        "drain": record.id,
        "cell": cell_of(record).label,
        "cell_uuid": record.server_id,
        "state": record.state.value,
        "control": (queue.control() or None) if record.is_open else None,
        "runs": at_work,
        "next": _next(record, queue, at_work, list(stuck.values())),
        "wish": _wish_document(queue.wish()),
        "counts": {stage.value: sum(task.stage is stage for task in tasks) for stage in Stage},
        "under_way": [_task_document(task, now) for task in tasks if task.stage in UNDER_WAY],
        "soaking": [_task_document(task, now) for task in tasks if task.stage is Stage.SOAKING],
        "trouble": [
            _task_document(task, now)
            for task in tasks
            if task.stage in (Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED, Stage.REFUSED, Stage.SKIPPED)
        ],
        "unconfirmed": [_task_document(task, now) for task in unconfirmed(session, tasks)],
    }


def runs(session: Session, record: Move) -> list[str]:
    """Return the runs that are at work on a drain: machine, process and a token of each."""
    queue = queue_of(session, record)
    return [each for each in queue.others(session.clock.utc_now().timestamp()) if not _is_dead(each)]


def _wish_document(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: the target cells as people read them, and their UUIDs."""
    targets = _targets(stored, stored.get("to", ()))
    told = {name: value for name, value in stored.items() if name not in (COMMAND, TARGET_NAMES)}
    return told | {"to": [cell.label for cell in targets], "to_uuids": [cell.uuid for cell in targets]}


def _targets(stored: Mapping[str, Any], to: Sequence[str]) -> tuple[CellRef, ...]:
    """The target cells of a drain. An earlier version recorded what was typed, mostly names."""
    names = stored.get(TARGET_NAMES, {})
    return tuple(CellRef(word if is_uuid(word) else "", names.get(word, word)) for word in to)


def halfway(session: Session, record: Move) -> list[Task]:
    """The servers whose moves stopped half-way, each with what to type; of a drain that has no run at work."""
    found = []
    for task in queue_of(session, record).halfway(*UNDER_WAY, Stage.FAILED):
        move = session.journal.open_move_of(task.server_id)
        if move is not None:
            commands = next_commands(move, busy_step(session.journal.entries_of(move.id), move))
            found.append(replace(task, next_command=task.next_command or commands[0]))
    return found


def _next(record: Move, queue: Queue, runs: Sequence[str], stuck: Sequence[Task]) -> str | None:
    """What to type that this drain goes on: the last run's command, or what lets a run begin with servers again."""
    if not record.is_open:
        return stuck[0].next_command if stuck else None
    if record.state is State.ROLLING_BACK or queue.control() == "abort":
        return None if runs else command_line("drain abort", record.server_id)
    if queue.control() == "pause":
        return command_line("drain resume", record.server_id)
    return None if runs else str(queue.wish().get(COMMAND) or record.plan["command"])


def _task_document(task: Task, now: float) -> dict[str, Any]:
    return {
        "server": {"id": task.server_id, "name": task.name}, "stage": task.stage.value, "move": task.move_id or None,
        "source_host": task.host, "target_host": task.target_host or None, "tries": task.tries,
        "elapsed_seconds": round(now - task.began) if task.stage in UNDER_WAY and task.began else None,
        "due_in_seconds": round(task.due - now) if task.stage is Stage.SOAKING else None,
        "code": task.code or None, "reason": task.reason or None, "next": task.next_command or None,
    }  # fmt: skip


def story(session: Session, record: Move) -> Story:
    """All that became of a drain's servers, for whoever looks back. Only reads the journal."""
    queue = queue_of(session, record)
    tasks = queue.tasks()
    ids = [task.move_id for task in tasks if task.move_id]
    entries = session.journal.entries_of_moves(ids)
    moves: Mapping[str, Move] = {move.id: move for move in session.journal.all_moves() if move.id in entries}
    tales = []
    for task in tasks:
        own, move = entries.get(task.move_id, []), moves.get(task.move_id)
        active = bool(move.plan.get("active")) if move is not None else False
        tales.append(
            Tale(
                task.server_id, task.name, task.project_id, task.host, task.target_host, task.disk_gb, task.stage, task.reason,
                task.next_command, task.move_id, tale_bars(own), downtime(own, active=active),
            )
        )  # fmt: skip
    wish = from_document(queue.wish())
    began = seconds_of(record.created_at)
    told = session.clock.utc_now().timestamp() if record.is_open else seconds_of(record.updated_at)
    return Story(
        record.id, cell_of(record), _targets(queue.wish(), wish.to), record.state.value, began, told, tuple(tales),
    )  # fmt: skip


def _is_dead(worker: str) -> bool:
    """Whether a run of this machine has ended, although its leases have not run out."""
    machine, pid, _token = worker.rsplit(":", 2)
    if machine != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is somebody else's
    return False
