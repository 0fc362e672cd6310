"""Shows the events of a drain: a live table on a terminal, plain lines for cron, JSON lines for programs."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from cellmove.core.move import Step
from cellmove.drain.events import DrainEvent, DrainEventKind
from cellmove.drain.item import Stage
from cellmove.engine.events import Event, EventKind
from cellmove.ui.console import draws_over, duration, styled, write
from cellmove.ui.drain_documents import event_document, listed
from cellmove.ui.progress import Lines, LiveDisplay, SafeStream, answer_to, write_now

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

RESULT_STAGES = {
    DrainEventKind.SERVER_MOVED: Stage.MOVED,
    DrainEventKind.SERVER_REVERTED: Stage.REVERTED,
    DrainEventKind.SERVER_UNVERIFIED: Stage.UNVERIFIED,
    DrainEventKind.SERVER_FAILED: Stage.FAILED,
    DrainEventKind.SERVER_REFUSED: Stage.REFUSED,
    DrainEventKind.SERVER_SKIPPED: Stage.SKIPPED,
    DrainEventKind.SERVER_GONE: Stage.GONE,
    DrainEventKind.SERVER_SOAKING: Stage.SOAKING,
    DrainEventKind.SERVER_REQUEUED: Stage.WAITING,
}
"""The stage of a server after an event that ends the work on it."""

START_STAGES = {
    DrainEventKind.SERVER_STARTED: (Stage.WAITING, Stage.MOVING),
    DrainEventKind.SERVER_RESUMED: (Stage.MOVING, Stage.MOVING),
    DrainEventKind.SERVER_CONFIRMING: (Stage.SOAKING, Stage.CONFIRMING),
}
"""The stages of a server before and after an event that starts the work on it."""

FAILURES = (DrainEventKind.SERVER_FAILED, DrainEventKind.SERVER_UNVERIFIED, DrainEventKind.SERVER_REVERTED)
SCROLLED = (*FAILURES, DrainEventKind.SERVER_GONE, DrainEventKind.SERVER_REFUSED)
"""Events that the live table prints above itself."""

MAX_FAILURES_SHOWN = 5
REFRESHES_A_SECOND = 4
NAME_WIDTH, HOST_WIDTH, BAR_WIDTH = 24, 16, 30
TIME_WIDTH = len("12 min 34 s")


@dataclass
class ActiveServer:
    """A server in progress.

    :param began: seconds of the monotonic clock
    """

    name: str
    host: str
    target_host: str
    began: float
    stage: Stage
    step: str = ""
    title: str = ""


@dataclass
class Tally:
    """The state of a run, computed from its events.

    :param counts: number of servers by stage, of the whole drain
    :param active: the servers in progress, by id
    :param arrived: number of servers that this run moved; ``arrived_gb`` is their GiB of local disk
    :param notice: why the run is paused, or starts no more servers
    """

    counts: dict[str, int] = field(default_factory=dict)
    active: dict[str, ActiveServer] = field(default_factory=dict)
    failures: deque[DrainEvent] = field(default_factory=lambda: deque(maxlen=MAX_FAILURES_SHOWN))
    arrived: int = 0
    arrived_gb: int = 0
    began: float = 0.0
    notice: str = ""

    def add(self, event: DrainEvent, now: float) -> None:
        """Count one event.

        :param now: seconds of the monotonic clock
        """
        if event.kind is DrainEventKind.RUN_STARTED:
            self.counts, self.began = dict(event.counts), now
        elif event.kind in START_STAGES:
            self._start(event, now)
        elif event.kind is DrainEventKind.STEP_FINISHED and event.server_id in self.active:
            self.active[event.server_id].step = event.step
        elif event.kind in RESULT_STAGES:
            self._end(event)
        if event.kind in FAILURES:
            self.failures.append(event)
        if event.kind is DrainEventKind.PAUSED:
            self.notice = f"paused: {event.reason}"
        elif event.kind is DrainEventKind.STOPPING:
            self.notice = f"starting no more servers: {event.reason}"
        elif event.kind is DrainEventKind.CONTINUED:
            self.notice = ""

    def _start(self, event: DrainEvent, now: float) -> None:
        before, stage = START_STAGES[event.kind]
        moving = sum(server.stage is Stage.MOVING for server in self.active.values())
        if event.kind is DrainEventKind.SERVER_RESUMED and self.counts.get(Stage.MOVING.value, 0) <= moving:
            before = stage = Stage.CONFIRMING
        self.active[event.server_id] = ActiveServer(event.server_name, event.host, event.target_host, now, stage)
        self._shift(before, stage)

    def _end(self, event: DrainEvent) -> None:
        server = self.active.pop(event.server_id, None)
        if server is None:
            return
        self._shift(server.stage, RESULT_STAGES[event.kind])
        has_arrived = event.kind in (DrainEventKind.SERVER_MOVED, DrainEventKind.SERVER_SOAKING)
        if has_arrived and server.stage is Stage.MOVING:
            self.arrived, self.arrived_gb = self.arrived + 1, self.arrived_gb + event.disk_gb

    def _shift(self, source: Stage, target: Stage) -> None:
        if self.counts.get(source.value, 0) > 0:
            self.counts[source.value] -= 1
        self.counts[target.value] = self.counts.get(target.value, 0) + 1

    @property
    def total(self) -> int:
        """Return the number of servers to move, with any result."""
        kept = (Stage.SKIPPED.value, Stage.REFUSED.value)
        return sum(number for stage, number in self.counts.items() if stage not in kept)

    @property
    def done(self) -> int:
        """Return the number of servers that need no more work."""
        return self.counts.get(Stage.MOVED.value, 0) + self.counts.get(Stage.GONE.value, 0)

    def rates(self, now: float) -> tuple[float, float]:
        """Return servers and GiB an hour."""
        hours = max(now - self.began, 1.0) / 3600
        return self.arrived / hours, self.arrived_gb / hours

    def remaining(self, now: float) -> float | None:
        """Return the estimated seconds until all servers are moved; None while no server has arrived."""
        servers = self.counts.get(Stage.WAITING.value, 0) + len(self.active)
        return (now - self.began) / self.arrived * servers if self.arrived else None


class DrainRenderer(Protocol):
    """Shows the events of a drain and of its moves, from any thread. It is a renderer of moves as well."""

    def __call__(self, event: Event | DrainEvent) -> None:
        """Show one event."""

    def announce(self, text: str) -> None:
        """Show a line at once. Can be called from a signal handler."""

    def ask(self, question: str) -> str:
        """Show a question and return the line that is typed."""


@contextmanager
def drain_renderer_for(
    out: TextIO,
    err: TextIO,
    *,
    as_json: bool,
    quiet: bool,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
) -> Iterator[DrainRenderer]:
    """Show a drain while the block runs.

    :param out: for JSON lines; everything else goes to ``err``
    :param wall: returns the time of day for plain lines
    """
    if as_json:
        yield DrainJsonRenderer(out, err)
    elif quiet:
        yield DrainLineRenderer(err, wall, quiet=True)
    elif draws_over(err):
        with DrainLiveRenderer(err, monotonic) as live:
            yield live
    else:
        yield DrainLineRenderer(err, wall)


class DrainJsonRenderer:
    """Writes a JSON line for each event of the drain."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out, self.err, self._lock = cast(TextIO, SafeStream(out)), err, threading.Lock()

    def __call__(self, event: Event | DrainEvent) -> None:
        """Write the line of an event of the drain. The journal records the events of moves."""
        if isinstance(event, DrainEvent):
            with self._lock:
                write(self.out, json.dumps(event_document(event)) + "\n")

    def announce(self, text: str) -> None:
        """Write a line on stderr."""
        write_now(self.err, f"{text}\n")

    def ask(self, question: str) -> str:
        """Ask on stderr."""
        return answer_to(self.err, question)


class DrainLineRenderer(Lines):
    """Writes a plain line for each change."""

    def __init__(self, stream: TextIO, wall: Callable[[], str], *, quiet: bool = False) -> None:
        super().__init__(stream, wall)
        self.quiet, self.tally, self._lock = quiet, Tally(), threading.Lock()

    def __call__(self, event: Event | DrainEvent) -> None:
        """Write the line of an event, if it has one. Of the events of moves only notes and failures have one."""
        with self._lock:
            if isinstance(event, DrainEvent):
                self.tally.add(event, time.monotonic())
                text = sentence(event, self.tally)
            else:
                text = _move_line(event)
            if text and not self.quiet:
                self.write_line(text)


def _move_line(event: Event) -> str:
    if event.kind is EventKind.NOTE:
        return f"{event.server_name}: {event.text}"
    if event.kind is EventKind.ACTION_FAILED:
        return f"{event.server_name}: {event.title or event.action} failed: {event.text}"
    return ""


def sentence(event: DrainEvent, tally: Tally) -> str:
    """Return an event as one line; empty for an event without a line."""
    if event.server_name or event.server_id:
        return _server_sentence(event, tally)
    cell = event.cell
    reason = f": {event.reason}" if event.reason else ""
    return {
        DrainEventKind.RUN_STARTED: f"{cell}: {listed(event.counts)}",
        DrainEventKind.CORDONED: f"{cell} is closed to new servers",
        DrainEventKind.UNCORDONED: f"{cell} is open to new servers again",
        DrainEventKind.PAUSED: f"{cell}: paused{reason}. Moves in progress are completed",
        DrainEventKind.CONTINUED: f"{cell}: continued",
        DrainEventKind.STOPPING: f"{cell}: starting no more servers{reason}. Moves in progress are completed",
        DrainEventKind.RUN_ENDED: f"{cell}: {listed(event.counts)}" if event.counts else "",
    }.get(event.kind, "")


def _server_sentence(event: DrainEvent, tally: Tally) -> str:
    name, took = event.server_name, duration(event.seconds)
    reason = f": {event.reason}" if event.reason else ""
    command = f" (next: {event.next_command})" if event.next_command else ""
    hosts = f"{event.host} -> {event.target_host}" if event.target_host else f"from {event.host}"
    done = f" [{tally.done} of {tally.total}]"
    return {
        DrainEventKind.SERVER_STARTED: f"{name}: started, {hosts}",
        DrainEventKind.SERVER_RESUMED: f"{name}: resumed after an earlier run, {hosts}",
        DrainEventKind.SERVER_CONFIRMING: f"{name}: soak on {event.target_host} is over, confirming",
        DrainEventKind.SERVER_SOAKING: f"{name}: runs on {event.target_host}, soaking before it is confirmed ({took})",
        DrainEventKind.SERVER_MOVED: f"{name}: moved, {hosts} ({took}){done}{reason}{command}",
        DrainEventKind.SERVER_REVERTED: f"{name}: reverted{reason}{command}",
        DrainEventKind.SERVER_UNVERIFIED: f"{name}: verification failed{reason}{command}",
        DrainEventKind.SERVER_FAILED: f"{name}: failed{reason}{command}",
        DrainEventKind.SERVER_REFUSED: f"{name}: refused{reason}",
        DrainEventKind.SERVER_SKIPPED: f"{name}: skipped{reason}",
        DrainEventKind.SERVER_GONE: f"{name}: gone{reason}",
        DrainEventKind.SERVER_REQUEUED: f"{name}: waiting again{reason}",
    }.get(event.kind, "")


class DrainLiveRenderer(LiveDisplay):
    """Draws one table on a terminal: progress, rates, the servers in progress and the last failures."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float]) -> None:
        self.tally, self.cell = Tally(), ""
        super().__init__(stream, monotonic, REFRESHES_A_SECOND)  # draws for the first time

    def __call__(self, event: Event | DrainEvent) -> None:
        """Draw an event. Failures are printed above the table."""
        if not isinstance(event, DrainEvent):
            self._show_action(event)
            return
        with self._lock:
            self.cell = event.cell.label
            self.tally.add(event, self.monotonic())
            text = sentence(event, self.tally)
        if event.kind in SCROLLED:
            style = "red" if event.kind in FAILURES else "yellow"
            self._out.print(styled(f"{self.marks.failed} {text}", style), soft_wrap=True)  # keeps a command in one line

    def _show_action(self, event: Event) -> None:
        with self._lock:
            for server in self.tally.active.values():
                if server.name == event.server_name:
                    server.step = event.step or server.step
                    if event.kind is EventKind.ACTION_STARTED:
                        server.title = event.title
                    elif event.kind is EventKind.UNDO_STARTED:
                        server.title = f"rolling back: {event.title}"

    def _render(self) -> Group:
        from rich.console import Group

        now = self.monotonic()
        with self._lock:
            if not self.cell:
                return Group(styled("reading every server of the cell", "dim"))
            parts: list[RenderableType] = [self._head(now), styled(f"  {listed(self.tally.counts)}", "dim")]
            servers, failures = list(self.tally.active.values()), list(self.tally.failures)
            notices = (self.tally.notice, self.announcement)
        if servers:
            parts.append(self._servers(servers, now))
        if failures:
            parts.append(styled("last failures", "red"))
            parts += [styled(f"  {failure.server_name}: {failure.reason}", "red") for failure in failures]
        parts += [styled(notice, "yellow") for notice in notices if notice]
        return Group(*parts)

    def _head(self, now: float) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        done, total, rates, remaining = (
            self.tally.done,
            self.tally.total,
            self.tally.rates(now),
            self.tally.remaining(now),
        )
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            styled(self.cell, "bold"),
            ProgressBar(total=max(total, 1), completed=done, width=BAR_WIDTH),
            styled(f"{done} of {total}", ""),
            styled(f"{rates[0]:.0f} servers/h, {rates[1]:.0f} GiB/h", "dim"),
            styled(f"about {duration(remaining)} left" if remaining is not None else "", "dim"),
        )
        return head

    def _servers(self, servers: Sequence[ActiveServer], now: float) -> Table:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        names = min(max(len(server.name) for server in servers) + 2, NAME_WIDTH)
        hosts = min(max(len(server.host) for server in servers), HOST_WIDTH)
        # Without a limit, a long title would take the width of all other columns.
        title_width = max(self._out.width - names - hosts - len(Step.PREP_SOURCE) - TIME_WIDTH - 8, 1)
        for header, width in (("SERVER", NAME_WIDTH), ("FROM", HOST_WIDTH), ("STEP", None), ("", title_width)):
            table.add_column(header, no_wrap=True, overflow="ellipsis", max_width=width)
        table.add_column("ELAPSED", no_wrap=True, overflow="ellipsis", justify="right")
        height = max(self._out.height - MAX_FAILURES_SHOWN - 6, 4)
        for server in servers[:height]:
            table.add_row(
                styled(f"{self.marks.frame(now)} {server.name}", "cyan"),
                styled(server.host, "dim"),
                styled(server.step or "check", ""),
                styled(server.title, "dim"),
                styled(duration(now - server.began), ""),
            )
        if len(servers) > height:
            table.add_row(styled(f"and {len(servers) - height} more", "dim"), "", "", "", "")
        return table
