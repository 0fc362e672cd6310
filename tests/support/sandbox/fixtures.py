"""Scenes to fail in: a server of each shape, at every step of its move, ready in milliseconds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.sandbox import disks, seed
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.harness import Harness, Snapshot
from tests.support.sandbox.snapshot import snapshot

if TYPE_CHECKING:
    from tests.support.sandbox.process_harness import ProcessFixtures

SHAPES = {
    f"{backing}-{state}-{extras}": (backing == "volume", state == "active", extras)
    for backing in ("image", "volume")
    for state in ("active", "stopped")
    for extras in ("bare", "full")
}
"""Names of shapes: backing, state, and with or without two ports and two volumes."""

STREAMED = {"stream-active-full": (False, True, "full"), "stream-stopped-bare": (False, False, "bare")}
"""Servers whose disks are files, and are streamed. The first one is resized to a host that does not have its image yet, the
second one is migrated to one that has."""

STEPS = ("prep-dest", "prep-source", "finish", "confirm", "revert")

BEFORE = {"prep-dest": (), "prep-source": STEPS[:1], "finish": STEPS[:2], "confirm": STEPS[:3], "revert": STEPS[:3]}
"""What has to be done before a step."""


def plan_words(shape: str, server: str) -> tuple[str, ...]:
    """The command that plans the move of a server of a shape."""
    if shape in STREAMED:
        return ("plan", server, *(() if shape == "stream-stopped-bare" else ("m1.small",)), "--transfer", "stream")
    return "plan", server, "m1.small"


@dataclass(frozen=True)
class Checkpoint:
    """Everything at the moment before a step.

    :param move: the move's id
    """

    scene: Scene
    snapshot: Snapshot
    move: str


class Fixtures:
    """One harness and the checkpoints made on it so far."""

    def __init__(self) -> None:
        self.harness = Harness()
        self.empty = self.harness.save()
        self.made: dict[tuple[str, str], Checkpoint] = {}

    @functools.cached_property
    def processes(self) -> ProcessFixtures:
        """The same with real processes, for those proofs that end them."""
        from tests.support.sandbox.process_harness import ProcessFixtures

        return ProcessFixtures()

    @functools.cached_property
    def streaming(self) -> ProcessFixtures:
        """The same for a server whose disks are streamed."""
        from tests.support.sandbox.process_harness import ProcessFixtures

        return ProcessFixtures(streamed=True)

    def set(self, shape: str, step: str) -> Checkpoint:
        """Put everything as it is before a step; "home" is before the plan."""
        checkpoint = self.checkpoint(shape, step)
        self.harness.restore(checkpoint.snapshot)
        return checkpoint

    def checkpoint(self, shape: str, step: str) -> Checkpoint:
        """Made when first asked for."""
        key = (shape, "confirm" if step == "revert" else step)
        if key not in self.made:
            self.made[key] = self._make(*key)
        return self.made[key]

    def _make(self, shape: str, step: str) -> Checkpoint:
        harness = self.harness
        if step == "home":
            volume_backed, active, extras = {**SHAPES, **STREAMED}[shape]
            harness.restore(self.empty)
            harness.cloud.instances = harness.instances if shape in STREAMED else None
            many = {"ports": 2, "volumes": 2} if extras == "full" else {"ports": 0, "volumes": 0}
            server = seed.boot(harness.cloud, "web", volume_backed=volume_backed, active=active, **many)
            other = seed.boot(harness.cloud, "other", ports=1, volumes=1)
            harness.cloud.world.history.append({"what": "the show begins"})
            disk = "" if volume_backed else harness.cloud.world.disks["c1-host1"][server]["disk"]
            if shape == "stream-stopped-bare":
                disks.add_base(harness.cloud, "c2-host1", seed.IMAGE)
            grown = "m1.tiny" if shape == "stream-stopped-bare" else "m1.small"
            scene = Scene(
                server,
                other,
                active,
                snapshot(harness.cloud, server),
                snapshot(harness.cloud, other),
                disk,
                new_flavor=grown,
            )
            return Checkpoint(scene, harness.save(), "")
        previous = ("home", *BEFORE[step])[-1]
        before = self.set(shape, previous)
        outcome = harness.run(
            *(plan_words(shape, before.scene.server) if previous == "home" else (previous, before.move))
        )
        if outcome.code:
            raise AssertionError(outcome.text)
        return Checkpoint(before.scene, harness.save(), harness.move().id)
