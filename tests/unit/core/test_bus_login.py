"""cellmove's own login at message buses takes the place of the one in nova's URLs."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from cellmove.core.bus_login import with_login
from cellmove.core.errors import BadSetting, Usage
from cellmove.core.login import Login
from cellmove.core.settings import load
from cellmove.hosts.bus_url import check
from tests.support.deployed_conf import write_openstack_ansible

LOGIN = Login("cell move", "s3cret/@:,")
WORDS = "cell%20move:s3cret%2F%40%3A%2C"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rabbit://nova:p%2F@h1:5671,nova:p@h2//nova?ssl=1", f"rabbit://{WORDS}@h1:5671,{WORDS}@h2//nova?ssl=1"),
        ("rabbit://h1", f"rabbit://{WORDS}@h1"),
        ("rabbit://u:p@[::1]:1?ssl=1", f"rabbit://{WORDS}@[::1]:1?ssl=1"),
        ("RABBIT://nova:p@h1/", f"RABBIT://{WORDS}@h1/"),
        ("sandbox://u:p@h:1/", "sandbox://u:p@h:1/"),
        ("", ""),
    ],
)
def test_each_broker_gets_the_login(url: str, expected: str) -> None:
    assert with_login(url, LOGIN) == expected
    assert with_login(url, None) == url
    assert "s3cret" not in repr(LOGIN)


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://nova:12/secret@h1/nova",
        "rabbit://nova:12/secret@h1,nova:12/secret@h2/nova",
        "rabbit://nova:p@h1,nova:12/secret@h2/nova",
        "rabbit://nova:12,secret@h1/nova",
        "rabbit://nova:12?secret@h1/nova",
        "rabbit://nova:12#secret@h1/nova",
    ],
)
def test_a_url_whose_password_is_not_encoded_is_refused_with_the_login_as_without(url: str) -> None:
    for login in (LOGIN, None):
        with pytest.raises(BadSetting, match="it cannot be parsed") as refused:
            check(cfg.ConfigOpts(), with_login(url, login))
        assert "secret" not in str(refused.value)


def test_it_is_used_for_the_urls_of_nova_conf_and_not_for_the_operator_s(tmp_path: Path) -> None:
    flags: dict[str, str | None] = {"nova_conf": ":".join(map(str, write_openstack_ansible(tmp_path)))}
    login = {"HOME": str(tmp_path), "CELLMOVE_BUS_USER": "cellmove", "CELLMOVE_BUS_PASSWORD": "own"}
    found = load(flags, login)
    assert found.transport_url.startswith("rabbit://cellmove:own@192.0.2.21:5671,cellmove:own@192.0.2.22:5671/nova?")
    assert found.notifications.url.startswith("rabbit://cellmove:own@192.0.2.31:5671/")
    assert found.bus_login == Login("cellmove", "own")
    given = load(flags, login | {"CELLMOVE_TRANSPORT_URL": "rabbit://u:p@h/"})
    assert given.transport_url == "rabbit://u:p@h/"
    with pytest.raises(Usage, match="set both bus_user and bus_password"):
        load(flags, {"HOME": str(tmp_path), "CELLMOVE_BUS_USER": "cellmove"})
