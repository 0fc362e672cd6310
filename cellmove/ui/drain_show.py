"""Shows what happens while a cell is emptied: one live table on a terminal, plain lines in cron, JSON lines for a script.

As everywhere: what a person sees while it happens goes to stderr, and nothing here ever raises because of the stream.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from cellmove.core.move import Step
from cellmove.core.shell import command_line
from cellmove.drain import ending
from cellmove.drain.happening import Happening, Kind, document
from cellmove.drain.item import Stage, place_of
from cellmove.drain.story import draw_servers, said
from cellmove.engine.events import Event, EventKind
from cellmove.ui.console import Command, clean, console, draws_over, duration, styled, write
from cellmove.ui.progress import Progress, Unbreakable, answer_to, marks_for, write_now

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

OVER = {
    Kind.SERVER_MOVED: Stage.MOVED, Kind.SERVER_REVERTED: Stage.REVERTED, Kind.SERVER_UNVERIFIED: Stage.UNVERIFIED,
    Kind.SERVER_FAILED: Stage.FAILED, Kind.SERVER_REFUSED: Stage.REFUSED, Kind.SERVER_SKIPPED: Stage.SKIPPED,
    Kind.SERVER_GONE: Stage.GONE, Kind.SERVER_SOAKING: Stage.SOAKING, Kind.SERVER_PUT_BACK: Stage.WAITING,
}  # fmt: skip
"""Happenings after which nobody works on a server any more, and where it stands then."""

TAKEN = {
    Kind.SERVER_BEGUN: (Stage.WAITING, Stage.MOVING), Kind.SERVER_TAKEN_UP: (Stage.MOVING, Stage.MOVING),
    Kind.SERVER_CONFIRMING: (Stage.SOAKING, Stage.CONFIRMING),
}  # fmt: skip
"""Happenings with which somebody begins to work on a server: where it stood, and where it stands then."""

TROUBLE = (Kind.SERVER_FAILED, Kind.SERVER_UNVERIFIED, Kind.SERVER_REVERTED)
SHOWN_TROUBLE = 5
TIME_WIDTH = len("12 min 34 s")


@dataclass
class Server:
    """A server under way."""

    name: str
    host: str
    target_host: str
    began: float
    stage: Stage
    step: str = ""
    title: str = ""


@dataclass
class Tally:
    """What is known of a run so far, from its happenings.

    :param counts: servers by stage, of the whole drain
    """

    counts: dict[str, int] = field(default_factory=dict)
    under_way: dict[str, Server] = field(default_factory=dict)
    trouble: deque[Happening] = field(default_factory=lambda: deque(maxlen=SHOWN_TROUBLE))
    arrived: int = 0
    arrived_gb: int = 0
    began: float = 0.0
    word: str = ""

    def take(self, happening: Happening, now: float) -> None:
        """Count one happening."""
        kind, server_id = happening.kind, happening.server_id
        if kind is Kind.BEGUN:
            self.counts, self.began = dict(happening.counts), now
        elif kind in TAKEN:
            before, stage = TAKEN[kind]
            known = sum(each.stage is Stage.MOVING for each in self.under_way.values())
            if kind is Kind.SERVER_TAKEN_UP and self.counts.get(Stage.MOVING.value, 0) <= known:
                before = stage = Stage.CONFIRMING
            self.under_way[server_id] = Server(happening.server_name, happening.host, happening.target_host, now, stage)
            self._shift(before, stage)
        elif kind is Kind.STEP and server_id in self.under_way:
            self.under_way[server_id].step = happening.step
        elif kind in OVER:
            server = self.under_way.pop(server_id, None)
            if server is not None:
                self._shift(server.stage, OVER[kind])
            travelled = server is not None and server.stage is Stage.MOVING
            if travelled and kind in (Kind.SERVER_MOVED, Kind.SERVER_SOAKING):
                self.arrived, self.arrived_gb = self.arrived + 1, self.arrived_gb + happening.disk_gb
        if kind in TROUBLE:
            self.trouble.append(happening)
        if kind in (Kind.PAUSED, Kind.STOPPING):
            self.word = f"{'paused' if kind is Kind.PAUSED else 'nothing new is begun'}: {happening.reason}"
        elif kind is Kind.GOING_ON:
            self.word = ""

    def _shift(self, source: Stage, target: Stage) -> None:
        if self.counts.get(source.value, 0) > 0:
            self.counts[source.value] -= 1
        self.counts[target.value] = self.counts.get(target.value, 0) + 1

    @property
    def total(self) -> int:
        """The servers that were to be moved, whatever became of them."""
        kept = (Stage.SKIPPED.value, Stage.REFUSED.value)
        return sum(number for stage, number in self.counts.items() if stage not in kept)

    @property
    def done(self) -> int:
        """Those of which nothing more comes."""
        return self.counts.get(Stage.MOVED.value, 0) + self.counts.get(Stage.GONE.value, 0)

    def rates(self, now: float) -> tuple[float, float]:
        """Servers and GiB an hour."""
        hours = max(now - self.began, 1.0) / 3600
        return self.arrived / hours, self.arrived_gb / hours

    def remaining(self, now: float) -> float | None:
        """Seconds until all are moved, if it goes on like this; None when that cannot be said yet."""
        left = self.counts.get(Stage.WAITING.value, 0) + len(self.under_way)
        return (now - self.began) / self.arrived * left if self.arrived else None


class Drawing(Progress, Protocol):
    """Shows a drain, and the events of its moves; from any thread."""

    def watch(self, happening: Happening) -> None:
        """Show one happening."""


@contextmanager
def drawing_for(
    out: TextIO, err: TextIO, *, as_json: bool, quiet: bool, monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
) -> Iterator[Drawing]:  # fmt: skip
    """Show a drain while the block runs.

    :param out: where JSON lines go; ``err`` takes what a person sees
    :param wall: gives the time of day for the plain lines
    """
    if as_json:
        yield Lines(out, err)
    elif quiet:
        yield Plain(err, wall, quiet=True)
    elif draws_over(err):
        with Lively(err, monotonic) as lively:
            yield lively
    else:
        yield Plain(err, wall)


class Lines:
    """JSON, one line for each happening."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out, self.err, self._lock = cast(TextIO, Unbreakable(out)), err, threading.Lock()

    def watch(self, happening: Happening) -> None:
        """Write one line."""
        with self._lock:
            write(self.out, json.dumps(document(happening)) + "\n")

    def __call__(self, event: Event) -> None:
        """Nothing: actions are in the journal."""

    def announce(self, text: str) -> None:
        """On stderr, where it is no JSON's business."""
        write_now(self.err, f"{text}\n")

    def ask(self, question: str) -> str:
        """On stderr."""
        return answer_to(self.err, question)


class Plain:
    """A line for each change: for cron and for files."""

    def __init__(self, stream: TextIO, wall: Callable[[], str], *, quiet: bool = False) -> None:
        self.stream, self.wall, self.quiet = cast(TextIO, Unbreakable(stream)), wall, quiet
        self.tally, self._lock = Tally(), threading.Lock()

    def watch(self, happening: Happening) -> None:
        """Write a line, if it is worth one."""
        with self._lock:
            self.tally.take(happening, time.monotonic())
            words = sentence(happening, self.tally)
            if words and not self.quiet:
                write(self.stream, clean(f"{self.wall()} {words}") + "\n")

    def __call__(self, event: Event) -> None:
        """What is said to the operator is passed on; actions are in the journal."""
        if event.kind in (EventKind.NOTE, EventKind.ACTION_FAILED) and not self.quiet:
            text = event.text if event.kind is EventKind.NOTE else f"{event.title or event.action} failed: {event.text}"
            with self._lock:
                write(self.stream, clean(f"{self.wall()} {event.server_name}: {text}") + "\n")

    def announce(self, text: str) -> None:
        """Write one line."""
        write_now(self.stream, f"{self.wall()} {text}\n")

    def ask(self, question: str) -> str:
        """Write the question."""
        return answer_to(self.stream, question)


def sentence(happening: Happening, tally: Tally) -> str:
    """A happening in one line; empty when it is not worth one."""
    name, kind = happening.server_name, happening.kind
    why = f": {happening.reason}" if happening.reason else ""
    then = f" (next: {happening.next_command})" if happening.next_command else ""
    took = duration(happening.seconds)
    place = f"{happening.host} -> {happening.target_host}" if happening.target_host else f"from {happening.host}"
    done = f" [{tally.done} of {tally.total}]"
    return {
        Kind.BEGUN: f"{happening.cell}: {_listed(happening.counts)}",
        Kind.CORDONED: f"{happening.cell} is closed to new servers",
        Kind.REOPENED: f"{happening.cell} is open to new servers again",
        Kind.SERVER_BEGUN: f"{name}: begun, {place}",
        Kind.SERVER_TAKEN_UP: f"{name}: taken up where an earlier run left it, {place}",
        Kind.SERVER_CONFIRMING: f"{name}: has run at {happening.target_host} for long enough",
        Kind.SERVER_SOAKING: f"{name}: runs at {happening.target_host}, and is watched before it is confirmed ({took})",
        Kind.SERVER_MOVED: f"{name}: moved, {place} ({took}){done}{why}{then}",
        Kind.SERVER_REVERTED: f"{name}: reverted{why}{then}",
        Kind.SERVER_UNVERIFIED: f"{name}: is not what it was{why}{then}",
        Kind.SERVER_FAILED: f"{name}: failed{why}{then}",
        Kind.SERVER_REFUSED: f"{name}: refused{why}",
        Kind.SERVER_SKIPPED: f"{name}: skipped{why}",
        Kind.SERVER_GONE: f"{name}: gone{why}",
        Kind.SERVER_PUT_BACK: f"{name}: waits again{why}",
        Kind.PAUSED: f"{happening.cell}: paused{why}; what runs is finished",
        Kind.GOING_ON: f"{happening.cell}: goes on",
        Kind.STOPPING: f"{happening.cell}: nothing new is begun{why}; what runs is finished",
        Kind.ENDED: f"{happening.cell}: {_listed(happening.counts)}" if happening.counts else "",
    }.get(kind, "")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[stage]} {stage}" for stage in Stage if counts.get(stage)) or "no servers"


class Lively:
    """One table on a terminal: how far, how fast, what is under way, what went wrong last."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float]) -> None:
        from rich.live import Live

        self.monotonic, self.marks = monotonic, marks_for(stream)
        self.tally, self.announcement, self.cell = Tally(), "", ""
        self._lock = threading.Lock()
        self._out = console(Unbreakable(stream), None)
        self._live = Live(
            console=self._out,
            get_renderable=self._snapshot,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Lively:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def announce(self, text: str) -> None:
        """Show a line below; only sets a value, so a signal handler may call it."""
        self.announcement = text

    def ask(self, question: str) -> str:
        """Write the question where nothing is drawn meanwhile."""
        self._live.stop()
        answer = answer_to(self._out.file, question)
        self._live.start()
        return answer

    def watch(self, happening: Happening) -> None:
        """Count it; what went wrong scrolls up for good."""
        with self._lock:
            self.cell = happening.cell.label
            self.tally.take(happening, self.monotonic())
            words = sentence(happening, self.tally)
        if happening.kind in (*TROUBLE, Kind.SERVER_GONE, Kind.SERVER_REFUSED):
            style = "red" if happening.kind in TROUBLE else "yellow"
            self._out.print(styled(f"{self.marks[1]} {words}", style), soft_wrap=True)  # a command stays whole

    def __call__(self, event: Event) -> None:
        """The action under way."""
        with self._lock:
            for server in self.tally.under_way.values():
                if server.name == event.server_name:
                    server.step = event.step or server.step
                    if event.kind in (EventKind.ACTION_STARTED, EventKind.UNDO_STARTED):
                        back = "rolling back: " if event.kind is EventKind.UNDO_STARTED else ""
                        server.title = back + event.title

    def _snapshot(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        now = self.monotonic()
        with self._lock:
            tally = self.tally
            servers, trouble = list(tally.under_way.values()), list(tally.trouble)
            done, total, rates, left = tally.done, tally.total, tally.rates(now), tally.remaining(now)
            counts, word = dict(tally.counts), tally.word
        if not self.cell:
            return Group(styled("looking at every server of the cell", "dim"))
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            styled(self.cell, "bold"), ProgressBar(total=max(total, 1), completed=done, width=30),
            styled(f"{done} of {total}", ""), styled(f"{rates[0]:.0f} servers/h, {rates[1]:.0f} GiB/h", "dim"),
            styled(f"about {duration(left)} left" if left is not None else "", "dim"),
        )  # fmt: skip
        parts: list[Any] = [head, styled(f"  {_listed(counts)}", "dim")]
        if servers:
            parts.append(self._servers(servers, now))
        if trouble:
            parts.append(styled("last failures", "red"))
            parts += [styled(f"  {each.server_name}: {each.reason}", "red") for each in trouble]
        parts += [styled(text, "yellow") for text in (word, self.announcement) if text]
        return Group(*parts)

    def _servers(self, servers: Sequence[Server], now: float) -> Table:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        names = min(max(len(each.name) for each in servers) + 2, 24) + min(max(len(each.host) for each in servers), 16)
        rest = max(self._out.width - names - len(Step.PREP_SOURCE) - TIME_WIDTH - 8, 1)  # or a long title has it all
        for header, options in (
            ("SERVER", {"max_width": 24}), ("FROM", {"max_width": 16}), ("STEP", {}), ("", {"max_width": rest}),
            ("ELAPSED", {"justify": "right"}),
        ):  # fmt: skip
            table.add_column(header, no_wrap=True, overflow="ellipsis", **cast(dict[str, Any], options))
        height = max(self._out.height - SHOWN_TROUBLE - 6, 4)
        for server in servers[:height]:
            frame = self.marks[4][int(now * 8) % len(self.marks[4])]
            table.add_row(
                styled(f"{frame} {server.name}", "cyan"), styled(server.host, "dim"), styled(server.step or "check", ""),
                styled(server.title, "dim"), styled(duration(now - server.began), ""),
            )  # fmt: skip
        if len(servers) > height:
            table.add_row(styled(f"and {len(servers) - height} more", "dim"), "", "", "", "")
        return table


# results


def ended_document(ended: Any) -> dict[str, Any]:
    """What a run came to, as plain JSON.

    :param ended: a ``drains.Ended``
    """
    return {
        "schema_version": 1,
        "drain": ended.record.id if ended.record is not None else None,
        "cell": ended.cell.label,
        "cell_uuid": ended.cell.uuid,
        "stopped": ended.stopped or None,
        "counts": {stage.value: len(ended.named(stage)) for stage in Stage if ended.named(stage)},
        "left": [
            {
                "id": task.server_id, "name": task.name,
                "host": place_of(task.stage, task.host, task.target_host), "stage": task.stage.value,
                "reason": task.reason or None, "next": task.next_command or None,
            }
            for task in ended.named(
                Stage.FAILED, Stage.UNVERIFIED, Stage.REVERTED, Stage.REFUSED, Stage.SKIPPED, Stage.SOAKING, Stage.WAITING
            )
        ],
        "unconfirmed": [
            {
                "id": task.server_id, "name": task.name, "host": task.target_host, "move": task.move_id,
                "reason": task.reason, "next": task.next_command,
            }
            for task in ended.unconfirmed
        ],
        "ending": ending.document(ended) or None,
    }  # fmt: skip


SHOWN_LEFT = 40
UNCONFIRMED = "unconfirmed"


def draw_ended(page: Any, found: Mapping[str, Any]) -> None:
    """What a run came to, for a person and for cron's mail."""
    page.fields(
        [
            ("cell", found["cell"]),
            *((("drain", found["drain"]),) if found["drain"] else ()),
            ("servers", _listed(found["counts"]) if found["counts"] else "none"),
            *((("stopped", found["stopped"]),) if found["stopped"] else ()),
        ]
    )
    left = [each for each in found["left"] if each["stage"] != Stage.WAITING.value]
    rows = [(each["stage"], each["name"], each["host"], each["reason"] or "", each["next"] or "") for each in left]
    rows += [(UNCONFIRMED, each["name"], each["host"], each["reason"], each["next"]) for each in found["unconfirmed"]]
    more = draw_servers(page, rows, SHOWN_LEFT)
    if more:
        page.gap()
        page.fields([("", f"and {more} more: {command_line('drain status', found['cell_uuid'])}")])
    if found["ending"] is not None:
        page.gap()
        page.fields(_ending(found["ending"]))


def _ending(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "unseen" in found:
        return [("unseen", f"what is left of the cell could not be looked at: {found['unseen']}")]
    if not found["commands"]:
        leftovers = [("leftover", f"{text}  (cellmove audit --repair)") for text in found["leftovers"]]
        return [*leftovers, *(("not yet", text) for text in found["hindrances"])]
    return [
        ("then", "the cell can be deleted; type, in this order:"),
        *(("", Command(text)) for text in found["commands"]),
    ]


def draw_status(page: Any, found: Mapping[str, Any]) -> None:
    """Where a drain stands."""
    page.fields(
        [
            ("cell", found["cell"]),
            ("drain", found["drain"]),
            ("state", said(found["state"]) + (f", asked to {found['control']}" if found["control"] else "")),
            ("runs", ", ".join(found["runs"]) or "none at work"),
            ("servers", _listed(found["counts"])),
            *((("next", Command(found["next"])),) if found["next"] else ()),
        ]
    )
    for key, headers in (("under_way", "elapsed"), ("soaking", "due in")):
        if found[key]:
            page.gap()
            rows = [
                (
                    each["server"]["name"], each["stage"], each["source_host"], each["target_host"] or "", each["move"] or "",
                    duration(max(each["elapsed_seconds" if key == "under_way" else "due_in_seconds"] or 0, 0)),
                )
                for each in found[key]
            ]  # fmt: skip
            page.table(("server", "stage", "from", "to", "move", headers), rows)
    draw_servers(
        page,
        [
            (
                stage,
                each["server"]["name"],
                place_of(each["stage"], each["source_host"], each["target_host"] or ""),
                each["reason"] or "",
                each["next"] or "",
            )
            for stage, each in (
                *((each["stage"], each) for each in found["trouble"]),
                *((UNCONFIRMED, each) for each in found["unconfirmed"]),
            )
        ],
    )
