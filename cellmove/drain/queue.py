"""The durable queue of a drain: its servers in order, the worker of each, and the results.

The queue is stored in the journal's database, but it is not part of the journal. The journal records each effect on the
cloud; a lost queue is rebuilt by the next run. So the rows of the queue have no checksums, and runs on several machines
write them at the same time.

A run works on a server under a *lease*. While the run renews its lease, no other run takes the server; after the lease
has expired, another run takes it. The server's lock and the journal's limit of one open move a server hold in addition,
so a run that was only suspended cannot work on a server together with its successor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from cellmove.db import statements
from cellmove.drain import queue_sync, tables
from cellmove.drain.item import IN_PROGRESS, JobResult, Stage, Task
from cellmove.drain.request import DrainRequest, read_request, request_document, worker_name

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Select

    from cellmove.core.move import Move
    from cellmove.engine.journal import Journal
    from cellmove.operations.context import Session

LEASE_SECONDS = 60.0
"""How long a run that died keeps its servers."""


@dataclass(frozen=True)
class Limits:
    """The largest numbers of servers in progress; 0 means no limit.

    :param parallel: of this run; the other limits count the servers of all runs of the drain
    :param hosts: the available target hosts. With ``per_target_host``, no server starts that could not go to any of them
    """

    parallel: int = 1
    per_source_host: int = 0
    per_target_host: int = 0
    per_project: int = 0
    hosts: tuple[str, ...] = ()


class Queue:
    """The servers of one drain. Every method is one transaction. Times are seconds since the epoch.

    :param worker: name of the run, see :func:`worker_name`
    """

    def __init__(self, journal: Journal, drain_id: str, worker: str) -> None:
        self.journal, self.drain_id, self.worker = journal, drain_id, worker
        self._has_tables = False
        known = tables.metadata().tables
        self.drains, self.workers, self.servers = known["drains"], known["drain_workers"], known["drain_servers"]

    @contextmanager
    def _exclusive(self) -> Iterator[Connection]:
        """Open a transaction that writes. All runs of a drain lock its row first, so that no deadlock can occur."""
        with self.journal.exclusive() as connection:
            connection.execute(tables.drain_lock(self.drains), {"drain_id": self.drain_id})
            yield connection

    def _exists(self) -> bool:
        """Return whether the tables exist. They are never dropped."""
        self._has_tables = self._has_tables or tables.has_tables(self.journal)
        return self._has_tables

    # requests

    def prepare(self, request: DrainRequest | None = None) -> None:
        """Create the tables and this drain's row, and store a request.

        :param request: None keeps the stored one
        """
        from sqlalchemy.exc import IntegrityError

        tables.create_tables(self.journal)
        text = json.dumps(request_document(request) if request is not None else {})
        if self._drain_row() is None:
            with suppress(IntegrityError):  # another machine has inserted the row
                with self.journal.exclusive() as connection:
                    row = {"drain_id": self.drain_id, "control": "", "wish": text}
                    connection.execute(statements.insertion(self.drains), row)
                return
        if request is not None:
            with self._exclusive() as connection:
                self._set(connection, "wish", text)

    def request(self) -> DrainRequest:
        """Return the request of the newest run."""
        row = self._drain_row()
        return read_request(json.loads(row.wish) if row is not None else {})

    def control(self) -> str:
        """Return what an operator has asked of all runs: "", "pause" or "abort"."""
        row = self._drain_row()
        return str(row.control) if row is not None else ""

    def set_control(self, word: str) -> bool:
        """Ask all runs to pause or abort, or to continue (""). Takes effect between servers.

        :returns: False when an abort was asked for before. An abort is final, so nothing was changed
        """
        self.prepare()
        with self._exclusive() as connection:
            query = statements.rows(self.drains, "drain_id", columns=("control",))
            if connection.execute(query, {"drain_id": self.drain_id}).scalar() == "abort" != word:
                return False
            self._set(connection, "control", word)
        return True

    def _set(self, connection: Connection, column: str, text: str) -> None:
        key = statements.keyed(drain_id=self.drain_id)
        connection.execute(statements.change(self.drains, "drain_id"), {column: text} | key)

    def _drain_row(self) -> Row[tuple[object, ...]] | None:
        if not self._exists():
            return None
        query = statements.rows(self.drains, "drain_id", columns=("control", "wish"))
        with self.journal.transaction() as connection:
            return connection.execute(query, {"drain_id": self.drain_id}).one_or_none()

    # workers and their leases

    def renew_leases(self, now: float) -> float:
        """Renew the leases of this run.

        :returns: the time by the clock that all runs of the drain share
        """
        mine = {"drain_id": self.drain_id, "worker": self.worker}
        with self._exclusive() as connection:
            now = _shared_time(connection, now)
            until = now + LEASE_SECONDS
            renewal = {"seen_until": until} | statements.keyed(**mine)
            if not connection.execute(statements.change(self.workers, *mine), renewal).rowcount:
                row = {**mine, "began": now, "seen_until": until}
                connection.execute(statements.insertion(self.workers), row)
            connection.execute(tables.lease_renewal(self.servers), {"lease_until": until} | statements.keyed(**mine))
        return now

    def release(self) -> None:
        """Release all leases of this run, which ends. Other runs may take its servers in progress."""
        mine = {"drain_id": self.drain_id, "worker": self.worker}
        with self._exclusive() as connection:
            connection.execute(statements.removal(self.workers, *mine), mine)
            connection.execute(tables.lease_renewal(self.servers), {"lease_until": 0.0} | statements.keyed(**mine))

    def release_all(self) -> None:
        """Release the leases of all runs. The caller knows that no other run is alive."""
        mine = {"drain_id": self.drain_id}
        with self._exclusive() as connection:
            connection.execute(statements.removal(self.workers, *mine), mine)
            connection.execute(statements.change(self.servers, *mine), {"lease_until": 0.0} | statements.keyed(**mine))

    def other_workers(self, now: float) -> list[str]:
        """Return the other runs of this drain whose leases have not expired."""
        from sqlalchemy import select

        if not self._exists():
            return []
        with self.journal.transaction() as connection:
            query = select(self.workers.c.worker).where(
                self.workers.c.drain_id == self.drain_id,
                self.workers.c.worker != self.worker,
                self.workers.c.seen_until > _shared_time(connection, now),
            )
            return list(connection.execute(query.order_by(self.workers.c.began)).scalars())

    # servers

    def tasks(self, *stages: Stage) -> list[Task]:
        """Return the servers of these stages in their order; of all stages if none is given."""
        if not self._exists():
            return []
        with self.journal.transaction() as connection:
            return self._tasks(connection, *stages)

    def _tasks(self, connection: Connection, *stages: Stage) -> list[Task]:
        query = tables.in_order(self.servers, *stages)
        return [_task(row) for row in connection.execute(query, {"drain_id": self.drain_id})]

    def synchronise(
        self, tasks: Sequence[Task], *, is_alone: bool, now: float, open_moves: Collection[str] = ()
    ) -> list[Task]:
        """Update the queue from a new census; see :func:`cellmove.drain.queue_sync.changes`.

        :param tasks: every server of the cell: waiting, skipped or refused
        :param is_alone: no other run is at work, so results of earlier runs may be replaced
        :param open_moves: the servers with an open move in the journal
        :returns: the servers that have left the cell since the last census
        """
        with self._exclusive() as connection:
            changes = queue_sync.changes(
                self._tasks(connection), tasks, is_alone=is_alone, open_moves=frozenset(open_moves)
            )
            queue_sync.write(connection, self.servers, self.drain_id, changes, now)
        return queue_sync.gone_tasks(changes)

    def take(self, now: float, limits: Limits, *, start: bool) -> Task | None:
        """Take a lease on the next server: one with an expired lease, one that is due, or (``start``) a new one.

        :returns: the server as it was before; None when no server is available now
        """
        with self._exclusive() as connection:
            now = _shared_time(connection, now)
            in_progress = self._tasks(connection, *IN_PROGRESS)
            # The run's own servers do not count as expired: the process or the machine may have been suspended.
            task = self._lock(connection, tables.expired_leases(self.servers), {"now": now, "worker": self.worker})
            if task is not None:
                return self._lease(connection, task, task.stage, now)
            alive = [other for other in in_progress if other.lease_until > now or other.worker == self.worker]
            if sum(other.worker == self.worker for other in alive) >= limits.parallel:
                return None
            values: dict[str, object] = {
                "now": now,
                "hosts": _at_limit((other.host for other in alive), limits.per_source_host),
                "projects": _at_limit((other.project_id for other in alive), limits.per_project),
            }
            task = self._lock(connection, tables.due_servers(self.servers, Stage.SOAKING), values)
            if task is not None:
                return self._lease(connection, task, Stage.CONFIRMING, now)
            if not start or not _has_target_capacity(alive, limits):
                return None
            task = self._lock(connection, tables.due_servers(self.servers, Stage.WAITING), values)
            return self._lease(connection, task, Stage.MOVING, now) if task is not None else None

    def _lock(
        self, connection: Connection, query: Select[tuple[object, ...]], values: Mapping[str, object]
    ) -> Task | None:
        row = connection.execute(query, {"drain_id": self.drain_id, **values}).one_or_none()
        return _task(row) if row is not None else None

    def _lease(self, connection: Connection, task: Task, stage: Stage, now: float) -> Task:
        values: dict[str, object] = {
            "stage": stage.value,
            "worker": self.worker,
            "lease_until": now + LEASE_SECONDS,
        }
        if task.stage is Stage.WAITING:
            values |= {"began": now, "tries": task.tries + 1, "ended": 0.0, "target_host": ""}
        self._update(connection, task.server_id, values)
        return task

    def set_move(self, server_id: str, move_id: str) -> None:
        """Store which move a server has."""
        with self._exclusive() as connection:
            self._update(connection, server_id, {"move_id": move_id})

    def set_target_host(self, server_id: str, host: str) -> None:
        """Store which target host nova's scheduler chose for a server."""
        with self._exclusive() as connection:
            self._update(connection, server_id, {"target_host": host})

    def leave_to_other_worker(self, server_id: str, now: float) -> None:
        """Leave a server alone for another lease, because another run still works on it."""
        with self._exclusive() as connection:
            until = _shared_time(connection, now) + LEASE_SECONDS
            self._update(connection, server_id, {"worker": "", "lease_until": until})

    def put(self, server_id: str, result: JobResult, now: float) -> None:
        """Store the result of a server and release its lease."""
        with self._exclusive() as connection:
            now = _shared_time(connection, now)
            is_pending = result.stage in (Stage.WAITING, Stage.SOAKING)
            values: dict[str, object] = {
                "stage": result.stage.value,
                "lease_until": 0.0,
                "code": result.code,
                "reason": result.reason,
                "next_command": result.next_command,
            }
            values |= {"due": now + result.after} if is_pending else {"ended": now}
            self._update(connection, server_id, values)

    def _update(self, connection: Connection, server_id: str, values: Mapping[str, object]) -> None:
        mine = {"drain_id": self.drain_id, "server_id": server_id}
        connection.execute(statements.change(self.servers, *mine), {**values, **statements.keyed(**mine)})

    def failures_since(self, moment: float, ignored: Collection[str] = ()) -> int:
        """Return how many servers of all runs failed, were reverted or did not verify since then.

        :param ignored: servers that do not count
        """
        values = {"drain_id": self.drain_id, "moment": moment, "ignored": list(ignored)}
        with self.journal.transaction() as connection:
            return int(connection.execute(tables.failure_count(self.servers), values).scalar() or 0)

    def incomplete(self, *stages: Stage) -> list[Task]:
        """Return the servers of these stages that have an open move."""
        open_moves = {move.server_id for move in self.journal.open_moves() if not move.is_repair}
        return [task for task in self.tasks(*stages) if task.server_id in open_moves]

    def counts(self) -> dict[Stage, int]:
        """Return the number of servers by stage."""
        from sqlalchemy import func, select

        if not self._exists():
            return {}
        stage = self.servers.c.stage
        query = select(stage, func.count().label("number")).where(self.servers.c.drain_id == self.drain_id)
        with self.journal.transaction() as connection:
            rows = connection.execute(query.group_by(stage)).all()
        return {Stage(row.stage): int(row.number) for row in rows}

    def task(self, server_id: str) -> Task | None:
        """Return one server; None when the queue does not have it."""
        with self.journal.transaction() as connection:
            mine = {"drain_id": self.drain_id, "server_id": server_id}
            row = connection.execute(statements.rows(self.servers, *mine), mine).one_or_none()
        return _task(row) if row is not None else None

    def target_host_counts(self, server_id: str) -> dict[str, int]:
        """Return how many servers other than this one move to each target host."""
        values = {"drain_id": self.drain_id, "server_id": server_id}
        with self.journal.transaction() as connection:
            rows = connection.execute(tables.target_host_counts(self.servers), values)
            return {row.target_host: int(row.number) for row in rows}


def open_queue(session: Session, record: Move) -> Queue:
    """Open the queue of a drain for this run."""
    return Queue(session.journal, record.id, worker_name(session.clock.new_token()))


def _shared_time(connection: Connection, now: float) -> float:
    """Return the time of the database where machines share it, because the clocks of machines differ."""
    if connection.dialect.name == "sqlite":
        return now
    from sqlalchemy import text

    return float(connection.execute(text("SELECT UNIX_TIMESTAMP(NOW(3))")).scalar() or now)


def _at_limit(names: Iterable[str], limit: int) -> list[str]:
    in_use = list(names)
    return sorted({name for name in in_use if limit and in_use.count(name) >= limit})


def _has_target_capacity(alive: Sequence[Task], limits: Limits) -> bool:
    """Return whether a target host can take one more server; servers without a host yet count as well."""
    if not limits.per_target_host or not limits.hosts:
        return True
    moving = [task for task in alive if task.stage is Stage.MOVING]
    counts = {host: sum(task.target_host == host for task in moving) for host in limits.hosts}
    free = sum(max(limits.per_target_host - count, 0) for count in counts.values())
    return free > sum(not task.target_host for task in moving)


def _task(row: Row[tuple[object, ...]]) -> Task:
    values = {column.name: getattr(row, column.name) for column in fields(Task)}
    return Task(**values | {"stage": Stage(row.stage)})
