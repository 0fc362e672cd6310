"""A run is killed, its journal is lost, and the move is adopted: then it ends as if nothing had been lost.

python -m tests.proof.lost_journals                 every boundary of a whole move, and of rolling one back
python -m tests.proof.lost_journals 'CASE'…         replay cases by their names
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from cellmove.core import ownership
from cellmove.core.errors import CellmoveError
from cellmove.core.move import Move, State
from cellmove.operations import adopt as adopting
from lab import oracle
from tests.proof import cases, rehearsal
from tests.support.sandbox import cloud_oracle
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.fixtures import STREAMED, Fixtures
from tests.support.sandbox.harness import Harness, Outcome
from tests.support.sandbox.snapshot import snapshot

NOT_BEGUN = ("before-intent", "after-intent")
"""Points of taking the server at which nothing has happened yet."""


SHAPES_TRIED = ("image-active-full", "volume-stopped-full", "stream-active-full")


class Case(NamedTuple):
    """One run that is killed.

    :param step: a step, or ``undo-`` and the step before which the move stands when it is rolled back, or
        ``nova-`` and a step: our mark is taken off, so that it looks as if nova's conductor had died there
    :param way: where the operator goes after adopting: ``on`` or ``back``
    """

    shape: str
    step: str
    action: str
    point: str
    way: str


def lose_journal(harness: Harness) -> None:
    """The journal is gone, and nobody kept a copy."""
    for path in harness.folder.glob("journal.db*"):
        path.unlink()


def unmark(harness: Harness, server: str) -> None:
    """As nova's own conductor leaves a move: without our mark."""
    for cell in ("cell1", "cell2"):
        for key in ownership.KEYS:
            harness.cloud.delete(cell, "instance_system_metadata", instance_uuid=server, key=key)


def adopt(
    harness: Harness, server: str, *, journal_is_lost: bool = False, nova_is_dead: bool = False
) -> Move | CellmoveError:  # fmt: skip
    """Type ``cellmove adopt``: the move, or what was said instead."""
    try:
        with harness.session() as session:
            return adopting.adopt(session, server, journal_is_lost=journal_is_lost, nova_is_dead=nova_is_dead)
    except CellmoveError as error:
        return error


def play(fixtures: Fixtures, shape: str, step: str, action: str, point: str, recovery: str) -> list[str]:
    """Kill a command, lose its journal, adopt, and go on or back: what is wrong then (see :class:`Case`)."""
    if step.startswith("nova-"):
        return play_nova(fixtures, Case(shape, step.removeprefix("nova-"), action, point, recovery))
    harness, outcomes = fixtures.harness, list[Outcome]()
    checkpoint = fixtures.set(shape, step.removeprefix("undo-"))
    server = checkpoint.scene.server
    cases.kill_at(harness, action, point)
    outcomes.append(harness.run("rollback" if step.startswith("undo-") else step, checkpoint.move))
    if outcomes[-1].code != -9:
        return [f"never came to {point} of {action}: {outcomes[-1].text}"]
    lose_journal(harness)
    effects = harness.taps.effects
    move = adopt(harness, server)
    if harness.taps.effects != effects:
        return [f"adopt wrote {harness.taps.effects - effects} times to the cloud"]
    if isinstance(move, CellmoveError):
        return _refused(fixtures, checkpoint.scene, move, nothing_begun=_is_nothing(step, action, point))
    if move.id != checkpoint.move and move.state is not State.FINISHED:
        return [f"it was adopted as {move.id}, not as {checkpoint.move}"]
    outcomes.append(harness.run("resume" if recovery == "on" else "rollback", move.id))
    if recovery == "on":
        cases.follow(harness, outcomes, State.FINISHED)
    found = _violations_at_the_end(harness, checkpoint.scene, outcomes)
    wanted = (State.ROLLED_BACK, State.REVERTED) if recovery == "back" else (State.FINISHED,)
    if not step.startswith("undo-") and harness.state() not in wanted:
        found.append(f"it ended as {harness.state()}")
    return [f"{problem}  ({[outcome.text for outcome in outcomes]})" for problem in found]


def _violations_at_the_end(harness: Harness, scene: Scene, outcomes: list[Outcome]) -> list[str]:
    """Type what each failure says to type, let the hosts finish their work, and ask the oracle."""
    while outcomes[-1].code and len(outcomes) < cases.PATIENCE:
        harness.sleep(3.0)
        outcomes.append(harness.run(*cases.words_of(outcomes[-1].next_command)))
    harness.work_to_the_end()
    return cloud_oracle.violations(harness, scene, outcomes)


OVER = (("settle_target", "after-effect"), ("settle_target", "after-done"), ("close_revert", "after-effect"),
        ("close_revert", "after-done"))  # fmt: skip
"""Points of a confirm and a revert at which all is done, and so there is nothing to adopt."""


def play_nova(fixtures: Fixtures, case: Case) -> list[str]:
    """Kill a command as if it had been nova's conductor: nothing marks the server, and nobody has a journal."""
    harness, outcomes = fixtures.harness, list[Outcome]()
    checkpoint = fixtures.set(case.shape, case.step)
    server = checkpoint.scene.server
    cases.kill_at(harness, case.action, case.point)
    outcomes.append(harness.run(case.step, checkpoint.move))
    if outcomes[-1].code != -9:
        return [f"never came to {case.point} of {case.action}: {outcomes[-1].text}"]
    lose_journal(harness)
    unmark(harness, server)
    effects = harness.taps.effects
    move = adopt(harness, server)
    begun = _is_begun(case)
    if begun and (isinstance(move, Move) or "--nova-is-dead" not in move.next_command):
        return [f"adopted without the operator's word: {move}"]
    if begun:
        move = adopt(harness, server, nova_is_dead=True)
    if harness.taps.effects != effects:
        return [f"adopt wrote {harness.taps.effects - effects} times to the cloud"]
    if isinstance(move, CellmoveError):
        nothing = case.action == "take_server" and not begun
        return _refused(fixtures, checkpoint.scene, move, nothing_begun=nothing)
    outcomes.append(harness.run("resume" if case.way == "on" else "rollback", move.id))
    if outcomes[-1].code == 5 and case.way == "back" and case.step == "confirm":
        outcomes.append(harness.run("resume", move.id))  # what a rollback would need is being destroyed
    if case.way == "on" and case.step not in ("confirm", "revert"):
        cases.follow(harness, outcomes, State.FINISHED)
    found = _violations_at_the_end(harness, checkpoint.scene, outcomes)
    return [f"{problem}  ({[outcome.text for outcome in outcomes]})" for problem in found]


def _is_begun(case: Case) -> bool:
    """Whether nova would have anything open."""
    if case.action in ("take_server", "begin_confirm", "begin_revert"):
        return case.point not in NOT_BEGUN
    return (case.action, case.point) not in (("close", "after-effect"), ("close", "after-done"))


def _is_nothing(step: str, action: str, point: str) -> bool:
    if step.startswith("undo-"):
        return action == "take_server" and point in ("after-undo", "after-undone")
    return action == "take_server" and point in NOT_BEGUN


def _refused(fixtures: Fixtures, scene: cloud_oracle.Scene, error: CellmoveError, *, nothing_begun: bool) -> list[str]:
    if not nothing_begun:
        return [f"adopt refused: {error.message}"]
    if error.exit_code != 5 or "nothing to adopt" not in error.message:
        return [f"adopt of nothing ended with {error.exit_code}: {error.message}"]
    return oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server))


def names(fixtures: Fixtures, shapes: tuple[str, ...]) -> Iterator[Case]:
    """Every boundary of a whole move, and of rolling it back from two places."""
    for shape in shapes:
        for step in ("prep-dest", "prep-source", "finish"):
            _calls, points, _writes = rehearsal.rehearse(fixtures, shape, step)
            yield from (Case(shape, step, action, point, way) for point, action in points for way in cases.RECOVERIES)
        for step in ("prep-dest", "prep-source", "finish", "confirm", "revert") if shape not in STREAMED else ():
            _calls, points, _writes = rehearsal.rehearse(fixtures, shape, step)
            yield from (
                Case(shape, f"nova-{step}", action, point, way)
                for point, action in points if (action, point) not in OVER
                for way in cases.RECOVERIES
            )  # fmt: skip
        for step in ("prep-source", "finish"):
            _calls, points, _writes = rehearsal.rehearse(fixtures, shape, step, "rollback")
            for point, action in points:
                yield from (Case(shape, f"undo-{step}", action, point, way) for way in cases.RECOVERIES)


def work(cases_: list[Case]) -> list[tuple[Case, list[str]]]:
    """Play some cases; in a worker process, which keeps its fixtures."""
    if not _fixtures_made:
        _fixtures_made.append(Fixtures())
    fixtures = _fixtures_made[0]
    return [(case, play(fixtures, *case)) for case in cases_]


_fixtures_made: list[Fixtures] = []


def main() -> int:
    """0 when every case ended well."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.lost_journals", description=__doc__)
    parser.add_argument("--shape", action="append", help="of the server; by default two of them")
    parser.add_argument("--sample", type=int, default=1, help="only every n-th case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("case", nargs="*", help="play just these: SHAPE:STEP:ACTION:POINT:WAY")
    chosen = parser.parse_args()
    wanted = [Case(*name.split(":")) for name in chosen.case]
    if not wanted:
        wanted = list(names(Fixtures(), tuple(chosen.shape or SHAPES_TRIED)))[:: chosen.sample]
    wrong = 0
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        for results in pool.imap_unordered(work, [wanted[at : at + 8] for at in range(0, len(wanted), 8)]):
            for case, problems in results:
                wrong += bool(problems)
                for problem in problems:
                    sys.stdout.write(f"FAILED {':'.join(case)}\n  {problem}\n")
    sys.stdout.write(f"{len(wanted)} lost journals, {wrong} ended badly\n")
    return 1 if wrong or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
