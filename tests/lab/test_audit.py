"""What is left when nova's superconductor dies in the middle of its own moves is found, and mended or named.

Everything is asked of the servers of these tests only: others may be on their way.
"""

from __future__ import annotations

import json

import pytest

from lab import cloud, oracle
from lab.rows import connect_database
from tests.support.lab import interrupted_moves
from tests.support.lab.interrupted_moves import PLACES, Wreck

pytestmark = pytest.mark.lab

STUCK = {
    "claimed": ("volume", "rollback", {"stuck-migration", "hidden-row", "inactive-binding", "empty-attachment"}),
    "stopped": ("image", "rollback", {"stuck-migration", "hidden-row", "inactive-binding", "temporary-image"}),
    "starting": ("image", "resume", {"stuck-migration", "hidden-row"}),
    "mapping-switched": ("volume", "resume", {"stuck-migration"}),
    "confirming": ("image", "resume", {"stuck-migration", "hidden-row"}),
}
"""Where it dies, the server's backing, what is typed after adopting, and what is found at least."""


def audit(cellmove, server, *more):
    """What is found of a server."""
    ended = cellmove("audit", "--older-than", "0", "--server", server, "-f", "json", *more, expect=None)
    document = json.loads(ended.stdout)
    assert ended.code == (10 if document["counts"]["left"] else 0), ended.stderr
    return document["findings"]


@pytest.fixture(scope="module")
def left(lab_environment):
    """The servers, as they are left; all made at once. One is at the mercy of a person who resets its state."""
    made = {name: Wreck(name, PLACES[name], how[0] == "volume") for name, how in STUCK.items()}
    made["reset"] = Wreck("before-stop", PLACES["before-stop"], volume_backed=True)
    try:
        interrupted_moves.make(list(made.values()))
        yield made
    finally:
        interrupted_moves.unmake(list(made.values()))


@pytest.mark.alone
@pytest.mark.parametrize("name", STUCK)
def test_a_stuck_move_is_found_and_what_it_says_to_type_mends_it(cellmove, left, name):
    server, (_backing, way, kinds) = left[name].server, STUCK[name]
    shot = oracle.snapshot(server)
    found = audit(cellmove, server, "--repair")
    assert kinds <= {each["kind"] for each in found}
    assert {each["outcome"] for each in found} == {None}
    assert oracle.compare(shot, oracle.snapshot(server)) == []
    to_type = found[0]["mend"].removeprefix("cellmove ").split("  ")[0].split()
    assert to_type == ["adopt", server, "--nova-is-dead"]

    move = cellmove(*to_type, "-f", "json").json["move"]
    assert {each["owner"]["move"] for each in audit(cellmove, server, "--repair")} == {move}
    cellmove(way, move)
    if cloud.show(server)["status"] == "VERIFY_RESIZE":
        assert {each["owner"]["move"] for each in audit(cellmove, server)} == {move}
        cellmove("confirm", move)
    assert audit(cellmove, server) == []


@pytest.mark.alone
def test_what_a_reset_of_the_state_leaves_behind_is_mended(cellmove, left):
    found = left["reset"]
    with connect_database().cursor() as cursor:
        # What a person is left with who resets the server's state and ends the migration.
        cursor.execute("UPDATE nova_cell1.instances SET task_state = NULL WHERE uuid = %s", (found.server,))
        cursor.execute("UPDATE nova_cell1.migrations SET status = 'error' WHERE instance_uuid = %s", (found.server,))
    shot = oracle.snapshot(found.server)
    planned = audit(cellmove, found.server, "--repair", "--dry-run")
    assert {each["kind"] for each in planned} == {
        "hidden-row", "inactive-binding", "empty-attachment", "dead-allocation", "stale-context",
    }  # fmt: skip
    assert all(each["safe"] for each in planned), planned
    assert oracle.compare(shot, oracle.snapshot(found.server)) == []

    mended = audit(cellmove, found.server, "--repair")
    assert [each["outcome"] for each in mended] == ["mended"] * len(planned), mended
    assert audit(cellmove, found.server) == []
    after = oracle.snapshot(found.server)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(found.before, after) == []
    assert cloud.guests(found.server) == {"c1-host1": "running"}
    moved = cellmove("migrate", found.server, "--host", "c2-host1", "-f", "json").json
    assert moved["state"] == "finished"


@pytest.mark.parametrize("kept", [True, False], ids=["api", "nowhere"])
def test_keypairs_that_nova_lost_come_back(cellmove, boot, kept):
    server = boot("key", keypair="audit-key")
    before = oracle.snapshot(server.id)
    assert audit(cellmove, server.id) == []
    with connect_database().cursor() as cursor:
        # What nova up to 33 does in every cross-cell resize (bug 2108974); the lab's has it mended.
        cursor.execute("UPDATE nova_cell1.instance_extra SET keypairs = NULL WHERE instance_uuid = %s", (server.id,))
        if not kept:  # as when the owner has another key of that name by now
            cursor.execute("UPDATE nova_cell1.instances SET key_data = 'another' WHERE uuid = %s", (server.id,))
    (found,) = audit(cellmove, server.id, "--repair")
    assert (found["kind"], found["safe"], found["outcome"]) == ("lost-keypairs", kept, "mended" if kept else None)
    if kept:
        assert oracle.compare(before, oracle.snapshot(server.id)) == []
        assert audit(cellmove, server.id) == []
