"""Tests of pytest as units: which tests a directory and a marker name, and a run of some of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.suites.suite import Run

ROOT = Path(__file__).resolve().parents[2]
NO_TESTS = 5
"""pytest's exit code when nothing was selected."""


@dataclass(frozen=True)
class Tests:
    """Tests that are run in one way.

    :param words: what they are
    :param paths: where they are
    :param marks: the expression of ``-m``
    :param options: of the run
    :param workers: how many tests run at once
    """

    words: str
    paths: tuple[str, ...]
    marks: str
    options: tuple[str, ...] = ()
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()

    def collect(self) -> list[str]:
        """The ids of all of them."""
        command = ["--collect-only", "-q", "-m", self.marks, *self.paths]
        answer = self._pytest(command, capture_output=True)
        if answer.returncode not in (0, NO_TESTS):
            raise RuntimeError(
                f"pytest {' '.join(command)} ended with {answer.returncode}\n{answer.stdout}{answer.stderr}"
            )
        return [line for line in answer.stdout.splitlines() if "::" in line and not line.startswith((" ", "ERROR"))]

    def run(self, ids: Sequence[str]) -> Run:
        """Run some of them."""
        with tempfile.TemporaryDirectory(prefix="cellmove-suites-") as folder:
            chosen, report = Path(folder) / "ids", Path(folder) / "report.xml"
            chosen.write_text("\n".join(ids) + "\n")
            workers = ["-n", str(self.workers)] if self.workers > 1 else []
            code = self._pytest(["-q", *workers, *self.options, f"--junitxml={report}", f"@{chosen}"]).returncode
            return Run(code, self._spent(ids, report) if report.exists() else {})

    def _spent(self, ids: Sequence[str], report: Path) -> dict[str, float]:
        """What each test took, with its fixtures, as its share of the time of all."""
        seconds: dict[str, float] = {}
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by pytest just now
            seconds[f"{case.get('classname')}.{case.get('name')}"] = float(case.get("time", 0)) / self.workers
        # pytest-xdist puts the name of a test's group behind it.
        seconds |= {name.rpartition("@")[0]: spent for name, spent in seconds.items() if "@" in name}
        names = {identifier: reported_name(identifier) for identifier in ids}
        return {identifier: seconds[name] for identifier, name in names.items() if name in seconds}

    def _pytest(self, arguments: Sequence[str], *, capture_output: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT, env={**os.environ, **self.environment}, capture_output=capture_output, text=True, check=False,
        )  # fmt: skip


def reported_name(identifier: str) -> str:
    """How a report calls a test: its module and its name."""
    path, _, name = identifier.partition("::")
    return f"{path.removesuffix('.py').replace('/', '.')}.{name.replace('::', '.')}"
