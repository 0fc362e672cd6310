"""Would the proofs notice? Leaves out one intent, one undo or one probe after the other, and runs cases on each.
Of what only streamed moves do, also each action itself, and the comparison.

    python -m tests.proof.mutations [STEP:ACTION:PART …]

Every such mutant has to make at least one case fail. The few that may not are listed with their reasons.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from cellmove import steps
from cellmove.core.move import Step
from cellmove.engine.action import Action
from cellmove.steps import passes
from tests.proof import cases, rehearsal, streamed_cases
from tests.proof.cases import LOST_THEN_CONFLICT, MAIN_SHAPE, RECOVERIES
from tests.support.sandbox.fixtures import STEPS, Fixtures

HARMLESS: dict[str, str] = {
    "prep-dest:copy_running:do": "then all of it is copied before the stop",
    "prep-source:copy_again:do": "then all of it is copied after the stop",
    "confirm:check_allocations:intent": "the hosts of these cases leave nothing, so there is no effect to announce",
}
"""Mutants that no case can tell from the original, and why that is so."""

OPEN: dict[str, str] = {}
"""Mutants that no case notices, although one should. Each run prints them. A test belongs in the place of each."""

AFTER = {step: STEPS[position + 1] for position, step in enumerate(STEPS[:-1])} | {"finish": "revert"}
"""The step before which everything of a step is done."""


def mutants() -> Iterator[str]:
    """STEP:ACTION:PART of everything that can be left out."""
    for step in STEPS:
        for action in steps.ACTIONS[Step(step)]:
            yield f"{step}:{action.name}:intent"
            if action.undo is not None:
                yield f"{step}:{action.name}:undo"
            if action.probe is not None:
                yield f"{step}:{action.name}:probe"
            if action.name in streamed_cases.OWN:
                yield f"{step}:{action.name}:do"
    yield "prep-source:copy_rest:comparison"


def cases_for(fixtures: Fixtures, step: str, action: str, part: str) -> Iterator[str]:
    """Cases in which it would matter, the likeliest first."""
    shapes = (MAIN_SHAPE, "volume-active-full", "image-stopped-full")
    if action in streamed_cases.OWN:
        shapes = (streamed_cases.MAIN, streamed_cases.OTHER)
        yield from (
            f"rot:{streamed_cases.MAIN}:{moment}:on" for moment, where in streamed_cases.ROTS.items() if where == step
        )
        yield from (
            f"down:{shape}:{before}" for shape in shapes for before in ("prep-source", "finish") if part == "undo"
        )
    names = [each.name for each in steps.ACTIONS[Step(step)]]
    if part == "intent":
        # Any run of the step will do: the journal is looked at before every effect.
        other = names[-1] if action != names[-1] else names[0]
        yield from (f"kill:{shape}:{step}:{other}:after-done:on" for shape in shapes)
    for shape in shapes:
        for point in (
            ("after-effect", "after-done", "after-intent") if part != "probe" else ("after-effect", "after-intent")
        ):
            for recovery in ("back", "on") if part == "undo" else ("on", "back"):
                yield f"kill:{shape}:{step}:{action}:{point}:{recovery}"
        if part == "undo":
            yield from (f"kill:{shape}:{step}:{name}:after-intent:back" for name in names[names.index(action) + 1 :])
    if action in streamed_cases.OWN:
        yield from streamed_cases.wires_of(fixtures, streamed_cases.MAIN, step, long=False)
        return
    calls, _points, writes = rehearsal.rehearse(fixtures, MAIN_SHAPE, step)
    for method, count in writes.items():
        yield from (f"restart:{MAIN_SHAPE}:{step}:{method}:{after}:back" for after in range(1, count + 1))
    for seen in calls:
        if seen.writes:
            for fault in ("lost", "timeout", "error", *(("conflict", LOST_THEN_CONFLICT) if part == "undo" else ())):
                yield from (f"call:{MAIN_SHAPE}:{step}:{seen.number}:{fault}:{recovery}" for recovery in RECOVERIES)
    # Some actions have something to do only where the owner did something before.
    for name, possible in rehearsal.deeds(fixtures, step).items():
        yield from (f"meddle:{MAIN_SHAPE}:{step}:{name}:{what}:on" for what in possible if what in ("attach", "detach"))


def leave_out(fixtures: Fixtures, step: str, action: str, part: str) -> None:
    """Make the mutant. In this process only, and for good."""
    if part == "intent":
        fixtures.harness.without_intent = action
        return
    if part == "comparison":
        # A patch fails where the name is gone; an assignment would make a mutant that changes nothing.
        mock.patch.object(passes, "read_back", return_value=[]).start()
        return
    field: dict[str, Any] = {part: (lambda _context, _intent: {}) if part == "do" else None}
    mutated: dict[Step, tuple[Action, ...]] = dict(steps.ACTIONS)  # type: ignore[arg-type]
    mutated[Step(step)] = tuple(
        dataclasses.replace(each, **field) if each.name == action else each for each in steps.ACTIONS[Step(step)]
    )
    steps.ACTIONS = mutated


OF_THE_MUTANT = ("AssertionError: never came", "AttributeError", "TypeError")
"""What says that a case could not be played, or that the mutant is no cellmove: nobody has noticed anything."""


def try_one(mutant: str) -> tuple[str, str, int]:
    """Run cases until one fails: which, and how many that took."""
    step, action, part = mutant.split(":")
    fixtures, number, tried = Fixtures(), 0, set()
    leave_out(fixtures, step, action, part)  # the way to the step is made by the steps before it
    for name in cases_for(fixtures, step, action, part):
        if name in tried:
            continue
        tried.add(name)
        number += 1
        problems, _story = cases.run(fixtures, name)
        if problems and not problems[0].startswith(OF_THE_MUTANT):
            return mutant, f"{name}: {problems[0]}", number
    return mutant, "", number


def verdict(mutant: str, noticed: str, number: int) -> str:
    """What is wrong with the proof, empty when nothing is: a mutant is noticed, unless it is known to be harmless."""
    if noticed and mutant in HARMLESS:
        return f"{mutant} is on the list of the harmless ones, and is noticed: {noticed}"
    if noticed and mutant in OPEN:
        return f"{mutant} is on the list of the open ones, and is noticed: {noticed}"
    if mutant in OPEN:
        sys.stdout.write(f"OPEN {mutant} was not noticed by {number} cases: {OPEN[mutant]}\n")
    elif not noticed and mutant not in HARMLESS:
        return f"{mutant} was not noticed by {number} cases"
    return ""


def main() -> int:
    """0 when every mutant was noticed, or is known to be harmless."""
    chosen, begun = sys.argv[1:] or list(mutants()), time.monotonic()
    alive = []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 2, maxtasksperchild=1) as pool:
        for mutant, noticed, number in pool.imap_unordered(try_one, chosen):
            wrong = verdict(mutant, noticed, number)
            alive += [wrong] if wrong else []
            if len(sys.argv) > 1:
                print(mutant, number, noticed[:200])
    print(f"{len(chosen)} mutants, {len(alive)} wrong, {time.monotonic() - begun:.0f} s", *alive, sep="\n")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
