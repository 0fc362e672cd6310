"""Shows what happens while a command runs: events in, lines on stderr out.

On a terminal rich draws and the action under way stands below with its seconds ticking; off a terminal
there is one plain line for each change and a heartbeat once a minute. Nothing here ever raises because
of the stream: a closed terminal must not end a move.
"""

from __future__ import annotations

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
    from rich.text import Text

HEARTBEAT = 60.0
"""Seconds after which a long action says, off a terminal, that it is still at work."""

TITLE_WIDTH = 60


class Progress(Protocol):
    """Shows events. Never raises, whatever becomes of the stream."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def announce(self, text: str) -> None:
        """Show a line at once; may be called from a signal handler."""

    def ask(self, question: str) -> str:
        """Show a question and wait for the line that is typed; an empty one when there is no more input."""


@dataclass
class Running:
    """The action under way in one move."""

    server_name: str
    step: str
    title: str
    started: float
    spoken: float
    text: str = ""
    undoing: bool = False


@contextmanager
def observer_for(
    stream: TextIO,
    quiet: bool,
    *,
    activity: str = "",
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
) -> Iterator[Progress]:
    """Show the progress of a run while the block runs.

    :param activity: what to show on a terminal until the first event
    :param wall: gives the time of day for the plain lines
    """
    if quiet:
        yield Silent(stream)
    elif draws_over(stream):
        with Lively(stream, activity, monotonic) as lively:
            yield lively
    else:
        with Plain(stream, monotonic, wall) as plain:
            yield plain


class Silent:
    """Shows nothing but announcements."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: Event) -> None:
        """Show nothing."""

    def announce(self, text: str) -> None:
        """Write one line."""
        write_now(self.stream, f"{text}\n")

    def ask(self, question: str) -> str:
        """Write the question."""
        return answer_to(self.stream, question)


class Plain:
    """One line for each change, and one a minute while an action is under way."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float], wall: Callable[[], str]) -> None:
        self.stream = cast(TextIO, Unbreakable(stream))
        self.monotonic = monotonic
        self.wall = wall
        self.running: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Plain:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(1.0):
            self.tick()

    def announce(self, text: str) -> None:
        """Write one line."""
        write_now(self.stream, f"{self.wall()} {text}\n")

    def ask(self, question: str) -> str:
        """Write the question."""
        return answer_to(self.stream, question)

    def tick(self) -> None:
        """Say of every action that has been silent for a minute that it is still under way."""
        with self._lock:
            now = self.monotonic()
            for running in self.running.values():
                if now - running.spoken >= HEARTBEAT:
                    running.spoken = now
                    words = f"still at: {running.title} ({duration(now - running.started)})"
                    self._say(running.server_name, running.step, words + (f": {running.text}" if running.text else ""))

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            words = self._words(event)
            if words:
                self._say(event.server_name, event.step, words)

    def _words(self, event: Event) -> str:
        running = track(self.running, event, self.monotonic())
        title = event.title or (running.title if running else event.action)
        if event.kind is EventKind.WAITING:
            if running is None or running.text == event.text:
                return ""
            running.text, running.spoken = event.text, self.monotonic()
        if event.kind is EventKind.PROGRESS and running is not None:
            running.text = event.text  # told once a minute, by the heartbeat
        return {
            EventKind.STEP_STARTED: "begun",
            EventKind.STEP_FINISHED: f"done ({duration(event.seconds)})",
            EventKind.STEP_FAILED: f"failed: {event.text}",
            EventKind.ACTION_FINISHED: f"{title} ({duration(event.seconds)})",
            EventKind.ACTION_FAILED: f"{title}: failed: {event.text}",
            EventKind.WAITING: f"{title}: waiting: {event.text}",
            EventKind.UNDO_FINISHED: f"rolled back: {title} ({duration(event.seconds)})",
            EventKind.NOTE: f"note: {event.text}",
        }.get(event.kind, "")

    def _say(self, server_name: str, step: str, words: str) -> None:
        where = " ".join(part for part in (server_name, step) if part)
        write(self.stream, clean(f"{self.wall()} {where}: {words}") + "\n")


class Lively:
    """On a terminal: finished lines scroll up, the action under way stands below with its seconds ticking."""

    def __init__(self, stream: TextIO, activity: str, monotonic: Callable[[], float]) -> None:
        from rich.live import Live

        self.monotonic = monotonic
        self.activity = activity
        self.running: dict[str, Running] = {}
        self.announcement = ""
        self.marks = marks_for(stream)
        self._begun = monotonic()
        self._header: tuple[str, str] = ("", "")
        self._lock = threading.Lock()
        self._out = console(Unbreakable(stream), None)
        self._live = Live(
            console=self._out,
            get_renderable=self._under_way,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Lively:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def announce(self, text: str) -> None:
        """Show a line below the action under way; only sets a value, so a signal handler may call it."""
        self.announcement = text

    def ask(self, question: str) -> str:
        """Write the question where nothing is drawn meanwhile."""
        self._live.stop()
        answer = answer_to(self._out.file, question)
        self._live.start()
        return answer

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            running = track(self.running, event, self.monotonic())
            self.activity = ""
        title = event.title or (running.title if running else event.action)
        took = duration(event.seconds)
        done, failed, back, dot = self.marks[:4]
        if event.kind in (EventKind.WAITING, EventKind.PROGRESS) and running is not None:
            running.text = event.text
        elif event.kind in (EventKind.STEP_STARTED, EventKind.UNDO_STARTED):
            self._head(event)
        elif event.kind is EventKind.ACTION_FINISHED:
            self._line(done, "green", title, "", took)
        elif event.kind is EventKind.ACTION_FAILED:
            self._line(failed, "red", title, "", "")
            self._line(" ", "", event.text, "red", "")
        elif event.kind is EventKind.UNDO_FINISHED:
            self._line(back, "yellow", f"rolled back: {title}", "", took)
        elif event.kind is EventKind.NOTE:
            self._line(dot, "dim", event.text, "dim", "")
        elif event.kind is EventKind.STEP_FINISHED:
            self._line(" ", "", "done", "dim", took)
        elif event.kind is EventKind.STEP_FAILED:
            self._line(failed, "red", event.text, "red", "")

    def _head(self, event: Event) -> None:
        if self._header != (event.move_id, event.step):
            self._header = (event.move_id, event.step)
            self._out.print(styled(event.step, "bold").append(f"  {clean(event.server_name)}", style="dim"))

    def _line(self, mark: str, mark_style: str, words: str, style: str, took: str) -> None:
        self._out.print(_line_of(mark, mark_style, words, style, took), soft_wrap=True)  # a command stays whole

    def _under_way(self) -> Text:
        from rich.text import Text

        now = self.monotonic()
        frames = self.marks[4]
        frame = frames[int(now * 8) % len(frames)]
        with self._lock:
            found = list(self.running.values())
            activity = self.activity
        lines = []
        for running in found:
            title = f"rolling back: {running.title}" if running.undoing else running.title
            lines.append(_line_of(frame, "cyan", title, "", duration(now - running.started)))
            if running.text:
                lines.append(_line_of(" ", "", running.text, "dim", ""))
        if activity and not found:
            lines.append(_line_of(frame, "cyan", activity, "dim", duration(now - self._begun)))
        if self.announcement:
            lines.append(styled(self.announcement, "yellow"))
        return Text("\n").join(lines)


def track(running: dict[str, Running], event: Event, now: float) -> Running | None:
    """Keep account of what is under way.

    :param running: by move id; changed in place
    :returns: the action that the event is about, if it is known
    """
    if event.kind in (EventKind.ACTION_STARTED, EventKind.UNDO_STARTED):
        undoing = event.kind is EventKind.UNDO_STARTED
        running[event.move_id] = Running(event.server_name, event.step, event.title, now, now, undoing=undoing)
    if event.kind in (EventKind.ACTION_FINISHED, EventKind.ACTION_FAILED, EventKind.UNDO_FINISHED):
        return running.pop(event.move_id, None)
    return running.get(event.move_id)


class Unbreakable(io.TextIOBase):
    """A stream that goes on silently when its reader is gone: progress must never end a move."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            silence(self._stream)

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream below; rich draws what it can show."""
        return self._stream.encoding or "utf-8"


def answer_to(stream: TextIO | IO[str], question: str) -> str:
    """Show a question on a stream and read the answer from stdin."""
    stream.write("\n".join(clean(line) for line in question.split("\n")))
    stream.flush()
    return sys.stdin.readline()


def write_now(stream: TextIO, text: str) -> None:
    """Write past all buffers, so that a signal handler cannot find one half filled."""
    try:
        os.write(stream.fileno(), text.encode(errors="replace"))
    except (OSError, ValueError):
        write_safely(stream, text)


def marks_for(stream: TextIO) -> tuple[str, str, str, str, str]:
    """Marks for done, failed, rolled back and a note, and the spinner's frames, as the stream can show them."""
    if "utf" in (stream.encoding or "").lower():
        return "✓", "✗", "↶", "·", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    return "+", "x", "<", "-", "|/-\\"


def _line_of(mark: str, mark_style: str, words: str, style: str, took: str) -> Text:
    from rich.cells import cell_len
    from rich.text import Text

    words = clean(words)
    line = Text.assemble("  ", (mark, mark_style), " ", (words, style))
    if took:
        line.append(" " * max(1, TITLE_WIDTH - cell_len(words))).append(f"{took:>10}", "dim")
    return line
