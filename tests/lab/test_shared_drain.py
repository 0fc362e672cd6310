"""Three machines drain one cell with a journal in MariaDB, and one of them dies: the others take over what it had."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy

from cellmove.core.move import State
from cellmove.drain.item import IN_PROGRESS, JobResult, Stage, Task
from cellmove.drain.options import DrainOptions
from cellmove.drain.queue import Limits, Queue
from cellmove.drain.request import DrainRequest
from cellmove.drain.tables import metadata
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.sandbox.process import Process
from tests.proof import faulty_drain
from tests.support import fork_server
from tests.support.commands import run_command
from tests.support.sandbox.cloud_process import start

SERVERS, PER_HOST = 30, 4
PARALLEL = {"one": 2, "two": 4, "three": 6}
"""How many may be under way for each machine's command, over all: whoever comes later finds room all the same."""
LEASE = 4.0


def run_with_lease(seconds: float, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """Be `cellmove` with leases that end soon, for a test that waits for that."""
    from cellmove.drain import queue

    queue.LEASE_SECONDS = seconds
    run_command(arguments, environment, out, err)


@dataclass(frozen=True)
class Machine:
    """A `drain-cell` with a home of its own: its lock files do not lie before the others."""

    child: BaseProcess
    out: Path
    err: Path

    @property
    def worker(self) -> str:
        """By which the queue's rows know it."""
        return str(self.child.pid)

    @property
    def said(self) -> str:
        """Everything, for a failure's message."""
        return "".join(path.read_text() for path in (self.out, self.err) if path.exists())


@dataclass(frozen=True)
class Busy:
    """A server that a machine has on a lease; ``worker`` is the process."""

    server_id: str
    host: str
    worker: str
    target_host: str


@dataclass
class Cell:
    """A full cell, and a journal that machines share."""

    process: Process
    journal: Journal
    made: dict[str, faulty_drain.Shape]
    folder: Path
    url: str

    def machine(self, name: str) -> Machine:
        """Start one."""
        home = self.folder / name
        home.mkdir()
        environment = {**self.process.environment, "CELLMOVE_JOURNAL": self.url, "HOME": str(home)}
        arguments = [
            "drain-cell", "cell1", "--parallel", str(PARALLEL[name]), "--per-source-host", str(PER_HOST),
            "--max-failures", "0",
        ]  # fmt: skip
        out, err = home / "out", home / "err"
        return Machine(fork_server.start(run_with_lease, LEASE, arguments, environment, out, err), out, err)

    def under_way(self) -> list[Busy]:
        """The servers that some machine has on a lease that has not run out."""
        servers = metadata().tables["drain_servers"]
        columns = servers.c.server_id, servers.c.host, servers.c.worker, servers.c.target_host
        alive = servers.c.lease_until > sqlalchemy.text("UNIX_TIMESTAMP(NOW(3))")
        with self.journal.transaction() as connection:
            if not sqlalchemy.inspect(connection).has_table("drain_servers"):
                return []
            query = sqlalchemy.select(*columns).where(servers.c.stage.in_(IN_PROGRESS), alive)
            return [
                Busy(row.server_id, row.host, row.worker.split(":")[1], row.target_host)
                for row in connection.execute(query)
            ]


@pytest.fixture
def cell(shared: str, tmp_path: Path) -> Iterator[Cell]:
    """The cloud is the sandbox: what is tried here is the journal."""
    process = start(tmp_path / "cloud")
    try:
        journal = open_journal(shared, lambda: "now")
        yield Cell(process, journal, faulty_drain.boot(process, SERVERS), tmp_path, shared)
        journal.engine.dispose()
    finally:
        process.end()


@pytest.mark.lab
def test_three_machines_drain_a_cell_and_one_dies(cell: Cell) -> None:
    cell.process.control("pace", seconds=0.1)
    seen: list[list[Busy]] = []

    def until(done: Callable[[list[Busy]], bool]) -> list[Busy]:
        """Look who is at work until something is so."""
        deadline = time.monotonic() + 240
        while True:
            seen.append(cell.under_way())
            if done(seen[-1]):
                return seen[-1]
            assert time.monotonic() < deadline, "\n".join(each.said for each in machines.values())
            time.sleep(0.05)

    machines: dict[str, Machine] = {}
    for number, name in enumerate(PARALLEL, 1):
        machines[name] = cell.machine(name)
        until(lambda rows, number=number: len({row.worker for row in rows}) == number)
    victim = machines["three"]
    rows = until(lambda rows: any(row.worker == victim.worker and row.target_host for row in rows))
    victim.child.kill()
    orphans = {row.server_id for row in rows if row.worker == victim.worker}
    until(lambda _rows: all(each.child.exitcode is not None for each in machines.values()))
    for machine in machines.values():
        assert machine.child.exitcode == (-signal.SIGKILL if machine is victim else 0), machine.said
        assert "Traceback" not in machine.said
    for name, machine in machines.items():
        assert max(sum(row.worker == machine.worker for row in rows) for rows in seen) <= PARALLEL[name]
    assert max(max(Counter(row.host for row in rows).values(), default=0) for rows in seen) <= PER_HOST
    assert faulty_drain.judged(cell.process, cell.made) == []
    moves = cell.journal.all_moves()
    assert Counter(move.server_id for move in moves) == Counter(list(cell.made)), "each server was moved, and once"
    assert {move.state for move in moves} == {State.CONFIRMED}
    (drain,) = cell.journal.drains()
    assert drain.state is State.DRAINED
    tasks = Queue(cell.journal, drain.id, "test").tasks()
    assert {task.stage for task in tasks} == {Stage.MOVED}
    workers = {task.server_id: task.worker.split(":")[1] for task in tasks}
    assert victim.worker not in {workers[server] for server in orphans}, "what it had, others have taken"


@pytest.mark.lab
def test_eight_runs_begin_one_drain_at_once(shared: str) -> None:
    """Tables, the drain's row and its servers are made once, whoever is first; nobody waits for another in a circle."""
    tasks = [Task(f"server-{number:03}", f"s{number}", host="h", position=number) for number in range(40)]
    open_journal(shared, lambda: "now").engine.dispose()
    taken: list[str] = []
    numbers = itertools.count()

    def run(_number: int) -> None:
        journal = open_journal(shared, lambda: "now")
        queue = Queue(journal, "drain-1", f"worker-{next(numbers)}")
        queue.prepare(DrainRequest(DrainOptions(parallel=8)))
        began = queue.renew_leases(0.0)
        queue.synchronise(tasks, is_alone=False, now=began)
        while (task := queue.take(0.0, Limits(parallel=8), start=True)) is not None:
            taken.append(task.server_id)
            queue.set_target_host(task.server_id, "t")
            queue.renew_leases(0.0)
            queue.put(task.server_id, JobResult(Stage.MOVED), 0.0)
        queue.release()
        journal.engine.dispose()

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(run, number) for number in range(8)]:
            future.result()
    assert sorted(taken) == [task.server_id for task in tasks]
