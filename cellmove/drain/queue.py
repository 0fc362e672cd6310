"""The durable queue of a drain: which servers, in which order, who is at work on which, and what came of it.

Kept beside the journal, in the same database. It is no account of what was done to the cloud: that stands
in the moves' own lines, and a queue that is lost is made anew by the next run. So its rows carry no
checksums, and several runs on several machines write them at once.

Whoever works on a server has it on a *lease*: for as long as the run keeps renewing it nobody else takes
the server; after that another run does. The server's own lock and the journal's one open move hold
besides, so that a run which was only asleep cannot work on a server together with its heir.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from cellmove.db import statements
from cellmove.drain import tables
from cellmove.drain.item import TROUBLED, UNDER_WAY, Stage, Task

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Select

    from cellmove.engine.journal import Journal

LEASE = 60.0
"""Seconds for which a run that died keeps its servers."""

LEFT = "it is not in the cell any more: deleted, or moved by somebody else"

BATCH = 500


@dataclass(frozen=True)
class Limits:
    """How many servers may be under way at once; 0 is no limit.

    :param parallel: in one run; all others count over all runs of a drain, as hosts and projects do not care whose they are
    :param hosts: the target hosts there are; with ``per_target_host`` nothing is begun that could not go anywhere
    """

    parallel: int = 1
    per_source_host: int = 0
    per_target_host: int = 0
    per_project: int = 0
    hosts: tuple[str, ...] = ()


class Queue:
    """The servers of one drain. Every method is one transaction.

    :param worker: the run's name: machine, process, and something of its own
    """

    def __init__(self, journal: Journal, drain_id: str, worker: str) -> None:
        self.journal, self.drain_id, self.worker = journal, drain_id, worker
        self._known = False
        known = tables.metadata().tables
        self.drains, self.workers, self.servers = (
            known[name] for name in ("drains", "drain_workers", "drain_servers")
        )  # fmt: skip

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction that writes. All of a drain's runs take turns at its row: nothing can lock crosswise."""
        with self.journal.exclusive() as connection:
            connection.execute(tables.turn(self.drains), {"drain_id": self.drain_id})
            yield connection

    def _is_there(self) -> bool:
        """Whether there are tables; they are never taken away again."""
        self._known = self._known or has_tables(self.journal)
        return self._known

    # what a drain is asked

    def prepare(self, wish: Mapping[str, Any] | None = None) -> None:
        """Make the tables and this drain's row, and note what it is asked.

        :param wish: plain JSON values; None leaves what was asked before
        """
        from sqlalchemy.exc import IntegrityError

        make_tables(self.journal)
        text = json.dumps(dict(wish or {}))
        if self._drain() is None:
            with suppress(IntegrityError):  # another machine was quicker
                with self.journal.exclusive() as connection:
                    row = {"drain_id": self.drain_id, "control": "", "wish": text}
                    connection.execute(statements.insertion(self.drains), row)
                return
        if wish is not None:
            with self._alone() as connection:
                self._set(connection, wish=text)

    def wish(self) -> dict[str, Any]:
        """What the newest run was asked; empty when there was none."""
        found = self._drain()
        wish: dict[str, Any] = json.loads(found.wish) if found is not None else {}
        return wish

    def control(self) -> str:
        """What somebody at another terminal asks of the runs: "", "pause" or "abort"."""
        found = self._drain()
        return str(found.control) if found is not None else ""

    def set_control(self, word: str) -> bool:
        """Ask the runs for something; it takes effect between servers.

        :returns: False when they are asked to abort already: that is not rolled back, and nothing was changed
        """
        self.prepare()
        with self._alone() as connection:
            query = statements.rows(self.drains, "drain_id", columns=("control",))
            if connection.execute(query, {"drain_id": self.drain_id}).scalar() == "abort" != word:
                return False
            self._set(connection, control=word)
        return True

    def _set(self, connection: Connection, **values: str) -> None:
        key = statements.keyed(drain_id=self.drain_id)
        connection.execute(statements.change(self.drains, "drain_id"), values | key)

    def _drain(self) -> Any:
        if not self._is_there():
            return None
        query = statements.rows(self.drains, "drain_id", columns=("control", "wish"))
        with self.journal.transaction() as connection:
            found: list[Any] = list(connection.execute(query, {"drain_id": self.drain_id}))
        return found[0] if found else None

    # who is at work

    def beat(self, now: float) -> float:
        """Renew this run's leases.

        :param now: seconds since the epoch, as everywhere here
        :returns: the time by which the drain's runs go
        """
        mine = {"drain_id": self.drain_id, "worker": self.worker}
        with self._alone() as connection:
            now = _now(connection, now)
            renewal = {"seen_until": now + LEASE} | statements.keyed(**mine)
            if not connection.execute(statements.change(self.workers, *mine), renewal).rowcount:
                row = {**mine, "began": now, "seen_until": now + LEASE}
                connection.execute(statements.insertion(self.workers), row)
            connection.execute(tables.renewal(self.servers), {"lease_until": now + LEASE} | statements.keyed(**mine))
        return now

    def leave(self) -> None:
        """Give up every lease: this run ends, in good order or not. What it leaves under way, others may take."""
        mine = {"drain_id": self.drain_id, "worker": self.worker}
        with self._alone() as connection:
            connection.execute(statements.removal(self.workers, *mine), mine)
            connection.execute(tables.renewal(self.servers), {"lease_until": 0.0} | statements.keyed(**mine))

    def others(self, now: float) -> list[str]:
        """The other runs of this drain that are alive, as far as their leases tell."""
        from sqlalchemy import select

        if not self._is_there():
            return []
        with self.journal.transaction() as connection:
            query = select(self.workers.c.worker).where(
                self.workers.c.drain_id == self.drain_id,
                self.workers.c.worker != self.worker,
                self.workers.c.seen_until > _now(connection, now),
            )
            return list(connection.execute(query.order_by(self.workers.c.began)).scalars())

    def bury(self) -> None:
        """End the leases of all runs: whoever calls this knows that no other one is alive."""
        mine = {"drain_id": self.drain_id}
        with self._alone() as connection:
            connection.execute(statements.removal(self.workers, *mine), mine)
            connection.execute(statements.change(self.servers, *mine), {"lease_until": 0.0} | statements.keyed(**mine))

    # the servers

    def tasks(self, *stages: Stage) -> list[Task]:
        """The servers of this drain in their order; of these stages, if any are named."""
        if not self._is_there():
            return []
        with self.journal.transaction() as connection:
            return self._tasks(connection, *stages)

    def _tasks(self, connection: Connection, *stages: Stage) -> list[Task]:
        query = tables.in_order(self.servers, *stages)
        return [_task(row) for row in connection.execute(query, {"drain_id": self.drain_id})]

    def sync(
        self, wanted: Sequence[Task], *, again: bool, ended: float, open_moves: Collection[str] = ()
    ) -> list[Task]:
        """Bring the queue in line with a new look at the cell.

        What is under way or soaking stays as it is. What failed or was not what it had been, and whose move is not
        over, is under way again: it is brought to its end before anything else is begun. Servers that are not there any
        more, and that this drain did not move, are gone.

        :param wanted: every server of the cell: waiting, skipped or refused
        :param again: no other run is at work, so that whatever an earlier one said of a server is only the past
        :param ended: the time at which the others are noted to have gone
        :param open_moves: the servers that moves of the journal are about which are not over
        :returns: those that are gone since the look before
        """
        from sqlalchemy import bindparam, update

        kept = {*UNDER_WAY, Stage.SOAKING} | (set() if again else {Stage.MOVED, *TROUBLED})
        servers = self.servers
        with self._alone() as connection:
            known = {task.server_id: task for task in self._tasks(connection)}
            new, changed, unfinished, gone = [], [], [], []
            for task in wanted:
                before = known.pop(task.server_id, None)
                if before is None:
                    new.append(task)
                elif before.stage in (Stage.FAILED, Stage.UNVERIFIED) and again and task.server_id in open_moves:
                    unfinished.append(task.server_id)
                elif before.stage not in kept:
                    changed.append(task)
            for server_id, task in known.items():  # these are in the cell no more
                if task.stage in (Stage.FAILED, Stage.UNVERIFIED) and again and task.move_id:
                    unfinished.append(server_id)
                elif task.stage not in {*kept, Stage.MOVED, Stage.GONE}:
                    gone.append(task)
            for batch in _batches(new):
                connection.execute(
                    statements.insertion(servers), [{"drain_id": self.drain_id, **_values(task)} for task in batch]
                )
            # What earlier tries came to is kept beside the new look: how many there were, and the last move.
            columns = [each.name for each in fields(Task) if each.name not in KEPT]
            change = (
                update(servers)
                .where(servers.c.drain_id == self.drain_id, servers.c.server_id == bindparam("key"))
                .values({name: bindparam(f"new_{name}") for name in columns})
            )
            for batch in _batches(changed):
                rows = [
                    {"key": task.server_id, **{f"new_{name}": _values(task)[name] for name in columns}}
                    for task in batch
                ]
                connection.execute(change, rows)
            for ids in _batches(unfinished):
                mine = (servers.c.drain_id == self.drain_id) & servers.c.server_id.in_(ids)
                connection.execute(update(servers).where(mine).values(stage=Stage.MOVING.value, lease_until=0.0))
            left = {"stage": Stage.GONE.value, "ended": ended, "code": "gone", "reason": LEFT, "next_command": ""}
            for ids in _batches([task.server_id for task in gone]):
                mine = (servers.c.drain_id == self.drain_id) & servers.c.server_id.in_(ids)
                connection.execute(update(servers).where(mine).values(left))
        return [replace(task, stage=Stage.GONE, reason=LEFT, next_command="") for task in gone]

    def take(self, now: float, limits: Limits, *, start: bool) -> Task | None:
        """Take the next server on a lease: one whose run died, one that is due, or (``start``) a new one.

        :returns: the server as it was before; None when there is none just now
        """
        servers = self.servers
        with self._alone() as connection:
            now = _now(connection, now)
            busy = self._tasks(connection, *UNDER_WAY)
            # One of our own is none, however long its lease was not renewed: this process slept, or the machine did.
            task = self._lock(connection, tables.orphans(servers), now=now, worker=self.worker)
            if task is not None:
                return self._lease(connection, task, task.stage, now)
            alive = [each for each in busy if each.lease_until > now or each.worker == self.worker]
            if sum(each.worker == self.worker for each in alive) >= limits.parallel:
                return None
            hosts = _full((each.host for each in alive), limits.per_source_host)
            projects = _full((each.project_id for each in alive), limits.per_project)
            task = self._lock(connection, tables.due(servers, Stage.SOAKING), now=now, hosts=hosts, projects=projects)
            if task is not None:
                return self._lease(connection, task, Stage.CONFIRMING, now)
            if not start or not _has_a_place(alive, limits):
                return None
            task = self._lock(connection, tables.due(servers, Stage.WAITING), now=now, hosts=hosts, projects=projects)
            return self._lease(connection, task, Stage.MOVING, now) if task is not None else None

    def _lock(self, connection: Connection, query: Select[Any], **values: Any) -> Task | None:
        row = connection.execute(query, {"drain_id": self.drain_id, **values}).one_or_none()
        return _task(row) if row is not None else None

    def _lease(self, connection: Connection, task: Task, stage: Stage, now: float) -> Task:
        fresh = {"began": now, "tries": task.tries + 1, "ended": 0.0, "target_host": ""}
        began = fresh if task.stage is Stage.WAITING else {}
        values = {"stage": stage.value, "worker": self.worker, "lease_until": now + LEASE, **began}
        self._update(connection, task.server_id, values)
        return task

    def note(self, server_id: str, **values: Any) -> None:
        """Write down something of a server that this run works on: its move, the host that was chosen."""
        with self._alone() as connection:
            self._update(connection, server_id, values)

    def leave_to_another(self, server_id: str, now: float) -> None:
        """Let a server be, on which somebody else is at work, until another lease has run out."""
        with self._alone() as connection:
            self._update(connection, server_id, {"worker": "", "lease_until": _now(connection, now) + LEASE})

    def put(self, server_id: str, stage: Stage, now: float, *, after: float = 0.0, **values: Any) -> None:
        """Let go of a server: it stands in this stage now.

        :param after: seconds until it is due, if it is to be taken again
        """
        with self._alone() as connection:
            now = _now(connection, now)
            ended = {"due": now + after} if stage in (Stage.WAITING, Stage.SOAKING) else {"ended": now}
            self._update(connection, server_id, {"stage": stage.value, "lease_until": 0.0, **ended, **values})

    def _update(self, connection: Connection, server_id: str, values: Mapping[str, Any]) -> None:
        mine = {"drain_id": self.drain_id, "server_id": server_id}
        connection.execute(statements.change(self.servers, *mine), {**values, **statements.keyed(**mine)})

    def failures_since(self, moment: float, but: Collection[str] = ()) -> int:
        """How many servers failed, or were not what they had been, since then; whoever worked on them.

        :param but: servers that do not count
        """
        values = {"drain_id": self.drain_id, "moment": moment, "but": list(but)}
        with self.journal.transaction() as connection:
            return int(connection.execute(tables.failures(self.servers), values).scalar() or 0)

    def halfway(self, *stages: Stage) -> list[Task]:
        """The servers of these stages whose move is begun and not over."""
        open_moves = {move.server_id for move in self.journal.open_moves() if not move.is_repair}
        return [task for task in self.tasks(*stages) if task.server_id in open_moves]

    def counts(self) -> dict[Stage, int]:
        """How many servers stand where."""
        from sqlalchemy import func, select

        if not self._is_there():
            return {}
        query = select(self.servers.c.stage, func.count().label("number")).where(
            self.servers.c.drain_id == self.drain_id
        )
        with self.journal.transaction() as connection:
            rows = connection.execute(query.group_by(self.servers.c.stage)).all()
        return {Stage(row.stage): int(row.number) for row in rows}

    def task(self, server_id: str) -> Task | None:
        """One server."""
        with self.journal.transaction() as connection:
            mine = {"drain_id": self.drain_id, "server_id": server_id}
            row = connection.execute(statements.rows(self.servers, *mine), mine).one_or_none()
        return _task(row) if row is not None else None

    def on_target_hosts(self, server_id: str) -> dict[str, int]:
        """How many servers, this one aside, are under way to each target host."""
        values = {"drain_id": self.drain_id, "server_id": server_id}
        with self.journal.transaction() as connection:
            found = connection.execute(tables.targets(self.servers), values)
            return {row.target_host: int(row.number) for row in found}


KEPT = frozenset({"server_id", "tries", "move_id", "began", "worker", "lease_until"})
"""Columns of a server that a new look leaves alone."""


def make_tables(journal: Journal) -> None:
    """Make the queue's tables where there are none."""
    if not has_tables(journal):
        with journal.named_lock("cellmove-tables"), journal.exclusive() as connection:
            tables.metadata().create_all(connection)


def has_tables(journal: Journal) -> bool:
    """Whether there was ever a drain in this journal."""
    from sqlalchemy import inspect

    with journal.transaction() as connection:
        return inspect(connection).has_table("drain_servers")


def _now(connection: Connection, now: float) -> float:
    """The time by the database's clock where machines share it: theirs need not agree."""
    if connection.dialect.name == "sqlite":
        return now
    from sqlalchemy import text

    return float(connection.execute(text("SELECT UNIX_TIMESTAMP(NOW(3))")).scalar() or now)


def _full(names: Iterable[str], limit: int) -> list[str]:
    found = list(names)
    return sorted({name for name in found if limit and found.count(name) >= limit})


def _has_a_place(alive: Sequence[Task], limits: Limits) -> bool:
    """Whether a target host is left for one more, those counted that have none yet."""
    if not limits.per_target_host or not limits.hosts:
        return True
    moving = [each for each in alive if each.stage is Stage.MOVING]
    counts = {host: sum(each.target_host == host for each in moving) for host in limits.hosts}
    free = sum(max(limits.per_target_host - count, 0) for count in counts.values())
    return free > sum(not each.target_host for each in moving)


def _batches(found: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (found[at : at + BATCH] for at in range(0, len(found), BATCH))


def _values(task: Task) -> dict[str, Any]:
    values = {each.name: getattr(task, each.name) for each in fields(Task)}
    return values | {"stage": task.stage.value, "name": task.name[:255]}


def _task(row: Row[Any]) -> Task:
    values = {each.name: getattr(row, each.name) for each in fields(Task)}
    return Task(**values | {"stage": Stage(row.stage)})
