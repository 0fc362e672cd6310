"""cellmove's own login at message buses takes the place of the one in nova's URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellmove.bus_login import BusLogin, with_login
from cellmove.errors import Usage
from cellmove.settings import load
from tests.support.deployed_conf import write_openstack_ansible

LOGIN = BusLogin("cell move", "s3cret/@:,")
WORDS = "cell%20move:s3cret%2F%40%3A%2C"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rabbit://nova:p%2F@h1:5671,nova:p@h2//nova?ssl=1", f"rabbit://{WORDS}@h1:5671,{WORDS}@h2//nova?ssl=1"),
        ("rabbit://h1", f"rabbit://{WORDS}@h1"),
        ("rabbit://u:p@[::1]:1?ssl=1", f"rabbit://{WORDS}@[::1]:1?ssl=1"),
        ("sandbox://u:p@h:1/", "sandbox://u:p@h:1/"),
        ("", ""),
    ],
)
def test_each_broker_gets_the_login(url: str, expected: str) -> None:
    assert with_login(url, LOGIN) == expected
    assert with_login(url, None) == url
    assert "s3cret" not in repr(LOGIN)


def test_it_is_used_for_the_urls_of_nova_conf_and_not_for_the_operator_s(tmp_path: Path) -> None:
    flags: dict[str, str | None] = {"nova_conf": ":".join(map(str, write_openstack_ansible(tmp_path)))}
    login = {"HOME": str(tmp_path), "CELLMOVE_BUS_USER": "cellmove", "CELLMOVE_BUS_PASSWORD": "own"}
    found = load(flags, login)
    assert found.transport_url.startswith("rabbit://cellmove:own@192.0.2.21:5671,cellmove:own@192.0.2.22:5671/nova?")
    assert found.notifications.url.startswith("rabbit://cellmove:own@192.0.2.31:5671/")
    assert found.bus_login == BusLogin("cellmove", "own")
    given = load(flags, login | {"CELLMOVE_TRANSPORT_URL": "rabbit://u:p@h/"})
    assert given.transport_url == "rabbit://u:p@h/"
    with pytest.raises(Usage, match="set both bus_user and bus_password"):
        load(flags, {"HOME": str(tmp_path), "CELLMOVE_BUS_USER": "cellmove"})
