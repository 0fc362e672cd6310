"""Streamed moves of real guests: what the guest wrote until its power-off is there after it, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.clock import Clock
from cellmove.engine.journal_open import open_journal
from lab import cloud, kvm, oracle
from lab.client import connect

pytestmark = [pytest.mark.lab, pytest.mark.kvm, pytest.mark.xdist_group("guests")]

SOURCE, TARGET = kvm.HOSTS
LATE = 6  # files that a guest has written when it is moved, at least


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With the way to the hosts; nothing may go through an image without our noticing it."""
    Path(environment["CELLMOVE_CONFIG"]).write_text(kvm.configuration())
    return environment


def marked(server_id: str) -> list[str]:
    """Files at either host that a move has not finished."""
    found = []
    for host in kvm.HOSTS:
        here = kvm.instance_folder(host, server_id)
        for folder in (here, here.parent / "_base"):
            found += [str(path) for path in folder.glob(".*cellmove*")]
    return found


def check_arrived(server_id: str, before: Any, *, flavor: str, status: str = "VERIFY_RESIZE", at: str = TARGET) -> Any:
    """All that the guest had is there, and the cloud is as it has to be; the guest's console."""
    after = kvm.wait_checked(server_id, at)
    assert len(before.written) >= LATE
    assert kvm.lost(before, after) == {}
    assert oracle.problems(oracle.snapshot(server_id), host=at, flavor=flavor, status=status) == []
    assert marked(server_id) == []
    return after


def check_home(server_id: str, start: Any, before: Any, flavor: str) -> None:
    """It runs where it was, nothing of it is at the target, and nothing of it was lost."""
    after = kvm.wait_checked(server_id, SOURCE, boot=2)
    assert kvm.lost(before, after) == {}
    assert list(kvm.folders(server_id)) == [SOURCE]
    assert marked(server_id) == []
    shot = oracle.snapshot(server_id)
    assert oracle.problems(shot, host=SOURCE, flavor=flavor, status="ACTIVE") == []
    assert oracle.compare(start, shot) == []


def streamed(outcome: Any) -> bool:
    """Whether the move that a command told of went over ssh."""
    return "give the disks their names" in outcome.stderr


def read_of(environment: dict[str, str], server_id: str) -> tuple[int, int]:
    """Bytes of the server's newest move that were read by its first pass, and by its last while the guest was down."""
    journal = open_journal(environment["CELLMOVE_JOURNAL"], Clock().text)
    results = {entry.action: entry.result for entry in journal.entries_of(journal.find(server_id)[-1].id)}
    return results["copy_running"]["passes"][0]["read"], results["copy_rest"]["last_pass"]["read"]


def test_there_and_back_with_the_base_absent_and_present(boot_guest, cellmove, environment):
    """A base that only this image has is brought, and found there on the way back; the flavor grows on the way back.

    The first host's file system tells what was written (lab/kvm_store.py), so no more is read while the guest is down.
    """
    server = boot_guest(flavor="kvm.tiny", fill=33, dirty=512)
    kvm.wait_written(server, LATE)
    assert streamed(cellmove("migrate", server, "--host", TARGET))
    before = kvm.console(server, SOURCE)
    first = check_arrived(server, before, flavor="kvm.tiny")
    at_first, in_the_end = read_of(environment, server)
    assert 0 < in_the_end < at_first / 2
    cellmove("confirm", server)
    assert list(kvm.folders(server)) == [TARGET]

    kvm.wait_written(server, LATE, TARGET)
    assert streamed(cellmove("resize", server, "kvm.small", "--host", SOURCE))
    before = kvm.console(server, TARGET)
    after = check_arrived(server, before, flavor="kvm.small", at=SOURCE)
    at_first, in_the_end = read_of(environment, server)
    assert in_the_end >= at_first > 33 << 20
    assert (after.size or 0) > 1.5 * (first.size or 0)
    cloud.native_confirm(server)
    assert list(kvm.folders(server)) == [SOURCE]
    assert oracle.problems(oracle.snapshot(server), host=SOURCE, flavor="kvm.small", status="ACTIVE") == []


def test_everything_local_travels_and_nova_reverts(boot_guest, cellmove):
    server = boot_guest(flavor="kvm.full", fill=16, ephemeral=24, dirty=256, config_drive=True)
    kvm.wait_written(server, LATE)
    start = oracle.snapshot(server)
    planned = json.loads(cellmove("plan", server, "--host", TARGET, "--dry-run", "-f", "json").stdout)
    assert sorted(disk["name"] for disk in planned["summary"]["disks"]) == [
        "disk",
        "disk.config",
        "disk.eph0",
        "disk.swap",
    ]
    assert planned["summary"]["lost"] == []
    assert streamed(cellmove("migrate", server, "--host", TARGET))
    before = kvm.console(server, SOURCE)
    after = check_arrived(server, before, flavor="kvm.full")
    assert any(name.startswith("ephemeral/") for name in before.known)
    assert after.config == before.config
    assert before.config
    assert after.swap == before.swap
    assert after.swap is not None

    cloud.native_revert(server)
    check_home(server, start, before, "kvm.full")


@pytest.mark.long
def test_a_stopped_guest_whose_image_is_gone(boot_guest, cellmove):
    server = boot_guest(flavor="kvm.tiny", fill=21, dirty=256)
    kvm.wait_written(server, LATE)
    image = connect().compute.get_server(server).image.id
    cloud.stop(server)
    before = kvm.console(server, SOURCE)
    connect().image.delete_image(image)
    kvm.image.cache_clear()
    assert streamed(cellmove("migrate", server, "--host", TARGET, "--confirm"))
    assert cloud.guests(server) == {TARGET: "shutdown"}
    cloud.start(server)
    check_arrived(server, before, flavor="kvm.tiny", status="ACTIVE")


def test_a_start_that_fails_is_taken_back(boot_guest, cellmove):
    """libvirt finds a base that it cannot read; the guest comes back with its network (the binding's vif_type, too)."""
    server = boot_guest(flavor="kvm.tiny", fill=8, dirty=256)
    kvm.wait_written(server, LATE)
    start = oracle.snapshot(server)
    cellmove("plan", server, "--host", TARGET)
    cellmove("prep-dest", server)
    cellmove("prep-source", server)
    before = kvm.console(server, SOURCE)
    with spoilt_base(server):
        failed = cellmove("finish", server, expect=1)
    assert "every action was rolled back; looked at since" in failed.stderr
    check_home(server, start, before, "kvm.tiny")


def spoilt_base(server_id: str) -> Any:
    """The target's base is another file for a while."""
    from contextlib import contextmanager

    @contextmanager
    def spoilt() -> Iterator[None]:
        name = base_of(server_id).name
        path = kvm.instance_folder(TARGET, server_id).parent / "_base" / name
        saved = path.with_name(f"{name}.saved")
        path.rename(saved)
        path.write_bytes(b"no image")
        try:
            yield
        finally:
            saved.rename(path)

    return spoilt()


def base_of(server_id: str) -> Path:
    """The image that its root disk stands on at the source."""
    disk = kvm.instance_folder(SOURCE, server_id) / "disk"
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", str(disk)], check=True, capture_output=True, text=True
    )
    return Path(json.loads(told.stdout)["backing-filename"])


@pytest.mark.long
def test_a_base_that_differs_is_refused_while_the_guest_runs(boot_guest, cellmove):
    """Same name, same header, another byte: an overlay on it would read garbage in silence."""
    server = boot_guest(flavor="kvm.tiny", fill=9, dirty=64)
    kvm.wait_written(server, LATE)
    start = oracle.snapshot(server)
    there = kvm.instance_folder(TARGET, server).parent / "_base" / base_of(server).name
    shutil.copyfile(base_of(server), there)
    flip(there, there.stat().st_size - 10)
    try:
        refused = cellmove("migrate", server, "--host", TARGET, expect=1)
        assert "is another file on" in refused.stderr
        assert list(kvm.folders(server)) == [SOURCE]
        assert kvm.console(server, SOURCE).boot == 1  # it never stopped
        assert oracle.compare(start, oracle.snapshot(server)) == []
        # Left to itself, cellmove takes the other way.
        moved = cellmove("migrate", server, "--host", TARGET, "--transfer", "auto", env={"CELLMOVE_TRANSFER": "auto"})
        assert "through an image" in moved.stderr
    finally:
        there.unlink(missing_ok=True)
    cellmove("revert", server)


def flip(path: Path, at: int, by: int = 1) -> None:
    """Change one byte, or (by 0) write it as it was."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ by]))
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.long
@pytest.mark.parametrize("where", ["target", "source"])
def test_a_disk_that_is_touched_before_the_start(boot_guest, cellmove, where):
    """A byte flipped at rest at the target; somebody writes to the source's disk: the guest is not started on either."""
    server = boot_guest(flavor="kvm.tiny", fill=4, dirty=64)
    kvm.wait_written(server, LATE)
    start = oracle.snapshot(server)
    for verb in ("plan", "prep-dest", "prep-source"):
        cellmove(verb, server, *(("--host", TARGET) if verb == "plan" else ()))
    before = kvm.console(server, SOURCE)
    flip(kvm.instance_folder(TARGET if where == "target" else SOURCE, server) / "disk", 3 << 20, by=where == "target")
    failed = cellmove("finish", server, expect=1)
    assert "changed while its guest was off" in failed.stderr
    check_home(server, start, before, "kvm.tiny")


KILLS = (
    ("prep-source:copy_rest:after-effect", "rollback"),
    ("prep-source:place_disks:after-effect", "resume"),
)
MORE_KILLS = (
    ("prep-dest:copy_running:after-intent", "resume"),
    ("prep-dest:copy_running:after-effect", "rollback"),
    ("prep-source:copy_rest:after-intent", "resume"),
    ("prep-source:place_disks:after-intent", "rollback"),
)


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MORE_KILLS, marks=pytest.mark.long)], ids=["some", "more"])
def test_killed_at_its_new_actions(boot_guest, cellmove, killed, kills):
    """One guest, one case after the other; the sandbox has every action, here are those that a real disk changes."""
    server = boot_guest(flavor="kvm.tiny", fill=12, dirty=256)
    for where, way in kills:
        here = next(host for host, what in cloud.guests(server).items() if what == "running")
        there = kvm.other(here)
        kvm.wait_written(server, LATE, here)
        killed(where, "migrate", server, "--host", there)
        before = kvm.console(server, here)
        boots = before.boot or 0
        cellmove(way, server)
        if way == "resume":
            before = max(before, kvm.console(server, here), key=lambda said: len(said.written))
            after = check_arrived(server, before, flavor="kvm.tiny", at=there)
            cellmove("confirm", server)
            assert list(kvm.folders(server)) == [there]
        else:
            stopped = not where.startswith("prep-dest")
            after = kvm.wait_checked(server, here, boot=boots + 1 if stopped else boots)
            assert list(kvm.folders(server)) == [here]
            assert marked(server) == []
        assert not stopped_or_lost(before, after), where


def stopped_or_lost(before: Any, after: Any) -> dict[str, Any]:
    """What is lost; of a guest that went on running both are the same console."""
    return {} if before.boot == after.boot else kvm.lost(before, after)


@pytest.mark.long
def test_a_connection_that_dies_goes_on(boot_guest, started: Callable[..., Any]):
    """Every ssh of ours is killed in the middle of a slow pass; the next one goes on from what is there."""
    server = boot_guest(flavor="kvm.tiny", fill=64, dirty=64)
    kvm.wait_written(server, LATE)
    running = started("migrate", server, "--host", TARGET, "--bwlimit", "16M")
    cloud.wait_for("a copy under way", lambda: size_at_target(server) > 8 << 20 or None, 60)
    subprocess.run(["pkill", "-KILL", "-P", str(running.pid), "ssh"], check=True)
    outcome = running.end()
    assert outcome.code == 0, outcome.stderr
    assert "connecting again" in outcome.stderr
    check_arrived(server, kvm.console(server, SOURCE), flavor="kvm.tiny")


def size_at_target(server_id: str) -> int:
    """Bytes that its unfinished disk takes there."""
    return sum(path.stat().st_blocks * 512 for path in kvm.instance_folder(TARGET, server_id).glob(".disk.cellmove-*"))


@pytest.mark.long
def test_a_target_that_is_full_is_left_clean_and_the_guest_runs_on(boot_guest, cellmove, environment):
    """No file of the program's may be longer than 16 MiB, as if there was no more room; then there is."""
    server = boot_guest(flavor="kvm.tiny", fill=64, dirty=64)
    kvm.wait_written(server, LATE)
    start, config = oracle.snapshot(server), Path(environment["CELLMOVE_CONFIG"])
    little = "[ssh]\nbecome = ['prlimit', '--fsize=16777216:16777216']\n"
    config.write_text(kvm.configuration().replace("[ssh]\n", little))
    failed = cellmove("migrate", server, "--host", TARGET, expect=1)
    assert "make room there" in failed.stderr
    assert kvm.console(server, SOURCE).boot == 1
    assert list(kvm.folders(server)) == [SOURCE]
    assert marked(server) == []
    assert oracle.compare(start, oracle.snapshot(server)) == []

    config.write_text(kvm.configuration())
    cellmove("migrate", server, "--host", TARGET)
    check_arrived(server, kvm.console(server, SOURCE), flavor="kvm.tiny")
