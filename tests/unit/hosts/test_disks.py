"""What a host's program does when it is asked, and what it never does, whoever asks."""

from __future__ import annotations

import ast
import io
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.errors import CallFailed, CannotConnect, NotFound
from cellmove.hosts import disk_archive, disk_link, disks
from cellmove.hosts.disk_agent.extents import file_system
from cellmove.hosts.disk_link import Link
from cellmove.hosts.disk_ssh import Destination
from cellmove.hosts.disks import Identity, marked
from tests.support.disk_harness import LOCAL, MOVE, host

ESCAPES = ("", ".", "..", "../x", "/etc/passwd", "a/../../x", "a//b", "a/./b", "a/", "nul\0byte", "x" * 300)


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """One program for all tests that do not end it."""
    with host(tmp_path_factory.mktemp("disks") / "instances") as made:
        yield made


@pytest.fixture
def root(link: Link, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own below instances_path; its name is the server's."""
    path = Path(link.destination.instances_path) / f"server-{zlib.crc32(request.node.name.encode()):08x}"
    path.mkdir()
    return path


def refusal(link: Link, do: str, **asked: Any) -> str:
    with pytest.raises(CallFailed) as told:
        link.request(do, **asked)
    assert "Traceback" not in str(told.value)
    return told.value.kind


def unfinished(link: Link, root: Path, content: bytes = b"new") -> tuple[str, disks.File]:
    path = marked(f"{root.name}/disk", MOVE)
    disks.prepare(link, path)
    (root / path.rpartition("/")[2]).write_bytes(content)
    return path, disks.sync(link, path)


def qcow2(path: Path, backing: str = "", backing_format: str = "", features: int = 0) -> None:
    """The header of an image, version 3, written by hand after the specification."""
    extension = (
        struct.pack(">II8s", 0xE2792ACA, len(backing_format), backing_format.encode()) if backing_format else b""
    )
    extensions = extension + struct.pack(">IIIIQQ", 0x23852875, 24, 2, 0, 0, 0) + bytes(8)
    name = 104 + len(extensions)
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, name if backing else 0, len(backing), 16, 5 << 30, 0, 0, 0, 0, 0, 1, 0,
        features, 0, 0, 4, 104,
    )  # fmt: skip
    path.write_bytes((head + extensions + backing.encode()).ljust(65536, b"\0"))


def modules() -> dict[str, str]:
    """The text of each file of the archive, by name."""
    with zipfile.ZipFile(io.BytesIO(disk_archive.archive())) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


@pytest.mark.parametrize("name", modules())
def test_each_module_of_the_agent_runs_on_python_3_6_and_needs_nothing_else(name: str) -> None:
    text = modules()[name]
    tree = ast.parse(text, feature_version=(3, 6))
    imported = {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert imported <= {*sys.stdlib_module_names, disk_archive.PACKAGE}
    assert all(node.level < 2 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    assert not any(isinstance(node, ast.NamedExpr | ast.Match) for node in ast.walk(tree))
    subscripted = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    assert not subscripted & {"list", "dict", "tuple", "set", "frozenset", "type"}  # 3.9's, evaluated when it starts
    parenthesized = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and text.splitlines()[node.lineno - 1].endswith("with (")
    ]
    assert not parenthesized  # 3.9's grammar, which feature_version accepts


def test_the_archive_is_small_and_the_same_every_time() -> None:
    assert len(disk_archive.archive()) < 90_000
    assert disk_archive.archive.__wrapped__() == disk_archive.archive()


def test_facts(link: Link) -> None:
    facts = disks.facts(link)
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert (facts.uid, facts.readable, facts.writable) == (os.geteuid(), True, True)
    assert facts.tells is (file_system(os.stat(link.destination.instances_path).st_dev) == "xfs")
    status = os.stat(link.destination.instances_path)
    assert (facts.device, facts.inode, facts.owner) == (status.st_dev, status.st_ino, status.st_uid)
    assert 0 < facts.free <= facts.total
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_instances_path(link: Link, path: str) -> None:
    for do, more in (
        ("look", {}),
        ("hashes", {"start": 0, "cache": "keep"}),
        ("begin", {"token": "", "cache": "keep"}),
        ("prepare", {"size": 1}),
        ("write", {"blocks": [], "holes": []}),
        ("sync", {"mode": 0o644, "uid": None, "gid": None}),
        ("mkdir", {"mode": 0o755, "uid": None, "gid": None}),
        ("remove", {"file": None}),
        ("rename", {"to": "disk", "file": None, "over": None}),
        ("rebase", {"backing": "", "format": ""}),
    ):
        assert refusal(link, do, path=path, **more) == "path", do
    assert disks.facts(link)  # and it still answers


def test_no_symbolic_link_is_followed(link: Link, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "secret")
    mark = f".disk.cellmove-{MOVE}"
    (root / mark).symlink_to(tmp_path / "new")
    name = root.name
    assert refusal(link, "look", path=f"{name}/folder/secret") == "path"
    assert refusal(link, "hashes", path=f"{name}/file", start=0, cache="keep") == "path"
    assert refusal(link, "begin", path=f"{name}/file", token="", cache="keep") == "path"
    assert refusal(link, "prepare", path=f"{name}/{mark}", size=5) == "path"
    assert refusal(link, "prepare", path=f"{name}/folder/{mark}", size=5) == "path"
    assert refusal(link, "mkdir", path=f"{name}/folder", mode=0o755, uid=None, gid=None) == "path"
    assert refusal(link, "mkdir", path=f"{name}/folder/x", mode=0o755, uid=None, gid=None) == "path"
    assert {entry.name: entry.file.kind for entry in disks.look(link, name)} == dict.fromkeys(
        ("folder", "file", mark), "link"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["secret"]


def test_pipes_devices_and_files_of_two_names_are_not_opened(link: Link, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "other").write_text("somebody's")
    os.link(root / "other", root / f".disk.cellmove-{MOVE}")
    assert refusal(link, "hashes", path=f"{root.name}/pipe", start=0, cache="keep") == "path"
    assert refusal(link, "hashes", path=root.name, start=0, cache="keep") == "path"  # a directory
    assert refusal(link, "prepare", path=marked(f"{root.name}/disk", MOVE), size=0) == "path"
    assert (root / "other").read_text() == "somebody's"


@pytest.mark.parametrize(
    "name", ["disk", ".disk.cellmove-move-0ther", f"disk.cellmove-{MOVE}", f".disk.cellmove-{MOVE}.x"]
)
def test_only_what_carries_the_mark_of_the_move_is_written(link: Link, root: Path, name: str) -> None:
    (root / name).write_text("somebody's")
    path = f"{root.name}/{name}"
    file = disks.look(link, path)[0].file.identity
    for do, more in (
        ("prepare", {"size": 0}),
        ("write", {"blocks": [], "holes": [[0, 4096]]}),
        ("sync", {"mode": 0o600, "uid": None, "gid": None}),
        ("rebase", {"backing": "", "format": ""}),
        ("remove", {"file": None}),
        ("rename", {"to": "new", "file": {"device": file.device, "inode": file.inode}, "over": None}),
    ):
        assert refusal(link, do, path=path, **more) == "path", do
    assert (root / name).read_text() == "somebody's"


def test_a_finished_file_gets_its_name_and_never_takes_it_from_another(link: Link, root: Path) -> None:
    path, made = unfinished(link, root)
    (root / "disk").write_text("old")
    old = disks.look(link, f"{root.name}/disk")[0].file.identity
    with pytest.raises(CallFailed) as taken:
        disks.rename(link, path, "disk", file=made.identity)
    assert taken.value.kind == "exists"
    with pytest.raises(CallFailed) as wrong:
        disks.rename(link, path, "disk", file=made.identity, over=Identity(old.device, old.inode + 1))
    assert wrong.value.kind == "exists"
    with pytest.raises(CallFailed) as other:
        disks.rename(link, path, "disk", file=old, over=old)
    assert other.value.kind == "identity"
    assert (root / "disk").read_text() == "old"
    for to in ("../disk", ".hidden", f"{root.name}/disk"):
        with pytest.raises(CallFailed):
            disks.rename(link, path, to, file=made.identity)
    for _again in range(2):
        assert disks.rename(link, path, "disk", file=made.identity, over=old).identity == made.identity
    assert [each.name for each in root.iterdir()] == ["disk"]
    assert (root / "disk").read_text() == "new"


def test_a_rename_that_was_broken_off_between_its_halves_is_finished_by_the_next(link: Link, root: Path) -> None:
    path, made = unfinished(link, root)
    os.link(root / path.rpartition("/")[2], root / "disk")
    assert disks.rename(link, path, "disk", file=made.identity).identity == made.identity
    assert [each.name for each in root.iterdir()] == ["disk"]


def test_nothing_is_removed_that_is_not_ours_or_not_what_was_expected(link: Link, root: Path) -> None:
    path, made = unfinished(link, root)
    (root / "disk").write_text("old")
    with pytest.raises(CallFailed) as wrong:
        disks.remove(link, f"{root.name}/disk", file=made.identity)
    assert wrong.value.kind == "identity"
    assert disks.remove(link, f"{root.name}/disk", file=disks.look(link, f"{root.name}/disk")[0].file.identity)
    assert [disks.remove(link, path), disks.remove(link, path)] == [True, False]
    assert list(root.iterdir()) == []


def test_directories_are_made_and_go_only_when_they_are_empty_and_the_expected_ones(link: Link, root: Path) -> None:
    path = f"{root.name}/server"
    made, file = disks.mkdir(link, path, mode=0o750)
    assert (made, file.mode, file.kind) == (True, 0o750, "directory")
    assert disks.mkdir(link, path) == (False, file)
    (root / "server" / "x").touch()
    with pytest.raises(CallFailed) as full:
        disks.rmdir(link, path, file=file.identity)
    assert full.value.kind == "not-empty"
    (root / "server" / "x").unlink()
    with pytest.raises(CallFailed) as wrong:
        disks.rmdir(link, path, file=Identity(file.device, file.inode + 1))
    assert wrong.value.kind == "identity"
    assert [disks.rmdir(link, path, file=file.identity), disks.rmdir(link, path, file=file.identity)] == [True, False]


def test_owner_and_mode_are_set(link: Link, root: Path) -> None:
    path, _made = unfinished(link, root)
    assert disks.sync(link, path, mode=0o640).mode == 0o640
    status = os.stat(link.destination.instances_path)
    made = disks.sync(link, path, uid=None, gid=None)
    assert (made.uid, made.gid, made.mode) == (status.st_uid, status.st_gid, 0o644)


def test_a_look_tells_files_holes_and_images(link: Link, root: Path) -> None:
    qcow2(root / "disk", "/var/lib/nova/instances/_base/abc", "raw")
    qcow2(root / "disk.evil", features=4)
    (root / "disk.config").write_bytes(bytes(5000))
    (root / "disk.info").write_text('{"/x/disk": "qcow2"}')
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 30)
    entries = {entry.name: entry for entry in disks.look(link, root.name)}
    assert sorted(entries) == ["disk", "disk.config", "disk.evil", "disk.info", "sparse"]
    image = entries["disk"].image
    assert image == disks.Image("qcow2", 5 << 30, "/var/lib/nova/instances/_base/abc", "raw", False, False, 1, 2)
    assert entries["disk.evil"].image == replace(image, backing="", backing_format="", data_file=True)
    config = entries["disk.config"].image
    assert config is not None
    assert (config.format, config.virtual_size) == ("raw", 5000)
    assert entries["disk.info"].text == '{"/x/disk": "qcow2"}'
    assert (entries["sparse"].file.size, entries["sparse"].file.allocated) == (1 << 30, 0)
    with pytest.raises(NotFound, match="host: nothing/here"):
        disks.look(link, "nothing/here")


def test_an_image_in_two_files_or_with_a_guessed_backing_file_is_not_touched(link: Link, root: Path) -> None:
    path, _made = unfinished(link, root)
    file = root / path.rpartition("/")[2]
    for backing, features in (("/etc/shadow", 0), ("", 4), ("relative", 0), ("/etc/../etc/shadow", 0)):
        qcow2(file, backing, "raw", features)
        with pytest.raises(CallFailed) as told:
            disks.flatten(link, path)
        assert told.value.kind in ("image", "path")
    qcow2(root / "base", "/another", "raw")
    qcow2(file, str(root / "base"), "qcow2")
    with pytest.raises(CallFailed, match="not a single file"):
        disks.flatten(link, path)
    with pytest.raises(CallFailed, match="not in the format raw"):
        disks.rebase(link, path, f"{root.name}/base", "raw")


@pytest.mark.parametrize("on", [False, True])
def test_unfinished_files_stay_unless_it_is_asked_for(tmp_path: Path, on: bool) -> None:
    with host(tmp_path) as link:
        disks.prepare(link, marked("disk", MOVE), 5)
        disks.prepare(link, marked("other", MOVE), 5)
        _existed, _token = disks.prepare(link, marked("other", MOVE))
        made = disks.sync(link, marked("other", MOVE))
        disks.rename(link, marked("other", MOVE), "other", file=made.identity)
        disks.tidy(link, on=on)
    assert sorted(each.name for each in tmp_path.iterdir()) == ([] if on else [f".disk.cellmove-{MOVE}"]) + ["other"]


def test_one_storage_under_two_hosts_is_recognised(tmp_path: Path) -> None:
    with host(tmp_path / "one") as one, host(tmp_path / "one") as same, host(tmp_path / "two") as other:
        assert disks.share_storage(one, same)
        assert not disks.share_storage(one, other)
    assert [*(tmp_path / "one").iterdir(), *(tmp_path / "two").iterdir()] == []


def test_what_is_no_request_is_answered_or_ends_the_program_without_a_traceback(link: Link, tmp_path: Path) -> None:
    assert refusal(link, "explode") == "usage"
    assert refusal(link, "look") == "usage"
    assert refusal(link, "more", path="x", bytes=5) == "usage"
    text = disk_archive.archive()
    (tmp_path / "instances").mkdir()
    command = installed(tmp_path, text)
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n" + bytes(100), b"cmD1" + b"\xff" * 12, b"cmD1\0\0\0\2\0\0\0\0\0\0\0\0{}"):
        sent = f"cellmove-disks 1 {len(text)}\n".encode() + text + rubbish
        ended = subprocess.run(command, input=sent, capture_output=True, timeout=20, check=False)
        assert (ended.returncode, ended.stdout) == (1, b"cellmove-disks 1 ready\n")
        assert ended.stderr.startswith(b"cellmove: ")
        assert b"Traceback" not in ended.stderr


def test_a_pass_that_failed_at_the_source_cannot_go_on_behind_the_gap(link: Link, root: Path) -> None:
    (root / "disk").write_bytes(os.urandom(32 << 20))
    path = f"{root.name}/disk"
    assert link.request("begin", path=path, token="", cache="drop").fields["data"] == 32 << 20
    os.truncate(root / "disk", 1 << 20)
    assert refusal(link, "more", path=path, bytes=64 << 20) == "changed"
    assert refusal(link, "more", path=path, bytes=64 << 20) == "usage"
    assert refusal(link, "settle", path=path, still=False) == "usage"


def test_a_place_that_is_not_there_or_not_meant_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(NotFound, match="nowhere"),
        disk_link.connect(Destination("host", str(tmp_path / "nowhere")), MOVE, command=LOCAL),
    ):
        pass
    with (
        pytest.raises(CallFailed, match="absolute path"),
        disk_link.connect(Destination("host", "instances"), MOVE, command=LOCAL),
    ):
        pass


def installed(tmp_path: Path, text: bytes) -> tuple[str, ...]:
    (tmp_path / "agent.pyz").write_bytes(text)
    return (sys.executable, "-I", str(tmp_path / "agent.pyz"), "--instances-path", str(tmp_path / "instances"))


def test_an_installed_program_works_in_its_own_place_only_and_runs_nothing_that_is_sent(tmp_path: Path) -> None:
    command = installed(tmp_path, disk_archive.archive())
    with host(tmp_path / "instances", command=command) as link:
        assert disks.mkdir(link, "server")[0]
    with pytest.raises(CallFailed, match="this key may work in"), host(tmp_path / "elsewhere", command=command):
        pass
    with (
        pytest.raises(CannotConnect, match="has another version: install this version"),
        host(tmp_path / "instances", command=installed(tmp_path, b"#!/usr/bin/python3\n" + disk_archive.archive())),
    ):
        pass


def test_a_killed_operator_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "instances").mkdir()
    script = (
        "import sys, time; from tests.support.disk_harness import host; from pathlib import Path\n"
        "with host(Path(sys.argv[1])) as link: print(link._process.pid, flush=True); time.sleep(60)"
    )
    operator = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "instances")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert operator.stdout is not None
    program = Path(f"/proc/{int(operator.stdout.readline())}")
    assert program.exists()
    operator.kill()
    operator.wait()
    operator.stdout.close()
    deadline = time.monotonic() + 10
    while _lives(program) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(program)


def _lives(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
