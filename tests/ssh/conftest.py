"""Disks that travel: over one sshd for all tests, or in the sandbox, whose disks need qemu-img."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.sandbox.plugin import cell, sandbox, sandbox_process, unhooked
from tests.support.ssh_server import Server, running

__all__ = ["cell", "sandbox", "sandbox_process", "unhooked"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An sshd that accepts one key."""
    with running(tmp_path_factory.mktemp("sshd")) as made:
        yield made
