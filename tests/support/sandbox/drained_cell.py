"""A cloud of a test's own whose first cell is emptied, and what can be told of that from outside."""

from __future__ import annotations

import datetime
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cellmove.core.move import Entry, Move
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.sandbox.buses import CELL_UUIDS
from cellmove.sandbox.store import HOSTS
from lab import oracle
from tests.scenarios.environment import Server
from tests.support import fork_server
from tests.support.commands import run_impatient, run_killed, run_killed_in
from tests.support.kill_at import POINTS
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.running import Begun, begin

SOURCE, TARGET = CELL_UUIDS["cell1"], CELL_UUIDS["cell2"]

KEYS = {
    "schema_version", "event", "at", "cell", "cell_uuid", "server", "move", "step", "source_host", "target_host", "disk_gib", "seconds",
    "reason", "next", "counts", "ending",
}  # fmt: skip
"""What every line of ``--format json`` has."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TRANSIT = ("prep-dest", "prep-source", "finish")


@dataclass
class Drained(Sandbox):
    """A sandbox, and commands about its first cell."""

    servers: dict[str, Server] = field(default_factory=dict)
    target: Callable[..., None] = run_impatient

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

        :param where: STEP:ACTION:POINT as in :mod:`tests.support.kill_at`, or MODULE:CLASS.METHOD:before (or after)
        """
        number = next(self.numbers)
        files = (self.folder / f"{number}.out", self.folder / f"{number}.err")
        run = run_killed if where.rpartition(":")[2] in POINTS else run_killed_in
        words = ["drain-cell", "cell1", *arguments]
        code = fork_server.call(run, where, words, self.environment, *files)
        assert code == -signal.SIGKILL, f"{where}: {code}\n{files[1].read_text()}"

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
            shot = self.snapshot(self.servers[name].id)
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


def clock(minutes: int) -> str:
    """The time of day, so many minutes from now."""
    return f"{datetime.datetime.now() + datetime.timedelta(minutes=minutes):%H:%M}"  # noqa: DTZ005 - of this machine


def today(days: int = 0) -> str:
    """Today's weekday, or that of a day later."""
    return DAYS[(datetime.datetime.now() + datetime.timedelta(days=days)).weekday()]  # noqa: DTZ005


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
