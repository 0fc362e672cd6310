"""Shows events on stderr while a command runs.

On a terminal, rich draws the finished actions as lines and the current action below them with its elapsed time. On any
other stream there is one plain line for each change, and a heartbeat each minute. A renderer never raises because of its
stream: a closed terminal must not end a move.
"""

from __future__ import annotations

import abc
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, TextIO, cast

from cellmove.engine.events import Event, EventKind
from cellmove.ui.console import clean, console, draws_over, duration, silence, styled, write, write_safely

if TYPE_CHECKING:
    from typing import Self

    from rich.console import RenderableType
    from rich.text import Text

HEARTBEAT_SECONDS = 60.0
"""Time after which a line about an action in progress is repeated off a terminal."""

TICK_SECONDS = 1.0
TITLE_WIDTH = 60
FRAMES_A_SECOND = 8


class Renderer(Protocol):
    """Shows the events of moves. Never raises because of its stream."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def announce(self, text: str) -> None:
        """Show a line at once. Can be called from a signal handler."""

    def ask(self, question: str) -> str:
        """Show a question and return the line that is typed; empty at the end of the input."""


@dataclass(frozen=True)
class Marks:
    """Marks of finished, failed and rolled-back actions and of notes, and the frames of the spinner."""

    done: str
    failed: str
    undone: str
    note: str
    frames: str

    def frame(self, now: float) -> str:
        """Return the spinner's frame at a time in seconds."""
        return self.frames[int(now * FRAMES_A_SECOND) % len(self.frames)]


@dataclass
class RunningAction:
    """The current action of one move.

    :param started: seconds of the monotonic clock, likewise ``reported``: when a line about it was last written
    """

    server_name: str
    step: str
    title: str
    started: float
    reported: float
    text: str = ""
    undoing: bool = False


@contextmanager
def renderer_for(
    stream: TextIO,
    quiet: bool,
    *,
    activity: str = "",
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
) -> Iterator[Renderer]:
    """Show the events of a run while the block runs.

    :param activity: shown on a terminal until the first event
    :param wall: returns the time of day for plain lines
    """
    if quiet:
        yield SilentRenderer(stream)
    elif draws_over(stream):
        with LiveRenderer(stream, activity, monotonic) as live:
            yield live
    else:
        with LineRenderer(stream, monotonic, wall) as lines:
            yield lines


class SilentRenderer:
    """Shows announcements and questions only."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: Event) -> None:
        """Show nothing."""

    def announce(self, text: str) -> None:
        """Write one line."""
        write_now(self.stream, f"{text}\n")

    def ask(self, question: str) -> str:
        """Write the question and read the answer."""
        return answer_to(self.stream, question)


class Lines:
    """Writes plain lines with the time of day, for cron and files.

    :param wall: returns the time of day
    """

    def __init__(self, stream: TextIO, wall: Callable[[], str]) -> None:
        self.stream, self.wall = cast(TextIO, SafeStream(stream)), wall

    def announce(self, text: str) -> None:
        """Write one line at once."""
        write_now(self.stream, f"{self.wall()} {text}\n")

    def ask(self, question: str) -> str:
        """Write the question and read the answer."""
        return answer_to(self.stream, question)

    def write_line(self, text: str) -> None:
        """Write one line."""
        write(self.stream, clean(f"{self.wall()} {text}") + "\n")


class LineRenderer(Lines):
    """Writes a line for each change, and one each minute while an action is in progress."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float], wall: Callable[[], str]) -> None:
        super().__init__(stream, wall)
        self.monotonic = monotonic
        self.running: dict[str, RunningAction] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> LineRenderer:
        threading.Thread(target=self._tick_regularly, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()

    def _tick_regularly(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            self.tick()

    def tick(self) -> None:
        """Repeat the line of every action for which none was written for a minute."""
        with self._lock:
            now = self.monotonic()
            for running in self.running.values():
                if now - running.reported >= HEARTBEAT_SECONDS:
                    running.reported = now
                    text = f"in progress: {running.title} ({duration(now - running.started)})"
                    self._write(running.server_name, running.step, text + (f": {running.text}" if running.text else ""))

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        with self._lock:
            text = self._text(event)
            if text:
                self._write(event.server_name, event.step, text)

    def _text(self, event: Event) -> str:
        running = track(self.running, event, self.monotonic())
        title = event.title or (running.title if running else event.action)
        if event.kind is EventKind.WAITING:
            if running is None or running.text == event.text:
                return ""
            running.text, running.reported = event.text, self.monotonic()
        if event.kind is EventKind.PROGRESS and running is not None:
            running.text = event.text  # written by the heartbeat
        return {
            EventKind.STEP_STARTED: "started",
            EventKind.STEP_FINISHED: f"done ({duration(event.seconds)})",
            EventKind.STEP_FAILED: f"failed: {event.text}",
            EventKind.ACTION_FINISHED: f"{title} ({duration(event.seconds)})",
            EventKind.ACTION_FAILED: f"{title}: failed: {event.text}",
            EventKind.WAITING: f"{title}: waiting: {event.text}",
            EventKind.UNDO_FINISHED: f"rolled back: {title} ({duration(event.seconds)})",
            EventKind.NOTE: f"note: {event.text}",
        }.get(event.kind, "")

    def _write(self, server_name: str, step: str, text: str) -> None:
        where = " ".join(part for part in (server_name, step) if part)
        self.write_line(f"{where}: {text}")


class LiveDisplay(abc.ABC):
    """Draws over the last lines of a terminal.

    :param refresh: redraws a second
    """

    def __init__(self, stream: TextIO, monotonic: Callable[[], float], refresh: int) -> None:
        from rich.live import Live

        self.monotonic = monotonic
        self.announcement = ""
        self.marks = marks_for(stream)
        self._lock = threading.Lock()
        self._out = console(cast(TextIO, SafeStream(stream)), None)
        self._live = Live(
            console=self._out,
            get_renderable=self._render,
            refresh_per_second=refresh,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def announce(self, text: str) -> None:
        """Show a line below the display. Only sets a value, so that a signal handler can call it."""
        self.announcement = text

    def ask(self, question: str) -> str:
        """Write the question while nothing is drawn, and read the answer."""
        self._live.stop()
        answer = answer_to(self._out.file, question)
        self._live.start()
        return answer

    @abc.abstractmethod
    def _render(self) -> RenderableType:
        """Return what is drawn now."""


class LiveRenderer(LiveDisplay):
    """Scrolls finished actions up a terminal, and draws the current action below them with its elapsed time."""

    def __init__(self, stream: TextIO, activity: str, monotonic: Callable[[], float]) -> None:
        self.activity = activity
        self.running: dict[str, RunningAction] = {}
        self._started = monotonic()
        self._header: tuple[str, str] = ("", "")
        super().__init__(stream, monotonic, FRAMES_A_SECOND)  # draws for the first time

    def __call__(self, event: Event) -> None:
        """Draw an event."""
        with self._lock:
            running = track(self.running, event, self.monotonic())
            self.activity = ""
        title = event.title or (running.title if running else event.action)
        took, marks = duration(event.seconds), self.marks
        if event.kind in (EventKind.WAITING, EventKind.PROGRESS) and running is not None:
            running.text = event.text
        elif event.kind in (EventKind.STEP_STARTED, EventKind.UNDO_STARTED):
            self._print_header(event)
        elif event.kind is EventKind.ACTION_FINISHED:
            self._print(marks.done, "green", title, "", took)
        elif event.kind is EventKind.ACTION_FAILED:
            self._print(marks.failed, "red", title, "", "")
            self._print(" ", "", event.text, "red", "")
        elif event.kind is EventKind.UNDO_FINISHED:
            self._print(marks.undone, "yellow", f"rolled back: {title}", "", took)
        elif event.kind is EventKind.NOTE:
            self._print(marks.note, "dim", event.text, "dim", "")
        elif event.kind is EventKind.STEP_FINISHED:
            self._print(" ", "", "done", "dim", took)
        elif event.kind is EventKind.STEP_FAILED:
            self._print(marks.failed, "red", event.text, "red", "")

    def _print_header(self, event: Event) -> None:
        if self._header != (event.move_id, event.step):
            self._header = (event.move_id, event.step)
            self._out.print(styled(event.step, "bold").append(f"  {clean(event.server_name)}", style="dim"))

    def _print(self, mark: str, mark_style: str, text: str, style: str, took: str) -> None:
        self._out.print(_line_of(mark, mark_style, text, style, took), soft_wrap=True)  # keeps a command in one line

    def _render(self) -> Text:
        from rich.text import Text

        now = self.monotonic()
        frame = self.marks.frame(now)
        with self._lock:
            actions = list(self.running.values())
            activity = self.activity
        lines = []
        for running in actions:
            title = f"rolling back: {running.title}" if running.undoing else running.title
            lines.append(_line_of(frame, "cyan", title, "", duration(now - running.started)))
            if running.text:
                lines.append(_line_of(" ", "", running.text, "dim", ""))
        if activity and not actions:
            lines.append(_line_of(frame, "cyan", activity, "dim", duration(now - self._started)))
        if self.announcement:
            lines.append(styled(self.announcement, "yellow"))
        return Text("\n").join(lines)


def track(running: dict[str, RunningAction], event: Event, now: float) -> RunningAction | None:
    """Update the actions in progress from an event.

    :param running: by move id; changed in place
    :returns: the action of the event, if it is known
    """
    if event.kind in (EventKind.ACTION_STARTED, EventKind.UNDO_STARTED):
        undoing = event.kind is EventKind.UNDO_STARTED
        running[event.move_id] = RunningAction(event.server_name, event.step, event.title, now, now, undoing=undoing)
    if event.kind in (EventKind.ACTION_FINISHED, EventKind.ACTION_FAILED, EventKind.UNDO_FINISHED):
        return running.pop(event.move_id, None)
    return running.get(event.move_id)


class SafeStream(io.TextIOBase):
    """A stream that drops text after its reader is gone, because progress must never end a move."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, if it has a reader."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            silence(self._stream)

    def isatty(self) -> bool:
        """Return whether the underlying stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the underlying stream."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding of the underlying stream. rich draws what it can show."""
        return self._stream.encoding or "utf-8"


def answer_to(stream: TextIO | IO[str], question: str) -> str:
    """Show a question on a stream and read the answer from stdin."""
    stream.write("\n".join(clean(line) for line in question.split("\n")))
    stream.flush()
    return sys.stdin.readline()


def write_now(stream: TextIO, text: str) -> None:
    """Write without any buffer, because a signal handler could interrupt a write to it."""
    try:
        os.write(stream.fileno(), text.encode(errors="replace"))
    except (OSError, ValueError):
        write_safely(stream, text)


def marks_for(stream: TextIO) -> Marks:
    """Return the marks that the encoding of a stream can show."""
    if "utf" in (stream.encoding or "").lower():
        return Marks("✓", "✗", "↶", "·", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
    return Marks("+", "x", "<", "-", "|/-\\")


def _line_of(mark: str, mark_style: str, text: str, style: str, took: str) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    text = clean(text)
    line = Text.assemble("  ", (mark, mark_style), " ", (text, style))
    if took:
        line.append(" " * max(1, TITLE_WIDTH - cell_len(text))).append(f"{took:>10}", "dim")
    return line
