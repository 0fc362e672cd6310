"""Tests against the real two-cell OpenStack of lab/. They never skip: without the lab they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios.environment import Outcome, Server
from tests.support import fork_server
from tests.support.commands import run_command, run_killed, run_paused

if TYPE_CHECKING:
    from tests.support.lab.shared_server import Traveller

ROOT = Path(__file__).resolve().parents[2]
KVM_TESTS = Path(__file__).parent / "kvm"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Tests on real guests are there only when the lab has such hosts, or when somebody counts on them."""
    if collection_path != KVM_TESTS or os.environ.get("CI") or os.environ.get("CELLMOVE_LAB_KVM"):
        return None
    from lab import kvm

    return None if kvm.present() else True


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests of a group share a server, so one worker runs them. pytest-xdist 3.8 says nothing when it cannot group (pytest 9.2)."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = (item for item in session.items if item.get_closest_marker("xdist_group"))
        if lost := [item.nodeid for item in grouped if "@" not in item.nodeid]:
            raise pytest.UsageError(f"this pytest and this pytest-xdist do not group tests: {lost[0]}")


@dataclass(frozen=True)
class Started:
    """A `cellmove` process under way."""

    process: BaseProcess
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it has stopped itself, at a point where it was told to pause; fails when it has ended."""
        assert self.process.exitcode is None, self.err.read_text()
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def kill(self) -> None:
        """SIGKILL; one that has ended is no error."""
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(10.0)

    def end(self, seconds: float = 300.0) -> Outcome:
        """Wait until it ends by itself; it may never show a traceback or a password."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"no end within {seconds:.0f} s"
        outcome = Outcome(code, self.out.read_text(), self.err.read_text())
        assert "Traceback" not in outcome.stderr, outcome.stderr
        assert "lab-secret" not in outcome.stdout + outcome.stderr
        return outcome


Cellmove = Callable[..., Outcome]


def typed(word: str) -> str:
    """Return what an operator types for a word of a test: for the lab's label of a cell its name, or its UUID."""
    from lab import cloud
    from lab.layout import CELLS

    return str(cloud.layout().operator_name(word)) if word in CELLS else word


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
    """What a cellmove process of this test is given, with a journal and a configuration of the test's own."""
    config = tmp_path / "cellmove.toml"
    config.write_text("[policy]\nunattended = true\n")
    return {**lab_environment, "CELLMOVE_JOURNAL": str(tmp_path / "journal.db"), "CELLMOVE_CONFIG": str(config)}


@pytest.fixture
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `cellmove` processes and does not wait for them; one still there at the end is killed."""
    made: list[Started] = []

    def start(
        *arguments: str, env: dict[str, str] | None = None, kill_at: str = "", pause_at: tuple[str, ...] = ()
    ) -> Started:
        out, err = (tmp_path / f"{len(made)}.{name}" for name in ("out", "err"))
        command = ([typed(word) for word in arguments], {**environment, **(env or {})}, out, err)
        how: tuple[Any, ...] = (run_command,)
        if kill_at or pause_at:
            how = (run_killed, kill_at) if kill_at else (run_paused, pause_at)
        process = fork_server.start(*how, *command)
        made.append(Started(process, out, err))
        return made[-1]

    yield start
    for one in made:
        one.kill()


@pytest.fixture
def cellmove(started: Callable[..., Started]) -> Cellmove:
    """Runs a real `cellmove` process to its end."""

    def run(*arguments: str, expect: int | None = 0, env: dict[str, str] | None = None) -> Outcome:
        outcome = started(*arguments, env=env).end()
        if expect is not None:
            said = f"{outcome.stdout}\n{outcome.stderr}"
            assert outcome.code == expect, f"{arguments} ended with {outcome.code}\n{said}"
        return outcome

    return run


@pytest.fixture
def killed(started: Callable[..., Started]) -> Callable[..., None]:
    """Runs a `cellmove` process that dies of SIGKILL at a point of an action; see tests/support/kill_at.py."""

    def run(where: str, *arguments: str) -> None:
        outcome = started(*arguments, kill_at=where).end()
        assert outcome.code == -signal.SIGKILL, f"{outcome.stdout}\n{outcome.stderr}"

    return run


@pytest.fixture(scope="session")
def travellers(lab_environment: dict[str, str]) -> Iterator[Callable[[str], Traveller]]:
    """Gives a server at rest by its backing: that of the case before, or a new one when that case failed."""
    from lab import cloud
    from tests.support.lab.shared_server import Traveller

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


@pytest.fixture
def shared(lab_environment: dict[str, str]) -> Iterator[str]:
    """The URL of an empty database for a journal that machines share; it is dropped at the end."""
    import sqlalchemy

    url = sqlalchemy.make_url(lab_environment["CELLMOVE_LAB_API_DB"]).set(username="lab")  # may make databases
    name = f"cellmove_{uuid.uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
