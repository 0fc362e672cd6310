"""`cellmove audit`: every kind of leftover is found, mended or named, and what is somebody's is left alone."""

from __future__ import annotations

import json

import pytest

from cellmove.engine.locks import server_lock
from cellmove.sandbox import services
from cellmove.sandbox.store import Record
from lab import oracle
from tests.scenarios.environment import Server
from tests.support import fork_server
from tests.support.commands import run_killed
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.leftovers import (
    UUID,
    api_keypair,
    attachment,
    binding,
    change,
    copy_row,
    give_back,
    give_up,
    hidden_copy,
    hidden_keypair,
    lost_attachment,
    record,
    reserved_volume,
    stale_context,
    stale_mark,
    stuck,
    temporary_image,
    unnamed_attachment,
)


def audit(sandbox: Sandbox, server_id: str, *more: str) -> list[Record]:
    """What an audit finds of one server. Its exit code tells of leftovers of any."""
    ended = sandbox.cellmove("audit", "--older-than", "0", "-f", "json", *more, expect=None)
    document = json.loads(ended.stdout)
    assert ended.code == (10 if document["counts"]["left"] else 0), ended.stderr
    return [each for each in document["findings"] if each["server"]["id"] == server_id]


def kinds(findings: list[Record]) -> list[str]:
    """What was found."""
    return [each["kind"] for each in findings]


MENDED = {
    "hidden-row": hidden_copy, "inactive-binding": binding, "empty-attachment": attachment,
    "dead-allocation up": give_up, "dead-allocation back": give_back, "temporary-image": temporary_image,
    "stale-mark": stale_mark, "lost-keypairs api": api_keypair, "lost-keypairs hidden": hidden_keypair,
    "stale-context": stale_context,
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_what_is_safe_is_mended(sandbox: Sandbox, name: str) -> None:
    server = sandbox.boot("left", volumes=1)
    before = sandbox.snapshot(server.id)
    assert audit(sandbox, server.id) == []
    kind, subject = name.split()[0], MENDED[name](sandbox, server)
    shot = sandbox.snapshot(server.id)
    (found,) = [each for each in audit(sandbox, server.id, "--repair", "--dry-run") if each["kind"] == kind]
    assert found["safe"]
    assert (found["subject"], found["owner"], found["outcome"]) == (subject, None, None)
    assert sandbox.snapshot(server.id) == shot
    assert all(each["kind"] != "audit" for each in sandbox.cellmove("list", "--all", "-f", "json").json["moves"])

    (mended,) = [each for each in audit(sandbox, server.id, "--repair") if each["kind"] == kind]
    assert mended["outcome"] == "mended", mended
    assert [each["kind"] for each in audit(sandbox, server.id) if each["kind"] == kind] == []
    shown = sandbox.cellmove("show", mended["repair"], "-f", "json").json
    assert (shown["kind"], shown["state"], shown["next"]) == ("audit", "repaired", [])
    assert [action["phase"] for step in shown["steps"] for action in step["actions"]] == ["done"]
    after = sandbox.snapshot(server.id)
    if name == "hidden-row":
        assert after["cells"]["cell2"] == {}
    if name.startswith("lost-keypairs"):
        assert after["cells"]["cell1"]["instance_extra"][0]["keypairs"] is not None
    elif name != "hidden-row":
        compared = [each for each in oracle.compare(before, after) if not each.startswith("migrations")]
        assert compared == []
        assert after["allocations"] == before["allocations"]


def test_a_restored_keypair_is_what_nova_would_have_written(sandbox: Sandbox) -> None:
    server = sandbox.boot("key")
    api_keypair(sandbox, server)
    (found,) = audit(sandbox, server.id, "--repair")
    assert found["outcome"] == "mended"
    written = sandbox.snapshot(server.id)["cells"]["cell1"]["instance_extra"][0]["keypairs"]
    (key,) = written["nova_object.data"]["objects"]
    assert (written["nova_object.name"], key["nova_object.name"]) == ("KeyPairList", "KeyPair")
    assert key["nova_object.data"]["public_key"].startswith("ssh-ed25519 ")
    assert key["nova_object.data"]["name"] == "k1"


# what is for a person


def visible_twice(sandbox: Sandbox, server: Server) -> None:
    copy_row(sandbox.process.cloud(), server.id, hidden=0)


def mapped_to_hidden(sandbox: Sandbox, server: Server) -> None:
    copy_row(sandbox.process.cloud(), server.id, hidden=0)
    sandbox.process.cloud().update("cell1", "instances", {"hidden": 1}, uuid=server.id)


def mapped_elsewhere(sandbox: Sandbox, server: Server) -> None:
    sandbox.process.cloud().update("api", "instance_mappings", {"cell_id": 3}, instance_uuid=server.id)


def deleted_there(sandbox: Sandbox, server: Server) -> None:
    copy_row(sandbox.process.cloud(), server.id, hidden=0, deleted=99)


def hidden_on_its_host(sandbox: Sandbox, server: Server) -> None:
    copy_row(sandbox.process.cloud(), server.id, host="c2-host1")


def another_key(sandbox: Sandbox, server: Server) -> None:
    api_keypair(sandbox, server)
    sandbox.process.cloud().update("api", "key_pairs", {"public_key": "ssh-rsa another"}, name="k1")


def a_snapshot(sandbox: Sandbox, server: Server) -> None:
    """One that its owner made and called so."""
    temporary_image(sandbox, server)
    sandbox.process.cloud().delete("cell1", "migrations", instance_uuid=server.id)


def half_confirmed(sandbox: Sandbox, server: Server) -> None:
    cloud = sandbox.process.cloud()
    cloud.update("cell1", "instances", {"vm_state": "resized"}, uuid=server.id)
    record(cloud, server.id, status="confirmed")


BY_HAND = {
    "two-visible-rows": visible_twice, "mapping-hidden": mapped_to_hidden, "mapping-elsewhere": mapped_elsewhere,
    "deleted-row": deleted_there, "hidden-row": hidden_on_its_host, "lost-keypairs": another_key,
    "temporary-image": a_snapshot, "stuck-migration": stuck, "stuck-migration half": half_confirmed,
}  # fmt: skip


UNATTACHED = {
    "reserved-volume": reserved_volume, "unattached-volume": lost_attachment, "unattached-volume none": unnamed_attachment,
}  # fmt: skip


@pytest.mark.parametrize("name", UNATTACHED)
def test_a_volume_that_is_not_attached_as_its_server_says_is_named(sandbox: Sandbox, name: str) -> None:
    server = sandbox.boot("lacks", volumes=1)
    assert audit(sandbox, server.id) == []
    volume = UNATTACHED[name](sandbox, server)
    before = sandbox.snapshot(server.id)
    (found,) = audit(sandbox, server.id, "--repair")
    assert (found["kind"], found["subject"], found["safe"]) == (name.split()[0], volume, False)
    assert (found["outcome"], found["owner"]) == (None, None)
    assert f"nova-manage volume_attachment refresh {server.id} {volume} " in found["mend"]
    assert "attachment delete" not in found["mend"]
    assert sandbox.snapshot(server.id) == before


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_not_safe_is_named_and_left(sandbox: Sandbox, name: str) -> None:
    server = sandbox.boot("hand")
    BY_HAND[name](sandbox, server)
    before = sandbox.snapshot(server.id)
    (found,) = audit(sandbox, server.id, "--repair")
    assert found["kind"] == name.split()[0]
    assert not found["safe"]
    assert (found["outcome"], found["owner"]) == (None, None)
    assert found["mend"]
    assert sandbox.snapshot(server.id) == before
    sandbox.process.cloud().update("api", "instance_mappings", {"cell_id": 2}, instance_uuid=server.id)


def test_what_hangs_on_a_stuck_move_goes_with_it(sandbox: Sandbox) -> None:
    server = sandbox.boot("hangs", volumes=1)
    for leave in (stuck, binding, attachment):
        leave(sandbox, server)
    found = audit(sandbox, server.id, "--repair")
    assert kinds(found) == ["stuck-migration", "inactive-binding", "empty-attachment"]
    assert all(f"cellmove adopt {server.id}" in each["mend"] for each in found)
    assert [each["outcome"] for each in found] == [None, None, None]


def test_room_of_a_consumer_that_nobody_knows_is_named(sandbox: Sandbox) -> None:
    server, consumer = sandbox.boot("unknown"), UUID.format(0xA3)
    held = {services.provider_of("c2-host2"): {"resources": {"VCPU": 1}}}
    body = {"allocations": held, "generation": 1, "project_id": "p", "user_id": "u"}
    change(sandbox, "allocations", lambda all_: all_.update({consumer: body}))
    found = [each for each in audit(sandbox, "") if each["subject"] == consumer]
    assert [(each["kind"], each["safe"]) for each in found] == [("dead-allocation", False)]
    assert "find out whose it is" in found[0]["mend"]
    assert "allocation delete" not in found[0]["mend"], "another service may keep room here"
    change(sandbox, "allocations", lambda all_: all_.pop(consumer) and None)
    assert audit(sandbox, server.id) == []


# whose it is


def test_a_move_of_this_journal_owns_what_it_has_made(sandbox: Sandbox) -> None:
    server = sandbox.boot("ours", volumes=1)
    move = sandbox.cellmove("plan", server.id, "--cell", "cell2", "-f", "json").json["move"]
    sandbox.cellmove("prep-dest", move)
    found = audit(sandbox, server.id, "--repair")
    assert {"hidden-row", "inactive-binding", "empty-attachment", "stale-mark"} <= set(kinds(found))
    assert {each["owner"]["move"] for each in found} == {move}
    assert {each["outcome"] for each in found} == {None}
    assert {each["mend"] for each in found} == {f"cellmove prep-source {move}"}
    sandbox.cellmove("rollback", move)
    assert audit(sandbox, server.id) == []


def test_a_move_of_another_journal_is_left_to_it(sandbox: Sandbox) -> None:
    server, elsewhere = sandbox.boot("theirs"), {"CELLMOVE_JOURNAL": str(sandbox.folder / "elsewhere.db")}
    move = sandbox.cellmove("plan", server.id, "--cell", "cell2", "-f", "json", env=elsewhere).json["move"]
    sandbox.cellmove("prep-dest", move, env=elsewhere)
    found = audit(sandbox, server.id, "--repair")
    assert {each["owner"]["by"] for each in found} == {"journal"}
    assert all(str(sandbox.folder / "elsewhere.db") in each["owner"]["text"] for each in found)
    sandbox.cellmove("rollback", move, env=elsewhere)


def test_a_server_that_waits_to_be_confirmed_owns_its_copy(sandbox: Sandbox) -> None:
    server, elsewhere = sandbox.boot("waits"), {"CELLMOVE_JOURNAL": str(sandbox.folder / "elsewhere.db")}
    sandbox.cellmove("migrate", server.id, "--cell", "cell2", env=elsewhere)
    found = audit(sandbox, server.id, "--repair")
    assert {"hidden-row", "inactive-binding"} <= set(kinds(found))
    assert {each["owner"]["text"] for each in found} == {"nova: it waits to be confirmed or reverted"}
    sandbox.cellmove("confirm", server.id, env=elsewhere)
    assert audit(sandbox, server.id) == []


def test_what_changed_just_now_may_be_at_work(sandbox: Sandbox) -> None:
    server = sandbox.boot("now")
    stuck(sandbox, server)
    document = sandbox.cellmove("audit", "-f", "json", expect=None).json
    (found,) = [each for each in document["findings"] if each["server"]["id"] == server.id]
    assert found["owner"]["by"] == "nova"
    assert found["mend"] == ""


# the command


def test_a_repair_that_died_goes_on(sandbox: Sandbox) -> None:
    server = sandbox.boot("died", volumes=1)
    leaving = (binding, attachment)
    subjects = [leave(sandbox, server) for leave in leaving]
    action = f"1/inactive-binding/{subjects[0]}"
    out, err = sandbox.folder / "killed.out", sandbox.folder / "killed.err"
    command = ["audit", "--repair", "--older-than", "0"]
    killed_at = f"repair:{action}:after-effect"
    assert fork_server.call(run_killed, killed_at, command, sandbox.environment, out, err) == -9
    (record_,) = sandbox.cellmove("list", "-f", "json").json["moves"]
    assert (record_["kind"], record_["state"]) == ("audit", "repairing")
    assert record_["next"] == [f"cellmove resume {record_['move']}"]
    assert kinds(audit(sandbox, server.id)) == ["empty-attachment"]
    refused = sandbox.cellmove("migrate", server.id, "--cell", "cell2", expect=5)
    assert f"next: cellmove resume {record_['move']}" in refused.stderr
    assert "not rolled back" in sandbox.cellmove("rollback", record_["move"], expect=5).stderr
    audit(sandbox, server.id, "--repair")
    assert sandbox.cellmove("show", record_["move"], "-f", "json").json["state"] == "repaired"
    assert sandbox.cellmove("list", "-f", "json").json["moves"] == []
    assert audit(sandbox, server.id) == []
    sandbox.cellmove("migrate", server.id, "--cell", "cell2")


def test_a_person_and_a_script_see_it(sandbox: Sandbox) -> None:
    server = sandbox.boot("seen", volumes=1)
    volume = attachment(sandbox, server)
    ended = sandbox.cellmove("audit", "--older-than", "0", "--cell", "cell1", expect=10)
    assert "empty-attachment" in ended.stdout
    assert server.name in ended.stdout
    assert "delete the attachment" in ended.stdout
    assert "next: cellmove audit --cell 11111111-1111-4111-8111-111111111111 --older-than 0 --repair" in ended.stderr
    lines = sandbox.cellmove("audit", "--older-than", "0", "-f", "value", expect=10).stdout.splitlines()
    assert f"empty-attachment\t{server.id}\t{volume}\tsafe" in lines
    assert audit(sandbox, server.id, "--cell", "cell2") == []
    only = sandbox.cellmove("audit", "--older-than", "0", "--server", server.name, "-f", "value", expect=10).stdout
    assert only == f"empty-attachment\t{server.id}\t{volume}\tsafe\n"
    sandbox.cellmove("audit", "--older-than", "0", "--server", "another", expect=0)
    assert "there is no cell nowhere" in sandbox.cellmove("audit", "--cell", "nowhere", expect=2).stderr
    assert "--dry-run needs --repair" in sandbox.cellmove("audit", "--dry-run", expect=2).stderr


def test_nothing_is_mended_unattended_without_the_switch(sandbox: Sandbox) -> None:
    server = sandbox.boot("asked", volumes=1)
    attachment(sandbox, server)
    config = sandbox.folder / "off.toml"
    config.write_text("")
    before = sandbox.snapshot(server.id)
    environment = {"CELLMOVE_CONFIG": str(config)}
    refused = sandbox.cellmove("audit", "--repair", "--older-than", "0", expect=5, env=environment)
    assert "unattended = true" in refused.stderr
    assert sandbox.snapshot(server.id) == before


def test_a_server_that_another_run_works_on_is_left(sandbox: Sandbox) -> None:
    server = sandbox.boot("locked", volumes=1)
    attachment(sandbox, server)
    with server_lock(sandbox.folder / "locks", server.id, server.name):
        (found,) = audit(sandbox, server.id, "--repair", "--server", server.id)
    assert found["outcome"] == "left"
    assert "another run of cellmove is working on" in found["why"]
    (found,) = audit(sandbox, server.id, "--repair", "--server", server.id)
    assert found["outcome"] == "mended"
