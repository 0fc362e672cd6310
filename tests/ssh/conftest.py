"""One sshd for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ssh_server import Server, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An sshd that accepts one key."""
    with running(tmp_path_factory.mktemp("sshd")) as made:
        yield made
