"""A run is killed and its journal is lost: adopt rebuilds it, and then the move ends or goes back as ever."""

from __future__ import annotations

import re

import pytest

from lab import cloud, oracle

TARGET = "c2-host1"

BOUNDARIES = (
    pytest.param("prep-dest:take_server:after-effect", "resume", False, marks=pytest.mark.long),
    ("prep-dest:claim:after-intent", "rollback", True),
    ("prep-source:stop_source:after-effect", "resume", False),
    pytest.param("prep-source:stop_source:after-effect", "rollback", True, marks=pytest.mark.long),
    ("finish:start_target:after-effect", "resume", True),
    ("finish:start_target:after-effect", "rollback", False),
    pytest.param("finish:hide_source:after-intent", "resume", False, marks=pytest.mark.long),
)
"""Where the run dies, what is typed after adopting, and whether the server is volume-backed."""


def lose_journal(folder):
    """Delete the journal and what lies beside it."""
    for path in folder.glob("journal.db*"):
        path.unlink()


@pytest.mark.lab
@pytest.mark.parametrize(("where", "way", "volume_backed"), BOUNDARIES)
def test_a_lost_journal_is_rebuilt(cellmove, killed, boot, tmp_path, where, way, volume_backed):
    server = boot("lost", volume_backed=volume_backed, volumes=1)
    before, disk = oracle.snapshot(server.id), cloud.disk_hash(server.id)
    killed(where, "resize", server.name, "m1.small", "--host", TARGET)
    move = cellmove("list", "-f", "json").json["moves"][0]["move"]
    lose_journal(tmp_path)

    refused = cellmove("plan", server.id, "--cell", "cell2", expect=5)
    assert move in refused.stdout
    assert str(tmp_path / "journal.db") in refused.stdout
    assert f"cellmove adopt {server.id}" in refused.stderr
    shot = oracle.snapshot(server.id)
    adopted = cellmove("adopt", server.id, "-f", "json").json
    assert oracle.snapshot(server.id) == shot
    assert adopted["move"] == move
    assert f"cellmove {way} {move}" in adopted["next"]
    assert move in cellmove("adopt", server.id, expect=5).stderr

    cellmove(way, move)
    after = oracle.snapshot(server.id)
    if way == "resume":
        assert oracle.problems(after, cell="cell2", host=TARGET, flavor="m1.small", status="VERIFY_RESIZE") == []
        cellmove("revert", move)
        after = oracle.snapshot(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []
    assert oracle.compare(before, after) == []
    assert cloud.guests(server.id) == {"c1-host1": "running"}
    assert cloud.disk_hash(server.id) == disk


@pytest.mark.lab
def test_another_journal_needs_the_word_that_the_first_is_lost(cellmove, killed, boot, tmp_path):
    server = boot("elsewhere")
    before = oracle.snapshot(server.id)
    killed("prep-source:stash:after-effect", "migrate", server.name, "--host", TARGET)
    elsewhere = {"CELLMOVE_JOURNAL": str(tmp_path / "elsewhere" / "journal.db")}
    shot = oracle.snapshot(server.id)
    refused = cellmove("adopt", server.id, expect=5, env=elsewhere)
    assert str(tmp_path / "journal.db") in refused.stderr
    assert "--journal-is-lost" in refused.stderr
    assert re.search(rf"cellmove --journal {re.escape(str(tmp_path))}/journal.db resume move-", refused.stderr)
    assert cellmove("list", "-f", "json", env=elsewhere).json["moves"] == []
    cellmove("adopt", server.id, "--journal-is-lost", env=elsewhere)
    assert oracle.snapshot(server.id) == shot
    cellmove("rollback", server.id, env=elsewhere)
    assert oracle.compare(before, oracle.snapshot(server.id)) == []


@pytest.mark.lab
@pytest.mark.parametrize("volume_backed", [False, True], ids=["image", "volume"])
def test_what_nova_moved_itself_is_adopted_as_finished(cellmove, boot, volume_backed):
    server = boot("native", volume_backed=volume_backed, volumes=1)
    before = oracle.snapshot(server.id)
    cellmove("adopt", server.id, expect=5)
    cloud.native_move(server.id, "m1.small.cell2")
    shot = oracle.snapshot(server.id)
    adopted = cellmove("adopt", server.id, "-f", "json").json
    assert oracle.snapshot(server.id) == shot
    assert (adopted["state"], adopted["kind"], adopted["target"]["cell"]) == ("finished", "resize", "cell2")
    cellmove("revert", adopted["move"])
    after = oracle.snapshot(server.id)
    assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []

    cloud.native_move(server.id, host=TARGET)
    cellmove("confirm", cellmove("adopt", server.id, "-f", "value").stdout.split()[0])
    moved = oracle.snapshot(server.id)
    assert oracle.problems(moved, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []
    assert "nothing to adopt" in cellmove("adopt", server.id, expect=5).stderr
    assert before["api"] != moved["api"]
