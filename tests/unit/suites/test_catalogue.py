"""Every test is run in one place: by a target of the Makefile that each run has, or in the shards."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.suites.catalogue import PYTEST_SUITES

ROOT = Path(__file__).resolve().parents[3]

LISTER = """
import json, sys, pytest
class Lister:
    def pytest_collection_finish(self, session):
        found = {item.nodeid.split("@")[0]: sorted({mark.name for mark in item.iter_markers()}) for item in session.items}
        print("LISTED" + json.dumps(found))
sys.exit(pytest.main(["--collect-only", "-qq", "tests"], plugins=[Lister()]))
"""


@dataclass(frozen=True)
class Selection:
    """Which tests a command runs."""

    where: str
    paths: tuple[str, ...]
    marks: str

    def takes(self, identifier: str, marks: set[str]) -> bool:
        """Whether a test is among them."""
        if not any(identifier.startswith(f"{path}/") for path in self.paths):
            return False
        return not self.marks or Expression.compile(self.marks).evaluate(lambda name, **_arguments: name in marks)


def of_makefile() -> Iterator[Selection]:
    """What the targets run."""
    target = ""
    for line in (ROOT / "Makefile").read_text().splitlines():
        if named := re.match(r"([a-z-]+):", line):
            target = named.group(1)
        if "/pytest " in line:
            words = shlex.split(line.partition("/pytest ")[2])
            marks = words[words.index("-m") + 1] if "-m" in words else ""
            yield Selection(target, tuple(word for word in words if word.startswith("tests/")), marks)


@pytest.fixture(scope="module")
def tests() -> dict[str, set[str]]:
    """All tests there are, and their markers."""
    environment = {"CELLMOVE_LAB_KVM": "required", "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-c", LISTER], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("LISTED")]
    assert lines, answer.stdout + answer.stderr
    return {identifier: set(marks) for identifier, marks in json.loads(lines[0].removeprefix("LISTED")).items()}


def test_every_test_is_run_in_one_place(tests: dict[str, set[str]]) -> None:
    selections = [*of_makefile(), *(Selection(name, each.paths, each.marks) for name, each in PYTEST_SUITES.items())]
    places = {
        identifier: [each.where for each in selections if each.takes(identifier, marks)]
        for identifier, marks in tests.items()
    }
    assert {identifier: found for identifier, found in places.items() if len(found) != 1} == {}
    assert len(places) > 2000


def test_only_long_tests_are_left_to_the_shards(tests: dict[str, set[str]]) -> None:
    shards = [Selection(name, each.paths, each.marks) for name, each in PYTEST_SUITES.items()]
    left = {identifier for identifier, marks in tests.items() if any(each.takes(identifier, marks) for each in shards)}
    assert left == {identifier for identifier, marks in tests.items() if "long" in marks}
    assert left
