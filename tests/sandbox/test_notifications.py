"""Notifications in the sandbox: sent when nova.conf says so, and never in the way of a move."""

from __future__ import annotations

import pytest

from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.environment import Sandbox

TARGET = "c2-host1"


def notifying(place: Sandbox | Drained, transport_url: str = "") -> dict[str, str]:
    """Write a nova.conf with which nova notifies, and return the variable that names it.

    :param transport_url: where to; empty: the bus of the API
    """
    path = place.folder / "notifying.conf"
    where = f"transport_url = {transport_url}\n" if transport_url else ""
    driver = f"[oslo_messaging_notifications]\ndriver = messagingv2\n{where}"
    path.write_text(f"{driver}[notifications]\nnotification_format = both\n")
    return {"CELLMOVE_NOVA_CONF": f"{place.environment['CELLMOVE_NOVA_CONF']}:{path}"}


def told(sandbox: Sandbox, server: str) -> list[tuple[str, str, str, str]]:
    """(bus, event, host, state) of the notifications about a server, oldest first."""
    found = []
    for each in sandbox.process.control("state")["history"]:
        if each["what"] == "notification":
            payload = each["payload"].get("nova_object.data", each["payload"])
            if server in (payload.get("uuid"), payload.get("instance_id")):
                found.append((each["bus"], each["event_type"], payload["host"], payload["state"]))
    return found


def test_confirm_and_revert_are_told_with_the_ends_they_have(sandbox):
    server = sandbox.boot()
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=notifying(sandbox))
    assert told(sandbox, server.id) == []
    sandbox.cellmove("revert", server.id, env=notifying(sandbox))
    home, away = "c1-host1", TARGET
    reverted = [
        ("api", "compute.instance.resize.revert.start", away, "resized"),
        ("api", "instance.resize_revert.start", away, "resized"),
        ("api", "compute.instance.resize.revert.end", home, "active"),
        ("api", "instance.resize_revert.end", home, "active"),
    ]
    assert told(sandbox, server.id) == reverted
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=notifying(sandbox))
    sandbox.cellmove("confirm", server.id, env=notifying(sandbox))
    assert [each[1:3] for each in told(sandbox, server.id)[4:]] == [
        ("compute.instance.resize.confirm.start", home),
        ("instance.resize_confirm.start", home),
        ("compute.instance.resize.confirm.end", away),
        ("instance.resize_confirm.end", away),
    ]


def test_where_nova_sends_nothing_nothing_is_sent(sandbox):
    server = sandbox.boot()
    sandbox.cellmove("migrate", server.id, "--host", TARGET)
    sandbox.cellmove("confirm", server.id)
    assert told(sandbox, server.id) == []


def test_a_bus_that_takes_none_is_a_note_and_the_confirm_goes_on(sandbox):
    server = sandbox.boot()
    sandbox.cellmove("migrate", server.id, "--host", TARGET)
    said = sandbox.cellmove("confirm", server.id, env=notifying(sandbox, "sandbox://127.0.0.1:9/none")).stderr
    assert "the notification resize_confirm.start was not sent" in said
    assert "the notification resize_confirm.end was not sent" in said


@pytest.mark.parametrize(("release", "version"), [(67, "1.8"), (68, "1.9")])
def test_the_payload_is_that_of_the_release_that_runs(cell, release, version):
    (server,) = cell.add("web")
    for name in ("cell1", "cell2"):
        cell.process.cloud().update(name, "services", {"version": release}, binary="nova-conductor")
    cell.cellmove("migrate", server.id, "--cell", "cell2", env=notifying(cell))
    cell.cellmove("confirm", server.id, env=notifying(cell))
    sent = [each["payload"] for each in cell.process.control("state")["history"] if each["what"] == "notification"]
    versioned = [each for each in sent if "nova_object.version" in each]
    assert [each["nova_object.version"] for each in versioned] == [version, version]
    assert {"shares" in each["nova_object.data"] for each in versioned} == {version == "1.9"}
