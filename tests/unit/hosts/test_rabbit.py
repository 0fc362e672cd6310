"""How oslo.messaging is used: own reply queues, passwords of any kind, and what its exceptions mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import oslo_messaging
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url
from oslo_config import cfg
from oslo_messaging._drivers import common

from cellmove.core.errors import BadSetting, CallError, CallFailed, CallUncertain, CannotConnect
from cellmove.core.settings import Settings
from cellmove.hosts import bus_url, rabbit, rabbit_connection, rabbit_errors

AT = "rabbit://nova:secret@127.0.0.1:1//nova"

KOLLA = """
[oslo_messaging_rabbit]
use_queue_manager = true
rabbit_quorum_queue = true
rabbit_transient_quorum_queue = true
rabbit_stream_fanout = true
rabbit_qos_prefetch_count = 1
hostname = controller1
processname = nova-conductor
"""


@pytest.fixture
def kolla(tmp_path: Path) -> Iterator[Settings]:
    """Settings with such a nova.conf, which oslo's global configuration has not read yet."""
    path = tmp_path / "nova.conf"
    path.write_text(KOLLA)
    yield Settings(nova_conf=(path,))
    cfg.CONF([], default_config_files=[], default_config_dirs=[])


@pytest.mark.parametrize(
    "query", ["", "?use_queue_manager=true&rabbit_transient_queues_ttl=0&hostname=h&processname=p"]
)
def test_reply_queues_are_unique_and_need_no_shared_files(kolla: Settings, query: str) -> None:
    names, library = set(), rabbit.OsloMessaging()
    for _number in range(2):
        driver = rabbit.open_transport(AT + query, "cell1", kolla, library).transport._driver
        names.add(driver._get_reply_queue_name())
        options = driver._connection_pool.conf.oslo_messaging_rabbit
        assert options.rabbit_transient_queues_ttl == rabbit_connection.REPLY_QUEUE_TTL_SECONDS
        assert options.rabbit_transient_quorum_queue is True
    assert len(names) == 2
    assert all(re.fullmatch("reply_[0-9a-f]{32}", name) for name in names)


def test_nova_s_options_decide_how_its_exchange_is_declared(kolla: Settings) -> None:
    opened = rabbit.open_transport(AT, "cell1", kolla, rabbit.OsloMessaging())
    driver = opened.transport._driver
    connection = object.__new__(rabbit_connection.Connection)
    options = driver._connection_pool.conf.oslo_messaging_rabbit
    connection.amqp_durable_queues, connection.rabbit_quorum_queue = (
        options.amqp_durable_queues,
        options.rabbit_quorum_queue,
    )
    assert connection.durable is True
    parsed = oslo_messaging.TransportURL.parse(cfg.CONF, AT)
    assert rabbit._exchange(parsed, cfg.CONF, "nova").durable is True
    classic = oslo_messaging.TransportURL.parse(cfg.CONF, f"{AT}?rabbit_quorum_queue=false&amqp_auto_delete=1")
    exchange = rabbit._exchange(classic, cfg.CONF, "nova")
    assert (exchange.durable, exchange.auto_delete) == (False, True)


def shell(url: oslo_messaging.TransportURL) -> Any:
    """A connection that has not been opened."""
    made: Any = object.__new__(rabbit_connection.Connection)
    made._broker_url, made._driver_conf = url, cfg.CONF
    return made


anything = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


@given(user=anything, password=anything, vhost=anything, host=st.sampled_from(["h1", "127.0.0.1", "::1", "fe80::1"]))
def test_kombu_gets_any_password_as_it_is(user: str, password: str, vhost: str, host: str) -> None:
    broker = oslo_messaging.TransportHost(host, 5671, user, password)
    url = oslo_messaging.TransportURL(cfg.CONF, "rabbit", vhost, [broker])
    parsed = parse_url(shell(url)._transform_transport_url(url, broker))
    assert (parsed["userid"], parsed["password"]) == (user, password)
    assert (parsed["virtual_host"], parsed["hostname"], parsed["port"]) == (vhost, host, 5671)


def test_after_a_failover_the_certificate_has_to_name_the_other_broker(
    kolla: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit.open_transport(AT, "cell1", kolla, rabbit.OsloMessaging())  # registers the driver's options
    url = oslo_messaging.TransportURL.parse(cfg.CONF, "rabbit://u:p@h1:1,u:p@h2:2/?ssl=1&ssl_ca_file=/ca")
    connection = shell(url)
    connection.connection = kombu.Connection("amqp://h1:1;amqp://h2:2", ssl=connection._fetch_ssl_params())
    monkeypatch.setattr(rabbit_connection.impl_rabbit.Connection, "ensure_connection", lambda _self: None)
    connection.ensure_connection()
    verified = []
    monkeypatch.setattr(
        amqp.Connection, "connect", lambda self: verified.append((self.host, self.ssl["server_hostname"]))
    )
    for _number in range(3):
        connection.connection.transport.establish_connection()
        connection.connection.maybe_switch_next()
    assert verified == [("h1:1", "h1"), ("h2:2", "h2"), ("h1:1", "h1")]


def test_a_single_broker_is_verified_by_the_name_that_the_url_has(kolla: Settings) -> None:
    rabbit.open_transport(AT, "cell1", kolla, rabbit.OsloMessaging())
    url = oslo_messaging.TransportURL.parse(cfg.CONF, "rabbit://u:p@localhost:1/?ssl=1&ssl_ca_file=/ca")
    assert shell(url)._fetch_ssl_params()["server_hostname"] == "localhost"


def raised_by_the_other_side(error: Exception) -> Exception:
    """What arrives of an exception of a server."""
    try:
        raise error
    except Exception:  # noqa: BLE001
        data = common.serialize_remote_exception(sys.exc_info())
    return common.deserialize_remote_exception(data, [])  # type: ignore[no-any-return]


REMOTE = (
    KeyError("host"),
    ValueError("Field 'host' cannot be None"),
    FileNotFoundError(2, "No such file or directory"),
    TimeoutError("it took too long"),
    ConnectionResetError(104, "reset"),
    RuntimeError("two\nlines"),
    oslo_messaging.MessagingTimeout("libvirt"),
    BadSetting("its class is not known here"),
)


@pytest.mark.parametrize("error", REMOTE, ids=lambda error: type(error).__name__)
def test_an_exception_of_the_other_side_is_its_answer(error: Exception) -> None:
    found = rabbit_errors.translated(raised_by_the_other_side(error), "cell1", "ping")
    assert isinstance(found, CallFailed)
    assert found.kind == type(error).__name__
    assert "Traceback" not in str(found)
    assert "\n" not in str(found)


def undelivered(cause: Exception) -> Exception:
    """What oslo.messaging's driver raises after a publisher's exception."""
    try:
        try:
            raise cause
        except Exception:  # noqa: BLE001
            raise oslo_messaging.MessageDeliveryFailure("Unable to connect") from None
    except oslo_messaging.MessageDeliveryFailure as error:
        return error


LOCAL: tuple[tuple[Exception, type[CallError]], ...] = (
    (KeyError("host"), CallUncertain),
    (RuntimeError("Configuration Error"), CallUncertain),
    (cfg.RequiredOptError("lock_path", cfg.OptGroup("oslo_concurrency")), CallUncertain),
    (FileNotFoundError(2, "No such file", "/dev/shm/x_qmanager"), CallUncertain),  # noqa: S108
    (ConnectionResetError(104, "reset"), CallUncertain),
    (oslo_messaging.MessagingTimeout("no reply"), CallUncertain),
    (kombu.exceptions.OperationalError("[Errno 111] Connection refused"), CannotConnect),
    (amqp.exceptions.AccessRefused("ACCESS_REFUSED - Login was refused"), CannotConnect),
    (undelivered(amqp.exceptions.PreconditionFailed("PRECONDITION_FAILED - inequivalent arg")), CannotConnect),
    (undelivered(amqp.exceptions.AccessRefused("ACCESS_REFUSED - access to exchange 'nova'")), CannotConnect),
    (undelivered(amqp.exceptions.MessageNacked()), CallUncertain),
    (undelivered(OSError("broken pipe")), CallUncertain),
)


@pytest.mark.parametrize(("error", "expected"), LOCAL, ids=lambda value: type(value).__name__)
def test_an_error_on_this_side_is_never_the_other_side_s_answer(error: Exception, expected: type[CallError]) -> None:
    found = rabbit_errors.translated(error, "cell1", "ping")
    assert type(found) is expected


def test_mirrored_and_quorum_queues_exclude_each_other(kolla: Settings) -> None:
    rabbit.open_transport(AT, "cell1", kolla, rabbit.OsloMessaging())
    with pytest.raises(BadSetting, match="only one is possible"):
        bus_url.check(cfg.CONF, f"{AT}?rabbit_ha_queues=true")
