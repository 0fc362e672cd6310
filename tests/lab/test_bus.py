"""Message buses of a deployed cloud: TLS, several brokers, one that is lost in the middle of a long call."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import amqp
import pytest

from cellmove.core import bus_login, settings
from cellmove.hosts import bus
from cellmove.hosts.bus_opener import BusOpener
from lab import cloud, oracle
from tests.lab.conftest import Cellmove, Started
from tests.scenarios.environment import Server

MAX_SECONDS = 60
"""What a command may take that cannot reach a bus; before, it was half an hour."""


class Forwarder:
    """A broker's stand-in: passes connections on to it until it is cut off.

    :param port: of the broker
    :param address: where it listens
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.target, self.sockets, self.was_used = port, [], False
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.server = socket.create_server((address, 0), family=family)
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
def forwarder(lab_environment: dict[str, str]) -> Iterator[Callable[..., Forwarder]]:
    """Makes ways to the lab's broker."""
    port = int(re.findall(r"@127\.0\.0\.1:(\d+)", lab_environment["CELLMOVE_LAB_API_BUS"])[0])
    made: list[Forwarder] = []

    def make(address: str = "127.0.0.1") -> Forwarder:
        made.append(Forwarder(port, address))
        return made[-1]

    yield make
    for one in made:
        one.cut()


def through(url: str, *ports: int, host: str = "127.0.0.1") -> str:
    """A bus's URL with other brokers."""
    login = re.match(r"rabbit://([^@]+)@", url)
    assert login is not None
    brokers = ",".join(f"{login[1]}@{host}:{port}" for port in ports)
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
    forwarder: Callable[..., Forwarder],
) -> None:  # fmt: skip
    server, forwarders = boot("failover"), [forwarder(), forwarder()]
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


@pytest.mark.lab
def test_a_broker_that_is_down_from_the_start_does_not_matter_beside_another(
    cellmove: Cellmove, boot: Callable[..., Server], lab_environment: dict[str, str],
    forwarder: Callable[..., Forwarder],
) -> None:  # fmt: skip
    server, down, up = boot("one-down"), forwarder(), forwarder()
    down.cut()
    url = through(lab_environment["CELLMOVE_LAB_API_BUS"], down.port, up.port)
    moved = cellmove(
        "migrate", server.id, "--cell", "cell2", "--confirm", "-f", "json", env={"CELLMOVE_TRANSPORT_URL": url}
    )
    assert up.was_used
    host = moved.json["target"]["host"]
    assert oracle.problems(oracle.snapshot(server.id), cell="cell2", host=host, flavor="m1.tiny", status="ACTIVE") == []


@pytest.mark.lab
def test_a_conductor_answers_over_ipv6(
    lab_environment: dict[str, str], forwarder: Callable[..., Forwarder], tmp_path: Path
) -> None:
    """The lab's RabbitMQ listens on IPv4; the last metre is IPv6. nova's templates lose the brackets of an address, so no move."""
    found = settings.load({}, {**lab_environment, "HOME": str(tmp_path)})
    for cell in ("CELL1", "CELL2"):
        brokers = [forwarder("::1"), forwarder("::1")]
        url = through(lab_environment[f"CELLMOVE_LAB_{cell}_BUS"], *(one.port for one in brokers), host="[::1]")
        opened = BusOpener(found).open(bus_login.with_login(url, found.bus_login), cell)
        assert bus.ping(opened, "conductor", "")
        assert any(one.was_used for one in brokers)


@pytest.mark.lab
def test_its_own_user_may_do_what_its_documentation_names_and_no_more(lab_environment: dict[str, str]) -> None:
    layout = cloud.layout()
    found = layout.virtual_hosts
    login = lab_environment["CELLMOVE_BUS_USER"], lab_environment["CELLMOVE_BUS_PASSWORD"]
    assert login[0] == "cellmove"
    reply = f"reply_{uuid.uuid4().hex}"
    everywhere = [
        ("declare", "conductor"),
        ("declare", "reply_host:nova:1"),
        ("consume", "conductor"),
        ("publish", "neutron"),
    ]
    for label, refused in (("cell2", [*everywhere, ("declare", "notifications.info")]), ("/", everywhere)):
        for act, name in refused:
            with pytest.raises(amqp.exceptions.AccessRefused, match=name), logged_in(found[label], login) as channel:
                ACTS[act](channel, name)
        with logged_in(found[label], login) as channel:
            channel.exchange_declare("nova", "topic", durable=True, auto_delete=False)
            channel.queue_declare(reply, auto_delete=True)
            channel.basic_get(reply)
            channel.queue_delete(reply)


ACTS: dict[str, Callable[[Any, str], Any]] = {
    "declare": lambda channel, name: channel.queue_declare(name, durable=True, auto_delete=False),
    "consume": lambda channel, name: channel.basic_get(name),
    "publish": lambda channel, name: channel.exchange_declare(name, "topic", durable=True, auto_delete=False),
}


@contextmanager
def logged_in(virtual_host: str, login: tuple[str, str]) -> Iterator[Any]:
    """A channel at the lab's broker."""
    layout = cloud.layout()
    connection = amqp.Connection(
        f"127.0.0.1:{layout.port('rabbitmq')}", *login, virtual_host=virtual_host,
        ssl={"ca_certs": str(layout.ca), "server_hostname": "127.0.0.1"},
    )  # fmt: skip
    connection.connect()
    try:
        yield connection.channel()
    finally:
        connection.collect()
