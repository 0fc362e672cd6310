"""The cases of moves whose disks are streamed: killed, rolled back, and every connection and request that goes wrong."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

from cellmove.sandbox import buses, disks
from cellmove.steps import stream_off
from tests.proof import cases, rehearsal
from tests.proof.cases import RECOVERIES
from tests.support.sandbox import disk_requests
from tests.support.sandbox.fixtures import STEPS, STREAMED, Fixtures
from tests.support.sandbox.harness import Harness, Outcome, Seen

MAIN, OTHER = STREAMED
SOURCE, TARGET = "c1-host1", "c2-host1"
OWN = {action.name for action in stream_off.ACTIONS}
"""The actions that only a streamed move has."""

TOUCHING = {
    "stash", "stop_source", "hand_over", "start_target", "switch_mapping", "clean_source", "clean_target", "start_source",
}  # fmt: skip
"""Others between which a server's files are made, used or removed."""

BACK = "undo-"
"""In front of the step before which a move stands when it is rolled back."""


def play_wire(
    fixtures: Fixtures,
    outcomes: list[Outcome],
    shape: str,
    step: str,
    call: str,
    number: str,
    fault: str,
    recovery: str,
) -> cases.Played:
    """The n-th call of its kind to a host's disks goes wrong: in a step, or while a move is rolled back."""
    checkpoint, left = fixtures.set(shape, step.removeprefix(BACK)), [int(number)]
    going_back = step.startswith(BACK)

    def on_call(seen: Seen) -> str:
        left[0] -= (seen.kind, seen.text) == (disk_requests.WIRE, call)
        return fault if left[0] == -1 and (seen.kind, seen.text) == (disk_requests.WIRE, call) else ""

    fixtures.harness.taps.on_call = on_call
    outcomes.append(fixtures.harness.run("rollback" if going_back else step, checkpoint.move))
    fixtures.harness.taps.on_call = lambda _seen: ""
    if left[0] >= 0:
        raise AssertionError(f"there were not so many of {call}")
    goal = cases.GOALS.get(step, cases.State.FINISHED)
    cases.recover(fixtures.harness, outcomes, "back" if going_back else recovery, goal)
    return checkpoint, None


def when(harness: Harness, action: str, call: str, do: Callable[[], None], *, times: int = 1) -> list[str]:
    """Do something in front of the first calls of a kind in an action; returns what is filled with those calls."""
    under_way, done = [""], list[str]()

    def on_journal(point: str, name: str) -> None:
        under_way[0] = name if point == "after-intent" else ""

    def on_call(seen: Seen) -> str:
        if (under_way[0], seen.text) == (action, call) and len(done) < times:
            done.append(call)
            do()
        return ""

    harness.taps.on_journal, harness.taps.on_call = on_journal, on_call
    return done


def flip(path: Path, place: int) -> None:
    """One bit of a file becomes another."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


ROTS = {"copied": "prep-source", "placed": "finish", "started": "finish"}
"""When a disk becomes another, and the step that must not go by it: its copy once it was sent, and once it has its name; and at
the source, where somebody starts the guest by hand."""


def play_rot(fixtures: Fixtures, outcomes: list[Outcome], shape: str, moment: str, recovery: str) -> cases.Played:
    """Bytes change that nobody has sent."""
    step = ROTS[moment]
    checkpoint = fixtures.set(shape, step)
    harness, server = fixtures.harness, checkpoint.scene.server
    folder, done = harness.instances.path(TARGET) / server, ["at once"]
    if moment == "copied":
        copy = folder / f".disk.cellmove-{checkpoint.move}"
        done = when(harness, "copy_rest", f"{SOURCE}.settle", lambda: flip(copy, 5 << 18))
    elif moment == "placed":
        flip(folder / "disk", 5 << 18)
    else:
        disks.write(harness.cloud, SOURCE, server)
    outcomes.append(harness.run(step, checkpoint.move))
    if not done:
        raise AssertionError("never came to the end of the copy")
    cases.recover(harness, outcomes, recovery, cases.State.FINISHED)
    return checkpoint, None


def play_down(fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str) -> cases.Played:
    """Rolled back from before a step while nova-compute at the target is down: nova removes nothing there, then."""
    checkpoint = fixtures.set(shape, step)
    world, cloud = fixtures.harness.cloud.world, fixtures.harness.cloud
    world.down.append(TARGET)
    long_ago = cloud.now() - datetime.timedelta(hours=1)
    cloud.update("cell2", "services", {"last_seen_up": long_ago}, host=TARGET)
    outcomes.append(fixtures.harness.run("rollback", checkpoint.move))
    buses.restart(cloud, TARGET)
    cases.recover(fixtures.harness, outcomes, "back", cases.State.FINISHED)
    return checkpoint, None


def names(fixtures: Fixtures, *, long: bool) -> Iterator[str]:
    """Every case of them."""
    yield from _kills(fixtures, long=long)
    yield from (f"rot:{MAIN}:{moment}:on" for moment in ROTS)
    yield from (f"down:{shape}:{step}" for shape in STREAMED for step in ("prep-source", "finish"))
    for step in ("prep-source", "finish"):
        _calls, points, _writes = rehearsal.rehearse(fixtures, MAIN, step, "rollback")
        for point, action in points:
            if long or (action in OWN | TOUCHING and point != "before-undoing"):
                yield from (f"undo:{MAIN}:{step}:{action}:{point}:{way}" for way in RECOVERIES[: 2 if long else 1])
    steps = ("prep-dest", "prep-source", "finish", *(f"{BACK}{step}" for step in ("prep-source", "finish")))
    for shape in (MAIN, OTHER) if long else (MAIN,):
        for step in steps:
            yield from wires_of(fixtures, shape, step, long=long)
    if not long:
        yield from wires_of(fixtures, OTHER, "prep-dest", long=False, only="seed_base")  # it is there, and compared
    for step in ("prep-source", "finish"):
        _calls, _points, writes = rehearsal.rehearse(fixtures, MAIN, step)
        for method, count in writes.items():
            for after in range(1, count + 1):
                ways = RECOVERIES if long else (RECOVERIES[after % 2],)
                yield from (f"restart:{MAIN}:{step}:{method}:{after}:{way}" for way in ways)
    for step in ("prep-dest", "prep-source", "finish"):
        for action in rehearsal.deeds(fixtures, step, MAIN):
            if action in OWN:
                yield f"meddle:{MAIN}:{step}:{action}:delete:on"


def _kills(fixtures: Fixtures, *, long: bool) -> Iterator[str]:
    for step in STEPS:
        for shape in (MAIN, OTHER):
            _calls, points, _writes = rehearsal.rehearse(fixtures, shape, step)
            for point, action in points:
                if shape == MAIN and action in OWN:
                    yield from (f"real:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)
                elif long or (
                    action in (TOUCHING if shape == MAIN else OWN) and point in ("after-intent", "after-effect")
                ):
                    yield from (f"kill:{shape}:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)


def wires_of(fixtures: Fixtures, shape: str, step: str, *, long: bool, only: str = "") -> Iterator[str]:
    """One call of each kind in each action, the first one: the others go the same way.

    :param only: of one action
    """
    checkpoint = fixtures.set(shape, step.removeprefix(BACK))
    harness, under_way, numbers = fixtures.harness, [""], dict[str, int]()
    seen_in: set[tuple[str, str]] = set()
    found: list[tuple[str, int, bool]] = []

    def on_journal(_point: str, action: str) -> None:
        under_way[0] = action

    def on_call(seen: Seen) -> str:
        if seen.kind == disk_requests.WIRE:
            number = numbers[seen.text] = numbers.get(seen.text, -1) + 1
            if long or ((under_way[0], seen.text) not in seen_in and only in ("", under_way[0])):
                seen_in.add((under_way[0], seen.text))
                found.append((seen.text, number, seen.writes))
        return ""

    harness.taps.on_journal, harness.taps.on_call = on_journal, on_call
    outcome = harness.run("rollback" if step.startswith(BACK) else step, checkpoint.move)
    if outcome.code:
        raise AssertionError(outcome.text)
    for call, number, writes in sorted(found):
        for fault in (
            disk_requests.FAULTS
            if writes
            else disk_requests.FAULTS[:1]
            if call.endswith(".connect")
            else ("refused", "error")
        ):
            if fault == "error" and step.startswith(BACK):
                continue  # a host that will not have something rolled back: told of, and nothing that goes away by itself
            # Giving up after a call that did not happen is giving up after the one before.
            for recovery in RECOVERIES if fault == "lost" or long else RECOVERIES[:1]:
                yield f"wire:{shape}:{step}:{call}:{number}:{fault}:{recovery}"
