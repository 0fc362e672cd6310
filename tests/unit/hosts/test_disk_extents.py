"""Which parts of two files lie at different places on a disk, by the kernel's lists of their extents."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from cellmove.hosts.disk_agent import extents, source
from cellmove.hosts.disk_agent.extents import Extent, cloned, differing, file_system, is_trusted
from cellmove.hosts.disk_agent.protocol import Refusal
from cellmove.hosts.disk_agent.reading import Workers
from cellmove.hosts.disk_agent.state import State

BASE: list[Extent] = [(0, 100, 1000), (200, 300, 5000)]

CASES: dict[str, tuple[list[Extent], list[tuple[int, int]]]] = {
    "the same": (BASE, []),
    "the same, told in pieces": ([(0, 40, 1000), (40, 100, 1040), (200, 300, 5000)], []),
    "written over in the middle": ([(0, 40, 1000), (40, 60, 7000), (60, 100, 1060), (200, 300, 5000)], [(40, 60)]),
    "a hole was filled": ([*BASE, (400, 450, 9000)], [(400, 450)]),
    "a hole was made": ([(0, 100, 1000)], [(200, 300)]),
    "moved by a bit": ([(0, 100, 1001), (200, 300, 5000)], [(0, 100)]),
    "it cannot be said where": ([(0, 100, -1), (200, 300, 5000)], [(0, 100)]),
    "nothing is left": ([], [(0, 100), (200, 300)]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_what_lies_elsewhere_is_found(name: str) -> None:
    now, found = CASES[name]
    assert list(differing(BASE, now)) == list(differing(now, BASE)) == found


def test_what_cannot_be_compared_differs_from_itself() -> None:
    placeless: list[Extent] = [(0, 100, -1)]
    assert list(differing(placeless, placeless)) == [(0, 100)]


def test_it_is_what_comparing_each_byte_finds() -> None:
    noise = random.Random(7)  # noqa: S311 - to be repeated, not secret
    for _each in range(300):
        both: list[list[Extent]] = [[], []]
        places: list[dict[int, int]] = [{}, {}]
        for those, found in zip(both, places, strict=True):
            at = 0
            while at < 60:
                begin = at + noise.randrange(6)
                at = begin + 1 + noise.randrange(9)
                shift = noise.choice((0, 0, 0, 500))
                those.append((begin, at, begin + shift))
                found.update({byte: byte + shift for byte in range(begin, at)})
        wanted = {byte for byte in range(80) if places[0].get(byte) != places[1].get(byte)}
        assert {byte for start, end in differing(*both) for byte in range(start, end)} == wanted


def test_only_the_file_system_that_tells_is_trusted(tmp_path: Path) -> None:
    """Elsewhere a file is read as a whole, so nothing is cloned, and nothing is left open or lying about."""
    path = tmp_path / "disk"
    path.write_bytes(b"content")
    open_before, directory = len(os.listdir("/proc/self/fd")), os.open(tmp_path, os.O_RDONLY)
    with open(path, "rb") as file:
        where = file_system(os.fstat(file.fileno()).st_dev)
        clone = cloned(file.fileno(), directory, 0)
        assert (clone is None) is (where != "xfs")
        if clone is not None:
            os.close(clone)
        assert cloned(file.fileno(), directory, 1 << 60) is None  # no room for what a guest may write meanwhile
    os.close(directory)
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert os.listdir(tmp_path) == ["disk"]


@pytest.mark.parametrize("release", ["5.2.21", "4.18.0-553.el8_10.x86_64", "3.10.0-1160.el7", "unknown"])
def test_kernels_in_which_a_write_could_slip_in_are_not_trusted(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(extents, "file_system", lambda _device: "xfs")
    with open(__file__, "rb") as file:
        told = [release, "5.3.0-1-amd64"]
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", told[-1], "1", "x86_64")))
        assert is_trusted(file.fileno())
        told.pop()
        assert not is_trusted(file.fileno())


def test_clones_are_given_up_when_there_is_hardly_any_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that write find room again; the pass that reads a clone ends with a word that says why."""
    (tmp_path / "disk").write_bytes(b"content" * 1000)
    state = State("")
    state.root, state.workers = os.open(tmp_path, os.O_RDONLY), Workers(1, 4096)
    monkeypatch.setattr(source, "cloned", lambda file, _directory, _taken: os.dup(file))
    monkeypatch.setattr(source, "free_bytes", lambda _file: extents.MARGIN)
    source.begin(state, {"path": "disk", "token": "", "cache": "keep"}, b"")
    source.relieve(state)
    assert len(state.clones()) == 1
    monkeypatch.setattr(source, "free_bytes", lambda _file: 1 << 20)
    source.relieve(state)
    assert state.clones() == []
    with pytest.raises(Refusal, match="almost full"):
        source.more(state, {"path": "disk", "bytes": 1 << 20}, b"")
    source.begin(state, {"path": "disk", "token": "", "cache": "keep"}, b"")
    assert state.clones() == []
    answer, content = source.more(state, {"path": "disk", "bytes": 1 << 20}, b"")
    assert (len(content), answer["done"]) == (7000, True)


def test_one_program_at_a_time_keeps_clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").write_bytes(b"content")
    monkeypatch.setattr(source, "cloned", lambda file, _directory, _taken: os.dup(file))
    states = [State(""), State("")]
    for state, kept in zip(states, (1, 0), strict=True):
        state.root, state.workers = os.open(tmp_path, os.O_RDONLY), Workers(1, 4096)
        source.begin(state, {"path": "disk", "token": "", "cache": "keep"}, b"")
        assert len(state.clones()) == kept
    os.close(states[0].root)  # as when its process ends
    source.begin(states[1], {"path": "disk", "token": "", "cache": "keep"}, b"")
    assert len(states[1].clones()) == 1
