"""The sandbox as a process, one for a whole run of tests: they move servers of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.place import Process, Sandbox, start


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The embedded cloud, served."""
    process = start(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.end()


@pytest.fixture
def sandbox(sandbox_process: Process, tmp_path: Path) -> Sandbox:
    """It, and `cellmove` processes with a journal of this test's own."""
    return Sandbox(sandbox_process, tmp_path)
