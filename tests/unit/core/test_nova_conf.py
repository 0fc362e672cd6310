"""nova.conf as deployment tools write it, read by oslo.config and keystoneauth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellmove.cloud import identity
from cellmove.core import nova_conf, settings
from cellmove.core.errors import CannotConnect, Usage
from cellmove.core.nova_conf import Notifications
from cellmove.hosts import bus_url, rabbit
from tests.support.deployed_conf import PASSWORD, write_kolla, write_openstack_ansible

CA = "/etc/ssl/certs/ca-certificates.crt"


def load(home: Path, *paths: Path) -> settings.Settings:
    return settings.load({"nova_conf": ":".join(map(str, paths))}, {"HOME": str(home)})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_kolla_ansible(tmp_path: Path) -> None:
    found = load(tmp_path, *write_kolla(tmp_path))
    assert found.api_database_url == f"mysql+pymysql://nova_api:{PASSWORD}@192.0.2.10/nova_api?ssl_ca={CA}"
    assert found.main_database_url == f"mysql+pymysql://nova:{PASSWORD}@192.0.2.10/nova_cell0?ssl_ca={CA}"
    brokers = ",".join(f"openstack:{PASSWORD}@192.0.2.{number}:5671" for number in (11, 12))
    assert found.transport_url == f"rabbit://{brokers}//"
    assert found.notifications == Notifications(url=found.transport_url), "driver noop: nothing is sent"
    login = nova_conf.service_login(found.nova_conf)
    assert login is not None
    assert (login.region_name, login.interfaces, login.endpoint_override) == ("RegionOne", ("internal",), "")
    assert login.session.verify == CA
    auth = login.session.auth
    assert auth is not None
    assert (auth.auth_url, auth._username, auth._password) == ("https://192.0.2.10:5000", "neutron", PASSWORD)
    assert PASSWORD not in repr(found)


def test_openstack_ansible_with_a_file_of_the_operator(tmp_path: Path) -> None:
    found = load(tmp_path, *write_openstack_ansible(tmp_path))
    query = f"ssl=1&ssl_version=TLSv1_2&ssl_ca_file={CA}"
    assert found.transport_url.endswith(f"/nova?{query}")
    assert found.api_database_url.startswith(f"mysql+pymysql://nova_api:{PASSWORD}@192.0.2.20:3306/nova_api?")
    assert (found.service_down_time, found.long_rpc_timeout, found.cross_az_attach) == (120, 3600, False)
    url = f"rabbit://nova:{PASSWORD}@192.0.2.31:5671/nova?{query}"
    topics = ("notifications", "notifications_designate")
    assert found.notifications == Notifications("messagingv2", "both", topics, url=url)
    login = nova_conf.service_login(found.nova_conf)
    assert login is not None
    assert (login.region_name, login.interfaces, login.session.verify) == ("RegionOne", ("internal", "public"), True)
    assert login.session.auth is not None
    assert login.session.auth._username == "nova"


@pytest.mark.parametrize("writing", [write_kolla, write_openstack_ansible])
def test_oslo_messaging_reads_the_same_files(tmp_path: Path, writing: object) -> None:
    from oslo_config import cfg

    assert callable(writing)
    found = load(tmp_path, *writing(tmp_path))
    transport = rabbit.open_transport(found.transport_url, "API", found, rabbit.OsloMessaging()).transport
    options = transport._driver._connection_pool.conf.oslo_messaging_rabbit
    assert (options.ssl, options.ssl_ca_file) == (True, CA)
    assert options.rabbit_quorum_queue
    assert options.rabbit_transient_quorum_queue
    assert options.rabbit_qos_prefetch_count == 1
    assert not options.use_queue_manager
    bus_url.check(cfg.CONF, found.notifications.url)
    cfg.CONF([], default_config_files=[], default_config_dirs=[])


def test_the_options_of_oslo_messaging_may_refer_to_others(tmp_path: Path) -> None:
    from oslo_config import cfg

    text = f"[tls]\nca = {CA}\n[DEFAULT]\ntransport_url = rabbit://u:p@h//\n[oslo_messaging_rabbit]\nssl = true\n"
    text += "ssl_ca_file = ${tls.ca}\n[oslo_messaging_notifications]\ndriver = $transport_url\n"
    found = load(tmp_path, write(tmp_path / "nova.conf", text))
    transport = rabbit.open_transport(found.transport_url, "API", found, rabbit.OsloMessaging()).transport
    assert transport._driver._connection_pool.conf.oslo_messaging_rabbit.ssl_ca_file == CA
    cfg.CONF([], default_config_files=[], default_config_dirs=[])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[neutron]\nauth_plugin = password\ntenant_name = p\nuser_name = u\n", ("u", "p")),
        ("[neutron]\nauth_type = v3password\nuser_domain_id = d\nproject_domain_id = d\nproject_name = p\nusername = $user\n[DEFAULT]\nuser = u\n", ("u", "p")),
        ("[neutron]\nauth_section = own\n[own]\nauth_type = password\nproject_name = ${own.username}\nusername = u\n", ("u", "u")),
    ],
)  # fmt: skip
def test_the_login_for_neutron_by_any_name(tmp_path: Path, text: str, expected: tuple[str, str]) -> None:
    section = "[own]" if "[own]" in text else "[neutron]"
    text = text.replace(f"{section}\n", f"{section}\nauth_url = http://k\npassword = a$$b\n")
    login = nova_conf.service_login([write(tmp_path / "nova.conf", text)])
    assert login is not None
    auth = login.session.auth
    assert auth is not None
    methods = getattr(auth, "auth_methods", None)
    user, password = (methods[0].username, methods[0].password) if methods else (auth._username, auth._password)
    assert (user, password) == (expected[0], "a$b")
    assert (getattr(auth, "_project_name", None) or getattr(auth, "project_name", None)) == expected[1]


def test_auth_section_moves_the_login_but_not_the_region(tmp_path: Path) -> None:
    text = "[shared]\nauth_type = password\nauth_url = http://k\nusername = u\npassword = p\nregion_name = One\ncafile = /x\n"
    text += "[neutron]\nauth_section = shared\nregion_name = Two\nvalid_interfaces = admin\ninsecure = true\n"
    login = nova_conf.service_login([write(tmp_path / "nova.conf", text)])
    assert login is not None
    assert (login.region_name, login.interfaces, login.session.verify) == ("Two", ("admin",), False)


def test_an_application_credential(tmp_path: Path) -> None:
    text = "[neutron]\nauth_type = v3applicationcredential\nauth_url = http://k\n"
    text += "application_credential_id = a\napplication_credential_secret = s\n"
    connection = identity.connect_service(settings.Settings(nova_conf=(write(tmp_path / "nova.conf", text),)))
    assert connection.session.auth.auth_methods[0].application_credential_id == "a"


def test_a_login_without_a_type_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "nova.conf", "[neutron]\nauth_url = http://k\nusername = u\n")
    assert nova_conf.service_login([path]) is None
    with pytest.raises(Usage, match="auth_type") as caught:
        identity.connect_service(settings.Settings(nova_conf=(path,)))
    assert str(path) in str(caught.value)


def test_an_option_of_the_login_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    text = "[neutron]\nauth_type = password\nauth_url = http://k\nusername = u\npassword = s3cret$x\n"
    path = write(tmp_path / "nova.conf", text)
    with pytest.raises((Usage, CannotConnect)) as caught:
        identity.connect_service(settings.Settings(nova_conf=(path,)))
    assert f"{path}: [neutron]password refers to an option that is not set" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[DEFAULT]\nlong_rpc_timeout = soon\n", "[DEFAULT]long_rpc_timeout has a value that cannot be used: invalid literal"),
        ("[cinder]\ncross_az_attach = maybe\n", "[cinder]cross_az_attach has a value that cannot be used: Unexpected boolean"),
        ("[notifications]\nnotification_format = x\n", "[notifications]notification_format has a value that cannot be used: Valid"),
        ("[DEFAULT]\nnotification_format = x\n", "[DEFAULT]notification_format has a value that cannot be used: Valid values"),
        ("[sql]\nconnection = mysql://u:s3cret$x.y@h/\n", "[sql]connection refers to an option that is not set"),
        ("[DEFAULT]\nsql_connection = s3cret$x\n", "[DEFAULT]sql_connection refers to an option that is not set"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "nova.conf", text)
    with pytest.raises(Usage) as caught:
        load(tmp_path, path)
    assert f"{path}: {message}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_this_machine_s_address_is_the_default_of_my_ip(tmp_path: Path) -> None:
    from oslo_utils import netutils

    path = write(tmp_path / "nova.conf", "[DEFAULT]\ntransport_url = rabbit://$my_block_storage_ip/\n")
    assert load(tmp_path, path).transport_url == f"rabbit://{netutils.get_my_ipv4()}/"


def test_no_deprecation_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "nova.conf", "[DEFAULT]\nnotification_driver = noop\nsql_connection = x\n")
    assert load(tmp_path, path).main_database_url == "x"
    assert capfd.readouterr() == ("", "")


def test_help_does_not_import_oslo_config() -> None:
    program = "import sys; from cellmove import cli; from cellmove.core import settings; sys.exit('oslo_config.cfg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
