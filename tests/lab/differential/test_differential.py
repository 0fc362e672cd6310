"""The same server moved by nova and by cellmove: what differs afterwards, and why.

Two ways (resize, cold migration), two backings, there and back and there again for good; at each stage every
row, allocation, binding, attachment, image and guest is compared. `make test` plays either way with one backing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import cloud
from tests.support import fork_server
from tests.support.commands import run_command
from tests.support.lab import native_pair
from tests.support.lab.known_differences import KNOWN

FIDELITY = Path(__file__).resolve().parents[3] / "docs" / "fidelity.md"
TARGET = "c2-host1"
STAGES = ("at home", "resized", "reverted", "resized again", "confirmed")
CASES = [
    ("resize", "image"), ("migrate", "volume"),
    pytest.param("resize", "volume", marks=pytest.mark.long), pytest.param("migrate", "image", marks=pytest.mark.long),
]  # fmt: skip

NOTHING_DIFFERS = "test_nothing_differs_that_is_not_explained"

Differences = dict[str, tuple[Any, Any]]

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("differential")]


class Runner:
    """Runs `cellmove` to its end, which must be a good one."""

    def __init__(self, lab_environment: dict[str, str], folder: Path) -> None:
        folder.mkdir()
        config = folder / "cellmove.toml"
        config.write_text("[policy]\nunattended = true\n")
        ours = {"CELLMOVE_JOURNAL": str(folder / "journal.db"), "CELLMOVE_CONFIG": str(config)}
        self.environment, self.folder = {**lab_environment, **ours}, folder

    def __call__(self, *arguments: str) -> None:
        token = os.urandom(4).hex()
        out, err = self.folder / f"{token}.out", self.folder / f"{token}.err"
        code = fork_server.call(run_command, list(arguments), self.environment, out, err, seconds=300)
        assert code == 0, f"{arguments}\n{out.read_text()}\n{err.read_text()}"


@pytest.fixture(scope="module")
def found(request, lab_environment: dict[str, str], tmp_path_factory) -> dict[tuple[str, str, str], Differences]:
    """What differs, by kind, backing and stage, of those cases that are asked for."""
    folder = tmp_path_factory.mktemp("differential")
    asked = [item.callspec.params for item in request.session.items if item.originalname == NOTHING_DIFFERS]
    cases = sorted({(call["kind"], call["backing"]) for call in asked})

    def played(case: tuple[str, str]) -> dict[str, Differences]:
        run = Runner(lab_environment, folder / "-".join(case))
        return dict(play(run, *case))

    with ThreadPoolExecutor(2) as threads:
        return {
            (*case, stage): differences
            for case, stages in zip(cases, threads.map(played, cases), strict=True)
            for stage, differences in stages.items()
        }


def play(run: Runner, kind: str, backing: str) -> Iterator[tuple[str, Differences]]:
    """Move both, compare; roll both back, compare; move both again and confirm, compare."""
    native, ours = native_pair.boot_pair(volume_backed=backing == "volume")
    try:
        yield "at home", native_pair.differences(native_pair.leaves(native), native_pair.leaves(ours))
        for stage, ending in (("resized", "revert"), ("resized again", "confirm")):
            if kind == "resize":
                cloud.native_move(native.id, flavor="m1.small.cell2")
                run("resize", ours.id, "m1.small.cell2", "--host", TARGET)
            else:
                cloud.native_move(native.id, host=TARGET)
                run("migrate", ours.id, "--host", TARGET)
            yield stage, native_pair.differences(native_pair.leaves(native), native_pair.leaves(ours))
            if ending == "revert":
                cloud.native_revert(native.id)
            else:
                cloud.native_confirm(native.id)
            run(ending, ours.id)
            yield f"{ending}ed", native_pair.differences(native_pair.leaves(native), native_pair.leaves(ours))
    finally:
        for server in (native, ours):
            native_pair.delete(server)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("kind", "backing"), CASES)
def test_nothing_differs_that_is_not_explained(found, kind, backing, stage):
    unexplained = {
        path: f"nova: {native}; ours: {ours}"
        for path, (native, ours) in found[kind, backing, stage].items()
        if not any(known.fits(path) for known in KNOWN)
    }
    assert unexplained == {}
    if stage == "at home":
        assert found[kind, backing, stage] == {}, "the two were not alike to begin with"


def test_every_explained_difference_is_still_there(found):
    paths = {path for differences in found.values() for path in differences}
    gone = [known.path for known in KNOWN if known.always and not any(known.fits(path) for path in paths)]
    assert gone == []


def test_the_comparison_would_notice():
    """It sees what is lost, added and changed, in nested values too."""
    before = {"a[x].value": 1, "b.c.0": "same", "d": None}
    assert native_pair.differences(before, before) == {}
    after = {"a[x].value": 2, "b.c.0": "same", "e": []}
    assert native_pair.differences(before, after) == {
        "a[x].value": (1, 2), "d": (None, "absent"), "e": ("absent", []),
    }  # fmt: skip


def test_docs_tell_every_difference():
    text = FIDELITY.read_text()
    assert [known.what for known in KNOWN if f"| {known.what} | {known.why} |" not in text] == []
