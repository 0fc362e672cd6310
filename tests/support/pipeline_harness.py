"""What the pipeline is tried with: toy actions on a real journal, no step, no cloud, a clock that does not wait."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cellmove.core.clock import Clock
from cellmove.core.move import Entry, Move, State, Step
from cellmove.engine.action import Action, AnyAction, Context, ProbeOutcome, ProbeResult
from cellmove.engine.events import Event
from cellmove.engine.executor import Runner, run_step, undo
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.engine.record import ActionType
from cellmove.gateway import Gateway

LONG = 100.0
PATIENCE = 10.0


class Crash(BaseException):
    """The process dies here."""


Words = Mapping[str, Any]
Toy = Action[Words, Words]


def toy_type(name: str) -> ActionType[Words, Words]:
    """The type of a toy action, whose intent and result are what its functions make of them."""
    return ActionType(name, dict, dict)


def toy(name: str, title: str, do: Callable[[Context, Words], Words | None], **more: Any) -> Toy:
    """A toy action."""
    return Action(toy_type(name), title, do, **more)


@dataclass
class World:
    """A toy cloud: which effects are there, every call made, and what the next calls do."""

    effects: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, list[BaseException | None]] = field(default_factory=dict)
    findings: dict[str, list[ProbeResult[Words]]] = field(default_factory=dict)
    repeatable: set[str] = field(default_factory=set)

    def call(self, name: str) -> None:
        """Record a call and let it go wrong if that is its turn."""
        self.calls.append(name)
        queue = self.faults.get(name)
        fault = queue.pop(0) if queue else None
        if fault is not None:
            raise fault

    def action(self, name: str, *, probed: bool = False, can_undo: bool = True, **more: Any) -> Toy:
        """An action that adds its name to the effects."""

        def do(_context: Context, intent: Mapping[str, Any]) -> Mapping[str, Any]:
            assert intent == {"for": name}
            assert not (probed and name in self.effects), f"{name} was sent twice"
            self.call(f"do {name}")
            self.effects.add(name)
            return {name: "its id"}

        def probe(_context: Context, _intent: Mapping[str, Any]) -> ProbeResult[Words]:
            self.call(f"probe {name}")
            queue = self.findings.get(name)
            if queue:
                return queue.pop(0)
            happened = name in self.effects
            return (
                ProbeResult(ProbeOutcome.HAPPENED, {name: "its id"})
                if happened
                else ProbeResult(ProbeOutcome.NOT_HAPPENED)
            )

        def take_back(_context: Context, intent: Mapping[str, Any], _result: object) -> None:
            assert intent == {"for": name}
            self.call(f"undo {name}")
            self.effects.discard(name)

        return toy(
            name,
            f"make {name}",
            do,
            intend=lambda _context: {"for": name},
            probe=probe if probed else None,
            undo=take_back if can_undo else None,
            **more,
        )


@dataclass
class Bench:
    """A runner with everything that tests look at."""

    world: World
    journal: Journal
    runner: Runner
    events: list[Event]
    signal: list[int]
    now: list[float]
    move: Move

    @property
    def entries(self) -> list[Entry]:
        return self.journal.entries_of("m1")

    def phases(self) -> dict[str, str]:
        return {entry.action: entry.phase.value for entry in self.entries}

    def fresh(self) -> Move:
        move = self.journal.move("m1")
        assert move is not None
        return move

    def run(self, step: Step = Step.PREP_DEST, *, whole: bool = False) -> Move:
        return run_step(self.runner, self.fresh(), step, undo_whole_move=whole)

    def undo(self, step: Step | None = None) -> Move:
        return undo(self.runner, self.fresh(), step)


def make_bench(
    path: Path,
    actions: Mapping[Step, Sequence[AnyAction]],
    world: World,
    wrap: Callable[[Journal], Journal] = lambda journal: journal,
) -> Bench:
    now = [0.0]
    events: list[Event] = []
    signal = [0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = Clock(
        utc_now=lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=now[0]),
        monotonic=lambda: now[0],
        sleep=sleep,
    )
    journal = open_journal(str(path / "journal.db"), clock.text)
    with journal.engine.connect() as connection:  # the one connection of the pool: these tests lose no power
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
    move = journal.move("m1")
    if move is None:
        move = Move(
            "m1", "uuid-1", "web-1", "migration", State.PLANNED, clock.text(), clock.text(),
            {"source_cell": "cell1", "command": "cellmove migrate web-1"},
        )  # fmt: skip
        journal.open_move(move)
    gateway = cast(Gateway, SimpleNamespace(settings=SimpleNamespace(long_rpc_timeout=LONG, patience=PATIENCE)))
    full: dict[Step, Sequence[AnyAction]] = {step: list(actions.get(step, [])) for step in Step}
    runner = Runner(wrap(journal), gateway, clock, events.append, full, lambda: signal[0])
    return Bench(world, journal, runner, events, signal, now, move)


def three(world: World, **more: Any) -> list[AnyAction]:
    return [world.action("a"), world.action("b", probed=True, **more), world.action("c")]


def a_bench(tmp_path: Path, world: World, **more: Any) -> Bench:
    return make_bench(tmp_path, {Step.PREP_DEST: three(world, **more)}, world)
