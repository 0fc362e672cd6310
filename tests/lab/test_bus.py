"""Message buses of a deployed cloud: TLS, several brokers, one that is lost in the middle of a long call."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lab import cloud, oracle
from tests.lab.conftest import Cellmove, Started
from tests.scenarios.environment import Server

MAX_SECONDS = 60
"""What a command may take that cannot reach a bus; before, it was half an hour."""


class Forwarder:
    """A broker's stand-in: passes connections on to it until it is cut off.

    :param port: of the broker
    """

    def __init__(self, port: int) -> None:
        self.target, self.sockets, self.was_used = port, [], False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.server.accept()
                broker = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, broker]
                self.was_used = True
                for pair in ((client, broker), (broker, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Take no more connections, and end those that there are."""
        for one in (self.server, *self.sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def forwarders(lab_environment: dict[str, str]) -> Iterator[list[Forwarder]]:
    """Two ways to the lab's broker."""
    port = int(re.findall(r"@127\.0\.0\.1:(\d+)", lab_environment["CELLMOVE_LAB_API_BUS"])[0])
    made = [Forwarder(port), Forwarder(port)]
    yield made
    for one in made:
        one.cut()


def through(url: str, *ports: int) -> str:
    """A bus's URL with other brokers."""
    login = re.match(r"rabbit://([^@]+)@", url)
    assert login is not None
    brokers = ",".join(f"{login[1]}@127.0.0.1:{port}" for port in ports)
    return f"rabbit://{brokers}/{url.partition('://')[2].partition('/')[2]}"


@pytest.mark.lab
def test_a_login_that_fails_is_told_within_seconds(
    cellmove: Cellmove, boot: Callable[..., Server], lab_environment: dict[str, str]
) -> None:
    url, server = lab_environment["CELLMOVE_LAB_API_BUS"], boot("bus")
    plain = url.partition("?")[0]
    for wrong, words in (
        (f"{plain}?ssl=1&ssl_ca_file=/etc/ssl/certs/ca-certificates.crt", "its certificate is not accepted"),
        (re.sub(r":[^:@/]+@", ":wrong@", url), "the user name or password is refused"),
        (f"{plain}elsewhere?{url.partition('?')[2]}", "no access to the virtual host"),
        (through(url, 9, 10), "Connection refused"),
    ):
        begun = time.monotonic()
        found = cellmove(
            "plan", server.id, "--dry-run", "--cell", "cell2", expect=4, env={"CELLMOVE_TRANSPORT_URL": wrong}
        )
        assert words in found.stderr
        assert time.monotonic() - begun < MAX_SECONDS


@pytest.mark.lab
def test_a_broker_that_is_lost_in_a_long_call_loses_no_answer(
    started: Callable[..., Started], boot: Callable[..., Server], lab_environment: dict[str, str],
    forwarders: list[Forwarder],
) -> None:  # fmt: skip
    server = boot("failover")
    # The URLs of cell2 are filled in from this one.
    url = through(lab_environment["CELLMOVE_LAB_API_BUS"], *(one.port for one in forwarders))
    move = started(
        "migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json",
        env={"CELLMOVE_TRANSPORT_URL": url}, pause_at=("finish:start_target:after-intent",),
    )  # fmt: skip
    cloud.wait_for("the move to stop before the call", lambda: move.is_stopped)
    assert any(one.was_used for one in forwarders)
    lost = next(one for one in forwarders if one.was_used)
    os.kill(move.pid, signal.SIGCONT)
    time.sleep(0.5)
    lost.cut()
    outcome = move.end()
    assert outcome.code == 0, outcome.stderr
    host = outcome.json["target"]["host"]
    assert oracle.problems(oracle.snapshot(server.id), cell="cell2", host=host, flavor="m1.tiny", status="ACTIVE") == []
