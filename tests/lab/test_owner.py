"""What the server's owner does through nova's API while we move it is neither lost nor undone."""

from __future__ import annotations

import pytest

from lab import cloud, oracle

TARGET = "c2-host1"


def rename(server_id: str, name: str) -> None:
    cloud.connect().compute.update_server(server_id, name=name)


@pytest.mark.lab
def test_a_rename_and_a_lock_before_finish_arrive(cellmove, boot):
    server = boot("rename")
    move = cellmove("plan", server.id, "--host", TARGET, "-f", "value").stdout.split()[0]
    cellmove("prep-dest", move)
    rename(server.id, f"{server.name}-renamed")
    cloud.act(server.id, "lock")
    cloud.connect().compute.set_server_metadata(server.id, colour="green")
    for step in ("prep-source", "finish", "confirm"):
        cellmove(step, move)
    shot = oracle.picture(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []
    shown = cloud.show(server.id)
    assert (shown["name"], shown["locked"], shown["metadata"]) == (f"{server.name}-renamed", True, {"colour": "green"})


@pytest.mark.lab
def test_a_rename_while_resized_survives_a_revert(cellmove, boot):
    server = boot("renamed")
    cellmove("migrate", server.id, "--host", TARGET)
    rename(server.id, f"{server.name}-late")
    cellmove("revert", server.id)
    assert cloud.show(server.id)["name"] == f"{server.name}-late"
    shot = oracle.picture(server.id)
    assert oracle.problems(shot, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.lab
def test_a_server_deleted_on_the_way_stays_deleted(cellmove, boot):
    server = boot("deleted", volumes=1)
    move = cellmove("plan", server.id, "--host", TARGET, "-f", "value").stdout.split()[0]
    cellmove("prep-dest", move)
    cellmove("prep-source", move)
    delete(server.id)

    refused = cellmove("finish", move, expect=5)

    assert "deleted by its owner" in refused.stderr
    assert f"next: cellmove resume {move}" in refused.stderr
    cellmove("resume", move)
    check_gone(server.id)
    assert not oracle.picture(server.id)["cells"]["cell2"], "the target cell still has rows of a deleted server"
    assert cellmove("show", move, "-f", "json").json["state"] == "server-gone"


def delete(server_id: str) -> None:
    """As its owner does it; nova takes that in any task state."""
    cloud.connect().compute.delete_server(server_id)
    cloud.wait_for("the server to be gone", lambda: cloud.show(server_id) is None, 60)


def check_gone(server_id: str) -> None:
    """Nothing that costs anybody anything is left of a server."""
    shot = oracle.picture(server_id)
    assert shot["guests"] == {}
    assert shot["disks"] == {}
    assert shot["images"] == []
    assert not any(shot["allocations"].values())
    assert not any(volume.get("attachments") for volume in shot["volumes"].values())
    live = [row for cell in shot["cells"].values() for row in cell.get("instances", []) if not row["deleted"]]
    assert live == []


@pytest.mark.lab
@pytest.mark.parametrize("where", ["revert:prepare_source:before-intent", "revert:clean_target:before-intent"])
def test_a_server_deleted_while_it_is_reverted_leaves_nothing(cellmove, killed, boot, where):
    """Before the switch nova forgets the copy at the source, after it the one at the target."""
    server = boot("swept", volumes=1)
    cellmove("migrate", server.id, "--host", TARGET)
    killed(where, "revert", server.id)
    delete(server.id)

    cellmove("resume", server.id)

    check_gone(server.id)
    assert cellmove("show", server.id, "-f", "json").json["state"] == "server-gone"


@pytest.mark.lab
def test_the_same_command_again_does_nothing(cellmove, boot):
    server = boot("again")
    command = ("migrate", server.name, "--cell", "cell2", "--confirm")
    first = cellmove(*command, "-f", "json").json
    shot = oracle.picture(server.id)
    second = cellmove(*command, "-f", "json").json
    assert second["move"] == first["move"]
    assert oracle.picture(server.id) == shot
