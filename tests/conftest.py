"""What the tests of all clouds share."""

from __future__ import annotations

import signal

import pytest

pytest.register_assert_rewrite("tests.support", "tests.scenarios")

from tests.scenarios.environment import Agrees, Album  # noqa: E402 - with its assertions rewritten


def pytest_addoption(parser: pytest.Parser) -> None:
    """How snapshots get into tests/scenarios/snapshots."""
    parser.addoption("--record", action="store_true", help="write down what the lab shows, for the sandbox to be like")


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and cellmove heeds that; here it is to hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def album(request: pytest.FixtureRequest) -> Album:
    """The recorded snapshots."""
    return Album(record=bool(request.config.getoption("--record")))


@pytest.fixture
def agrees(album: Album, request: pytest.FixtureRequest) -> Agrees:
    """Compares a snapshot with the recorded one. Only the lab may record: the sandbox is what is being measured."""
    return album.agrees if request.node.get_closest_marker("lab") else Album().agrees
