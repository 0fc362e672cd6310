"""What happens to the bytes of a streamed disk in the moments that matter, and what a proof's judge makes of disks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cellmove.move import State
from cellmove.sandbox import disks, seed
from tests.sandbox import cases, judge_disks, streamed
from tests.sandbox.judge import Scene, violations
from tests.sandbox.rig import Rig
from tests.sandbox.stage import Checkpoint, Stage
from tests.sandbox.streamed import SOURCE, TARGET, flip, when


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


def unfinished(rig: Rig, checkpoint: Checkpoint) -> Callable[[], None]:
    """Flips a bit of the copy at the target."""
    path = rig.instances.path(TARGET) / checkpoint.scene.server / f".disk.cellmove-{checkpoint.move}"
    return lambda: flip(path, 5 << 18)


def test_a_bit_that_flips_between_copying_and_comparing_is_sent_again(stage):
    problems, story = cases.run(stage, f"rot:{streamed.MAIN}:copied:on")
    assert problems == [], story
    assert [words.split()[0] for words in story] == ["prep-source", "finish"]  # neither of them failed
    assert any("it is sent again" in event.text for event in stage.rig.said)


def test_storage_that_flips_bits_twice_is_not_believed(stage):
    checkpoint = stage.set(streamed.MAIN, "prep-source")
    compared = f"{TARGET}.reread"
    flipped = when(stage.rig, "copy_rest", compared, unfinished(stage.rig, checkpoint), times=2)
    outcome = stage.rig.run("prep-source", checkpoint.move)
    assert len(flipped) == 2
    assert outcome.code == 1
    assert "is not what was sent, twice" in outcome.message
    assert stage.rig.state() is State.ROLLED_BACK
    assert violations(stage.rig, checkpoint.scene, [outcome]) == []


def test_a_source_that_changes_during_the_last_pass_is_not_believed(stage):
    checkpoint = stage.set(streamed.MAIN, "prep-source")
    path = stage.rig.instances.disk(SOURCE, checkpoint.scene.server)

    def touch() -> None:
        flip(path, 5 << 18)
        flip(path, 5 << 18)  # what it holds is as before; that somebody is there is enough

    touched = when(stage.rig, "copy_rest", f"{SOURCE}.settle", touch)
    outcome = stage.rig.run("prep-source", checkpoint.move)
    assert touched
    assert outcome.code == 1
    assert "though nothing should run on it any more" in outcome.message
    assert violations(stage.rig, checkpoint.scene, [outcome]) == []


def test_a_host_that_will_not_remove_something_is_told_of(stage):
    """It is left to a person, who can have it done again by the command that is printed."""
    checkpoint = stage.set(streamed.MAIN, "prep-source")
    stage.rig.taps.on_call = lambda seen: "error" if seen.text == f"{TARGET}.remove" else ""
    outcome = stage.rig.run("rollback", checkpoint.move)
    assert outcome.code == 7
    assert "taking back make_directory" in outcome.message
    stage.rig.taps.on_call = lambda _seen: ""
    assert stage.rig.run(*cases.words_of(outcome.next_command)).code == 0
    assert violations(stage.rig, checkpoint.scene, []) == []


# the judge


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rig, scene: flip(disk(rig, scene, TARGET), 5 << 18), "c2-host1: the disk is not what its guest wrote"),
        (lambda rig, scene: rig.cloud.world.tokens[TARGET].update({scene.server: "later"}), "wrote 'later' last"),
        (lambda rig, scene: disk(rig, scene, SOURCE).unlink(), "c1-host1: the disk is gone"),
        (lambda rig, scene: (rig.instances.path("c2-host2") / scene.server).mkdir(), "c2-host2 still has a directory"),
        (lambda rig, _scene: mark(rig, "c1-host2"), "c1-host2: .x.cellmove-move-1 is left"),
        (lambda rig, _scene: flip(base(rig, TARGET), 7), "c2-host1: what the disk stands on is not the image"),
        (lambda rig, scene: flip(disk(rig, scene, TARGET), 130), "the disk stands on"),
        (lambda rig, scene: empty(rig, scene), "the disk is not what its guest wrote"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_wrong_with_disks(stage, spoil, words):
    scene = stage.set(streamed.MAIN, "confirm").scene
    assert violations(stage.rig, scene, []) == []
    spoil(stage.rig, scene)
    assert words in "\n".join(violations(stage.rig, scene, []))
    assert words in "\n".join(judge_disks.problems(stage.rig.cloud, scene.server, lives=TARGET, kept=SOURCE))


def disk(rig: Rig, scene: Scene, host: str):
    return rig.instances.disk(host, scene.server)


def base(rig: Rig, host: str):
    return rig.instances.path(host) / "_base" / disks.base_of(seed.IMAGE)


def mark(rig: Rig, host: str) -> None:
    (rig.instances.path(host) / ".x.cellmove-move-1").touch()


def empty(rig: Rig, scene: Scene) -> None:
    """What nova makes when it finds no disk: the image, and nothing of the guest."""
    disks.make(rig.cloud, TARGET, scene.server, seed.IMAGE, "")
