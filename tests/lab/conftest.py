"""Tests against the real two-cell OpenStack of lab/. They never skip: without the lab they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the lab's own module for tests lies beside the package, not in it


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as JSON; a test that asks for it expects nothing else there."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Server:
    """A server that a test moves, and where it was booted."""

    id: str
    name: str


Cellmove = Callable[..., Outcome]


@pytest.fixture(scope="session")
def lab_environment() -> dict[str, str]:
    """The environment that `. .lab/env` gives; fails when the lab is not up."""
    env_file = ROOT / ".lab" / "env"
    if not env_file.exists():
        pytest.fail("the lab is not there: run `make lab-up`")
    script = f"set -a; . '{env_file}'; env -0"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    given = dict(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)
    os.environ.update({name: value for name, value in given.items() if name.startswith(("OS_", "CELLMOVE"))})
    return given


@pytest.fixture
def cellmove(lab_environment: dict[str, str], tmp_path: Path) -> Cellmove:
    """Runs a real `cellmove` process with a journal of the test's own."""
    environment = {**lab_environment, "CELLMOVE_JOURNAL": str(tmp_path / "journal.db")}

    def run(*arguments: str, expect: int | None = 0, env: dict[str, str] | None = None) -> Outcome:
        command = [sys.executable, "-m", "cellmove", *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
            stdin=subprocess.DEVNULL, env={**environment, **(env or {})},
        )  # fmt: skip
        outcome = Outcome(answer.returncode, answer.stdout, answer.stderr)
        if expect is not None:
            assert outcome.code == expect, f"{arguments} ended with {outcome.code}\n{answer.stdout}\n{answer.stderr}"
        assert "Traceback" not in outcome.stderr
        assert "lab-secret" not in outcome.stdout + outcome.stderr
        return outcome

    return run


@pytest.fixture
def boot(lab_environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """Boots servers through nova's API and deletes them, ports and volumes too, at the end."""
    from lab import cloud

    made: list[str] = []

    def boot_one(prefix: str = "test", **how: Any) -> Server:
        name = f"{prefix}-{uuid.uuid4().hex[:6]}"
        server_id = cloud.boot(name, **how)
        made.append(server_id)
        return Server(server_id, name)

    yield boot_one
    for server_id in made:
        cloud.delete(server_id)
