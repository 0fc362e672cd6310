"""Tests against the real two-cell OpenStack of lab/. They never skip: without the lab they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.lab.travel import Traveller

ROOT = Path(__file__).resolve().parents[2]
pytest.register_assert_rewrite("tests.lab.travel")
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


@dataclass(frozen=True)
class Started:
    """A `cellmove` process under way."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def kill(self) -> None:
        """SIGKILL; one that has ended is no error."""
        self.process.kill()
        self.process.wait()

    def end(self, seconds: float = 240.0) -> Outcome:
        """Wait until it ends by itself."""
        code = self.process.wait(seconds)
        outcome = Outcome(code, self.out.read_text(), self.err.read_text())
        assert "Traceback" not in outcome.stderr, outcome.stderr
        assert "lab-secret" not in outcome.stdout + outcome.stderr
        return outcome


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
def environment(lab_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What a cellmove process of this test is given, with a journal of the test's own."""
    return {**lab_environment, "CELLMOVE_JOURNAL": str(tmp_path / "journal.db")}


def run_to_end(command: list[str], environment: dict[str, str]) -> Outcome:
    """Run a process that may never show a traceback or a password."""
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert "Traceback" not in answer.stderr, answer.stderr
    assert "lab-secret" not in answer.stdout + answer.stderr
    return Outcome(answer.returncode, answer.stdout, answer.stderr)


@pytest.fixture
def cellmove(environment: dict[str, str]) -> Cellmove:
    """Runs a real `cellmove` process to its end."""

    def run(*arguments: str, expect: int | None = 0, env: dict[str, str] | None = None) -> Outcome:
        outcome = run_to_end([sys.executable, "-m", "cellmove", *arguments], {**environment, **(env or {})})
        if expect is not None:
            said = f"{outcome.stdout}\n{outcome.stderr}"
            assert outcome.code == expect, f"{arguments} ended with {outcome.code}\n{said}"
        return outcome

    return run


@pytest.fixture
def killed(environment: dict[str, str]) -> Callable[..., None]:
    """Runs a `cellmove` process that dies of SIGKILL at a point of an action; see tests/kill_at.py."""

    def run(where: str, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "tests" / "kill_at.py"), where, "--", *arguments]
        outcome = run_to_end(command, environment)
        assert outcome.code == -signal.SIGKILL, f"{outcome.stdout}\n{outcome.stderr}"

    return run


@pytest.fixture
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `cellmove` processes and does not wait for them; one still there at the end is killed."""
    made: list[Started] = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> Started:
        files = tuple(tmp_path / f"{len(made)}.{name}" for name in ("out", "err"))
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "cellmove", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                cwd=ROOT, env={**environment, **(env or {})},
            )  # fmt: skip
        made.append(Started(process, *files))
        return made[-1]

    yield start
    for one in made:
        one.kill()


@pytest.fixture(scope="module")
def travellers(lab_environment: dict[str, str]) -> Iterator[Callable[[str], Traveller]]:
    """Gives a server at rest by its backing: that of the case before, or a new one when that case failed."""
    from lab import cloud
    from tests.lab.travel import Traveller

    there: dict[str, Traveller] = {}

    def travel(backing: str) -> Traveller:
        known = there.pop(backing, None)
        if known is not None and not known.at_rest:
            cloud.delete(known.id)
            known = None
        if known is None:
            volume_backed = backing == "volume"
            name = f"travel-{backing}-{uuid.uuid4().hex[:6]}"
            known = Traveller(cloud.boot(name, volume_backed=volume_backed, volumes=1), volume_backed)
        there[backing] = known
        known.at_rest = False
        return known

    yield travel
    for known in there.values():
        cloud.delete(known.id)


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
