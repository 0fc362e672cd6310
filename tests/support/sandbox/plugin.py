"""The fixtures of pytest that give tests a sandbox: a conftest imports those that its tests use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cellmove.hosts import disk_link
from cellmove.hosts.disk_link import Link
from cellmove.sandbox import seed
from cellmove.sandbox.process import Process
from cellmove.sandbox.store import Cloud, files
from tests.support.sandbox.cloud_process import served_cloud
from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.environment import Sandbox


@pytest.fixture(scope="module", autouse=True)
def unhooked() -> Iterator[None]:
    """Undo what a harness replaced in libraries and the environment when a module ends: other modules run in this process."""
    before = requests.adapters.HTTPAdapter.send, disk_link.connect, Link.ask, Link.take
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    requests.adapters.HTTPAdapter.send, disk_link.connect, Link.ask, Link.take = before  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Process]:
    """The embedded cloud, served."""
    with served_cloud() as (process, _folder):
        yield process


@pytest.fixture
def sandbox(sandbox_process: Process, tmp_path: Path) -> Iterator[Sandbox]:
    """It, and `cellmove` processes with a journal of this test's own."""
    place = Sandbox(sandbox_process, tmp_path)
    yield place
    place.clear()


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Drained]:
    """A cloud of this test's own, which empties a cell of it."""
    with served_cloud() as (process, _folder):
        yield Drained(process, tmp_path)


@pytest.fixture
def small_cloud(tmp_path: Path) -> tuple[Cloud, str]:
    """A cloud in this process with one server, to be looked at and broken."""
    cloud = Cloud(files(tmp_path))
    seed.make_cloud(cloud, "sandbox://nowhere")
    return cloud, seed.boot(cloud, "one", ports=2, volumes=1)
