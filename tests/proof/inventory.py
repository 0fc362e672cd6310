"""The names of all cases, counted from the code, and the smoke proof's choice of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cellmove.sandbox import compute
from tests.proof import streamed_cases
from tests.proof.cases import (
    FAULTS,
    FAULTS_OF_HOSTS,
    FAULTS_OF_READING,
    KEPT,
    LOST_THEN_CONFLICT,
    MAIN_SHAPE,
    RECOVERIES,
)
from tests.proof.rehearsal import deeds, is_as_before, points_of_another_try, rehearse
from tests.support.sandbox.fixtures import SHAPES, STEPS, STREAMED, Fixtures
from tests.support.sandbox.harness import Seen

SEEDS, MANY_SEEDS = 200, 5000


def _is_telling(shape: str, point: str, action: str, points: list[tuple[str, str]]) -> bool:
    """Whether a kill there differs from its neighbours: before an intent all is as after what was done last.

    A server without ports and volumes goes the same way with less to go wrong: there, only the point
    between an effect and what is known of it.
    """
    if shape.endswith("bare"):
        return point == "after-effect"
    return not is_as_before(point) or (point, action) == points[0]


def _kills(fixtures: Fixtures, shape: str, *, long: bool) -> Iterator[str]:
    family = "real" if shape == MAIN_SHAPE else f"kill:{shape}"
    for step in STEPS:
        _calls, points, _writes = rehearse(fixtures, shape, step)
        for point, action in points:
            if long or shape == MAIN_SHAPE or _is_telling(shape, point, action, points):
                yield from (f"{family}:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)


def _undos(fixtures: Fixtures, *, long: bool) -> Iterator[str]:
    for shape in (MAIN_SHAPE, "volume-stopped-full"):
        for step in ("prep-source", "finish"):
            _calls, points, _writes = rehearse(fixtures, shape, step, "rollback")
            for point, action in points:
                if long or (point, action) == points[0] or not is_as_before(point):
                    yield from (f"undo:{shape}:{step}:{action}:{point}:{recovery}" for recovery in RECOVERIES)


def _faults(seen: Seen) -> tuple[str, ...]:
    if not seen.writes:
        return FAULTS_OF_READING[: 3 if seen.kind == "sql" else 4]
    return FAULTS_OF_HOSTS if seen.text.split()[-1] in compute.METHODS else FAULTS


def _backs(fixtures: Fixtures) -> Iterator[str]:
    for step in ("prep-source", "finish"):
        calls, _points, _writes = rehearse(fixtures, MAIN_SHAPE, step, "rollback")
        for seen in calls:
            # What a conductor or a host refuses to roll back is told of, and does not go away by itself.
            refusals = ("error", "conflict") if seen.kind == "rpc" else ()
            faults = (fault for fault in _faults(seen) if fault not in refusals)
            yield from (f"back:{MAIN_SHAPE}:{step}:{seen.number}:{fault}" for fault in faults)


def _calls(fixtures: Fixtures, step: str, *, long: bool) -> Iterator[str]:
    calls, points, writes = rehearse(fixtures, MAIN_SHAPE, step)
    for seen in calls:
        for fault in (*_faults(seen), *((LOST_THEN_CONFLICT,) if seen.writes else ())):
            # Giving up after a call that only reads is giving up after the action before: that is killed elsewhere.
            for recovery in RECOVERIES if seen.writes or long else RECOVERIES[:1]:
                yield f"call:{MAIN_SHAPE}:{step}:{seen.number}:{fault}:{recovery}"
    for method, count in writes.items():
        for after in range(1, count + 1):
            yield from (f"restart:{MAIN_SHAPE}:{step}:{method}:{after}:{recovery}" for recovery in RECOVERIES)
    for action, possible in deeds(fixtures, step).items():
        for what in possible:
            yield from (f"meddle:{MAIN_SHAPE}:{step}:{action}:{what}:{recovery}" for recovery in RECOVERIES)
    if long:
        for point, action in points:
            if not is_as_before(point) or (point, action) == points[0]:
                yield from (f"double:{MAIN_SHAPE}:{step}:{point}@{action}:*:{recovery}" for recovery in RECOVERIES)


def _older(fixtures: Fixtures) -> Iterator[str]:
    """An older copy at every point of every step, and of rolling a move back that stands before one of two steps."""
    verbs = [(step, step) for step in STEPS] + [(step, "rollback") for step in ("prep-source", "finish")]
    for step, verb in verbs:
        _calls, points, _writes = rehearse(fixtures, MAIN_SHAPE, step, verb)
        for point, action in points:
            if not is_as_before(point) or (point, action) == points[0]:
                yield f"older:{MAIN_SHAPE}:{step}:{verb}:{action}:{point}"


def names(fixtures: Fixtures, *, long: bool, disks: bool = True) -> Iterator[str]:
    """Every case there is.

    :param long: with those of the long proof: killed twice, every point of every shape, many more seeds. A name of ``double``
        stands for several cases (:func:`tests.proof.rehearsal.expand`)
    :param disks: with those of streamed disks, which need qemu-img
    """
    for shape in SHAPES:
        yield from _kills(fixtures, shape, long=long)
    yield from _undos(fixtures, long=long)
    for number in points_of_another_try(fixtures, MAIN_SHAPE):
        yield from (f"again:{MAIN_SHAPE}:{number}:{recovery}" for recovery in RECOVERIES)
    for step in STEPS:
        yield from _calls(fixtures, step, long=long)
    yield from _backs(fixtures)
    yield from _older(fixtures)
    if disks:
        yield from streamed_cases.names(fixtures, long=long)
    seeds = [f"seed:{number}" for number in range(MANY_SEEDS if long else SEEDS)]
    yield from dict.fromkeys((*seeds, *(name for name in KEPT if name.startswith("seed:"))))


def needs_disks(name: str) -> bool:
    """Whether a case streams disks, for which qemu-img has to be there."""
    family, *parts = name.split(":")
    if family == "real":
        return parts[1] in streamed_cases.OWN
    return family in ("wire", "rot", "down") or parts[0] in STREAMED


def smoke_names(fixtures: Fixtures, *, disks: bool) -> list[str]:
    """The smoke proof's choice of all cases without streamed disks, or of those with them."""
    if disks:
        return smoke(streamed_cases.names(fixtures, long=False))
    return smoke(names(fixtures, long=False, disks=False))


def smoke(cases: Iterable[str]) -> list[str]:
    """The few hundred cases that stand for all, of those given.

    Every action of every step is killed once for each recovery, each time with another shape of server; every 8th call fails;
    every kind of meddling happens once; every call to a host that waits in its queue; every 16th of the other families; the cases that once failed; 20 seeds.
    """
    families: dict[str, list[str]] = {}
    known = dict.fromkeys(cases)
    for name in known:
        families.setdefault(name.split(":")[0], []).append(name)
    chosen = [*_killed_once(families.get("kill", ())), *_real_once(families.get("real", ())), *KEPT]
    chosen += _meddled_once(families.get("meddle", ()))
    chosen += families.get("call", [])[::8]
    chosen += [name for family in ("call", "back") for name in families.get(family, []) if ":queued" in name]
    for family in ("undo", "again", "back", "restart", "wire", "older"):
        chosen += families.get(family, [])[::16]
    chosen += families.get("rot", []) + families.get("down", []) + families.get("seed", [])[:20]
    return list(dict.fromkeys(name for name in chosen if name in known))


def _killed_once(kills: Iterable[str]) -> Iterator[str]:
    """Of each action and recovery one kill after the effect; the shapes take turns."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name in kills:
        _family, _shape, step, action, point, recovery = name.split(":")
        if point == "after-effect":
            found.setdefault((step, action, recovery), []).append(name)
    for number, same in enumerate(found.values()):
        yield same[number % len(same)]


def _real_once(reals: Iterable[str]) -> Iterator[str]:
    """Of each step and recovery one process that is really killed; the points take turns."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in reals:
        _family, step, _action, _point, recovery = name.split(":")
        found.setdefault((step, recovery), []).append(name)
    for number, same in enumerate(found.values()):
        yield same[(len(same) // 3 + number) % len(same)]


def _meddled_once(meddlings: Iterable[str]) -> Iterator[str]:
    """Of each kind one; the actions and recoveries take turns."""
    found: dict[str, list[str]] = {}
    for name in meddlings:
        found.setdefault(name.split(":")[4], []).append(name)
    for number, same in enumerate(found.values()):
        yield same[(len(same) * number // len(found)) % len(same)]
