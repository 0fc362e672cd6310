"""Lost journals, a sample of them (all: ``python -m tests.sandbox.lost``), and what adopt refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from cellmove import mark
from cellmove.errors import CellmoveError
from cellmove.move import State
from cellmove.sandbox import seed
from lab import oracle
from tests.sandbox import cases, judge, lost
from tests.sandbox.judge import Scene
from tests.sandbox.picture import picture
from tests.sandbox.rig import Rig
from tests.sandbox.stage import Stage

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    """Run a module of the sandbox's tests, which has to end well."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=900
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_moves_whose_journal_was_lost_end_as_ever() -> None:
    assert ", 0 ended badly" in run("tests.sandbox.lost", "--sample", "23")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The cloud in this process; it listens to HTTP only as long as this module runs."""
    send = requests.adapters.HTTPAdapter.send
    yield Stage()
    requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


def killed(
    stage: Stage, step: str, action: str, point: str = "after-effect", shape: str = "image-active-full"
) -> Scene:
    """A server whose move was killed there."""
    checkpoint = stage.set(shape, step)
    cases.kill_at(stage.rig, action, point)
    assert stage.rig.run(step, checkpoint.move).code == -9
    return checkpoint.scene


def refusal(stage: Stage, server: str, **how: bool) -> CellmoveError:
    """What adopt says when it refuses; then it has written nothing."""
    effects, journal = stage.rig.taps.effects, stage.rig.folder / "journal.db"
    before = journal.read_bytes() if journal.exists() else None
    said = lost.adopt(stage.rig, server, **how)
    assert isinstance(said, CellmoveError), said
    assert stage.rig.taps.effects == effects
    assert before is None or journal.read_bytes() == before
    assert said.exit_code == 5
    assert said.next_command
    return said


def test_a_move_in_this_journal_is_not_adopted(stage: Stage) -> None:
    scene = killed(stage, "prep-dest", "claim")
    said = refusal(stage, scene.server, journal_is_lost=True)
    assert said.next_command == f"cellmove resume {stage.rig.move().id}"


def test_another_ones_move_needs_the_word_that_its_journal_is_lost(stage: Stage) -> None:
    scene = killed(stage, "prep-dest", "claim")
    rows = stage.rig.cloud.rows("cell1", "instance_system_metadata", instance_uuid=scene.server, key=mark.KEY)
    move_id = rows[0]["value"].split()[0]
    for cell in ("cell1", "cell2"):
        stage.rig.cloud.update(
            cell, "instance_system_metadata", {"value": f"{move_id} root@elsewhere:/j.db"},
            instance_uuid=scene.server, key=mark.KEY,
        )  # fmt: skip
    lost.lose_journal(stage.rig)
    said = refusal(stage, scene.server)
    assert "root@elsewhere:/j.db" in said.message
    assert f"cellmove resume {move_id}" in said.state
    assert "--journal-is-lost" in said.next_command
    moved = lost.adopt(stage.rig, scene.server, journal_is_lost=True)
    assert not isinstance(moved, CellmoveError), moved
    assert stage.rig.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, picture(stage.rig.cloud, scene.server)) == []


def test_a_half_made_move_without_our_mark_needs_the_word_that_nova_is_dead(stage: Stage) -> None:
    scene = killed(stage, "prep-source", "stop_source")
    lost.unmark(stage.rig, scene.server)
    lost.lose_journal(stage.rig)
    said = refusal(stage, scene.server)
    assert "by nova-conductor on vm" in said.message
    assert said.next_command.startswith(f"cellmove adopt {scene.server} --nova-is-dead")
    moved = lost.adopt(stage.rig, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert stage.rig.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, picture(stage.rig.cloud, scene.server)) == []


@pytest.mark.parametrize(("action", "what"), [("take_server", "resize"), ("begin_revert", "revertResize")])
def test_what_no_conductor_has_begun_may_still_be_taken_from_the_queue(stage: Stage, action: str, what: str) -> None:
    scene = killed(stage, "prep-dest" if action == "take_server" else "revert", action)
    lost.unmark(stage.rig, scene.server)
    lost.lose_journal(stage.rig)
    for cell in ("cell1", "cell2"):
        for event in ("conductor_migrate_server", "cold_migrate", "conductor_revert_snapshot_based_resize"):
            stage.rig.cloud.delete(cell, "instance_actions_events", event=event)
    said = refusal(stage, scene.server)
    assert f"{what} of web was asked for" in said.message
    assert "no nova-conductor has begun it" in said.message
    assert "--nova-is-dead" in said.next_command
    moved = lost.adopt(stage.rig, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert stage.rig.run("resume", moved.id).code == 0
    assert oracle.compare(scene.before, picture(stage.rig.cloud, scene.server)) == []
    assert lost.adopt(stage.rig, scene.server, nova_is_dead=True).exit_code == 5  # type: ignore[union-attr]


def test_nova_at_work_within_a_cell_is_left_to_the_computes(stage: Stage) -> None:
    scene = killed(stage, "prep-dest", "record_migration")
    lost.unmark(stage.rig, scene.server)
    lost.lose_journal(stage.rig)
    there = {"cross_cell_move": 0, "dest_compute": "c1-host2"}
    stage.rig.cloud.update("cell1", "migrations", there, instance_uuid=scene.server)
    assert "within its cell" in refusal(stage, scene.server, nova_is_dead=True).message


def test_a_copy_that_nova_did_not_end_is_made_anew(stage: Stage) -> None:
    scene = killed(stage, "prep-dest", "copy_records")
    lost.unmark(stage.rig, scene.server)
    lost.lose_journal(stage.rig)
    for table in ("migrations", "instance_actions_events", "tags"):
        stage.rig.cloud.delete("cell2", table)
    moved = lost.adopt(stage.rig, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert stage.rig.run("resume", moved.id).code == 0
    shot = picture(stage.rig.cloud, scene.server)
    (host,) = [name for name in ("c2-host1", "c2-host2") if scene.server in stage.rig.cloud.world.guests[name]]
    assert oracle.problems(shot, cell="cell2", host=host, flavor="m1.small", status="VERIFY_RESIZE") == []
    assert stage.rig.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, picture(stage.rig.cloud, scene.server)) == []


@pytest.mark.parametrize("dropped", [False, True], ids=["context-there", "context-dropped"])
def test_a_confirm_that_nova_half_settled_is_settled(stage: Stage, dropped: bool) -> None:
    """Of nova's three last writes the second, which drops the context, is a transaction of its own."""
    scene = killed(stage, "confirm", "delete_source")
    lost.lose_journal(stage.rig)
    stage.rig.cloud.update("cell2", "migrations", {"status": "confirmed"}, instance_uuid=scene.server)
    if dropped:
        stage.rig.cloud.update("cell2", "instance_extra", {"migration_context": None}, instance_uuid=scene.server)
    moved = lost.adopt(stage.rig, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert stage.rig.run("resume", moved.id).code == 0
    assert judge.violations(stage.rig, scene, []) == []


def no_request(rig: Rig, server: str) -> None:
    rig.cloud.update("cell1", "instance_actions", {"request_id": "req-another"}, instance_uuid=server)


def another_migration(rig: Rig, server: str) -> None:
    uuid = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
    rig.cloud.update("cell2", "migrations", {"uuid": uuid}, instance_uuid=server)


def two_images(rig: Rig, _server: str) -> None:
    (one,) = [image for image in rig.cloud.world.images.values() if str(image["name"]).endswith("-resize-temp")]
    rig.cloud.world.images["second"] = {**one, "id": "second"}


def busy(rig: Rig, server: str) -> None:
    rig.cloud.update("cell1", "instances", {"task_state": "deleting"}, uuid=server)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_request, "no action with the mark's request id"), (another_migration, "migration"),
        (two_images, "several temporary images"), (busy, "task state deleting"),
    ],
)  # fmt: skip
def test_traces_that_do_not_fit_together_are_refused(
    stage: Stage, spoil: Callable[[Rig, str], None], words: str
) -> None:
    scene = killed(stage, "prep-source", "stop_source")
    lost.lose_journal(stage.rig)
    spoil(stage.rig, scene.server)
    assert words in refusal(stage, scene.server).message


def test_a_lost_root_disk_image_leaves_only_the_way_back(stage: Stage) -> None:
    scene = killed(stage, "prep-source", "stop_source")
    lost.lose_journal(stage.rig)
    for image_id in [
        key for key, image in stage.rig.cloud.world.images.items() if str(image["name"]).endswith("-temp")
    ]:
        del stage.rig.cloud.world.images[image_id]
    moved = lost.adopt(stage.rig, scene.server)
    assert not isinstance(moved, CellmoveError), moved
    assert moved.state is State.ROLLING_BACK
    assert stage.rig.run("resume", moved.id).code == 0
    assert oracle.compare(scene.before, picture(stage.rig.cloud, scene.server)) == []


@pytest.mark.parametrize(
    ("step", "action"), [("prep-dest", "mirror"), ("prep-source", "stop_source"), ("finish", "start_target")]
)
def test_what_a_deleted_server_left_is_cleared(stage: Stage, step: str, action: str) -> None:
    scene = killed(stage, step, action)
    lost.lose_journal(stage.rig)
    seed.delete(stage.rig.cloud, scene.server)
    moved = lost.adopt(stage.rig, scene.server)
    assert not isinstance(moved, CellmoveError), moved.message if isinstance(moved, CellmoveError) else ""
    outcome = stage.rig.run("rollback", moved.id)
    assert outcome.code == 0, outcome.text
    assert judge._gone(stage.rig, scene.server) == []
