"""What is told of a server's disks by a look at their hosts: each thing that speaks against streaming them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import pytest

from cellmove.core.errors import NotFound
from cellmove.hosts import disks
from cellmove.hosts.disk_link import Link
from cellmove.hosts.disk_ssh import Destination
from cellmove.hosts.disk_survey import (
    SPARE,
    Disk,
    Survey,
    base_of_image,
    is_ours,
    survey_source,
    survey_target,
)
from cellmove.hosts.disks import Entry, Facts, File, Image

PATH, SERVER, IMAGE = "/var/lib/nova/instances", "server-1", "image-1"
BASE = base_of_image(IMAGE)
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Host:
    """As much of a link as a survey looks at."""

    host: str
    destination: Destination
    move_id: str = "move-1"


def link(name: str, path: str = PATH) -> Link:
    return cast("Link", Host(name, Destination(name, path)))


SOURCE, TARGET = link("c1-host1"), link("c2-host1")


def image(**changes: Any) -> Image:
    values = {
        "format": "qcow2", "virtual_size": GIB, "backing": f"{PATH}/{BASE}", "backing_format": "raw", "data_file": False,
        "encrypted": False, "snapshots": 0, "bitmaps": 0,
    }  # fmt: skip
    return Image(**values | changes)


def entry(name: str = "disk", *, kind: str = "file", text: str = "", size: int = GIB, **changes: Any) -> Entry:
    file = File(kind, size, size // 2, 0o644, 107, 107, 1, 1, 1)
    return Entry(name, file, image(**changes) if kind == "file" else None, text)


def formats(**told: str) -> Entry:
    return entry("disk.info", text=json.dumps({f"{PATH}/{SERVER}/{name}": form for name, form in told.items()}))


def facts(**changes: Any) -> Facts:
    values = {
        "python": "3.11", "hostname": "h", "boot_id": "b", "uid": 0, "qemu_img": "7.2", "free": 100 * GIB, "total": 200 * GIB,
        "device": 1, "inode": 2, "owner": 107, "group": 107, "threads": 4, "readable": True, "writable": True, "tells": False,
    }  # fmt: skip
    return Facts(**values | changes)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], tuple[Entry, ...]]:
    """What a look at a path of a host finds."""
    there: dict[tuple[str, str], tuple[Entry, ...]] = {}

    def look(link: Link, path: str) -> tuple[Entry, ...]:
        if (link.host, path) not in there:
            raise NotFound(path)
        return there[link.host, path]

    monkeypatch.setattr(disks, "look", look)
    monkeypatch.setattr(disks, "facts", lambda _link: facts())
    monkeypatch.setattr(disks, "share_storage", lambda _source, _target: False)
    return there


def surveyed(hosts: dict[tuple[str, str], tuple[Entry, ...]], *entries: Entry) -> Survey:
    hosts["c1-host1", SERVER] = entries
    return survey_source(SOURCE, SERVER, IMAGE)


def test_what_travels_and_what_nova_makes_anew(hosts) -> None:
    config = entry("disk.config", format="raw", backing="", backing_format="")
    swap, ephemeral = (entry(name, backing=f"{PATH}/_base/{name}_1") for name in ("disk.swap", "disk.eph0"))
    survey = surveyed(hosts, formats(disk="qcow2"), entry(), config, swap, ephemeral, entry("console.log"))
    assert survey.hindrances == ()
    assert [(disk.name, disk.base, disk.base_format, disk.is_flattened) for disk in survey.disks] == [
        ("disk", BASE, "raw", False),
        ("disk.config", "", "", False),
        ("disk.swap", "_base/disk.swap_1", "raw", True),
        ("disk.eph0", "_base/disk.eph0_1", "raw", True),
    ]
    assert survey.allocated == 4 * GIB // 2


def test_no_directory(hosts) -> None:
    assert survey_source(SOURCE, SERVER, IMAGE).hindrances == (f"c1-host1 has no directory {SERVER} in {PATH}",)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("disk.rescue")], "disk.rescue on c1-host1: no file that is known here"),
        ([entry("strange")], "strange on c1-host1: no file that is known here"),
        ([entry(kind="link")], "disk on c1-host1: a link, not a file"),
        ([entry(format="raw", backing="")], "disk on c1-host1: it is raw, and only qcow2 disks are streamed"),
        ([formats(disk="raw"), entry()], "disk on c1-host1: it is raw, and only qcow2 disks are streamed"),
        ([entry(encrypted=True)], "it is encrypted"),
        ([entry(data_file=True)], "its data is in another file"),
        ([entry(snapshots=1)], "it has snapshots or bitmaps inside"),
        ([entry(bitmaps=1)], "it has snapshots or bitmaps inside"),
        ([entry(backing_format="")], "the format of its base is not recorded"),
        ([entry(backing="/etc/shadow")], "it stands on /etc/shadow, outside of _base"),
        ([entry(backing=f"{PATH}/other-server/disk")], "outside of _base"),
        ([entry(backing=f"{PATH}/_base/../secret")], "outside of _base"),
        ([entry("disk.eph0", backing=f"{PATH}/_base/e")], "c1-host1 has no file disk of it"),
        ([entry(backing="", backing_format="")], "its root disk stands on no base, not on"),
        ([entry(backing=f"{PATH}/_base/another")], f"its root disk stands on _base/another, not on {BASE}"),
    ],
)
def test_each_thing_that_speaks_against_a_disk(hosts, entries, words) -> None:
    survey = surveyed(hosts, *entries)
    assert len(survey.hindrances) == 1
    assert words in survey.hindrances[0]
    assert survey.dangers == ()


@pytest.mark.parametrize("text", ["", "[]", "no json"])
def test_a_disk_info_that_says_nothing(hosts, text) -> None:
    assert surveyed(hosts, entry("disk.info", text=text), entry()).hindrances == ()


# the target

ROOT = Disk("disk", GIB // 2, BASE, "raw")
EPHEMERAL = Disk("disk.eph0", GIB // 2, "_base/ephemeral_1", "raw")


def arrived(
    hosts: dict[tuple[str, str], tuple[Entry, ...]], *carried: Disk, target: Link = TARGET, source: Link = SOURCE
) -> Survey:
    for each in carried:
        hosts["c1-host1", each.base] = (entry(each.base),)
    return survey_target(target, source, SERVER, Survey(carried))


def told_by(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """What the target host is; the source is as ever."""
    monkeypatch.setattr(disks, "facts", lambda link: facts(**changes) if link.host == "c2-host1" else facts())


def test_a_target_that_will_do(hosts) -> None:
    hosts["c2-host1", SERVER] = (entry(".disk.cellmove-move-1"),)  # of an earlier try of this very move
    survey = arrived(hosts, ROOT, EPHEMERAL)
    assert (survey.hindrances, survey.dangers) == ((), ())
    assert survey.disks == (ROOT, EPHEMERAL)


def test_a_target_that_may_not_be_written(hosts, monkeypatch) -> None:
    told_by(monkeypatch, writable=False)
    assert arrived(hosts, ROOT).hindrances == ("instances_path on c2-host1 may not be written (ssh.become?)",)
    told_by(monkeypatch, readable=False)
    assert arrived(hosts, ROOT).hindrances == ("instances_path on c2-host1 may not be read (ssh.become?)",)


def test_a_source_need_not_be_written(hosts, monkeypatch) -> None:
    monkeypatch.setattr(disks, "facts", lambda link: facts(writable=link.host == "c2-host1"))
    assert arrived(hosts, ROOT).hindrances == ()
    monkeypatch.setattr(disks, "facts", lambda link: facts(readable=link.host == "c2-host1"))
    assert arrived(hosts, ROOT).hindrances == ("instances_path on c1-host1 may not be read (ssh.become?)",)


def test_shared_storage_is_a_danger(hosts, monkeypatch) -> None:
    monkeypatch.setattr(disks, "share_storage", lambda _source, _target: True)
    survey = arrived(hosts, ROOT)
    assert survey.dangers == survey.hindrances
    assert "c1-host1 and c2-host1 have the same instances_path" in survey.dangers[0]


def test_files_of_the_server_are_a_danger(hosts) -> None:
    hosts["c2-host1", SERVER] = (entry("disk"), entry(".disk.cellmove-move-1"))
    survey = arrived(hosts, ROOT)
    assert survey.dangers == survey.hindrances
    assert "c2-host1 has files of this server already: disk;" in survey.dangers[0]


@pytest.mark.parametrize(
    ("carried", "path", "words"),
    [
        ((ROOT, EPHEMERAL), PATH, "ephemeral and swap disks need it"),
        ((ROOT,), "/srv/instances", "instances_path is another one there, so it is needed"),
        ((ROOT,), PATH, ""),
    ],
)
def test_qemu_img_is_missing(hosts, monkeypatch, carried, path, words) -> None:
    told_by(monkeypatch, qemu_img="")
    found = arrived(hosts, *carried, target=link("c2-host1", path)).hindrances
    assert found == ((f"qemu-img is missing on c2-host1; {words}",) if words else ())


def test_room(hosts, monkeypatch) -> None:
    """The disks, the bases that are missing there, and those of ephemeral disks once more, beside them."""
    needed = 2 * GIB // 2 + 2 * GIB // 2 + GIB // 2
    told_by(monkeypatch, free=needed + SPARE)
    assert arrived(hosts, ROOT, EPHEMERAL).hindrances == ()
    told_by(monkeypatch, free=needed + SPARE - 1)
    (words,) = arrived(hosts, ROOT, EPHEMERAL).hindrances
    assert words == f"c2-host1 has {(needed + SPARE - 1) >> 20} MiB free, {(needed + SPARE) >> 20} MiB are needed"
    hosts["c2-host1", BASE] = (entry(BASE),)
    assert arrived(hosts, ROOT, EPHEMERAL).hindrances == ()


def test_whose_files_are_ours() -> None:
    assert is_ours(".disk.cellmove-move-1", "move-1")
    assert not is_ours(".disk.cellmove-move-10", "move-1")
    assert not is_ours("disk.cellmove-move-1", "move-1")
    assert not is_ours("disk", "move-1")
