"""Lost journals, a sample of them (all: ``python -m tests.proof.lost_journals``), and what adopt refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from cellmove.core import ownership
from cellmove.core.errors import CellmoveError
from cellmove.core.move import State
from cellmove.sandbox import seed
from lab import oracle
from tests.proof import cases, lost_journals
from tests.support.sandbox import cloud_oracle
from tests.support.sandbox.cloud_oracle import Scene
from tests.support.sandbox.fixtures import STREAMED, Fixtures
from tests.support.sandbox.harness import Harness
from tests.support.sandbox.snapshot import snapshot


@pytest.fixture(scope="module")
def fixtures() -> Iterator[Fixtures]:
    """The cloud in this process; it listens to HTTP only as long as this module runs."""
    send = requests.adapters.HTTPAdapter.send
    yield Fixtures()
    requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


def test_moves_whose_journal_was_lost_end_as_ever(fixtures: Fixtures) -> None:
    """A sample of them, without streamed disks; all are in the shards."""
    shapes = tuple(shape for shape in lost_journals.SHAPES_TRIED if shape not in STREAMED)
    sample = list(lost_journals.names(fixtures, shapes))[::23]
    assert {case.step.partition("-")[0] for case in sample} >= {"nova", "undo", "finish", "prep"}
    wrong = {":".join(case): lost_journals.play(fixtures, *case) for case in sample}
    assert {name: problems for name, problems in wrong.items() if problems} == {}


def killed(
    fixtures: Fixtures, step: str, action: str, point: str = "after-effect", shape: str = "image-active-full"
) -> Scene:
    """A server whose move was killed there."""
    checkpoint = fixtures.set(shape, step)
    cases.kill_at(fixtures.harness, action, point)
    assert fixtures.harness.run(step, checkpoint.move).code == -9
    return checkpoint.scene


def refusal(fixtures: Fixtures, server: str, **how: bool) -> CellmoveError:
    """What adopt says when it refuses; then it has written nothing."""
    effects, journal = fixtures.harness.taps.effects, fixtures.harness.folder / "journal.db"
    before = journal.read_bytes() if journal.exists() else None
    said = lost_journals.adopt(fixtures.harness, server, **how)
    assert isinstance(said, CellmoveError), said
    assert fixtures.harness.taps.effects == effects
    assert before is None or journal.read_bytes() == before
    assert said.exit_code == 5
    assert said.next_command
    return said


def test_a_move_in_this_journal_is_not_adopted(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-dest", "claim")
    said = refusal(fixtures, scene.server, journal_is_lost=True)
    assert said.next_command == f"cellmove resume {fixtures.harness.move().id}"


def test_another_ones_move_needs_the_word_that_its_journal_is_lost(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-dest", "claim")
    rows = fixtures.harness.cloud.rows(
        "cell1", "instance_system_metadata", instance_uuid=scene.server, key=ownership.KEY
    )
    move_id = rows[0]["value"].split()[0]
    for cell in ("cell1", "cell2"):
        fixtures.harness.cloud.update(
            cell, "instance_system_metadata", {"value": f"{move_id} root@elsewhere:/j.db"},
            instance_uuid=scene.server, key=ownership.KEY,
        )  # fmt: skip
    lost_journals.lose_journal(fixtures.harness)
    said = refusal(fixtures, scene.server)
    assert "root@elsewhere:/j.db" in said.message
    assert said.next_command.startswith(f"cellmove --journal /j.db resume {move_id}  # ")
    assert f"gone for good: cellmove adopt {scene.server} --journal-is-lost" in said.state
    moved = lost_journals.adopt(fixtures.harness, scene.server, journal_is_lost=True)
    assert not isinstance(moved, CellmoveError), moved
    assert fixtures.harness.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server)) == []


def test_a_half_made_move_without_our_mark_needs_the_word_that_nova_is_dead(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-source", "stop_source")
    lost_journals.unmark(fixtures.harness, scene.server)
    lost_journals.lose_journal(fixtures.harness)
    said = refusal(fixtures, scene.server)
    assert "by nova-conductor on vm" in said.message
    assert said.next_command.startswith(f"cellmove adopt {scene.server} --nova-is-dead")
    moved = lost_journals.adopt(fixtures.harness, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert fixtures.harness.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server)) == []


@pytest.mark.parametrize(("action", "what"), [("take_server", "resize"), ("begin_revert", "revertResize")])
def test_what_no_conductor_has_begun_may_still_be_taken_from_the_queue(
    fixtures: Fixtures, action: str, what: str
) -> None:
    scene = killed(fixtures, "prep-dest" if action == "take_server" else "revert", action)
    lost_journals.unmark(fixtures.harness, scene.server)
    lost_journals.lose_journal(fixtures.harness)
    for cell in ("cell1", "cell2"):
        for event in ("conductor_migrate_server", "cold_migrate", "conductor_revert_snapshot_based_resize"):
            fixtures.harness.cloud.delete(cell, "instance_actions_events", event=event)
    said = refusal(fixtures, scene.server)
    assert f"{what} of web was asked for" in said.message
    assert "no nova-conductor has begun it" in said.message
    assert "--nova-is-dead" in said.next_command
    moved = lost_journals.adopt(fixtures.harness, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert fixtures.harness.run("resume", moved.id).code == 0
    assert oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server)) == []
    assert lost_journals.adopt(fixtures.harness, scene.server, nova_is_dead=True).exit_code == 5  # type: ignore[union-attr]


def test_nova_at_work_within_a_cell_is_left_to_the_computes(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-dest", "record_migration")
    lost_journals.unmark(fixtures.harness, scene.server)
    lost_journals.lose_journal(fixtures.harness)
    there = {"cross_cell_move": 0, "dest_compute": "c1-host2"}
    fixtures.harness.cloud.update("cell1", "migrations", there, instance_uuid=scene.server)
    assert "within its cell" in refusal(fixtures, scene.server, nova_is_dead=True).message


def test_a_copy_that_nova_did_not_end_is_made_anew(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-dest", "copy_records")
    lost_journals.unmark(fixtures.harness, scene.server)
    lost_journals.lose_journal(fixtures.harness)
    for table in ("migrations", "instance_actions_events", "tags"):
        fixtures.harness.cloud.delete("cell2", table)
    moved = lost_journals.adopt(fixtures.harness, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert fixtures.harness.run("resume", moved.id).code == 0
    shot = snapshot(fixtures.harness.cloud, scene.server)
    (host,) = [name for name in ("c2-host1", "c2-host2") if scene.server in fixtures.harness.cloud.world.guests[name]]
    assert oracle.problems(shot, cell="cell2", host=host, flavor="m1.small", status="VERIFY_RESIZE") == []
    assert fixtures.harness.run("rollback", moved.id).code == 0
    assert oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server)) == []


@pytest.mark.parametrize("dropped", [False, True], ids=["context-there", "context-dropped"])
def test_a_confirm_that_nova_half_settled_is_settled(fixtures: Fixtures, dropped: bool) -> None:
    """Of nova's three last writes the second, which drops the context, is a transaction of its own."""
    scene = killed(fixtures, "confirm", "delete_source")
    lost_journals.lose_journal(fixtures.harness)
    fixtures.harness.cloud.update("cell2", "migrations", {"status": "confirmed"}, instance_uuid=scene.server)
    if dropped:
        fixtures.harness.cloud.update(
            "cell2", "instance_extra", {"migration_context": None}, instance_uuid=scene.server
        )
    moved = lost_journals.adopt(fixtures.harness, scene.server, nova_is_dead=True)
    assert not isinstance(moved, CellmoveError), moved
    assert fixtures.harness.run("resume", moved.id).code == 0
    assert cloud_oracle.violations(fixtures.harness, scene, []) == []


def no_request(harness: Harness, server: str) -> None:
    harness.cloud.update("cell1", "instance_actions", {"request_id": "req-another"}, instance_uuid=server)


def another_migration(harness: Harness, server: str) -> None:
    uuid = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
    harness.cloud.update("cell2", "migrations", {"uuid": uuid}, instance_uuid=server)


def two_images(harness: Harness, _server: str) -> None:
    (one,) = [image for image in harness.cloud.world.images.values() if str(image["name"]).endswith("-resize-temp")]
    harness.cloud.world.images["second"] = {**one, "id": "second"}


def busy(harness: Harness, server: str) -> None:
    harness.cloud.update("cell1", "instances", {"task_state": "deleting"}, uuid=server)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_request, "no action with the mark's request id"), (another_migration, "migration"),
        (two_images, "several temporary images"), (busy, "task state deleting"),
    ],
)  # fmt: skip
def test_traces_that_do_not_fit_together_are_refused(
    fixtures: Fixtures, spoil: Callable[[Harness, str], None], words: str
) -> None:
    scene = killed(fixtures, "prep-source", "stop_source")
    lost_journals.lose_journal(fixtures.harness)
    spoil(fixtures.harness, scene.server)
    assert words in refusal(fixtures, scene.server).message


def test_a_lost_root_disk_image_leaves_only_the_way_back(fixtures: Fixtures) -> None:
    scene = killed(fixtures, "prep-source", "stop_source")
    lost_journals.lose_journal(fixtures.harness)
    for image_id in [
        key for key, image in fixtures.harness.cloud.world.images.items() if str(image["name"]).endswith("-temp")
    ]:
        del fixtures.harness.cloud.world.images[image_id]
    moved = lost_journals.adopt(fixtures.harness, scene.server)
    assert not isinstance(moved, CellmoveError), moved
    assert moved.state is State.ROLLING_BACK
    assert fixtures.harness.run("resume", moved.id).code == 0
    assert oracle.compare(scene.before, snapshot(fixtures.harness.cloud, scene.server)) == []


@pytest.mark.parametrize(
    ("step", "action"), [("prep-dest", "mirror"), ("prep-source", "stop_source"), ("finish", "start_target")]
)
def test_what_a_deleted_server_left_is_cleared(fixtures: Fixtures, step: str, action: str) -> None:
    scene = killed(fixtures, step, action)
    lost_journals.lose_journal(fixtures.harness)
    seed.delete(fixtures.harness.cloud, scene.server)
    moved = lost_journals.adopt(fixtures.harness, scene.server)
    assert not isinstance(moved, CellmoveError), moved.message if isinstance(moved, CellmoveError) else ""
    outcome = fixtures.harness.run("rollback", moved.id)
    assert outcome.code == 0, outcome.text
    assert cloud_oracle._gone(fixtures.harness, scene.server) == []
