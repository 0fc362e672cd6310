"""What can go wrong, as names; and what happens when one of them is played."""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable
from typing import Any

from cellmove.core.move import TRANSITIONS, State
from cellmove.sandbox import buses, seed
from cellmove.sandbox.compute_call import Call, Work
from cellmove.sandbox.store import Refusal
from tests.support.sandbox import cloud_oracle
from tests.support.sandbox.fixtures import SHAPES, STEPS, Checkpoint, Fixtures
from tests.support.sandbox.harness import Crash, Harness, Outcome, Seen

FAMILIES = {
    "real": "a real process ended by SIGKILL, at every point of every action",
    "kill": "the same in one process, for every other shape of server",
    "undo": "killed while rolling back, at every point of every action",
    "again": "killed while the next host is tried, at every point from the first one's failure on",
    "double": "killed, and killed again while recovering",
    "call": "one outgoing call goes wrong, for every call of a move",
    "back": "one outgoing call goes wrong while a move is rolled back, for every call",
    "wire": "one connection or request to a host's disks goes wrong, for every kind of them in every action",
    "rot": "a bit of a disk flips, or somebody starts its guest, where nothing should change",
    "down": "rolled back while nova-compute at the target is down, so that nova removes no disks there",
    "restart": "a compute host restarts in the middle of a call, after every write",
    "meddle": "the owner meddles, before every action",
    "older": "an older copy of the journal, taken at every point of every action, is used after the original has gone on",
    "seed": "seeded schedules of up to three faults and a kill",
}

POINTS = ("before-intent", "after-intent", "after-effect", "after-done")
UNDO_POINTS = ("before-undoing", "after-undoing", "after-undo", "after-undone")
FAULTS = ("refused", "error", "lost", "timeout", "conflict", "slow")
FAULTS_OF_READING = ("refused", "error", "timeout", "slow")
"""A call that only reads has no effect to be lost, and nothing to be in conflict with."""
LOST_THEN_CONFLICT = "lost+conflict"
"""The answer to a call that writes is lost, and the same call fails for good when it is made again: what it wrote is
undone although the journal says that it failed."""
FAULTS_OF_HOSTS = (*FAULTS, "queued")
"""A call to a host may also wait in the host's queue for a while, and nobody knows of it."""
RECOVERIES = ("on", "back")
MEDDLING = ("delete", "attach", "detach", "rename", "lock", "hard_reboot")
MAIN_SHAPE = "image-active-full"
GOALS = {"confirm": State.CONFIRMED, "revert": State.REVERTED}
KEPT = (
    "seed:123",
    "seed:153",
    "seed:155",
    "restart:image-active-full:prep-source:prep_snapshot_based_resize_at_source:7:back",
    "restart:image-active-full:revert:finish_revert_snapshot_based_resize_at_source:7:on",
    "meddle:image-active-full:revert:switch_back:delete:back",
    "meddle:image-active-full:prep-source:stash:delete:on",
    "meddle:image-active-full:finish:switch_mapping:rename:on",
    "meddle:image-active-full:finish:switch_mapping:delete:on",
    "seed:1574",
)
"""Cases that failed once, and would again if the reason came back."""

STATE_BEFORE = {step.value: before for step, (before, _after) in TRANSITIONS.items()}
PATIENCE = 15
"""How many commands an operator types before the case counts as one that never ends."""


# what an operator does


def words_of(command: str) -> tuple[str, ...]:
    """The words of a printed command, without the program and without where to."""
    words = shlex.split(command.partition("  (")[0])[1:]
    while "--cell" in words:
        position = words.index("--cell")
        del words[position : position + 2]
    return tuple(words)


def follow(harness: Harness, outcomes: list[Outcome], goal: State) -> None:
    """Type what was said to be typed next, until the move is where it was to go."""
    while len(outcomes) < PATIENCE:
        move, last = harness.move(), outcomes[-1]
        if move.state is goal or (last.code == 0 and not move.is_open):
            return
        command = words_of(said(last)) if said(last) else ()
        if last.code == 0 or not command:
            command = _natural(move.id, move.state, goal)
        _must_not_mislead(command, goal)
        harness.sleep(3.0)
        outcomes.append(harness.run(*command))


def _must_not_mislead(command: tuple[str, ...], goal: State) -> None:
    """Whoever wants a server back must not be told to destroy its way back, nor the other way round."""
    if command[0] == {State.REVERTED: "confirm", State.CONFIRMED: "revert"}.get(goal):
        raise AssertionError(f"told to type {command[0]}, although it is to be {goal}")


def said(outcome: Outcome) -> str:
    """The command that was printed. That a host was restarted is for the operator to say, who sees it."""
    for word in ("resume", "rollback"):
        start = outcome.message.find(f"cellmove {word} ")
        if "--host-restarted" in outcome.message[start:] and start >= 0:
            return outcome.message[start:].partition("--host-restarted")[0] + "--host-restarted"
    return outcome.next_command


def _natural(move: str, state: State, goal: State) -> tuple[str, ...]:
    steps = {State.PLANNED: "prep-dest", State.DEST_PREPARED: "prep-source", State.SOURCE_PREPARED: "finish"}
    if state is State.ROLLING_BACK:
        return "rollback", move
    if state is State.FINISHED:
        return ("confirm" if goal is State.CONFIRMED else "revert"), move
    return steps.get(state, "resume"), move


def recover(harness: Harness, outcomes: list[Outcome], recovery: str, goal: State) -> None:
    """Run on to the goal, or give up and roll the move back."""
    move = harness.move()
    if recovery == "on":
        if outcomes[-1].code == -9:
            outcomes.append(harness.run("resume", move.id))
        follow(harness, outcomes, goal)
        return
    if move.state in (State.CONFIRMED, State.ROLLED_BACK, State.REVERTED):
        return
    outcomes.append(harness.run("rollback", move.id))
    while outcomes[-1].code and len(outcomes) < PATIENCE:
        command = words_of(said(outcomes[-1]))
        if not command:
            return
        _must_not_mislead(command, State.REVERTED)
        harness.sleep(3.0)
        outcomes.append(harness.run(*command))


# playing a case


def run(fixtures: Fixtures, name: str) -> tuple[list[str], list[str]]:
    """Play a case: what was wrong, and the story."""
    family, *parts = name.split(":")
    outcomes: list[Outcome] = []
    try:
        checkpoint, more = PLAYERS[family](fixtures, outcomes, *parts)
        fixtures.harness.taps.on_call = lambda _seen: ""
        fixtures.harness.taps.on_journal = lambda _point, _action: None
        fixtures.harness.hold = None
        fixtures.harness.work_to_the_end()
        wrong = cloud_oracle.violations(fixtures.harness, checkpoint.scene, outcomes) if more is None else more()
    except Exception as error:  # noqa: BLE001 - a traceback is what an operator must never see
        wrong = [f"{type(error).__name__}: {error}"]
    return wrong, [outcome.text for outcome in outcomes]


Played = tuple[Any, Callable[[], list[str]] | None]


def kill_at(harness: Harness, action: str, point: str) -> None:
    """End the process at a point of an action; once."""

    def on_journal(here: str, what: str) -> None:
        if (here, what) == (point, action):
            harness.taps.on_journal = lambda _point, _action: None
            raise Crash

    harness.taps.on_journal = on_journal


def run_killed(harness: Harness, outcomes: list[Outcome], action: str, point: str, *command: str) -> None:
    """Type a command that ends at a point of an action."""
    kill_at(harness, action, point)
    outcomes.append(harness.run(*command))
    if outcomes[-1].code != -9:
        raise AssertionError(f"never came to {point} of {action}")


def _kill(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, action: str, point: str, recovery: str
) -> Played:
    checkpoint = fixtures.set(shape, step)
    run_killed(fixtures.harness, outcomes, action, point, step, checkpoint.move)
    recover(fixtures.harness, outcomes, recovery, GOALS.get(step, State.FINISHED))
    return checkpoint, None


def _undo(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, action: str, point: str, recovery: str
) -> Played:
    """Killed while a move that stands before ``step`` is rolled back."""
    checkpoint = fixtures.set(shape, step)
    run_killed(fixtures.harness, outcomes, action, point, "rollback", checkpoint.move)
    outcomes.append(fixtures.harness.run("resume" if recovery == "on" else "rollback", checkpoint.move))
    return checkpoint, None


def _double(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, first: str, second: str, recovery: str
) -> Played:
    """Killed at one point of the step, and again at the n-th point of the recovery."""
    checkpoint = fixtures.set(shape, step)
    point, action = first.split("@")
    run_killed(fixtures.harness, outcomes, action, point, step, checkpoint.move)
    kill_at_number(fixtures.harness, int(second))
    outcomes.append(fixtures.harness.run("resume" if recovery == "on" else "rollback", checkpoint.move))
    if outcomes[-1].code != -9:
        raise AssertionError(f"never came to point {second} of the recovery")
    recover(fixtures.harness, outcomes, recovery, GOALS.get(step, State.FINISHED))
    return checkpoint, None


def _real(fixtures: Fixtures, outcomes: list[Outcome], step: str, action: str, point: str, recovery: str) -> Played:
    """A real process, ended by a real SIGKILL. The disks are streamed when it is an action that only such moves have."""
    from tests.proof import streamed_cases

    processes = fixtures.streaming if action in streamed_cases.OWN else fixtures.processes
    scene, move = processes.set(step)
    outcomes.append(processes.harness.run(step, move, killed=f"{step}:{action}:{point}"))
    if outcomes[-1].code != -9:
        raise AssertionError(f"never came to {point} of {action}")
    outcomes.append(processes.harness.run("resume" if recovery == "on" else "rollback", move))
    if recovery == "on" and processes.harness.move().state is STATE_BEFORE[step]:
        outcomes.append(processes.harness.run(step, move))  # it was killed before it had begun
    if outcomes[-1].code == 5 and recovery == "back":
        outcomes.append(processes.harness.run(*words_of(outcomes[-1].next_command)))
    if step in ("prep-dest", "prep-source") and recovery == "on":
        # Gone on to the step's end; the way from there to the end is walked by others.
        outcomes.append(processes.harness.run("rollback", move))
    if outcomes[-1].code:
        raise AssertionError(outcomes[-1].text)
    return scene, lambda: cloud_oracle.violations(processes.harness, scene, outcomes, once_more=False)


def kill_at_number(harness: Harness, number: int) -> None:
    """End the process at the n-th point from here."""
    left = [number]

    def on_journal(_here: str, _what: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            harness.taps.on_journal = lambda _point, _action: None
            raise Crash

    harness.taps.on_journal = on_journal


FIRST_HOST_FAILS = {"c2-host1:get_host_ip_addr": "fail"}


def _again(fixtures: Fixtures, outcomes: list[Outcome], shape: str, number: str, recovery: str) -> Played:
    """Killed at a point of a prep-dest whose first host fails, so that it goes on to the next."""
    checkpoint = fixtures.set(shape, "prep-dest")
    fixtures.harness.cloud.world.faults |= FIRST_HOST_FAILS
    kill_at_number(fixtures.harness, int(number))
    outcomes.append(fixtures.harness.run("prep-dest", checkpoint.move))
    if outcomes[-1].code != -9:
        raise AssertionError(f"never came to point {number}")
    recover(fixtures.harness, outcomes, recovery, State.FINISHED)
    return checkpoint, None


def _call(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, number: str, fault: str, recovery: str
) -> Played:
    checkpoint = fixtures.set(shape, step)
    first, _, second = fault.partition("+")
    lost: list[str] = []

    def on_call(seen: Seen) -> str:
        if seen.number == int(number):
            lost.append(seen.text)
            return first
        if second and seen.text in lost:
            lost.clear()
            return second
        return ""

    fixtures.harness.taps.on_call = on_call
    outcomes.append(fixtures.harness.run(step, checkpoint.move))
    fixtures.harness.taps.on_call = lambda _seen: ""
    undone = _after_undone_step(fixtures.harness, checkpoint, outcomes)
    recover(fixtures.harness, outcomes, recovery, GOALS.get(step, State.FINISHED))
    if not undone:
        return checkpoint, None
    return checkpoint, lambda: [*undone, *cloud_oracle.violations(fixtures.harness, checkpoint.scene, outcomes)]


def _after_undone_step(harness: Harness, checkpoint: Checkpoint, outcomes: list[Outcome]) -> list[str]:
    """What is wrong right after a confirm or revert that failed and was undone: the server awaits either as before."""
    if outcomes[-1].code != 1 or harness.state() is not State.FINISHED:
        return []
    found = cloud_oracle.violations(harness, checkpoint.scene, outcomes, once_more=False)
    return [f"after the step was undone: {problem}" for problem in found]


def _back(fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, number: str, fault: str) -> Played:
    """A move that stands before ``step`` is rolled back, and one call goes wrong."""
    checkpoint = fixtures.set(shape, step)
    fixtures.harness.taps.on_call = lambda seen: fault if seen.number == int(number) else ""
    outcomes.append(fixtures.harness.run("rollback", checkpoint.move))
    fixtures.harness.taps.on_call = lambda _seen: ""
    recover(fixtures.harness, outcomes, "back", State.FINISHED)
    return checkpoint, None


def _restart(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, method: str, after: str, recovery: str
) -> Played:
    """The host of a call is killed after so many of its writes, and starts again at once."""
    checkpoint = fixtures.set(shape, step)
    harness = fixtures.harness

    def hold(call: Call, work: Work) -> Any:
        if call.method != method:
            return buses.finish(harness.cloud, work)
        harness.hold = None
        try:
            for _ in range(int(after)):
                next(work)
        except StopIteration as end:
            return end.value
        work.close()
        harness.cloud.world.down.append(call.host)
        buses.restart(harness.cloud, call.host)
        raise buses.NoAnswer(call.host)

    harness.hold = hold
    outcomes.append(harness.run(step, checkpoint.move))
    recover(harness, outcomes, recovery, GOALS.get(step, State.FINISHED))
    return checkpoint, None


def _meddle(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, action: str, what: str, recovery: str
) -> Played:
    """Just before an action's intent the owner does something; nova may refuse it."""
    checkpoint = fixtures.set(shape, step)
    harness, server, done = fixtures.harness, checkpoint.scene.server, [False]

    def on_journal(here: str, name: str) -> None:
        if (here, name) == ("before-intent", action) and not done[0]:
            done[0] = meddle(harness, server, what)

    harness.taps.on_journal = on_journal
    outcomes.append(harness.run(step, checkpoint.move))
    harness.taps.on_journal = lambda _point, _action: None
    recover(harness, outcomes, recovery, GOALS.get(step, State.FINISHED))
    if not done[0]:
        return checkpoint, None
    return checkpoint, lambda: cloud_oracle.after_meddling(harness, checkpoint.scene, outcomes, what)


def meddle(harness: Harness, server: str, what: str) -> bool:
    """What the owner does; False when nova refused."""
    cloud = harness.cloud
    try:
        if what == "attach":
            seed.attach(cloud, server, seed.make_volume(cloud, "late"))
        elif what == "detach":
            attached = [a["volume_id"] for a in cloud.world.attachments.values() if a["instance"] == server]
            data = sorted(v for v in attached if not cloud.world.volumes[v]["name"].endswith("-root"))
            if not data:
                return False
            seed.detach(cloud, server, data[-1])
        elif what == "rename":
            seed.rename(cloud, server, "renamed")
        else:
            getattr(seed, what)(cloud, server)
    except Refusal:
        return False
    return True


def _seed(fixtures: Fixtures, outcomes: list[Outcome], number: str) -> Played:
    """A schedule drawn from a seed: up to three faults anywhere, perhaps a kill, and what the operator does."""
    draw = random.Random(int(number))  # noqa: S311 - replayed, not secret
    checkpoint = fixtures.set(draw.choice(list(SHAPES)), "home")
    harness = fixtures.harness
    ending = draw.choice(("confirm", "revert", "finish"))
    whole = draw.random() < 0.5
    faults = {draw.randrange(30, 260): draw.choice(FAULTS) for _ in range(draw.randrange(4))}
    harness.taps.on_call = lambda seen: faults.get(seen.number, "")
    if draw.random() < 0.5:
        kill_at_number(harness, draw.randrange(140))
    outcomes.append(harness.run("plan", checkpoint.scene.server, "m1.small"))
    recovery = draw.choice(RECOVERIES)
    if outcomes[-1].code:
        # Nothing was begun; what a plan does when calls go wrong is another family's business.
        harness.taps.on_call = lambda _seen: ""
        outcomes.append(harness.run("plan", checkpoint.scene.server, "m1.small"))
    commands = [("resize", checkpoint.scene.server, "m1.small")] if whole else [(step,) for step in STEPS[:3]]
    goal = GOALS.get(ending, State.FINISHED)
    commands += [(ending,)] if ending in GOALS else []
    for command in commands:
        outcomes.append(harness.run(*(command if len(command) > 1 else (*command, harness.move().id))))
        if outcomes[-1].code:
            break
    harness.taps.on_call = lambda _seen: ""
    harness.taps.on_journal = lambda _point, _action: None
    recover(harness, outcomes, recovery, goal)
    return checkpoint, None


def _wire(fixtures: Fixtures, outcomes: list[Outcome], *parts: str) -> Played:
    from tests.proof import streamed_cases

    return streamed_cases.play_wire(fixtures, outcomes, *parts)


def _down(fixtures: Fixtures, outcomes: list[Outcome], *parts: str) -> Played:
    from tests.proof import streamed_cases

    return streamed_cases.play_down(fixtures, outcomes, *parts)


def _rot(fixtures: Fixtures, outcomes: list[Outcome], *parts: str) -> Played:
    from tests.proof import streamed_cases

    return streamed_cases.play_rot(fixtures, outcomes, *parts)


def _older(fixtures: Fixtures, outcomes: list[Outcome], *parts: str) -> Played:
    from tests.proof import older_cases

    return older_cases.play(fixtures, outcomes, *parts)


PLAYERS: dict[str, Callable[..., Played]] = {
    "kill": _kill, "undo": _undo, "again": _again, "double": _double, "call": _call, "back": _back, "restart": _restart, "meddle": _meddle,
    "seed": _seed, "real": _real, "wire": _wire, "rot": _rot, "down": _down,
    "older": _older,
}  # fmt: skip
