"""Disks over a real sshd and the system's own client: bytes, rights, refusals, and what is left when somebody dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.clock import Clock
from cellmove.core.errors import CallFailed, CallUncertain, CannotConnect
from cellmove.hosts import disk_archive, disks
from cellmove.hosts.disk_comparison import compare
from cellmove.hosts.disk_link import connect
from cellmove.hosts.disk_pass import run_pass
from cellmove.hosts.disk_ssh import Destination
from cellmove.hosts.disk_transfer import Progress, Transfer
from tests.support.disk_harness import MIB, MOVE, Ends, dirty, host, sparse
from tests.support.ssh_server import Server, free_port, program

DISK = Transfer("server/disk")


@contextmanager
def ends(server: Server, folder: Path, **more: Any) -> Iterator[Ends]:
    """Both ends of a move, each over a connection of its own."""
    for name in ("source", "target"):
        (folder / name / "server").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        links = [
            stack.enter_context(connect(at(server, folder / name, host=name, **more), MOVE))
            for name in ("source", "target")
        ]
        yield Ends(links[0], links[1], folder / "source", folder / "target")


def at(server: Server, path: Path, *, config: Path | None = None, **more: Any) -> Destination:
    return Destination(
        more.pop("host", "source"), str(path), ssh_config=config or server.client(), python=sys.executable, **more
    )


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_disk_is_moved_while_it_is_written_to(server: Server, tmp_path: Path) -> None:
    with ends(server, tmp_path) as both:
        sparse(both.disk, 96 * MIB, [(0, 20 * MIB), (50 * MIB, 10 * MIB)])
        assert not disks.share_storage(both.source, both.target)
        assert disks.facts(both.source).boot_id == disks.facts(both.target).boot_id
        first = run_pass(both.source, both.target, [DISK])
        assert first.sent == 30 * MIB
        dirty(both.disk, b"written meanwhile", 55 * MIB)
        last = run_pass(both.source, both.target, [DISK], cache="direct", still=True)
        assert (last.blocks, last.files[0].rescanned) == (1, False)
        found = compare(both.source, both.target, DISK)
        assert (found.same, found.target_digest) == (True, last.files[0].digest)
        disks.rename(both.target, DISK.unfinished(MOVE), "disk", file=last.files[0].made.identity)
    assert os.listdir(tmp_path / "target" / "server") == ["disk"]
    assert (tmp_path / "target" / "server" / "disk").read_bytes() == both.disk.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"known": "empty_hosts"}, "its host key is not known here: verify it"),
        ({"known": "changed_hosts"}, "find out why before anything else"),
        ({"key": "stranger"}, "it accepts no key of this user"),
        ({"port": -1}, "it cannot be reached"),
    ],
)
def test_what_stands_in_the_way_is_named(server: Server, tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    if "port" in wrong:
        wrong = {"port": free_port()}
    config = server.client(**wrong)
    with pytest.raises(CannotConnect) as told, connect(at(server, tmp_path, config=config), MOVE):
        pass
    assert words in str(told.value)
    assert str(told.value).endswith(f"; try: ssh -F {config} -- source true")


def test_a_host_without_python_or_without_sudo_is_named(server: Server, tmp_path: Path) -> None:
    for more, words in (
        ({"python": "python3.no"}, "there is no python3 there"),
        ({"become": ("sudo-no", "-n")}, "does not run"),
    ):
        where = Destination("source", str(tmp_path), ssh_config=server.client(), **more)  # type: ignore[arg-type]
        with pytest.raises(CannotConnect, match=words), connect(where, MOVE):
            pass


def test_a_key_that_may_start_the_installed_program_can_do_nothing_else(server: Server, tmp_path: Path) -> None:
    installed = tmp_path / "disk_agent.pyz"
    with open(installed, "wb") as file:
        subprocess.run([sys.executable, "-m", "cellmove.hosts.disk_archive"], stdout=file, check=True)
    (tmp_path / "instances" / "server").mkdir(parents=True)
    server.only("restricted", f"{sys.executable} -I {installed} --instances-path {tmp_path / 'instances'}")
    config = server.client(key="restricted")
    with connect(at(server, tmp_path / "instances", config=config), MOVE) as link:
        assert disks.facts(link).writable
    with pytest.raises(CallFailed, match="this key may work in"), connect(at(server, Path("/"), config=config), MOVE):
        pass
    command = ["ssh", "-F", str(config), "source", "touch", str(tmp_path / "trespass")]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    assert not (tmp_path / "trespass").exists()
    installed.write_bytes(b"#!/usr/bin/python3\n" + installed.read_bytes())
    with (
        pytest.raises(CannotConnect, match="install this version"),
        connect(at(server, tmp_path / "instances", config=config), MOVE),
    ):
        pass


@pytest.mark.parametrize("end", ["source", "target"])
def test_when_ssh_dies_in_the_middle_the_next_pass_goes_on(server: Server, tmp_path: Path, end: str) -> None:
    with ends(server, tmp_path) as both:
        sparse(both.disk, 64 * MIB, [(0, 64 * MIB)])
        link = getattr(both, end)

        def kill(progress: Progress) -> None:
            if progress.done > 16 * MIB and link._process.poll() is None:
                os.kill(link._process.pid, signal.SIGKILL)

        with pytest.raises(CallUncertain, match=f"the connection to {end} broke during"):
            run_pass(
                both.source, both.target, [DISK], observer=kill, clock=Clock(monotonic=iter(range(10**6)).__next__)
            )
    with ends(server, tmp_path) as both:
        result = run_pass(both.source, both.target, [DISK])
        assert result.files[0].rescanned
        assert result.sent <= 56 * MIB
        assert compare(both.source, both.target, DISK).same


def test_an_operator_that_is_killed_leaves_no_process_on_a_host(server: Server, tmp_path: Path) -> None:
    python = tmp_path / "python-of-this-test"
    python.symlink_to(sys.executable)
    script = (
        "import sys, time; from pathlib import Path; from cellmove.hosts.disk_link import *\n"
        "where = Destination('source', sys.argv[1], ssh_config=Path(sys.argv[2]), python=sys.argv[3])\n"
        "with connect(where, 'move-1'): print('connected', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(server.client()), str(python)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as operator:
        assert operator.stdout is not None
        assert operator.stdout.readline() == b"connected\n"
        assert running(f"{python} -I")
        operator.kill()
    eventually(lambda: not running(f"{python} -I"), "the program goes on")
    eventually(lambda: not running(str(server.client())), "ssh goes on")


def running(words: str) -> bool:
    """Whether there is a process whose command line holds these words, the operator's own aside."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words in line and "import sys, time" not in line:
            return True
    return False


def qemu(*command: str) -> str:
    return subprocess.run([program("qemu-img"), *command], capture_output=True, text=True, check=True).stdout


def read(path: Path) -> bytes:
    """What a guest would see."""
    raw = path.with_suffix(".raw")
    qemu("convert", "-O", "raw", str(path), str(raw))
    return raw.read_bytes()


def test_an_image_header_reads_as_qemu_img_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    qemu("create", "-q", "-f", "raw", str(tmp_path / "base"), "5M")
    for name, options in (
        ("plain", ["-o", "compat=1.1"]),
        ("old", ["-o", "compat=0.10"]),
        ("overlay", ["-b", str(tmp_path / "base"), "-F", "raw"]),
        ("outside", ["-o", "data_file=" + str(tmp_path / "data")]),
    ):
        qemu("create", "-q", "-f", "qcow2", *options, str(folder / name), "7M")
    qemu("bitmap", "--add", str(folder / "plain"), "changes")
    qemu("snapshot", "-c", "before", str(folder / "plain"))
    with host(tmp_path) as link:
        for entry in disks.look(link, "server"):
            told = json.loads(qemu("info", "-U", "--output=json", str(folder / entry.name)))
            more, image = told["format-specific"]["data"], entry.image
            assert image is not None
            assert (image.format, image.virtual_size) == (told["format"], told["virtual-size"])
            assert (image.backing, image.backing_format) == (
                told.get("backing-filename", ""),
                told.get("backing-filename-format", ""),
            )
            assert image.data_file == ("data-file" in more)
            assert (image.bitmaps, image.snapshots) == (len(more.get("bitmaps", [])), len(told.get("snapshots", [])))
        version = disks.facts(link).qemu_img
        assert re.match(r"\d+\.\d+", version)
        assert f"version {version}" in qemu("--version")


def test_an_image_gets_another_backing_file_or_none(tmp_path: Path) -> None:
    (tmp_path / "_base").mkdir()
    (tmp_path / "server").mkdir()
    base, other = sparse(tmp_path / "_base" / "abc", 4 * MIB, [(0, MIB)]), tmp_path / "_base" / "def"
    other.write_bytes(base.read_bytes())
    disk = tmp_path / "server" / f".disk.cellmove-{MOVE}"
    qemu("create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(disk), "8M")
    path = str(disk.relative_to(tmp_path))
    seen = read(disk)
    with host(tmp_path) as link:
        _existed, token = disks.prepare(link, path)
        moved = disks.rebase(link, path, "_base/def", "raw")
        assert (moved.backing, moved.backing_format) == (str(other), "raw")
        assert disks.prepare(link, path)[1] != token  # whoever remembers what is in it has to ask again
        assert read(disk) == seen
        flat = disks.flatten(link, path)
        assert (flat.backing, flat.backing_format) == ("", "")
        assert disks.flatten(link, path) == flat
        other.unlink()
        base.unlink()
        assert read(disk) == seen
        with pytest.raises(CallFailed, match="_base/def, its backing file, does not exist"):
            disks.rebase(link, path, "_base/def", "raw")
    assert disk_archive.archive().count(b"qemu-img") > 1
