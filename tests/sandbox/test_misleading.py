"""What is printed when a step cannot begin, or a whole run stops before its end: nothing that would do the opposite."""

from __future__ import annotations

import pytest

from cellmove.core.move import State
from lab import oracle
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.fixtures import Fixtures


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@pytest.mark.parametrize("command", ["revert", "rollback"])
def test_who_wants_a_server_back_is_not_told_to_confirm_it(sandbox: Sandbox, command: str) -> None:
    server = sandbox.boot("back", ports=1)
    move = sandbox.cellmove("migrate", server.id, "--cell", "cell2", "-f", "json").json["move"]
    nowhere = {"CELLMOVE_TRANSPORT_URL": "sandbox://127.0.0.1:9/bus/api"}
    outcome = sandbox.cellmove(command, move, expect=4, env=nowhere)
    assert f"next: cellmove revert {move}" in outcome.stderr
    sandbox.cellmove("revert", move)
    assert oracle.problems(
        sandbox.snapshot(server.id), cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE"
    ) == []  # fmt: skip


def test_a_server_that_was_moved_and_is_not_confirmed_was_written(fixtures: Fixtures) -> None:
    checkpoint = fixtures.set("image-active-full", "home")
    harness = fixtures.harness

    def lose_the_tags(point: str, action: str) -> None:
        if (point, action) == ("after-done", "close"):
            harness.cloud.delete("cell2", "tags", resource_id=checkpoint.scene.server)

    harness.taps.on_journal = lose_the_tags
    outcome = harness.run("resize", checkpoint.scene.server, "m1.small", "--cell", "cell2", "--confirm")
    harness.taps.on_journal = lambda _point, _action: None
    assert outcome.code == 3
    assert "tag" in outcome.message
    assert harness.move().state is State.FINISHED
    assert "nothing was written" not in outcome.text
    # The same command again has done nothing when it stops for the same reason.
    again = harness.run("resize", checkpoint.scene.server, "m1.small", "--cell", "cell2", "--confirm")
    assert again.code == 5
