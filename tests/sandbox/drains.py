"""A cloud of a test's own whose first cell is emptied, and what can be told of that from outside."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cellmove.drain import window
from cellmove.journal import Journal, open_journal
from cellmove.move import Entry, Move
from cellmove.sandbox.store import HOSTS
from lab import oracle
from tests.kill_at import POINTS, die
from tests.sandbox.place import FORKS, Sandbox, run_command
from tests.sandbox.processes import killed_command
from tests.sandbox.test_runs import Begun, begin
from tests.scenarios.place import Server

KEYS = {
    "schema_version", "event", "at", "cell", "server", "move", "step", "source_host", "target_host", "disk_gib", "seconds",
    "reason", "next", "counts", "ending",
}  # fmt: skip
"""What every line of ``--format json`` has."""

TRANSIT = ("prep-dest", "prep-source", "finish")


@dataclass
class Drained(Sandbox):
    """A sandbox, and commands about its first cell."""

    servers: dict[str, Server] = field(default_factory=dict)
    target: Callable[..., None] = field(default_factory=lambda: run_impatient)

    def add(self, *names: str, **how: Any) -> list[Server]:
        """Servers of these very names."""
        made = [Server(self.process.control("boot", name=name, **how), name) for name in names]
        self.servers |= {each.name: each for each in made}
        return made

    def drain(self, *arguments: str, expect: int | None = 0, **how: Any) -> Any:
        """Run ``drain-cell cell1`` to its end."""
        return self.cellmove("drain-cell", "cell1", *arguments, expect=expect, **how)

    def lines(self, *arguments: str, expect: int | None = 0) -> list[dict[str, Any]]:
        """The same with ``--format json``: every line of stdout parses and has the same keys."""
        return parsed(self.drain(*arguments, "-f", "json", expect=expect).stdout)

    def begin(self, *arguments: str) -> Begun:
        """Begin ``drain-cell cell1`` and do not wait for it."""
        return begin(self, "drain-cell", "cell1", *arguments)

    def killed(self, where: str, *arguments: str) -> None:
        """Run ``drain-cell cell1`` and have it end with SIGKILL.

        :param where: STEP:ACTION:POINT as in :mod:`tests.kill_at`, or MODULE:CLASS.METHOD:before (or after)
        """
        number = next(self.numbers)
        files = (self.folder / f"{number}.out", self.folder / f"{number}.err")
        target = killed_command if where.rpartition(":")[2] in POINTS else killed_in
        words = ["drain-cell", "cell1", *arguments]
        child = FORKS.Process(target=target, args=(where, words, self.environment, *files))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, f"{where}: {child.exitcode}\n{files[1].read_text()}"

    def plan(self, *arguments: str) -> dict[str, Any]:
        """What a dry run finds."""
        found: dict[str, Any] = self.drain("--dry-run", *arguments, "-f", "json").json
        return found

    def status(self, expect: int = 0) -> dict[str, Any]:
        """What ``drain status`` says."""
        found: dict[str, Any] = self.cellmove("drain", "status", "-f", "json", expect=expect).json
        return found

    def broken(self, **calls: int) -> None:
        """Let the APIs answer with these statuses, each to the calls that begin so: ``METHOD /path``; none mends all."""
        self.process.control("world", broken=calls)

    def pace(self, seconds: float) -> None:
        """How long a host takes between two of its writes."""
        self.process.control("pace", seconds=seconds)

    def where(self, name: str) -> str:
        """The host on which a server's guest runs."""
        found = [host for host, guests in self.world["guests"].items() if self.running(name, guests)]
        assert len(found) == 1, f"{name} runs on {found}"
        return found[0]

    def running(self, name: str, guests: dict[str, Any]) -> bool:
        return bool(guests.get(self.servers[name].id, {}).get("state") == 1)

    @property
    def world(self) -> dict[str, Any]:
        """All of the cloud that stands in no database."""
        found: dict[str, Any] = self.process.control("state")
        return found

    @property
    def history(self) -> list[dict[str, Any]]:
        """What happened in the cloud, in its order."""
        found: list[dict[str, Any]] = self.world["history"]
        return found

    def judge(self, *names: str, cell: str = "cell2", flavor: str = "m1.tiny", status: str = "ACTIVE") -> None:
        """Nothing is wrong with these servers: they are whole, and in one cell only."""
        for name in names:
            shot = self.picture(self.servers[name].id)
            host = self.where(name)
            assert HOSTS[host] == cell, f"{name} is on {host}"
            assert oracle.problems(shot, cell=cell, host=host, flavor=flavor, status=status) == [], name

    def cells(self) -> dict[str, str]:
        """Where each server is, by its mapping."""
        rows = self.process.cloud().rows("api", "instance_mappings", queued_for_delete=0)
        return {
            name: f"cell{row['cell_id'] - 1}"
            for name, each in self.servers.items()
            for row in rows
            if row["instance_uuid"] == each.id
        }

    @property
    def moved(self) -> set[str]:
        """The servers that are mapped to the other cell."""
        return {name for name, cell in self.cells().items() if cell == "cell2"}

    # what the journal says

    @property
    def journal(self) -> Journal:
        """The journal as it is now."""
        return open_journal(str(self.folder / "journal.db"), str)

    def moves(self) -> dict[str, list[tuple[Move, list[Entry]]]]:
        """The moves of each server with their lines, oldest first."""
        journal, found = self.journal, {}
        for move in journal.all_moves():
            found.setdefault(move.server_name, []).append((move, journal.entries_of(move.id)))
        return found

    def move(self, name: str) -> Move:
        """A server's newest move."""
        return self.moves()[name][-1][0]

    def spans(self, steps: Sequence[str] = TRANSIT) -> dict[str, tuple[float, float]]:
        """From when to when each server's newest move was in these steps."""
        found = {}
        for name, many in self.moves().items():
            times = [
                (seconds(entry.started_at), seconds(entry.finished_at))
                for entry in many[-1][1]
                if entry.step in steps and entry.finished_at
            ]
            found[name] = (min(begun for begun, _ in times), max(ended for _, ended in times))
        return found

    def begun(self) -> list[str]:
        """The servers in the order in which something was first done to them."""
        spans = self.spans()
        return sorted(spans, key=lambda name: spans[name])


def run_impatient(arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """A `cellmove` that soon gives up on what does not answer, and whose hours are two later while there is a file."""
    from cellmove import probe, settings
    from cellmove.drain import run

    load = settings.load
    settings.load = lambda *given: dataclasses.replace(load(*given), patience=0.5)
    probe.PATIENCE = 2.0  # a busy machine takes its time to start a command
    why_closed, late = run.why_closed, out.with_name("late")

    def hours_later(hours: window.Hours, now: datetime.datetime) -> str:
        return why_closed(hours, now + datetime.timedelta(hours=2 if late.exists() else 0))

    run.why_closed = hours_later
    run_command(arguments, environment, out, err)


def killed_in(where: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """A `cellmove` that ends with SIGKILL on one side of a method's first call."""
    module, path, side = where.split(":")
    owner, method = path.split(".")
    found = getattr(importlib.import_module(module), owner)
    original = getattr(found, method)

    def wrapped(*given: Any, **named: Any) -> Any:
        if side == "before":
            die()
        result = original(*given, **named)
        die()
        return result

    setattr(found, method, wrapped)
    run_command(arguments, environment, out, err)


def seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def parsed(text: str) -> list[dict[str, Any]]:
    """JSON lines, each with the same keys."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) == KEYS for line in found), found
    return found


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of them there were at the most crowded moment."""
    known = list(spans)
    return max((sum(begun <= moment < ended for begun, ended in known) for moment, _ in known), default=0)


def most_by(spans: dict[str, tuple[float, float]], group: Callable[[str], str]) -> dict[str, int]:
    """The same for each group of servers."""
    groups = {group(name) for name in spans}
    return {each: most_at_once(span for name, span in spans.items() if group(name) == each) for each in groups}


def most_in_calls(history: Sequence[dict[str, Any]], chosen: Callable[[dict[str, Any]], bool]) -> int:
    """How many servers were at once between their first and their last call to a compute, by the cloud's own history.

    :param chosen: which calls count
    """
    calls = [(at, event) for at, event in enumerate(history) if event["what"] in ("call begun", "call done")]
    found: dict[str, list[int]] = {}
    for at, event in calls:
        if chosen(event):
            found.setdefault(event["server"], []).append(at)
    return most_at_once((min(times), max(times)) for times in found.values())


def wait_until(holds: Callable[[], Any], what: str, limit: float = 60.0) -> Any:
    """Poll until something holds; gives what it was then."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    return pytest.fail(f"it was never so: {what}")


def until_called(cell: Drained, what: str, method: str, count: int = 1) -> None:
    """Wait until the computes were called so often.

    :param what: ``call begun`` or ``call done``
    """

    def seen() -> bool:
        return (
            sum(each["what"] == what and method in each["method"] for each in cell.history if "method" in each) >= count
        )

    wait_until(seen, f"{what} {method} {count} times")


def err(run: Begun) -> str:
    """What a command that is under way has written on stderr so far."""
    return run.err.read_text() if run.err.exists() else ""


def said(lines: Iterable[dict[str, Any]], event: str) -> Iterator[dict[str, Any]]:
    """The lines about one kind of event."""
    return (line for line in lines if line["event"] == event)
