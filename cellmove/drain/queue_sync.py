"""Updates the queue of a drain from a new census of the cell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

from cellmove.db import statements
from cellmove.drain.item import IN_PROGRESS, TROUBLED, Stage, Task
from cellmove.drain.tables import DEFAULT_STRING_LENGTH, KEPT_COLUMNS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

GONE_REASON = "the server has left the cell: it was deleted, or moved outside of this drain"

BATCH_ROWS = 500

_T = TypeVar("_T")


@dataclass(frozen=True)
class Changes:
    """The differences between the queue and a census.

    :param new: servers that the queue does not have
    :param changed: servers whose rows are replaced
    :param unfinished: servers whose open move is completed first
    :param gone: servers that have left the cell
    """

    new: tuple[Task, ...]
    changed: tuple[Task, ...]
    unfinished: tuple[str, ...]
    gone: tuple[Task, ...]


def changes(stored: Sequence[Task], tasks: Sequence[Task], *, is_alone: bool, open_moves: Collection[str]) -> Changes:
    """Compare the queue with a census.

    Servers in progress or soaking do not change. A server that failed or did not verify, and whose move is open, is in
    progress again: its move is completed before a new server starts. A server that is no longer in the cell and that this
    drain did not move is gone.

    :param is_alone: no other run is at work, so results of earlier runs may be replaced
    """
    kept = {*IN_PROGRESS, Stage.SOAKING} | (set() if is_alone else {Stage.MOVED, *TROUBLED})
    known = {task.server_id: task for task in stored}
    new, changed, unfinished, gone = [], [], [], []
    for task in tasks:
        before = known.pop(task.server_id, None)
        if before is None:
            new.append(task)
        elif before.stage in (Stage.FAILED, Stage.UNVERIFIED) and is_alone and task.server_id in open_moves:
            unfinished.append(task.server_id)
        elif before.stage not in kept:
            changed.append(task)
    for server_id, task in known.items():
        if task.stage in (Stage.FAILED, Stage.UNVERIFIED) and is_alone and task.move_id:
            unfinished.append(server_id)
        elif task.stage not in {*kept, Stage.MOVED, Stage.GONE}:
            gone.append(task)
    return Changes(tuple(new), tuple(changed), tuple(unfinished), tuple(gone))


def gone_tasks(changes: Changes) -> list[Task]:
    """Return the servers that have left the cell, as the queue has them now."""
    return [replace(task, stage=Stage.GONE, reason=GONE_REASON, next_command="") for task in changes.gone]


def write(connection: Connection, servers: Table, drain_id: str, changes: Changes, now: float) -> None:
    """Write the changes.

    :param now: recorded as the end of servers that have left the cell
    """
    from sqlalchemy import bindparam, update

    for new in _batches(changes.new):
        rows = [{"drain_id": drain_id, **_values(task)} for task in new]
        connection.execute(statements.insertion(servers), rows)
    # The number of attempts and the last move are kept.
    columns = [column.name for column in fields(Task) if column.name not in KEPT_COLUMNS]
    replacement = (
        update(servers)
        .where(servers.c.drain_id == drain_id, servers.c.server_id == bindparam("key"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )
    for changed in _batches(changes.changed):
        rows = [
            {
                "key": task.server_id,
                **{f"new_{name}": value for name, value in _values(task).items() if name in columns},
            }
            for task in changed
        ]
        connection.execute(replacement, rows)
    unfinished = {"stage": Stage.MOVING.value, "lease_until": 0.0}
    _update_all(connection, servers, drain_id, changes.unfinished, unfinished)
    gone = {"stage": Stage.GONE.value, "ended": now, "code": "gone", "reason": GONE_REASON, "next_command": ""}
    _update_all(connection, servers, drain_id, [task.server_id for task in changes.gone], gone)


def _update_all(
    connection: Connection, servers: Table, drain_id: str, server_ids: Sequence[str], values: Mapping[str, object]
) -> None:
    from sqlalchemy import update

    for batch in _batches(server_ids):
        mine = (servers.c.drain_id == drain_id) & servers.c.server_id.in_(batch)
        connection.execute(update(servers).where(mine).values(dict(values)))


def _batches(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (values[at : at + BATCH_ROWS] for at in range(0, len(values), BATCH_ROWS))


def _values(task: Task) -> dict[str, object]:
    values = {column.name: getattr(task, column.name) for column in fields(Task)}
    return values | {"stage": task.stage.value, "name": task.name[:DEFAULT_STRING_LENGTH]}
