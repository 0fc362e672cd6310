"""The cases of moves whose disks are streamed: killed, taken back, and every connection and request that goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from cellmove.steps import stream
from tests.sandbox import cases, wires
from tests.sandbox.cases import RECOVERIES
from tests.sandbox.rig import Outcome, Seen
from tests.sandbox.stage import STEPS, STREAMED, Stage

MAIN, OTHER = STREAMED
OWN = {action.name for action in stream.ACTIONS}
"""The actions that only a streamed move has."""

TOUCHING = {
    "stash", "stop_source", "hand_over", "start_target", "switch_mapping", "clean_source", "clean_target", "start_source",
}  # fmt: skip
"""Others between which a server's files are made, used or removed."""

BACK = "undo-"
"""In front of the step before which a move stands when it is taken back."""


def play_wire(
    stage: Stage, outcomes: list[Outcome], shape: str, step: str, call: str, number: str, fault: str, recovery: str
) -> cases.Played:
    """The n-th call of its kind to a host's disks goes wrong: in a step, or while a move is taken back."""
    checkpoint, left = stage.set(shape, step.removeprefix(BACK)), [int(number)]
    going_back = step.startswith(BACK)

    def on_call(seen: Seen) -> str:
        left[0] -= (seen.kind, seen.text) == (wires.WIRE, call)
        return fault if left[0] == -1 and (seen.kind, seen.text) == (wires.WIRE, call) else ""

    stage.rig.taps.on_call = on_call
    outcomes.append(stage.rig.run("rollback" if going_back else step, checkpoint.move))
    stage.rig.taps.on_call = lambda _seen: ""
    if left[0] >= 0:
        raise AssertionError(f"there were not so many of {call}")
    goal = cases.GOALS.get(step, cases.State.FINISHED)
    cases.recover(stage.rig, outcomes, "back" if going_back else recovery, goal)
    return checkpoint, None


def names(stage: Stage, *, long: bool) -> Iterator[str]:
    """Every case of them."""
    yield from _kills(stage, long=long)
    for step in ("prep-source", "finish"):
        _calls, points, _writes = cases.rehearse(stage, MAIN, step, "rollback")
        for point, action in points:
            if long or (action in OWN | TOUCHING and point != "before-undoing"):
                yield from (f"undo:{MAIN}:{step}:{action}:{point}:{way}" for way in RECOVERIES[: 2 if long else 1])
    steps = ("prep-dest", "prep-source", "finish", *(f"{BACK}{step}" for step in ("prep-source", "finish")))
    for shape in (MAIN, OTHER) if long else (MAIN,):
        for step in steps:
            yield from _wires(stage, shape, step, long=long)
    if not long:
        yield from _wires(stage, OTHER, "prep-dest", long=False, only="seed_base")  # it is there, and compared
    for step in ("prep-source", "finish"):
        _calls, _points, writes = cases.rehearse(stage, MAIN, step)
        for method, count in writes.items():
            for after in range(1, count + 1):
                ways = RECOVERIES if long else (RECOVERIES[after % 2],)
                yield from (f"restart:{MAIN}:{step}:{method}:{after}:{way}" for way in ways)
    for step in ("prep-dest", "prep-source", "finish"):
        for action in cases.deeds(stage, step, MAIN):
            if action in OWN:
                yield f"meddle:{MAIN}:{step}:{action}:delete:on"


def _kills(stage: Stage, *, long: bool) -> Iterator[str]:
    for step in STEPS:
        for shape in (MAIN, OTHER):
            _calls, points, _writes = cases.rehearse(stage, shape, step)
            for point, action in points:
                if shape == MAIN and action in OWN:
                    yield from (f"real:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)
                elif long or (action in OWN | TOUCHING and point in ("after-intent", "after-effect")):
                    yield from (f"kill:{shape}:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)


def _wires(stage: Stage, shape: str, step: str, *, long: bool, only: str = "") -> Iterator[str]:
    """One call of each kind in each action, the first one: the others go the same way.

    :param only: of one action
    """
    checkpoint = stage.set(shape, step.removeprefix(BACK))
    rig, under_way, numbers = stage.rig, [""], dict[str, int]()
    seen_in: set[tuple[str, str]] = set()
    found: list[tuple[str, int, bool]] = []

    def on_journal(_point: str, action: str) -> None:
        under_way[0] = action

    def on_call(seen: Seen) -> str:
        if seen.kind == wires.WIRE:
            number = numbers[seen.text] = numbers.get(seen.text, -1) + 1
            if long or ((under_way[0], seen.text) not in seen_in and only in ("", under_way[0])):
                seen_in.add((under_way[0], seen.text))
                found.append((seen.text, number, seen.writes))
        return ""

    rig.taps.on_journal, rig.taps.on_call = on_journal, on_call
    outcome = rig.run("rollback" if step.startswith(BACK) else step, checkpoint.move)
    if outcome.code:
        raise AssertionError(outcome.text)
    for call, number, writes in sorted(found):
        for fault in (
            wires.FAULTS if writes else wires.FAULTS[:1] if call.endswith(".connect") else ("refused", "error")
        ):
            if fault == "error" and step.startswith(BACK):
                continue  # a host that will not have something taken back: told of, and nothing that goes away by itself
            # Giving up after a call that did not happen is giving up after the one before.
            for recovery in RECOVERIES if fault == "lost" or long else RECOVERIES[:1]:
                yield f"wire:{shape}:{step}:{call}:{number}:{fault}:{recovery}"
