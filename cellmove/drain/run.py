"""A run of a drain: takes servers from the queue, as many at once as the limits let it, until nothing is left to begin.

The threads share the session's journal, gateway and connections. Whatever a run knows of its progress
stands in the queue and in the journal: one that is killed leaves nothing that the next could not go on with.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CallError, CellmoveError, Interrupted
from cellmove.drain.happening import Happening, Kind, about
from cellmove.drain.item import UNDER_WAY, Stage, Task
from cellmove.drain.queue import LEASE, Limits, Queue
from cellmove.drain.room import Doorkeeper, Room
from cellmove.drain.turnstile import Turnstile
from cellmove.drain.window import Hours, why_closed
from cellmove.drain.wish import Wish
from cellmove.drain.work import DAY_IS_USED_UP, LOCKED_BY_ANOTHER, Downtime, Job, Outcome, work
from cellmove.engine.events import Event, EventKind
from cellmove.operations import permission

if TYPE_CHECKING:
    from cellmove.core.cell_names import CellRef
    from cellmove.core.move import Move
    from cellmove.drain.happening import Watcher
    from cellmove.operations.context import Session

LOOKS = 1.0
"""Seconds between two looks at what somebody at another terminal wants, and at the clock."""

AGAIN = 5.0
"""Seconds until a server that was put back is tried again; each time it is, twice as many."""

CROWDED, LOCKED = 300.0, 60.0
"""And how many at most: for one that no host could take just now, and for one on which somebody else is at work."""

SOON = 3600.0
"""A server that soaks longer, and longer than this run's own would, is left to another run."""

SAID = {
    Stage.SOAKING: Kind.SERVER_SOAKING, Stage.MOVED: Kind.SERVER_MOVED, Stage.REVERTED: Kind.SERVER_REVERTED,
    Stage.UNVERIFIED: Kind.SERVER_UNVERIFIED, Stage.FAILED: Kind.SERVER_FAILED, Stage.SKIPPED: Kind.SERVER_SKIPPED,
    Stage.REFUSED: Kind.SERVER_REFUSED, Stage.GONE: Kind.SERVER_GONE, Stage.WAITING: Kind.SERVER_PUT_BACK,
}  # fmt: skip

NOT_BEGUN = (Stage.WAITING, Stage.SKIPPED, Stage.REFUSED, Stage.GONE)
"""What a server came to that was taken and not moved: it does not count against --limit."""

TAKEN = {
    Stage.MOVING: Kind.SERVER_TAKEN_UP, Stage.SOAKING: Kind.SERVER_CONFIRMING, Stage.CONFIRMING: Kind.SERVER_TAKEN_UP,
}  # fmt: skip
"""What it means that a server was taken that stood there; all others are begun."""


HEAPS = 2
M_ARENA_MAX = -8  # malloc.h


def _share_heaps() -> None:
    """Let all threads take their memory from few heaps, whatever the number of processors.

    glibc gives each new thread another of up to eight a processor, and what is free in one is of no use to the others:
    a run with 32 servers at a time held twice as much as it needed. Other C libraries have no such heaps.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


@dataclass(frozen=True)
class Plan:
    """What a run works with.

    :param began: seconds since the epoch
    :param rooms: asks the target cells for their room
    :param failed_before: servers with which earlier runs did not get on: that they fail again is no news
    """

    cell: CellRef
    wish: Wish
    job: Job
    hours: Hours
    rooms: Callable[[], Sequence[Room]]
    target_hosts: tuple[str, ...]
    began: float
    failed_before: frozenset[str] = frozenset()


class Shift:
    """One run at work on a drain's queue.

    :param watch: told of every change; ``hear`` of every event of a move, from any thread
    """

    def __init__(
        self, session: Session, queue: Queue, plan: Plan, watch: Watcher, hear: Callable[[Event], None]
    ) -> None:
        self.session, self.queue, self.plan, self.watch, self.hear = session, queue, plan, watch, hear
        wish = plan.wish
        self.at_once = wish.parallel + wish.ahead
        # Those that wait must not keep what was begun earlier, or is due, from going on.
        self.threads = self.at_once + (wish.parallel if wish.ahead else 0)
        self.limits = Limits(
            self.threads, wish.per_source_host, wish.per_target_host, wish.per_project, plan.target_hosts
        )
        self.door = Doorkeeper(
            queue, plan.rooms, session.clock.monotonic, per_host=wish.per_target_host, min_free=wish.min_free
        )
        self.turnstile = Turnstile(wish.parallel)
        self.job = replace(plan.job, gate=self._gate) if wish.ahead else plan.job
        self.begun: set[str] = set()
        self._put_back: Counter[str] = Counter()
        self._undecided: set[str] = set()  # taken, and nothing has been done to them yet
        self.stopping = ""
        self.closing = False  # no guest is to be stopped any more, not even of those that are prepared
        self.pausing = ""
        self._aborted = False
        self._fatal: CellmoveError | None = None
        self._over = threading.Event()

    # what the loop asks

    def run(self) -> str:
        """Work until nothing is left, or nothing may be begun and what runs has ended.

        :returns: why nothing was begun any more although servers wait; empty when none wait
        :raises Interrupted: a signal came
        """
        _share_heaps()
        self.session.gateway.choosing = self.door.choosing
        futures: dict[concurrent.futures.Future[None], str] = {}
        with (
            self._renewing(),
            concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="drain") as threads,
        ):
            waits = self.session.clock.waits()
            while True:
                self._look_around()
                took = self._take_all(threads, futures)
                if took:
                    waits = self.session.clock.waits()
                if not futures and not took and self._is_over():
                    break
                self._wait(futures, min(next(waits), LOOKS))
        if self._fatal is not None:
            raise self._fatal
        if self.session.interrupted():
            stuck = ", ".join(task.name for task in self.queue.halfway(Stage.FAILED))
            left = (
                f"the moves of {stuck} stopped half-way"
                if stuck
                else "no server was left in the middle of its downtime"
            )
            raise Interrupted(
                f"interrupted; {left}",
                signal_number=self.session.interrupted(),
                state="the journal has every server that was started, and where it stands",
            )
        return self.stopping if self.queue.counts().get(Stage.WAITING) else ""

    def _downtime(self, task: Task) -> Downtime:
        """Where the guest of a server is that an earlier run may have left in the middle of its move."""
        if task.stage is Stage.WAITING:
            return Downtime()
        move = self.session.journal.open_move_of(task.server_id)
        return Downtime(move, self.session.journal.entries_of(move.id) if move is not None else ())

    def _wait(self, futures: dict[concurrent.futures.Future[None], str], seconds: float) -> None:
        if futures:
            done, _running = concurrent.futures.wait(
                futures, timeout=seconds, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for each in done:
                futures.pop(each)
                self._fail(each.exception())
        else:
            self.session.clock.sleep(seconds)

    def _fail(self, error: BaseException | None) -> None:
        """What a thread could not deal with itself: the journal is gone, or this is a fault."""
        if error is None or isinstance(error, Interrupted):
            return
        if not isinstance(error, CellmoveError):
            raise error
        self._fatal = self._fatal or error

    def _take_all(
        self, threads: concurrent.futures.ThreadPoolExecutor, futures: dict[concurrent.futures.Future[None], str]
    ) -> bool:
        took = False
        while len(futures) < self.threads and not self.session.interrupted() and self._fatal is None:
            start = len(futures) < self.at_once and not (self.stopping or self.pausing) and self._may_begin()
            task = self.queue.take(self._now(), self.limits, start=start)
            if task is None:
                break
            took = True
            if task.stage is Stage.WAITING:
                self.begun.add(task.server_id)
                self._undecided.add(task.server_id)
            futures[threads.submit(self._one, task)] = task.server_id
        return took

    def _may_begin(self) -> bool:
        """Whether one more may be begun; what speaks against it for good is noted."""
        wish, today = self.plan.wish, permission.left_today(self.session)
        if wish.limit and len(self.begun) >= wish.limit:
            if not self._undecided:
                self._stop(f"--limit {wish.limit}: so many were begun")
            return False
        if today is not None and len(self._undecided) >= today:
            return not self._undecided  # one that is looked at alone brings the rule's own words
        try:
            self._stop(self.door.why_full())
        except CallError as error:
            self._stop(f"placement cannot be asked how much room is left: {error}")
        return not self.stopping

    def _look_around(self) -> None:
        """What the clock, the failures and other terminals say."""
        if self._fatal is not None or self.session.interrupted():
            self.stopping = self.stopping or "interrupted"
            return
        control = self.queue.control()
        paused = "cellmove drain pause" if control == "pause" else ""
        if self.plan.wish.pause_file and Path(self.plan.wish.pause_file).exists():
            paused = f"the file {self.plan.wish.pause_file} is there"
        self._aborted = control == "abort"
        if self._aborted:
            self._close("cellmove drain abort")
        elif bool(paused) != bool(self.pausing):
            self.pausing = paused
            self._tell(Kind.PAUSED if paused else Kind.GOING_ON, reason=paused)
        self._close(why_closed(self.plan.hours, self.session.clock.utc_now().astimezone()))
        most = self.plan.wish.max_failures
        if most and not self.closing:
            number = self.queue.failures_since(self.plan.began, self.plan.failed_before)
            if number >= most:
                self._close(f"--max-failures {most}: {number} failed")

    def _close(self, reason: str) -> None:
        """Begin with nothing more, and let none of those that are prepared go on."""
        self.closing = self.closing or bool(reason)
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        if reason and not self.stopping:
            self.stopping = reason
            self._tell(Kind.STOPPING, reason=reason)

    def _is_over(self) -> bool:
        """Whether this run has nothing more to wait for."""
        if self._fatal is not None or self.session.interrupted():
            return True
        counts = self.queue.counts()
        if any(counts.get(stage) for stage in UNDER_WAY):
            return False  # another run's; if that one has died, its servers are ours before long
        if counts.get(Stage.SOAKING) and self.plan.wish.confirm != "after" and not self._aborted:
            soon = self._now() + max(self.plan.wish.soak, SOON)
            if any(task.due <= soon for task in self.queue.tasks(Stage.SOAKING)):
                return False
        return bool(self.stopping) or not counts.get(Stage.WAITING)

    # one server

    def _one(self, task: Task) -> None:
        """Work on a server in a thread of its own, and write down what came of it."""
        clock = self.session.clock
        started, downtime = clock.monotonic(), self._downtime(task)
        session = replace(
            self.session,
            observer=lambda event: self._observe(event, task, downtime),
            interrupted=lambda: 0 if downtime.is_down else self.session.interrupted(),
        )
        self._tell(TAKEN.get(task.stage, Kind.SERVER_BEGUN), task)
        try:
            self._wait_for_place(task, downtime)
            outcome = work(session, self.job, task)
        except Interrupted:
            return
        except CellmoveError:  # nothing can be written down any more
            raise
        except Exception as error:
            if os.environ.get("CELLMOVE_DEBUG"):
                raise
            outcome = Outcome(
                Stage.FAILED, f"this is a fault in cellmove: {type(error).__name__}; CELLMOVE_DEBUG=1 shows more",
                "fault", f"cellmove show {task.server_id}",
            )  # fmt: skip
        finally:
            self.turnstile.leave(task.server_id)
        outcome = self._turned_away(task, outcome)
        self._undecided.discard(task.server_id)
        if outcome.stage in NOT_BEGUN:
            self.begun.discard(task.server_id)
        self._put(task, outcome, clock.monotonic() - started)

    def _gate(self, server_id: str) -> bool | None:
        """Whether the guest of a server that is prepared may be stopped; see :class:`cellmove.operations.hold.Hold`."""
        if self.turnstile.is_inside(server_id):
            return True
        if self.session.interrupted() or self._fatal is not None:
            return None  # it stays prepared, for the next run
        if self.closing:
            return False  # nothing was done to its guest, so it is one of those that nothing begins with any more
        return None if self.pausing or not self.turnstile.enter(server_id) else True

    def _wait_for_place(self, task: Task, downtime: Downtime) -> None:
        """Of what an earlier run left, or a soak: a guest that is down comes before all others, and counts."""
        if task.stage is Stage.WAITING or (task.stage is Stage.MOVING and not downtime.is_down):
            return
        waits = self.session.clock.waits()
        while not self.turnstile.enter(task.server_id, at_once=downtime.is_down):
            if self.session.interrupted():
                raise Interrupted("interrupted", signal_number=self.session.interrupted())
            self.session.clock.sleep(next(waits))

    def _turned_away(self, task: Task, outcome: Outcome) -> Outcome:
        """A failure that only means that no host may take it just now."""
        why = self.door.turned_away.pop(task.server_id, "")
        if outcome.code == DAY_IS_USED_UP:
            self._stop(outcome.reason)
        if not why or outcome.code != "rolled-back":
            return outcome
        if why == "min-free":
            self._stop(f"--min-free {self.plan.wish.min_free:g}: no target cell has room for {task.name}")
        return Outcome(Stage.WAITING, "no host may take it just now", why, after=self._again_in(task, CROWDED))

    def _again_in(self, task: Task, most: float) -> float:
        """How many seconds one that is put back has to wait: more each time, as each try is a move that is rolled back."""
        self._put_back[task.server_id] += 1
        return min(AGAIN * 2.0 ** (self._put_back[task.server_id] - 1), most)

    def _put(self, task: Task, outcome: Outcome, seconds: float) -> None:
        now = self._now()
        if outcome.code == LOCKED_BY_ANOTHER and task.stage is not Stage.WAITING:
            # Somebody else is still at work on what we took for an orphan's: let the lease run out once more.
            self.queue.leave_to_another(task.server_id, now)
            return
        if outcome.code == LOCKED_BY_ANOTHER:
            outcome = replace(outcome, after=self._again_in(task, LOCKED))
        found = self.queue.task(task.server_id) or task
        self.queue.put(
            task.server_id, outcome.stage, now, after=outcome.after, code=outcome.code, reason=outcome.reason,
            next_command=outcome.next_command,
        )  # fmt: skip
        self._tell(
            SAID[outcome.stage], found, seconds=seconds, reason=outcome.reason, next_command=outcome.next_command
        )

    def _observe(self, event: Event, task: Task, downtime: Downtime) -> None:
        downtime.hear(event)
        if event.kind is EventKind.ACTION_FINISHED:
            self._undecided.discard(task.server_id)
        if event.kind is EventKind.STEP_FINISHED:
            found = self.queue.task(task.server_id) or task  # its host was chosen since
            self._tell(Kind.STEP, found, move_id=event.move_id, step=event.step, seconds=event.seconds)
        self.hear(event)

    # small things

    def _now(self) -> float:
        return self.session.clock.utc_now().timestamp()

    def _tell(self, kind: Kind, task: Task | None = None, **values: Any) -> None:
        self.watch(
            Happening(
                kind,
                self.session.clock.text(),
                self.plan.cell,
                **{**(about(task) if task is not None else {}), **values},
            )
        )

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew the leases while the block runs; give them up at its end."""

        def renew() -> None:
            while not self._over.wait(LEASE / 4):
                try:
                    self.queue.beat(self._now())
                except CellmoveError as error:
                    self._fatal = self._fatal or error

        thread = threading.Thread(target=renew, name="drain-leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(5.0)


def job_of(queue: Queue, wish: Wish, source: Any, probes: Sequence[Any]) -> Job:
    """What the servers of a run are moved with; which move each has is noted in the queue."""

    def begun(server_id: str, move: Move) -> None:
        queue.note(server_id, move_id=move.id)

    return Job(wish, source, probes, begun)
