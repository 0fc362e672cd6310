"""Moves whose disks are streamed, by real commands: what is on the hosts before, meanwhile and afterwards, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.core import ownership
from cellmove.hosts import disk_archive
from cellmove.sandbox import disks, seed
from cellmove.sandbox.process import Process
from tests.proof.streamed_cases import flip
from tests.support.folders import shared_memory
from tests.support.sandbox.cloud_process import start
from tests.support.sandbox.fake_ssh import Ssh, make_ssh
from tests.support.sandbox.running import begin, wait_for
from tests.support.sandbox.streaming import OTHER, SOURCE, TARGET, Streaming

STREAM = ("--cell", "cell2", "--transfer", "stream")
AUTO = ("--cell", "cell2", "--transfer", "auto")
PROGRAM = len(disk_archive.archive())
SMALL = 1024  # times 512 bytes: a limit that the image is below, and a disk above


@pytest.fixture(scope="module")
def cloud() -> Iterator[tuple[Process, Ssh]]:
    """One for all of them: each moves a server of its own."""
    with tempfile.TemporaryDirectory(prefix="cellmove-stream-", dir=shared_memory()) as folder:
        process = start(Path(folder) / "cloud", disks=True)
        yield process, make_ssh(Path(folder) / "ssh", Path(folder) / "cloud" / "disks")
        process.end()


@pytest.fixture
def streaming(cloud: tuple[Process, Ssh], tmp_path: Path) -> Iterator[Streaming]:
    place = Streaming(cloud[0], tmp_path, ssh=cloud[1])
    for host in (TARGET, OTHER):
        place.base(host).unlink(missing_ok=True)
    yield place
    for host in (SOURCE, TARGET, OTHER):
        place.ssh.order(host)
    place.clear()


# all is well


@pytest.mark.parametrize(("present", "ending"), [(False, "confirm"), (True, "revert")])
def test_there_and_to_the_end(streaming, present, ending):
    """The image is brought along where it is missing; what the guest wrote last has arrived."""
    server = streaming.boot()
    if present:
        streaming.base(TARGET).parent.mkdir(exist_ok=True)
        streaming.base(TARGET).write_bytes(disks.base_content(seed.IMAGE))
    streaming.process.control("write", host=SOURCE, server=server.id)
    streaming.cellmove("migrate", server.id, *STREAM)
    streaming.has_moved(server.id)
    assert bool(streaming.result(server.id, "seed_base")["seeded"]) is not present
    assert streaming.process.cloud().world.images == {}
    streaming.process.control("write", host=TARGET, server=server.id)
    streaming.cellmove(ending, server.id)
    if ending == "confirm":
        streaming.has_moved(server.id, status="ACTIVE")
    else:
        streaming.is_home(server.id)


def test_a_server_that_is_stopped(streaming):
    server = streaming.boot(active=False)
    streaming.cellmove("migrate", server.id, *STREAM, "--confirm")
    streaming.has_moved(server.id, status="SHUTOFF")


def test_the_plan_tells_sizes_and_how_long(streaming):
    server = streaming.boot()
    before = streaming.marked(SOURCE)
    shown = streaming.cellmove("plan", server.id, *AUTO, "--dry-run", "-f", "json").json["summary"]
    assert shown["transfer"] == "stream"
    assert [disk["name"] for disk in shown["disks"]] == ["disk"]
    assert shown["downtime_seconds"] >= 1
    told = streaming.cellmove("plan", server.id, *AUTO, "--dry-run")
    assert "disks travel by stream (about 3 s down)" in told.stdout + told.stderr
    assert streaming.marked(SOURCE) == before == []


def test_volumes_have_nothing_to_stream(streaming):
    server = streaming.boot(volume_backed=True)
    streaming.cellmove("migrate", server.id, *STREAM, "--confirm")
    assert not streaming.path(TARGET, server.id).exists()


@pytest.mark.parametrize(
    "steps", [("prep-dest",), ("prep-dest", "prep-source"), ("prep-dest", "prep-source", "finish")]
)
def test_rolled_back_after_each_step(streaming, steps):
    """Nothing is left at the target but the image, which others may stand on by now."""
    server = streaming.boot()
    streaming.cellmove("plan", server.id, *STREAM)
    for step in steps:
        streaming.cellmove(step, server.id)
    assert streaming.path(TARGET, server.id).exists()
    streaming.cellmove("rollback", server.id)
    streaming.is_home(server.id)


# while nova stops the guest


@pytest.mark.parametrize("how", ["nobody writes", "somebody writes", "the connection dies"])
def test_the_last_pass_begins_when_the_disk_is_let_go(streaming, how):
    """As a hypervisor does, this process has the disk open until the guest is off; nova's call goes on for seconds."""
    server = streaming.boot()
    streaming.cellmove("plan", server.id, *STREAM)
    streaming.cellmove("prep-dest", server.id)
    held = open(streaming.path(SOURCE, f"{server.id}/disk"), "rb")  # noqa: SIM115 - closed when the guest is off
    try:
        streaming.process.control("write", host=SOURCE, server=server.id)
        streaming.process.control("pace", seconds=1.0)
        run = begin(streaming, "prep-source", server.id)
        while streaming.process.control("state")["guests"][SOURCE][server.id]["state"] == 1:
            time.sleep(0.05)
        held.close()
        time.sleep(1.0)
        if how == "somebody writes":
            flip(streaming.path(SOURCE, f"{server.id}/disk"), disks.TABLES)
            flip(streaming.path(SOURCE, f"{server.id}/disk"), disks.TABLES)
        elif how == "the connection dies":
            for link in children_of(run.child.pid):
                os.killpg(link, signal.SIGKILL)  # each is a session of its own
        streaming.process.control("pace", seconds=0.3)
        assert run.end() == 0
    finally:
        held.close()
        streaming.process.control("pace", seconds=0.0)
    streaming.cellmove("finish", server.id)
    early, last = streaming.result(server.id, "stop_source")["early"], streaming.result(server.id, "copy_rest")
    assert early["last_pass"]["read"] > 0
    assert (last["last_pass"] == early["last_pass"]) is (how == "nobody writes")
    assert (last["stopped"] == early["stamps"]) is (how != "somebody writes")
    streaming.has_moved(server.id)


def children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in found]


def test_a_disk_that_is_never_let_go_is_read_after_the_stop(streaming):
    server = streaming.boot()
    with open(streaming.path(SOURCE, f"{server.id}/disk"), "rb"):
        streaming.cellmove("migrate", server.id, *STREAM)
    assert "early" not in streaming.result(server.id, "stop_source")
    assert streaming.result(server.id, "copy_rest")["digests"]
    streaming.has_moved(server.id)


# a nova-compute that would start the guest from the image it was built from


@pytest.fixture
def old_releases(streaming: Streaming) -> Iterator[Streaming]:
    """The target's hosts run Victoria."""
    for version in (53, 74):
        streaming.process.cloud().update("cell2", "services", {"version": version}, binary="nova-compute")
        if version == 53:
            yield streaming


@pytest.mark.parametrize("ending", ["confirm", "revert"])
def test_an_old_release_keeps_what_was_streamed(old_releases, ending):
    server = old_releases.boot()
    old_releases.process.control("write", host=SOURCE, server=server.id)
    refused = old_releases.cellmove("migrate", server.id, "--cell", "cell2", "--transfer", "image", expect=5)
    assert "--transfer stream" in refused.stdout + refused.stderr
    old_releases.cellmove("migrate", server.id, *AUTO)
    assert old_releases.plan(server.id)["transfer"] == "stream"
    old_releases.has_moved(server.id)
    old_releases.cellmove(ending, server.id)
    if ending == "confirm":
        old_releases.has_moved(server.id, status="ACTIVE")
    else:
        old_releases.is_home(server.id)


def test_an_old_release_is_not_reached_through_an_image(old_releases):
    """`auto` falls back to an image elsewhere; here the next host is tried, and at last it goes home."""
    server = old_releases.boot()
    old_releases.ssh.order(TARGET, "refuse")
    said = old_releases.cellmove("migrate", server.id, *AUTO)
    assert "nova bug 1906428" in said.stderr
    old_releases.has_moved(server.id, OTHER)
    old_releases.cellmove("revert", server.id)
    old_releases.ssh.order(OTHER, "refuse")
    said = old_releases.cellmove("migrate", server.id, *AUTO, expect=1)
    assert "nova bug 1906428" in said.stderr
    old_releases.is_home(server.id)


def test_why_it_cannot_be_streamed_to_an_old_release(old_releases):
    server = old_releases.boot()
    old_releases.ssh.order(SOURCE, "deny")
    said = old_releases.cellmove("plan", server.id, *AUTO, "-f", "json", expect=5).json
    (refused,) = (check for check in said["checks"] if check["level"] == "refusal")
    assert refused["code"] == "root-disk-lost"
    assert "it accepts no key of this user" in refused["remedy"]


# what verify makes of disks that went through an image

IMAGED = ("--host", TARGET, "--transfer", "image")


def verified(streaming: Streaming, server: str, expect: int = 0) -> dict[str, dict[str, str]]:
    """What verify says, by code."""
    said = streaming.cellmove("verify", server, "-f", "json", expect=expect).json
    return {check["code"]: check for check in said["checks"]}


def lose_the_disk(streaming: Streaming, server: str) -> None:
    """What nova-compute before Wallaby does: a fresh disk from the image that the server was built from."""
    streaming.path(TARGET, f"{server}/disk").unlink()
    disks.make(streaming.process.cloud(), TARGET, server, seed.IMAGE, "")


@pytest.mark.parametrize("active", [True, False])
def test_a_disk_that_went_through_an_image_is_compared(streaming, active):
    server = streaming.boot(active=active)
    streaming.cellmove("migrate", server.id, *IMAGED)
    check = verified(streaming, server.id)["disk"]
    assert (check["level"], check["text"]) == ("ok", "8 of 8 samples of the root disk equal those of the source")
    if active:  # the guest wrote since
        flip(streaming.path(TARGET, f"{server.id}/disk"), disks.TABLES)
        assert "7 of 8" in verified(streaming, server.id)["disk"]["text"]
        flip(streaming.path(TARGET, f"{server.id}/disk"), disks.TABLES)
    streaming.cellmove("confirm", server.id)
    streaming.has_moved(server.id, status="ACTIVE" if active else "SHUTOFF")


@pytest.mark.parametrize("version", [53, 74])
def test_a_disk_that_was_lost_is_seen_whatever_the_release(streaming, version):
    """Confirm keeps the source's disk then; revert brings the guest back to it."""
    server = streaming.boot()
    streaming.cellmove("migrate", server.id, *IMAGED)
    lose_the_disk(streaming, server.id)
    streaming.process.cloud().update("cell2", "services", {"version": version}, host=TARGET, binary="nova-compute")
    found = verified(streaming, server.id, expect=5)["root-disk-lost"]
    assert "only 0 of 8 samples" in found["text"]
    assert "revert" in found["remedy"]
    before = streaming.path(SOURCE, f"{server.id}/disk").read_bytes()
    refused = streaming.cellmove("confirm", server.id, expect=5)
    assert "this is not the server's disk" in refused.stderr
    assert streaming.path(SOURCE, f"{server.id}/disk").read_bytes() == before
    streaming.process.cloud().update("cell2", "services", {"version": 74}, host=TARGET, binary="nova-compute")
    streaming.cellmove("revert", server.id)
    streaming.is_home(server.id)


def test_a_guest_that_is_off_changes_nothing(streaming):
    server = streaming.boot(active=False)
    streaming.cellmove("migrate", server.id, *IMAGED)
    flip(streaming.path(TARGET, f"{server.id}/disk"), disks.TABLES)
    assert "only 7 of 8 samples" in verified(streaming, server.id, expect=5)["disk-differs"]["text"]


def test_why_a_disk_was_not_compared(streaming):
    server = streaming.boot()
    streaming.cellmove("migrate", server.id, *IMAGED)
    streaming.ssh.order(SOURCE, "deny")
    found = verified(streaming, server.id)["disk-not-compared"]
    assert found["level"] == "warning"
    assert "it accepts no key of this user" in found["text"]
    streaming.ssh.order(SOURCE)
    assert "disk-not-compared" not in verified(streaming, server.id)
    disk = streaming.path(TARGET, f"{server.id}/disk")
    disk.rename(disk.with_name("elsewhere"))
    assert "its root disk is not a file there" in verified(streaming, server.id)["disk-not-compared"]["text"]
    disk.with_name("elsewhere").rename(disk)


def test_a_streamed_disk_was_read_back_before_its_guest_started(streaming):
    server = streaming.boot()
    streaming.cellmove("migrate", server.id, *STREAM)
    assert "read back before the guest started" in verified(streaming, server.id)["disk"]["text"]


def test_an_adopted_move_of_an_old_release_is_judged_by_its_disk(streaming):
    """Nobody knows any more how it went: what the disk holds tells, and without a look it is not confirmed."""
    server = streaming.boot()
    streaming.cellmove("migrate", server.id, *STREAM)
    (streaming.folder / "journal.db").unlink()
    streaming.process.cloud().update("cell2", "services", {"version": 53}, host=TARGET, binary="nova-compute")
    streaming.cellmove("adopt", server.id)
    assert "8 of 8" in verified(streaming, server.id)["disk"]["text"]
    streaming.ssh.order(TARGET, "refuse")
    assert "were not compared" in verified(streaming, server.id, expect=5)["root-disk-lost"]["text"]
    refused = streaming.cellmove("confirm", server.id, expect=5)
    assert "nova bug 1906428" in refused.stderr
    streaming.ssh.order(TARGET)
    streaming.process.cloud().update("cell2", "services", {"version": 74}, host=TARGET, binary="nova-compute")
    streaming.cellmove("confirm", server.id)
    streaming.has_moved(server.id, status="ACTIVE")


# what cannot be streamed


def test_without_ssh_it_is_refused(streaming, tmp_path):
    server = streaming.boot()
    config = tmp_path / "config.toml"
    config.write_text("[policy]\nunattended = true\n")
    env = {"CELLMOVE_CONFIG": str(config)}
    said = streaming.cellmove("migrate", server.id, *STREAM, expect=5, env=env)
    assert "there is no table [ssh] in config.toml" in said.stdout + said.stderr
    assert "--transfer image" in said.stdout + said.stderr
    streaming.cellmove("migrate", server.id, *AUTO, env=env)
    assert streaming.plan(server.id)["transfer"] == "image"
    streaming.has_moved(server.id)


def test_a_source_that_lets_nobody_in_means_an_image(streaming):
    server = streaming.boot()
    streaming.ssh.order(SOURCE, "deny")
    said = streaming.cellmove("migrate", server.id, *STREAM, expect=5)
    assert "it accepts no key of this user" in said.stdout + said.stderr
    told = streaming.cellmove("plan", server.id, *AUTO)
    assert "no stream" in told.stdout
    assert "it accepts no key of this user" in told.stdout
    streaming.cellmove("migrate", server.id, *AUTO)
    streaming.has_moved(server.id)


def test_a_target_that_cannot_be_reached_means_an_image(streaming):
    """It is only chosen when the move has begun. The reason is told, and stands in the journal."""
    server = streaming.boot()
    streaming.ssh.order(TARGET, "refuse")
    said = streaming.cellmove("migrate", server.id, *AUTO)
    assert f"the disks go through an image: {TARGET}: it cannot be reached" in said.stderr
    assert "it cannot be reached" in streaming.result(server.id, "look_at_disks")["transfer_why"]
    streaming.has_moved(server.id)


def marked_transfers(streaming: Streaming, server: str) -> list[str]:
    """What the server's mark says of its disks, in each cell that has one."""
    cloud, match = streaming.process.cloud(), {"instance_uuid": server, "key": ownership.TRANSFER, "deleted": 0}
    return [
        row["value"] for cell in ("cell1", "cell2") for row in cloud.rows(cell, "instance_system_metadata", **match)
    ]


def test_the_next_host_is_looked_at_anew(streaming):
    """The first one means an image, and then cannot take the server at all; the mark says at each moment how it is."""
    server = streaming.boot()
    streaming.ssh.order(TARGET, "refuse")
    streaming.cellmove("plan", server.id, *AUTO)
    with streaming.fault(TARGET, "get_host_ip_addr", "fail"):
        said = streaming.cellmove("prep-dest", server.id)
    assert "the disks go through an image" in said.stderr
    assert streaming.result(server.id, "look_at_disks")["transfer"] == "stream"
    here, there = marked_transfers(streaming, server.id)
    assert json.loads(here) == json.loads(there) == {
        "transfer": "stream", "transfer_wish": "auto", "only_streamed": [], "bwlimit": 0,
    }  # fmt: skip
    streaming.cellmove("prep-source", server.id)
    streaming.cellmove("finish", server.id)
    streaming.has_moved(server.id, OTHER)
    assert marked_transfers(streaming, server.id) == []


def test_the_mark_of_what_goes_through_an_image_says_nothing_of_streaming(streaming):
    server = streaming.boot()
    streaming.ssh.order(TARGET, "refuse")
    streaming.cellmove("plan", server.id, *AUTO)
    streaming.cellmove("prep-dest", server.id)
    assert marked_transfers(streaming, server.id) == []
    streaming.cellmove("rollback", server.id)
    streaming.is_home(server.id)


def test_a_target_that_cannot_be_reached_fails_what_has_to_be_streamed(streaming):
    """Every host that the scheduler offers is tried."""
    server = streaming.boot()
    streaming.ssh.order(TARGET, "refuse")
    streaming.ssh.order(OTHER, "refuse")
    said = streaming.cellmove("migrate", server.id, *STREAM, expect=1)
    assert f"{OTHER}: it cannot be reached" in said.stderr
    assert f"{TARGET}: it cannot be reached" in said.stderr
    streaming.is_home(server.id)
    streaming.ssh.order(OTHER)
    streaming.cellmove("migrate", server.id, *STREAM)
    streaming.has_moved(server.id, OTHER)


def test_what_an_image_would_lose_is_not_lost_by_falling_back(streaming):
    streaming.process.control("make_flavor", name="m1.ephemeral", ephemeral_gb=1)
    server = streaming.boot(flavor="m1.ephemeral")
    for host in (TARGET, OTHER):
        streaming.ssh.order(host, "refuse")
    said = streaming.cellmove("migrate", server.id, *AUTO, expect=1)
    assert "through an image its ephemeral would be lost" in said.stderr
    assert "--transfer image --accept-loss ephemeral" in said.stderr
    streaming.is_home(server.id, flavor="m1.ephemeral")
    said = streaming.cellmove("migrate", server.id, "--cell", "cell2", "--transfer", "image", expect=5)
    assert "ephemeral" in said.stdout + said.stderr
    said = streaming.cellmove("migrate", server.id, *AUTO, "--accept-loss", "ephemeral")
    assert "the disks go through an image" in said.stderr


@pytest.mark.parametrize("wish", ["stream", "auto"])
def test_another_image_of_that_name(streaming, wish):
    """A disk must never stand on other bytes than it was made on."""
    server = streaming.boot()
    for host in (TARGET, OTHER):
        streaming.base(host).parent.mkdir(exist_ok=True)
        streaming.base(host).write_bytes(b"another image")
    words = ("migrate", server.id, "--cell", "cell2", "--transfer", wish)
    said = streaming.cellmove(*words, expect=1 if wish == "stream" else 0)
    assert f"is another file on {TARGET} than on {SOURCE}" in said.stderr
    assert streaming.base(TARGET).read_bytes() == b"another image"
    if wish == "stream":
        streaming.is_home(server.id)
    else:
        assert streaming.plan(server.id)["transfer"] == "stream"
        assert streaming.result(server.id, "seed_base")["transfer"] == "image"
        streaming.base(TARGET).unlink()
        streaming.process.control("add_base", host=TARGET, image=seed.IMAGE)
        streaming.has_moved(server.id)


@pytest.mark.parametrize("wish", ["stream", "auto"])
def test_files_that_are_there_already_are_nobodys_to_remove(streaming, wish):
    """Nova would start the guest from them, through an image as well, and remove them when it is rolled back."""
    server = streaming.boot()
    for host in (TARGET, OTHER):
        streaming.path(host, server.id).mkdir()
        streaming.path(host, f"{server.id}/disk").write_text("of an evacuation, perhaps")
    said = streaming.cellmove("migrate", server.id, "--cell", "cell2", "--transfer", wish, expect=1)
    assert f"{TARGET} has files of this server already: disk" in said.stderr
    said = streaming.cellmove("migrate", server.id, "--host", TARGET, "--transfer", wish, expect=5)
    assert f"{TARGET} has files of this server already: disk" in said.stdout + said.stderr
    for host in (TARGET, OTHER):
        assert streaming.path(host, f"{server.id}/disk").read_text() == "of an evacuation, perhaps"
        streaming.path(host, f"{server.id}/disk").unlink()
        streaming.path(host, server.id).rmdir()
    streaming.is_home(server.id)


@pytest.mark.parametrize("wish", ["stream", "auto"])
def test_hosts_that_share_their_storage_after_all(streaming, wish):
    """It is seen before nova could remove the disk that the guest runs from, whatever the operator believes."""
    server = streaming.boot()
    kept = {host: streaming.ssh.disks / f"{host}-kept" for host in (TARGET, OTHER)}
    try:
        for host, path in kept.items():
            (streaming.ssh.disks / host).rename(path)
            (streaming.ssh.disks / host).symlink_to(SOURCE)
        said = streaming.cellmove("migrate", server.id, "--cell", "cell2", "--transfer", wish, expect=1)
        assert f"{SOURCE} and {TARGET} have the same instances_path" in said.stderr
        assert f"{SOURCE} and {OTHER} have the same instances_path" in said.stderr
    finally:
        for host, path in kept.items():
            (streaming.ssh.disks / host).unlink()
            path.rename(streaming.ssh.disks / host)
    streaming.is_home(server.id)


# what breaks


def test_ssh_that_dies_in_a_pass_goes_on_from_what_is_there(streaming):
    server = streaming.boot()
    streaming.ssh.order(TARGET, "cut", PROGRAM + disks.BASE_SIZE + (600 << 10), once=True)
    said = streaming.cellmove("migrate", server.id, *STREAM, "--bwlimit", "1M")  # a block in each message
    assert "connecting again" in said.stderr
    (made,) = streaming.result(server.id, "copy_running")["passes"]
    assert 0 < made["sent"] <= (256 << 10) + disks.SIZE % (256 << 10)  # the third block and the rest; two were there
    streaming.has_moved(server.id)


def test_a_target_that_is_full_is_not_the_last_one(streaming):
    server = streaming.boot()
    streaming.ssh.order(TARGET, "limit", SMALL)
    streaming.cellmove("migrate", server.id, *STREAM)
    streaming.has_moved(server.id, OTHER)
    assert not streaming.path(TARGET, server.id).exists()


def test_all_targets_are_full(streaming):
    server = streaming.boot()
    for host in (TARGET, OTHER):
        streaming.ssh.order(host, "limit", SMALL)
    said = streaming.cellmove("migrate", server.id, *STREAM, expect=1)
    assert "make room there" in said.stderr
    streaming.is_home(server.id)


def test_a_source_that_is_written_to_although_its_guest_is_off(streaming):
    server = streaming.boot()
    prepare(streaming, server.id)
    path = streaming.path(SOURCE, f"{server.id}/disk")
    flip(path, disks.TABLES)
    flip(path, disks.TABLES)  # what it holds is the same again; that somebody was there is enough
    said = streaming.cellmove("finish", server.id, expect=1)
    assert f"disk on {SOURCE} was changed while its guest was off" in said.stderr
    streaming.is_home(server.id)


def test_a_bit_that_flips_once_all_was_compared(streaming):
    server = streaming.boot()
    prepare(streaming, server.id)
    flip(streaming.path(TARGET, f"{server.id}/disk"), disks.TABLES)
    said = streaming.cellmove("finish", server.id, expect=1)
    assert f"disk on {TARGET} was changed while its guest was off" in said.stderr
    streaming.is_home(server.id)


def test_a_source_that_dies_once_all_was_copied_is_not_waited_for(streaming):
    server = streaming.boot()
    prepare(streaming, server.id)
    streaming.ssh.order(SOURCE, "refuse")
    said = streaming.cellmove("finish", server.id)
    assert "cannot be seen" in said.stderr
    streaming.has_moved(server.id)


def test_a_target_that_cannot_be_reached_keeps_no_guest_down(streaming):
    """The guest is started at the source first; what is left at the target is removed when that answers."""
    server = streaming.boot()
    prepare(streaming, server.id)
    for host in (TARGET, OTHER):
        streaming.ssh.order(host, "refuse")
    said = streaming.cellmove("rollback", server.id, expect=3)
    assert "cellmove rollback" in said.stderr
    assert streaming.snapshot(server.id)["guests"][SOURCE]["power_state"] == "running"
    streaming.ssh.order(TARGET)
    streaming.cellmove("rollback", server.id)
    streaming.is_home(server.id)


def prepare(streaming: Streaming, server: str) -> None:
    """A move that stands before finish."""
    streaming.cellmove("plan", server, *STREAM)
    streaming.cellmove("prep-dest", server)
    streaming.cellmove("prep-source", server)


# signals and limits


def test_a_limit_is_kept_and_stands_in_the_journal(streaming):
    server = streaming.boot()
    streaming.cellmove("plan", server.id, *STREAM, "--bwlimit", "300k")
    streaming.cellmove("prep-dest", server.id)
    assert streaming.plan(server.id)["bwlimit"] == 300 << 10
    (made,) = streaming.result(server.id, "copy_running")["passes"]
    assert made["sent"] > 600 << 10
    assert made["seconds"] > 0.9 * (made["sent"] - (260 << 10)) / (300 << 10)  # nothing waits for the last message
    assert streaming.plan(server.id)["command"].endswith(f"--transfer stream --bwlimit {300 << 10}")
    streaming.cellmove("rollback", server.id)
    streaming.is_home(server.id)


def test_a_signal_ends_a_long_pass_at_once(streaming):
    server = streaming.boot()
    streaming.cellmove("plan", server.id, *STREAM, "--bwlimit", "60k")  # a pass takes a quarter of a minute
    run = begin(streaming, "prep-dest", server.id)
    wait_for(streaming, "copy_running")
    time.sleep(1)
    began = time.monotonic()
    run.signal(signal.SIGINT)
    assert run.end() == 130
    assert time.monotonic() - began < 8
    assert streaming.marked(TARGET) == [f".disk.cellmove-{move_id(streaming, server.id)}"]
    streaming.cellmove("resume", server.id)
    streaming.cellmove("prep-source", server.id)
    streaming.cellmove("finish", server.id)
    streaming.has_moved(server.id)


def move_id(streaming: Streaming, server: str) -> str:
    return str(streaming.cellmove("show", server, "-f", "json").json["move"])
