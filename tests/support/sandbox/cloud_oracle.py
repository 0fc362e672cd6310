"""The oracle of the proofs: everything that may not be, in the cloud, in its history, and in what was said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from cellmove.core.move import State
from cellmove.sandbox import hosts
from cellmove.sandbox.store import Cloud
from lab import oracle
from tests.support.sandbox import disk_oracle
from tests.support.sandbox.harness import Harness, Outcome
from tests.support.sandbox.snapshot import snapshot

ONE_SHOT = (
    "prep_snapshot_based_resize_at_source",
    "finish_snapshot_based_resize_at_dest",
    "finish_revert_snapshot_based_resize_at_source",
)
"""Calls that wreck the server when a host runs them twice."""

CLAIM = "prep_snapshot_based_resize_at_dest"


@dataclass(frozen=True)
class Scene:
    """A server before its move, and a bystander that nothing may happen to.

    :param before: the oracle's snapshot of the server; ``bystander_before`` of the other one
    """

    server: str
    bystander: str
    active: bool
    before: dict[str, Any]
    bystander_before: dict[str, Any]
    disk: str
    flavor: str = "m1.tiny"
    new_flavor: str = "m1.small"
    host: str = "c1-host1"


def violations(harness: Harness, scene: Scene, outcomes: list[Outcome], *, once_more: bool = True) -> list[str]:
    """What is wrong after a case. Empty when all promises were kept.

    :param once_more: type ``resume`` again, which must do nothing
    """
    move = harness.move()
    shot = snapshot(harness.cloud, scene.server)
    found = [*_place(harness, scene, shot, move.state), *history_of(harness.cloud, scene.server), *_truth(outcomes)]
    if snapshot(harness.cloud, scene.bystander) != scene.bystander_before:
        changed = oracle.compare(scene.bystander_before, snapshot(harness.cloud, scene.bystander))
        found.append(f"the bystander was changed: {changed}")
    found += disk_oracle.problems(harness.cloud, scene.bystander, lives=scene.host)
    found += _unannounced(harness)
    return [*found, *_once_more(harness, move.id)] if once_more else found


def _unannounced(harness: Harness) -> list[str]:
    return [f"an effect that the journal did not know of before: {text}" for text in harness.taps.unannounced]


def _place(harness: Harness, scene: Scene, shot: dict[str, Any], state: State) -> list[str]:
    """The server is where the move's state says, whole, and there alone."""
    settled = "ACTIVE" if scene.active else "SHUTOFF"
    target = next((host for host in ("c2-host1", "c2-host2") if scene.server in harness.cloud.world.guests[host]), "")
    if state in (State.ROLLED_BACK, State.REVERTED):
        home = oracle.problems(shot, cell="cell1", host=scene.host, flavor=scene.flavor, status=settled)
        found = [*home, *oracle.compare(scene.before, shot)]
        usage = {scene.host: 1}
    elif state is State.CONFIRMED:
        there = oracle.problems(shot, cell="cell2", host=target or "c2-host1", flavor=scene.new_flavor, status=settled)
        resized = scene.new_flavor != scene.flavor
        found = [*there, *oracle.compare(scene.before, shot, moved=True, resized=resized)]
        usage = {target: 1}
    elif state is State.FINISHED:
        found = oracle.problems(
            shot, cell="cell2", host=target or "c2-host1", flavor=scene.new_flavor, status="VERIFY_RESIZE"
        )
        usage = {scene.host: 1, target: 1}
    else:
        return [f"the move ended as {state}"]
    for host in _claimed_twice(harness, scene.server):
        hosts.audit(harness.cloud, host)  # counted twice until the host's own audit, a minute later
    held = {host: uses[scene.server] for host, uses in harness.cloud.world.usage.items() if scene.server in uses}
    if held != usage:
        found.append(f"hosts count its resources as {held}, not {usage}")
    if scene.disk:
        home_host = scene.host if state in (State.ROLLED_BACK, State.REVERTED) else target
        disk = harness.cloud.world.disks.get(home_host, {}).get(scene.server, {}).get("disk")
        if disk != scene.disk:
            found.append(f"the disk on {home_host} is {disk}")
    found += _files(harness, scene, state, target)
    for cell in ("cell1", "cell2"):
        if harness.cloud.rows(cell, "instance_system_metadata", instance_uuid=scene.server, key="cellmove"):
            found.append(f"{cell}: our mark is left")
    home = shot["api"]["mapping"]["cell"]
    for event in shot["cells"][home].get("instance_actions_events", []):
        if event["finish_time"] is None:
            found.append(f"{home}: the event {event['event']} is left open")
    return found


def _files(harness: Harness, scene: Scene, state: State, target: str) -> list[str]:
    """What is wrong with the server's disks, where they are files."""
    home = state in (State.ROLLED_BACK, State.REVERTED)
    kept = scene.host if state is State.FINISHED else ""
    return disk_oracle.problems(harness.cloud, scene.server, lives=scene.host if home else target, kept=kept)


def _claimed_twice(harness: Harness, server: str) -> set[str]:
    """Hosts that died in a claim, or were so slow with it that it was sent again."""
    claims: Counter[str] = Counter()
    for event in harness.cloud.world.history:
        if event.get("server") == server and event["what"] == "claimed":
            claims[event["host"]] += 1
        if event["what"] == "call done" and event["server"] == server and event["method"] == CLAIM:
            claims[event["host"]] -= 1
    return {host for host, count in claims.items() if count > 0}


def history_of(cloud: Cloud, server: str) -> list[str]:
    """Running on at most one host at every instant; nothing that wrecks was sent twice."""
    found, running = [], set()
    for event in cloud.world.history:
        if event.get("server") != server:
            continue
        if event["what"] == "guest started":
            if running - {event["host"]}:
                found.append(f"the guest was started on {event['host']} while it ran on {sorted(running)}")
            running.add(event["host"])
        elif event["what"] == "guest stopped":
            running.discard(event["host"])
    calls: Counter[tuple[str, str, str]] = Counter()
    working: set[tuple[str, str]] = set()
    for event in cloud.world.history:
        if event["what"] == "host started":  # what was under way there died, and may be sent again
            calls = Counter({key: count for key, count in calls.items() if key[0] != event["host"]})
            working = {each for each in working if each[0] != event["host"]}
        if event.get("server") != server or not event["what"].startswith("call "):
            continue
        call = (event["host"], event["method"])
        if event["what"] != "call begun":
            working.discard(call)
            continue
        if call in working:
            found.append(f"{event['method']} was sent to {event['host']}, which was still at work on it")
        working.add(call)
        if event["method"] in ONE_SHOT:
            calls[*call, event["request"]] += 1
            if calls[*call, event["request"]] > 1:
                found.append(f"{event['method']} was sent again to {event['host']}")
    return found


def _truth(outcomes: list[Outcome]) -> list[str]:
    """What the commands said is so."""
    found = []
    for outcome in outcomes:
        if outcome.code in (4, 5) and outcome.effects:
            found.append(f"it wrote {outcome.effects} times and said that it did not: {outcome.text}")
        if outcome.code in (1, 3, 7) and not outcome.next_command:
            found.append(f"no next command: {outcome.text}")
        # One call that goes wrong may fail a step, never also its rolling back: that takes a second one.
        if outcome.code == 7 and outcome.failed_calls < 2:
            found.append(f"rolling back failed: {outcome.text}")
    return found


def _once_more(harness: Harness, move: str) -> list[str]:
    """What is finished is a silent no-op: not one write, in the cloud or in the journal."""
    journal = harness.folder / "journal.db"
    before = journal.read_bytes()
    again = harness.run("resume", move)
    found = []
    if again.code or again.effects:
        found.append(f"resume of what is finished: {again.text}, {again.effects} writes")
    if journal.read_bytes() != before:
        found.append("resume of what is finished wrote to the journal")
    return found


def after_meddling(harness: Harness, scene: Scene, outcomes: list[Outcome], what: str) -> list[str]:
    """What holds after the owner did something in the middle."""
    found = [*history_of(harness.cloud, scene.server), *_truth(outcomes), *_unannounced(harness)]
    if what == "delete":
        return [*found, *_gone(harness, scene.server)]
    shot = snapshot(harness.cloud, scene.server)
    state = harness.move().state
    row = next(iter(shot["cells"][shot["api"]["mapping"]["cell"]].get("instances", [])), {})
    if what == "rename" and row.get("display_name") != "renamed":
        found.append(f"the owner's name is lost: {row.get('display_name')}")
    if what == "lock" and not row.get("locked"):
        found.append("the owner's lock is lost")
    done = {each["action"] for each in shot["cells"][shot["api"]["mapping"]["cell"]].get("instance_actions", [])}
    if what == "lock" and "lock" not in done:
        found.append("the record of the owner's lock is lost")
    home = state in (State.ROLLED_BACK, State.REVERTED)
    target = next(
        (host for host in ("c2-host1", "c2-host2") if scene.server in harness.cloud.world.guests[host]), "c2-host1"
    )
    status = "VERIFY_RESIZE" if state is State.FINISHED else "ACTIVE" if scene.active else "SHUTOFF"
    wrong = oracle.problems(
        shot, cell="cell1" if home else "cell2", host=scene.host if home else target,
        flavor=scene.flavor if home else scene.new_flavor, status=status,
    )  # fmt: skip
    # A volume that came or went after the switch has nothing at the source to go back to.
    late = what in ("attach", "detach") and state is State.FINISHED
    found += _files(harness, scene, state, target)
    return found + [words for words in wrong if not (late and words.startswith("volume "))]


def _gone(harness: Harness, server: str) -> list[str]:
    """A server that its owner deleted: nothing of it is left anywhere."""
    world, found = harness.cloud.world, disk_oracle.problems(harness.cloud, server)
    for host in world.guests:
        found += [f"a guest is left on {host}"] if server in world.guests[host] else []
        found += [f"a disk is left on {host}"] if server in world.disks[host] else []
        found += [f"usage is left on {host}"] if server in world.usage[host] else []
    found += [f"{each['id']} is left: attachment" for each in world.attachments.values() if each["instance"] == server]
    found += [f"image {each['name']} is left" for each in world.images.values() if each.get("instance_uuid") == server]
    consumers = {server}
    for cell in ("cell1", "cell2"):
        consumers |= {row["uuid"] for row in harness.cloud.rows(cell, "migrations", instance_uuid=server)}
        rows = harness.cloud.rows(cell, "instances", uuid=server)
        found += [f"{cell}: a live row is left" for row in rows if not row["deleted"]]
        if cell == "cell2" and rows and harness.move().state is not State.CONFIRMED:
            mapping = harness.cloud.row("api", "instance_mappings", instance_uuid=server) or {}
            found += [f"{cell}: rows of a server that never lived there"] if mapping.get("cell_id") == 2 else []
    found += [f"{consumer} still holds allocations" for consumer in consumers if consumer in world.allocations]
    for port in world.ports.values():
        if port["name"].startswith("web") and port["bindings"]:
            found.append(f"{port['name']} still has bindings {port['bindings']}")
    return found
