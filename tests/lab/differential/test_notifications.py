"""What listeners on the buses hear of a move, a confirm and a revert: from us the same as from nova.

The context of a message is not compared: nova puts the caller's token and catalog into it, we leave them out.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab import cloud
from lab.layout import LOOPBACK, PASSWORD

TARGET = "c2-host1"
TOPICS = ("notifications.info", "versioned_notifications.info", "notifications.error", "versioned_notifications.error")
BUSES = ("/", "cell1", "cell2")

CONDUCTED = r"resize[._](confirm|revert)\."

ELSEWHERE = r"scheduler\.|(compute\.)?instance\.create\."
"""Compared by event alone: a boot is no move, and nova-scheduler tells what it was asked, contexts and all."""

OTHER = re.compile(
    r"^req-[0-9a-f-]{36}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$|^r-[0-9a-z]{8}$|^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
    r"|^tap[0-9a-f-]{11}$|^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*$|^10\.\d+\.\d+\.\d+$"
)
"""Identifiers, addresses and times: alike in kind, not in value."""


def connect(bus: str) -> Any:
    """Open a connection to a bus of the lab, by its label."""
    import kombu

    place = cloud.layout()
    tls = False if place.plain else {"ca_certs": str(place.ca), "cert_reqs": ssl.CERT_REQUIRED}
    return kombu.Connection(
        hostname=LOOPBACK, port=place.port("rabbitmq"), userid="lab", password=PASSWORD,
        virtual_host=place.virtual_hosts[bus], ssl=tls,
    )  # fmt: skip


class Listener:
    """Hears every notification on all buses, through queues of its own that go with the connection."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.connections, self.consumers = [], []
        for bus in BUSES:
            connection = connect(bus)
            channel = connection.channel()
            name = channel.queue_declare("", exclusive=True, auto_delete=True).queue
            for topic in TOPICS:
                channel.queue_bind(name, "nova", topic)
            self.connections.append(connection)
            self.consumers.append((bus, channel, name))

    def of(self, server_id: str) -> list[tuple[str, str, str, dict[str, Any]]]:
        """(bus, publisher, event type, payload) of all that names a server, oldest first on each bus."""
        for bus, channel, name in self.consumers:
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                self.heard.append((bus, json.loads(json.loads(message.body)["oslo.message"])))
        return [
            (bus, message["publisher_id"], message["event_type"], message["payload"])
            for bus in BUSES
            for where, message in self.heard
            if where == bus and server_id in json.dumps(message["payload"])
        ]

    def close(self) -> None:
        for connection in self.connections:
            connection.release()


@pytest.fixture
def listener(lab_environment: dict[str, str]) -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def normal(value: Any, names: dict[str, str]) -> Any:
    """A payload without what must differ between two servers.

    :param names: what to call the server and the host that nova's scheduler or we chose for it
    """
    if isinstance(value, dict):
        return {key: normal(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [normal(item, names) for item in value]
    if isinstance(value, str):
        for name, instead in names.items():
            value = value.replace(name, instead)
        value = re.sub(r"/images/[0-9a-f-]{36}$", "/images/OTHER", value)  # nova-compute names the move's own image
        return re.sub(r"\d", "0", value) if re.match(r"^\d{4}-", value) else OTHER.sub("OTHER", value)
    return value


@pytest.mark.lab
@pytest.mark.parametrize(
    ("ending", "kind", "volume_backed"), [("confirm", "resize", False), ("revert", "migrate", True)]
)
def test_a_confirm_and_a_revert_are_told_as_by_nova(cellmove, boot, listener, ending, kind, volume_backed):
    with ThreadPoolExecutor(2) as threads:
        boots = [threads.submit(boot, "told", volume_backed=volume_backed, volumes=1) for _ in range(2)]
        native, ours = (each.result() for each in boots)
        by_nova = threads.submit(move_natively, native.id, kind, ending)
        if kind == "resize":
            cellmove("resize", ours.id, "m1.small.cell2", "--host", TARGET)
        else:
            cellmove("migrate", ours.id, "--host", TARGET)
        cellmove(ending, ours.id)
        chosen = by_nova.result()
    told = [
        [
            (bus, publisher.replace(host, "TARGET"), event, normal(payload, {server.name: "NAME", host: "TARGET"}))
            for bus, publisher, event, payload in listener.of(server.id)
        ]
        for server, host in ((native, chosen), (ours, TARGET))
    ]
    told[1] = without_forecast(told[1])
    conducted = [event for bus, _, event, _ in told[0] if bus == BUSES[0] and re.search(CONDUCTED, event)]
    assert len(conducted) == 4, conducted
    assert [each[:3] for each in told[1]] == [each[:3] for each in told[0]]
    differing = {
        f"{event}: {path}"
        for (_, _, event, theirs), (_, _, _, mine) in zip(*told, strict=True)
        if not re.match(ELSEWHERE, event)
        for path in differences(theirs, mine)
    }
    assert differing == set()


Told = tuple[str, str, str, Any]
"""Bus, publisher, event type and payload of a notification."""


def without_forecast(ours: list[Told]) -> list[Told]:
    """Leave out plan's question to nova's scheduler, which claims nothing; the server's boot asked before, the move after it.

    Each question is told four times: its start and its end, in the old form and in the versioned one.
    """
    asked = [position for position, (_, _, event, _) in enumerate(ours) if ".select_destinations." in event]
    assert len(asked) == 12, [ours[position][:3] for position in asked]
    return [each for position, each in enumerate(ours) if position not in asked[4:8]]


def differences(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """Where two payloads differ, with both values."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted({*theirs, *mine}):
            yield from differences(theirs.get(key, "absent"), mine.get(key, "absent"), f"{path}.{key}")
    elif theirs != mine:
        yield f"{path} nova {theirs!r}, ours {mine!r}"


def move_natively(server_id: str, kind: str, ending: str) -> str:
    """Move a server by nova alone and end it; returns the host that it went to."""
    if kind == "resize":
        host = cloud.native_move(server_id, flavor="m1.small.cell2")
    else:
        host = cloud.native_move(server_id, host=TARGET)
    {"confirm": cloud.native_confirm, "revert": cloud.native_revert}[ending](server_id)
    return str(host)


def test_the_comparison_would_notice():
    assert list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}})) == [
        ".a.b nova 1, ours 3",
        ".c nova 2, ours 'absent'",
    ]
