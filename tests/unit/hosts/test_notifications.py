"""What is sent of a server, to whom, and what happens when nobody takes it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import oslo_messaging
import pytest

from cellmove.core.errors import CannotConnect
from cellmove.core.nova_conf import Notifications
from cellmove.core.settings import load
from cellmove.hosts import bus as bus_module
from cellmove.hosts import notifications, rabbit
from cellmove.hosts.bus import Bus
from cellmove.hosts.transport import Notification

BOTH = Notifications("messagingv2", "both", ("notifications", "billing"), ("versioned_notifications",))
CONTEXT = {
    "request_id": "req-1", "user_id": "u", "project_id": "p", "auth_token": "very-secret",
    "service_catalog": [{"type": "image", "endpoints": [{"publicURL": "http://glance:9292/v2"}]}],
}  # fmt: skip
FLAVOR = {
    "flavorid": "f1", "memory_mb": 512, "vcpus": 2, "root_gb": 3, "ephemeral_gb": 4, "name": "m1", "swap": 0,
    "rxtx_factor": 1.0, "vcpu_weight": 0, "disabled": False, "is_public": True, "extra_specs": {},
    "description": None,
}  # fmt: skip
VIF = (
    '[{"id": "port-1", "address": "fa:16:3e:00:00:01", "devname": "tap1", "meta": {"mtu": 1400}, "network": {"label":'
    ' "net", "subnets": [{"ips": [{"address": "10.0.0.5", "version": 4}]}]}}]'
)
INSTANCE = {
    "nova_object.data": {
        **dict.fromkeys((*notifications.INSTANCE_FIELDS, "access_ip_v4", "access_ip_v6"), None),
        "uuid": "s1", "user_id": "u", "project_id": "p", "hostname": "h", "image_ref": "image-1", "vm_state": "resized",
        "power_state": 4, "auto_disk_config": False, "locked": False, "metadata": {"a": "b"}, "instance_type_id": 7,
        "created_at": "2026-01-02T03:04:05Z", "launched_at": "2026-01-02T03:04:06Z",
        "system_metadata": {"image_min_ram": "64", "locked_reason": "why", "old_vm_state": "active"},
        "flavor": {"nova_object.data": FLAVOR}, "info_cache": {"nova_object.data": {"network_info": VIF}},
    }
}  # fmt: skip


class Recorder:
    """A transport that takes notifications, or does not."""

    def __init__(self, error: Exception | None = None, probe_error: Exception | None = None) -> None:
        self.error, self.probe_error = error, probe_error
        self.taken: list[tuple[Any, Notification]] = []

    def probe(self) -> None:
        if self.probe_error:
            raise self.probe_error

    def notify(self, context: Any, notification: Notification) -> None:
        if self.error:
            raise self.error
        self.taken.append((context, notification))


def tell(recorder: Any, options: Notifications = BOTH) -> None:
    notifications.send(
        Bus("API", "", recorder, 1.0, 1.0),
        options,
        CONTEXT,
        INSTANCE,
        notifications.Event("resize_confirm", "end", "me"),
    )


def test_both_kinds_go_to_their_topics() -> None:
    recorder = Recorder()
    tell(recorder)
    assert [(n.driver, n.topics, n.publisher, n.event_type) for _, n in recorder.taken] == [
        ("messagingv2", ("notifications", "billing"), "compute.me", "compute.instance.resize.confirm.end"),
        ("messagingv2", ("versioned_notifications",), "nova-compute:me", "instance.resize_confirm.end"),
    ]


def test_payloads_are_in_novas_forms() -> None:
    recorder = Recorder()
    tell(recorder)
    legacy, versioned = (notice.payload for _, notice in recorder.taken)
    assert legacy["created_at"] == "2026-01-02 03:04:05+00:00"
    assert legacy["launched_at"] == "2026-01-02T03:04:06.000000"
    assert (legacy["terminated_at"], legacy["progress"], legacy["state_description"]) == ("", "", "")
    assert legacy["disk_gb"] == 7
    assert legacy["image_meta"] == {"min_ram": "64"}
    assert legacy["image_ref_url"] == "http://glance:9292//images/image-1"
    fields = versioned["nova_object.data"]
    assert (versioned["nova_object.name"], versioned["nova_object.version"]) == ("InstanceActionPayload", "1.9")
    assert (fields["power_state"], fields["auto_disk_config"], fields["locked_reason"]) == ("shutdown", "MANUAL", "why")
    (address,) = fields["ip_addresses"]
    assert address["nova_object.data"] == {
        "label": "net", "mac": "fa:16:3e:00:00:01", "port_uuid": "port-1", "meta": {"mtu": "1400"}, "version": 4,
        "address": "10.0.0.5", "device_name": "tap1",
    }  # fmt: skip


@pytest.mark.parametrize(("with_shares", "version"), [(True, "1.9"), (False, "1.8")])
def test_the_payload_is_that_of_the_release(with_shares: bool, version: str) -> None:
    payload = notifications.versioned(CONTEXT, INSTANCE, with_shares=with_shares)
    assert payload["nova_object.version"] == version
    assert ("shares" in payload["nova_object.data"]) is with_shares


def test_nobody_gets_to_hear_a_token() -> None:
    recorder = Recorder()
    tell(recorder)
    assert "very-secret" not in repr(recorder.taken)


@pytest.mark.parametrize(
    ("form", "sent"),
    [("unversioned", ["compute.instance.resize.confirm.end"]), ("versioned", ["instance.resize_confirm.end"])],
)
def test_only_the_kind_that_nova_sends_is_sent(form: str, sent: list[str]) -> None:
    recorder = Recorder()
    tell(recorder, replace(BOTH, form=form))
    assert [notice.event_type for _, notice in recorder.taken] == sent


@pytest.mark.parametrize("recorder", [Recorder(ValueError("no")), Recorder(probe_error=CannotConnect("down"))])
def test_a_bus_that_refuses_is_told_as_such(recorder: Recorder) -> None:
    with pytest.raises(CannotConnect):
        tell(recorder)


def test_a_bus_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(bus_module, "NOTIFICATION_TIMEOUT_SECONDS", 0.05)
    recorder, never = Recorder(), threading.Event()
    monkeypatch.setattr(recorder, "notify", lambda *_: never.wait(5))
    with pytest.raises(CannotConnect, match="did not accept a notification"):
        tell(recorder)
    never.set()


def test_what_nova_conf_says(tmp_path: Any) -> None:
    file = tmp_path / "nova.conf"
    flags = {"nova_conf": str(file), "journal": str(tmp_path / "j")}
    file.write_text("[DEFAULT]\n")
    assert load(flags, {"HOME": str(tmp_path)}).notifications == Notifications()
    file.write_text(
        "[notifications]\nnotification_format = both\nversioned_notifications_topics = v1,v2\n"
        "[oslo_messaging_notifications]\ndriver = messaging\ntopics = a, b\ntransport_url = rabbit://x\n"
    )
    assert load(flags, {"HOME": str(tmp_path)}).notifications == Notifications(
        "messaging", "both", ("a", "b"), ("v1", "v2"), "rabbit://x"
    )
    file.write_text("[oslo_messaging_notifications]\ndriver = noop\n")
    assert load(flags, {"HOME": str(tmp_path)}).notifications.driver == ""
    file.write_text("[oslo_messaging_notifications]\ndriver = messagingv2\ndriver = log\n")
    assert load(flags, {"HOME": str(tmp_path)}).notifications.driver == "messagingv2"


def test_notification_options_under_default_are_read_as_well(tmp_path: Any) -> None:
    file = tmp_path / "nova.conf"
    file.write_text(
        "[DEFAULT]\nnotification_driver = messagingv2\nnotification_topics = a,b\nnotification_transport_url = rabbit://x\n"
        "notification_format = versioned\n"
    )
    found = load({"nova_conf": str(file), "journal": str(tmp_path / "j")}, {"HOME": str(tmp_path)}).notifications
    assert found == Notifications("messagingv2", "versioned", ("a", "b"), url="rabbit://x")


def test_notifications_share_a_connection_and_one_that_broke_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken are those over the first connection, and later those over any."""
    broken: set[str] = set()
    opened: list[str] = []
    sent: list[str] = []

    class Connection:
        def __init__(self) -> None:
            self.name = f"connection-{len(opened)}"
            opened.append(self.name)

        def cleanup(self) -> None:
            sent.append(f"{self.name} closed")

    class Notifier:
        def __init__(self, transport: Connection, *_given: Any, **_options: Any) -> None:
            self.connection = transport.name

        def info(self, _context: Any, event: str, _payload: Any) -> None:
            if {self.connection, "all"} & broken:
                logging.getLogger("oslo_messaging.notify.messaging").error("Could not send notification")
            else:
                sent.append(f"{event} over {self.connection}")

    monkeypatch.setattr(oslo_messaging, "Notifier", Notifier)
    monkeypatch.setattr(oslo_messaging, "get_notification_transport", lambda *_given, **_options: Connection())
    bus = rabbit.RabbitTransport("cell1", "fake://", None, rabbit.OsloMessaging(), 1.0, 1.0)

    def notice(event: str) -> Notification:
        return Notification("messagingv2", ("notifications",), "us", event, {})

    for event in ("one", "two"):
        bus.notify({}, notice(event))
    broken.add("connection-0")
    bus.notify({}, notice("three"))
    assert sent == ["one over connection-0", "two over connection-0", "connection-0 closed", "three over connection-1"]
    broken.add("all")
    with pytest.raises(CannotConnect):
        bus.notify({}, notice("four"))
    assert opened == ["connection-0", "connection-1", "connection-2"], "given up after a new one"


def test_a_notification_that_another_thread_could_not_send_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver only logs what it could not send, and all threads log to one place."""
    together = threading.Barrier(2)

    class Notifier:
        def __init__(self, _transport: Any, publisher: str, **_options: Any) -> None:
            self.publisher = publisher

        def info(self, *_what: Any) -> None:
            together.wait(10)
            if self.publisher == "unlucky":
                logging.getLogger("oslo_messaging.notify.messaging").error("Could not send notification")
            together.wait(10)

    monkeypatch.setattr(oslo_messaging, "Notifier", Notifier)

    library = rabbit.OsloMessaging()

    def send(publisher: str) -> str:
        transport = rabbit.RabbitTransport("cell1", f"fake://{publisher}", None, library, 1.0, 1.0)
        try:
            transport.notify({}, Notification("messagingv2", ("notifications",), publisher, "update", {}))
        except CannotConnect as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as threads:
        said = dict(zip(("lucky", "unlucky"), threads.map(send, ("lucky", "unlucky")), strict=True))
    assert said == {"lucky": "", "unlucky": "the bus of cell1 did not accept a notification"}
