"""What happens to the bytes of a streamed disk in the moments that matter, and what a proof's judge makes of disks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cellmove.core.move import State
from cellmove.sandbox import disks, seed
from tests.proof import cases, streamed_cases
from tests.proof.streamed_cases import SOURCE, TARGET, flip, when
from tests.support.sandbox import disk_oracle
from tests.support.sandbox.cloud_oracle import Scene, violations
from tests.support.sandbox.fixtures import Checkpoint, Fixtures
from tests.support.sandbox.harness import Harness


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


def unfinished(harness: Harness, checkpoint: Checkpoint) -> Callable[[], None]:
    """Flips a bit of the copy at the target."""
    path = harness.instances.path(TARGET) / checkpoint.scene.server / f".disk.cellmove-{checkpoint.move}"
    return lambda: flip(path, 5 << 18)


def test_a_bit_that_flips_between_copying_and_comparing_is_sent_again(fixtures):
    problems, story = cases.run(fixtures, f"rot:{streamed_cases.MAIN}:copied:on")
    assert problems == [], story
    assert [words.split()[0] for words in story] == ["prep-source", "finish"]  # neither of them failed
    assert any("it is sent again" in event.text for event in fixtures.harness.said)


def test_storage_that_flips_bits_twice_is_not_believed(fixtures):
    checkpoint = fixtures.set(streamed_cases.MAIN, "prep-source")
    compared = f"{TARGET}.reread"
    flipped = when(fixtures.harness, "copy_rest", compared, unfinished(fixtures.harness, checkpoint), times=2)
    outcome = fixtures.harness.run("prep-source", checkpoint.move)
    assert len(flipped) == 2
    assert outcome.code == 1
    assert "is not what was sent, twice" in outcome.message
    assert fixtures.harness.state() is State.ROLLED_BACK
    assert violations(fixtures.harness, checkpoint.scene, [outcome]) == []


def test_a_source_that_changes_during_the_last_pass_is_not_believed(fixtures):
    checkpoint = fixtures.set(streamed_cases.MAIN, "prep-source")
    path = fixtures.harness.instances.disk(SOURCE, checkpoint.scene.server)

    def touch() -> None:
        flip(path, 5 << 18)
        flip(path, 5 << 18)  # what it holds is as before; that somebody is there is enough

    touched = when(fixtures.harness, "copy_rest", f"{SOURCE}.settle", touch)
    outcome = fixtures.harness.run("prep-source", checkpoint.move)
    assert touched
    assert outcome.code == 1
    assert "although its guest should be off" in outcome.message
    assert violations(fixtures.harness, checkpoint.scene, [outcome]) == []


def test_a_host_that_will_not_remove_something_is_told_of(fixtures):
    """It is left to a person, who can have it done again by the command that is printed."""
    checkpoint = fixtures.set(streamed_cases.MAIN, "prep-source")
    fixtures.harness.taps.on_call = lambda seen: "error" if seen.text == f"{TARGET}.remove" else ""
    outcome = fixtures.harness.run("rollback", checkpoint.move)
    assert outcome.code == 7
    assert "rolling back make_directory" in outcome.message
    fixtures.harness.taps.on_call = lambda _seen: ""
    assert fixtures.harness.run(*cases.words_of(outcome.next_command)).code == 0
    assert violations(fixtures.harness, checkpoint.scene, []) == []


# the judge


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda harness, scene: flip(disk(harness, scene, TARGET), 5 << 18), "c2-host1: the disk is not what its guest wrote"),
        (lambda harness, scene: harness.cloud.world.tokens[TARGET].update({scene.server: "later"}), "wrote 'later' last"),
        (lambda harness, scene: disk(harness, scene, SOURCE).unlink(), "c1-host1: the disk is gone"),
        (lambda harness, scene: (harness.instances.path("c2-host2") / scene.server).mkdir(), "c2-host2 still has a directory"),
        (lambda harness, _scene: mark(harness, "c1-host2"), "c1-host2: .x.cellmove-move-1 is left"),
        (lambda harness, _scene: flip(base(harness, TARGET), 7), "c2-host1: what the disk stands on is not the image"),
        (lambda harness, scene: flip(disk(harness, scene, TARGET), 130), "the disk stands on"),
        (lambda harness, scene: empty(harness, scene), "the disk is not what its guest wrote"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_wrong_with_disks(fixtures, spoil, words):
    scene = fixtures.set(streamed_cases.MAIN, "confirm").scene
    assert violations(fixtures.harness, scene, []) == []
    spoil(fixtures.harness, scene)
    assert words in "\n".join(violations(fixtures.harness, scene, []))
    assert words in "\n".join(disk_oracle.problems(fixtures.harness.cloud, scene.server, lives=TARGET, kept=SOURCE))


def disk(harness: Harness, scene: Scene, host: str):
    return harness.instances.disk(host, scene.server)


def base(harness: Harness, host: str):
    return harness.instances.path(host) / "_base" / disks.base_of(seed.IMAGE)


def mark(harness: Harness, host: str) -> None:
    (harness.instances.path(host) / ".x.cellmove-move-1").touch()


def empty(harness: Harness, scene: Scene) -> None:
    """What nova makes when it finds no disk: the image, and nothing of the guest."""
    disks.make(harness.cloud, TARGET, scene.server, seed.IMAGE, "")
