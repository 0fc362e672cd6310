"""A run of a drain: takes servers from the queue within the limits, until it may start no more.

The threads of a run share the session's journal, gateway and connections. The state of a run is in the queue and in the
journal, so another run can continue after a kill.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellmove.core.errors import CallError, CellmoveError, Interrupted
from cellmove.drain.events import DrainEvent, DrainEventKind, server_event
from cellmove.drain.guest_state import GuestState
from cellmove.drain.item import IN_PROGRESS, JobResult, Stage, Task
from cellmove.drain.job import (
    LOCKED_BY_OTHER_RUN,
    MOVES_A_DAY_REACHED,
    ROLLED_BACK,
    MoveJob,
    process_server,
)
from cellmove.drain.leases import renewing
from cellmove.drain.limits import MIN_FREE, HostLimiter, Semaphore
from cellmove.drain.memory import limit_arenas
from cellmove.drain.queue import Limits, Queue
from cellmove.drain.window import Hours, closed_reason
from cellmove.engine.events import Event, EventKind
from cellmove.operations import permission

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.drain.capacity import CellCapacity
    from cellmove.drain.events import DrainObserver
    from cellmove.drain.options import DrainOptions
    from cellmove.operations.context import Session

    Futures = dict[concurrent.futures.Future[None], str]

POLL_INTERVAL_SECONDS = 1.0
"""Time between two reads of the clock and of the drain's control word."""

RETRY_INTERVAL_SECONDS = 5.0
"""Time until a server that was queued again is tried; doubled with each attempt."""

MAX_RETRY_CAPACITY_SECONDS = 300.0
"""Largest retry interval of a server that no host could take."""

MAX_RETRY_LOCKED_SECONDS = 60.0
"""Largest retry interval of a server on which another run works."""

MAX_SOAK_WAIT_SECONDS = 3600.0
"""A run waits for a soaking server that is due within this time or its own soak; it leaves any other to another run."""

RESULT_EVENTS = {
    Stage.SOAKING: DrainEventKind.SERVER_SOAKING,
    Stage.MOVED: DrainEventKind.SERVER_MOVED,
    Stage.REVERTED: DrainEventKind.SERVER_REVERTED,
    Stage.UNVERIFIED: DrainEventKind.SERVER_UNVERIFIED,
    Stage.FAILED: DrainEventKind.SERVER_FAILED,
    Stage.SKIPPED: DrainEventKind.SERVER_SKIPPED,
    Stage.REFUSED: DrainEventKind.SERVER_REFUSED,
    Stage.GONE: DrainEventKind.SERVER_GONE,
    Stage.WAITING: DrainEventKind.SERVER_REQUEUED,
}

START_EVENTS = {
    Stage.MOVING: DrainEventKind.SERVER_RESUMED,
    Stage.SOAKING: DrainEventKind.SERVER_CONFIRMING,
    Stage.CONFIRMING: DrainEventKind.SERVER_RESUMED,
}
"""The event of a server that is taken in this stage; a server in any other stage is started."""

NOT_STARTED = (Stage.WAITING, Stage.SKIPPED, Stage.REFUSED, Stage.GONE)
"""Results of servers that were taken and not moved: they do not count against --limit."""


@dataclass(frozen=True)
class RunPlan:
    """The input of a run.

    :param read_capacities: reads the capacity of the target cells
    :param target_hosts: the available target hosts
    :param began: seconds since the epoch
    :param failed_before: servers that failed in earlier runs; another failure of them does not count
    """

    cell: CellRef
    options: DrainOptions
    job: MoveJob
    hours: Hours
    read_capacities: Callable[[], Sequence[CellCapacity]]
    target_hosts: tuple[str, ...]
    began: float
    failed_before: frozenset[str] = frozenset()


class Worker:
    """One run of a drain.

    :param observe: receives the events of the drain and of its moves, from any thread
    """

    def __init__(self, session: Session, queue: Queue, plan: RunPlan, observe: DrainObserver) -> None:
        self.session, self.queue, self.plan, self.observe = session, queue, plan, observe
        options = plan.options
        self.max_started = options.parallel + options.ahead
        # Additional threads resume and confirm servers while the prepared ones wait.
        self.threads = self.max_started + (options.parallel if options.ahead else 0)
        self.limits = Limits(
            self.threads,
            options.per_source_host,
            options.per_target_host,
            options.per_project,
            plan.target_hosts,
        )
        self.host_limiter = HostLimiter(
            queue,
            plan.read_capacities,
            session.clock.monotonic,
            per_host=options.per_target_host,
            min_free=options.min_free,
        )
        self.semaphore = Semaphore(options.parallel)
        self.job = replace(plan.job, may_stop_guest=self._may_stop_guest) if options.ahead else plan.job
        self.started: set[str] = set()
        self.stop_reason = ""
        self.pause_reason = ""
        self.stops_prepared = False  # no more guests are stopped, not even those of prepared servers
        self._undecided: set[str] = set()  # servers that were taken, and for which no action is complete yet
        self._retries: Counter[str] = Counter()
        self._aborted = False
        self._fatal: CellmoveError | None = None

    # the loop

    def run(self) -> str:
        """Work until no server is left, or none may be started and those in progress have ended.

        :returns: why servers still wait; empty when none waits
        :raises Interrupted: a signal arrived
        """
        limit_arenas()
        self.session.gateway.choosing = self.host_limiter.choosing
        with (
            renewing(self.queue, self._now, self._fail),
            concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="drain") as threads,
        ):
            self._loop(threads)
        if self._fatal is not None:
            raise self._fatal
        if self.session.interrupted():
            raise self._interrupted()
        return self.stop_reason if self.queue.counts().get(Stage.WAITING) else ""

    def _loop(self, threads: concurrent.futures.ThreadPoolExecutor) -> None:
        futures: Futures = {}
        waits = self.session.clock.waits()
        while True:
            self._poll()
            taken = self._take_all(threads, futures)
            if taken:
                waits = self.session.clock.waits()
            if not futures and not taken and self._is_over():
                return
            self._wait(futures, min(next(waits), POLL_INTERVAL_SECONDS))

    def _interrupted(self) -> Interrupted:
        incomplete = ", ".join(task.name for task in self.queue.incomplete(Stage.FAILED))
        text = f"the moves of {incomplete} are incomplete" if incomplete else "no guest was left down"
        return Interrupted(
            f"interrupted; {text}",
            signal_number=self.session.interrupted(),
            state="the journal records every server that was started",
        )

    def _wait(self, futures: Futures, seconds: float) -> None:
        if not futures:
            self.session.clock.sleep(seconds)
            return
        done, _running = concurrent.futures.wait(
            futures, timeout=seconds, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            futures.pop(future)
            error = future.exception()
            if isinstance(error, CellmoveError) and not isinstance(error, Interrupted):
                self._fail(error)
            elif error is not None and not isinstance(error, Interrupted):
                raise error

    def _fail(self, error: CellmoveError) -> None:
        """Store the first error that ends the run: the journal cannot be written."""
        self._fatal = self._fatal or error

    def _take_all(self, threads: concurrent.futures.ThreadPoolExecutor, futures: Futures) -> bool:
        """Take servers while threads are free, and return whether any was taken."""
        taken = False
        while len(futures) < self.threads and not self.session.interrupted() and self._fatal is None:
            start = (
                len(futures) < self.max_started and not (self.stop_reason or self.pause_reason) and self._may_start()
            )
            task = self.queue.take(self._now(), self.limits, start=start)
            if task is None:
                break
            taken = True
            if task.stage is Stage.WAITING:
                self.started.add(task.server_id)
                self._undecided.add(task.server_id)
            futures[threads.submit(self._process, task)] = task.server_id
        return taken

    def _may_start(self) -> bool:
        """Return whether one more server may be started. A limit that is reached for good stops the run."""
        options, left_today = self.plan.options, permission.left_today(self.session)
        if options.limit and len(self.started) >= options.limit:
            if not self._undecided:
                self._stop(f"--limit {options.limit} reached")
            return False
        if left_today is not None and len(self._undecided) >= left_today:
            return not self._undecided  # the refusal of a single server has the text of the rule
        try:
            self._stop(self.host_limiter.stop_reason())
        except CallError as error:
            self._stop(f"the capacity of the target cells is unknown, because placement failed: {error}")
        return not self.stop_reason

    def _poll(self) -> None:
        """Read the clock, the number of failures and the drain's control word."""
        if self._fatal is not None or self.session.interrupted():
            self.stop_reason = self.stop_reason or "interrupted"
            return
        options, control = self.plan.options, self.queue.control()
        pause_reason = "cellmove drain pause" if control == "pause" else ""
        if options.pause_file and Path(options.pause_file).exists():
            pause_reason = f"the file {options.pause_file} exists"
        self._aborted = control == "abort"
        if self._aborted:
            self._stop_all("cellmove drain abort")
        elif bool(pause_reason) != bool(self.pause_reason):
            self.pause_reason = pause_reason
            self._report(DrainEventKind.PAUSED if pause_reason else DrainEventKind.CONTINUED, pause_reason)
        self._stop_all(closed_reason(self.plan.hours, self.session.clock.utc_now().astimezone()))
        if options.max_failures and not self.stops_prepared:
            number = self.queue.failures_since(self.plan.began, self.plan.failed_before)
            if number >= options.max_failures:
                self._stop_all(f"--max-failures {options.max_failures}: {number} failed")

    def _stop_all(self, reason: str) -> None:
        """Start no more servers, and stop no more guests of prepared servers."""
        self.stops_prepared = self.stops_prepared or bool(reason)
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Start no more servers."""
        if reason and not self.stop_reason:
            self.stop_reason = reason
            self._report(DrainEventKind.STOPPING, reason)

    def _is_over(self) -> bool:
        """Return whether the run has nothing to wait for."""
        if self._fatal is not None or self.session.interrupted():
            return True
        counts = self.queue.counts()
        if any(counts.get(stage) for stage in IN_PROGRESS):
            return False  # of another run; if that run has died, this one takes its servers soon
        if counts.get(Stage.SOAKING) and self.plan.options.confirm != "after" and not self._aborted:
            until = self._now() + max(self.plan.options.soak, MAX_SOAK_WAIT_SECONDS)
            if any(task.due <= until for task in self.queue.tasks(Stage.SOAKING)):
                return False
        return bool(self.stop_reason) or not counts.get(Stage.WAITING)

    # one server

    def _process(self, task: Task) -> None:
        """Process a server in a thread of its own, and store the result."""
        clock = self.session.clock
        started, guest = clock.monotonic(), self._guest_state(task)
        session = replace(
            self.session,
            observer=lambda event: self._observe(event, task, guest),
            interrupted=lambda: 0 if guest.is_down else self.session.interrupted(),
        )
        self._report_server(START_EVENTS.get(task.stage, DrainEventKind.SERVER_STARTED), task)
        try:
            self._acquire_slot(task, guest)
            result = process_server(session, self.job, task)
        except Interrupted:
            return
        except CellmoveError:  # the journal cannot be written
            raise
        except Exception as error:
            if os.environ.get("CELLMOVE_DEBUG"):
                raise
            reason = f"internal error of cellmove: {type(error).__name__}; set CELLMOVE_DEBUG=1 for details"
            result = JobResult(Stage.FAILED, reason, "fault", f"cellmove show {task.server_id}")
        finally:
            self.semaphore.release(task.server_id)
        result = self._requeue_if_rejected(task, result)
        self._undecided.discard(task.server_id)
        if result.stage in NOT_STARTED:
            self.started.discard(task.server_id)
        self._put(task, result, clock.monotonic() - started)

    def _guest_state(self, task: Task) -> GuestState:
        """Return the state of the guest, which an earlier run may have left down."""
        if task.stage is Stage.WAITING:
            return GuestState()
        move = self.session.journal.open_move_of(task.server_id)
        return GuestState(move, self.session.journal.entries_of(move.id) if move is not None else ())

    def _may_stop_guest(self, server_id: str) -> bool | None:
        """Return whether the guest of a prepared server may be stopped; see :class:`cellmove.operations.hold.Hold`."""
        if self.semaphore.holds(server_id):
            return True
        if self.session.interrupted() or self._fatal is not None:
            return None  # the server stays prepared for the next run
        if self.stops_prepared:
            return False
        return None if self.pause_reason or not self.semaphore.acquire(server_id) else True

    def _acquire_slot(self, task: Task, guest: GuestState) -> None:
        """Wait for a slot with a server that soaked, or that an earlier run left. A guest that is down does not wait."""
        if task.stage is Stage.WAITING or (task.stage is Stage.MOVING and not guest.is_down):
            return
        waits = self.session.clock.waits()
        while not self.semaphore.acquire(task.server_id, force=guest.is_down):
            if self.session.interrupted():
                raise Interrupted("interrupted", signal_number=self.session.interrupted())
            self.session.clock.sleep(next(waits))

    def _requeue_if_rejected(self, task: Task, result: JobResult) -> JobResult:
        """Queue a server again that failed only because the limits rejected all hosts."""
        limit = self.host_limiter.rejected.pop(task.server_id, "")
        if result.code == MOVES_A_DAY_REACHED:
            self._stop(result.reason)
        if not limit or result.code != ROLLED_BACK:
            return result
        if limit == MIN_FREE:
            self._stop(f"--min-free {self.plan.options.min_free:g}: no target cell has capacity for {task.name}")
        after = self._retry_interval(task, MAX_RETRY_CAPACITY_SECONDS)
        return JobResult(Stage.WAITING, "no target host has capacity now", limit, after=after)

    def _retry_interval(self, task: Task, most: float) -> float:
        """Return the seconds until the next attempt, doubled each time because an attempt costs a move and a rollback."""
        self._retries[task.server_id] += 1
        return min(RETRY_INTERVAL_SECONDS * 2.0 ** (self._retries[task.server_id] - 1), most)

    def _put(self, task: Task, result: JobResult, seconds: float) -> None:
        now = self._now()
        if result.code == LOCKED_BY_OTHER_RUN and task.stage is not Stage.WAITING:
            # The lease had expired, but its run is alive.
            self.queue.leave_to_other_worker(task.server_id, now)
            return
        if result.code == LOCKED_BY_OTHER_RUN:
            result = replace(result, after=self._retry_interval(task, MAX_RETRY_LOCKED_SECONDS))
        current = self.queue.task(task.server_id) or task
        self.queue.put(task.server_id, result, now)
        event = self._server_event(RESULT_EVENTS[result.stage], current)
        self.observe(replace(event, seconds=seconds, reason=result.reason, next_command=result.next_command))

    # events

    def _observe(self, event: Event, task: Task, guest: GuestState) -> None:
        guest.update(event)
        if event.kind is EventKind.ACTION_FINISHED:
            self._undecided.discard(task.server_id)
        if event.kind is EventKind.STEP_FINISHED:
            current = self.queue.task(task.server_id) or task  # with the host that was chosen meanwhile
            finished = self._server_event(DrainEventKind.STEP_FINISHED, current)
            self.observe(replace(finished, move_id=event.move_id, step=event.step, seconds=event.seconds))
        self.observe(event)

    def _report(self, kind: DrainEventKind, reason: str) -> None:
        self.observe(DrainEvent(kind, self.session.clock.text(), self.plan.cell, reason=reason))

    def _report_server(self, kind: DrainEventKind, task: Task) -> None:
        self.observe(self._server_event(kind, task))

    def _server_event(self, kind: DrainEventKind, task: Task) -> DrainEvent:
        return server_event(kind, self.session.clock.text(), self.plan.cell, task)

    def _now(self) -> float:
        return self.session.clock.utc_now().timestamp()
