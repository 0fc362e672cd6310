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
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []
    shown = cloud.show(server.id)
    assert (shown["name"], shown["locked"], shown["metadata"]) == (f"{server.name}-renamed", True, {"colour": "green"})


@pytest.mark.lab
def test_what_was_changed_while_resized_survives_a_revert(cellmove, boot):
    server = boot("changed", volumes=2)
    cellmove("migrate", server.id, "--host", TARGET)
    compute = cloud.connect().compute
    changed = {"name": f"{server.name}-late", "description": "written meanwhile"}
    answer = compute.put(f"/servers/{server.id}", json={"server": changed}, microversion="2.90")
    assert answer.status_code == 200, answer.text
    first, second = cloud.attached_volumes(server.id)
    path = f"/servers/{server.id}/os-volume_attachments"
    kept = {"volumeAttachment": {"volumeId": first, "delete_on_termination": True}}
    answer = compute.put(f"{path}/{first}", json=kept, microversion="2.85")
    assert answer.status_code == 202, answer.text
    compute.delete(f"{path}/{second}", microversion="2.85")
    cloud.wait_for("the volume to be detached", lambda: len(volumes_of(server.id)) == 1, 60)
    cloud.act(server.id, "lock", {"locked_reason": "hands off"})
    before = actions_of(server.id)

    cellmove("revert", server.id)

    shown = cloud.show(server.id)
    assert (shown["name"], shown["description"], shown["locked"]) == (*changed.values(), True)
    assert volumes_of(server.id) == {first: True}
    after = actions_of(server.id)
    lost = {name: events - after.get(name, set()) for name, events in before.items()}
    assert not any(lost.values()), lost
    assert set(before) < set(after)
    assert {action for _request, action in before} >= {"create", "migrate", "detach_volume", "lock"}
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []


def volumes_of(server_id: str) -> dict[str, bool]:
    """By volume, whether it goes with its server."""
    path = f"/servers/{server_id}/os-volume_attachments"
    found = cloud.connect().compute.get(path, microversion="2.85").json()["volumeAttachments"]
    return {each["volumeId"]: each["delete_on_termination"] for each in found}


def actions_of(server_id: str) -> dict[tuple[str, str], set[str]]:
    """The names of the events of each action, which nova's API tells to an administrator."""
    compute = cloud.connect().compute
    path = f"/servers/{server_id}/os-instance-actions"
    found = {}
    for each in compute.get(path, microversion="2.79").json()["instanceActions"]:
        action = compute.get(f"{path}/{each['request_id']}", microversion="2.79").json()["instanceAction"]
        found[each["request_id"], each["action"]] = {event["event"] for event in action["events"]}
    return found


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
    assert not oracle.snapshot(server.id)["cells"]["cell2"], "the target cell still has rows of a deleted server"
    assert cellmove("show", move, "-f", "json").json["state"] == "server-gone"


def delete(server_id: str) -> None:
    """As its owner does it; nova takes that in any task state."""
    cloud.connect().compute.delete_server(server_id)
    cloud.wait_for("the server to be gone", lambda: cloud.show(server_id) is None, 60)


def check_gone(server_id: str) -> None:
    """Nothing that costs anybody anything is left of a server."""
    shot = oracle.snapshot(server_id)
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
    shot = oracle.snapshot(server.id)
    second = cellmove(*command, "-f", "json").json
    assert second["move"] == first["move"]
    assert oracle.snapshot(server.id) == shot
