"""How hosts are reached for their disks, as the configuration says it, and rates as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellmove.core.errors import Usage
from cellmove.core.transfer import Host, Ssh, read_rate, read_ssh
from cellmove.hosts.disk_links import destination


def test_without_a_table_nothing_is_reached() -> None:
    assert read_ssh(None, "config.toml") is None
    assert read_ssh({}, "config.toml") == Ssh()


def test_a_whole_table() -> None:
    table = {
        "config": "~/ssh_config", "user": "nova", "become": ["sudo", "-n"], "python": "/usr/bin/python3",
        "instances_path": "/srv/instances",
        "hosts": {"c1": {"address": "10.0.0.1", "port": 2222, "user": "root", "instances_path": "/other"}, "c2": {}},
    }  # fmt: skip
    ssh = read_ssh(table, "config.toml")
    assert ssh is not None
    assert ssh.config == Path("~/ssh_config").expanduser()
    assert ssh.become == ("sudo", "-n")
    assert ssh.hosts == {"c1": Host("10.0.0.1", 2222, "root", "/other"), "c2": Host()}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"keyfile": "x"}, "unknown key ssh.keyfile; known: config, user"),
        ({"user": 7}, "ssh.user has a value of the wrong type (int)"),
        ({"become": "sudo -n"}, "ssh.become has a value of the wrong type (str)"),
        ({"become": ["sudo", 1]}, 'ssh.become has to be a list of words, as ["sudo", "-n"]'),
        ({"instances_path": "instances"}, "instances_path has to begin with a slash, not 'instances'"),
        ({"hosts": {"c1": "10.0.0.1"}}, "ssh.hosts: 'c1' has to be a table, as [ssh.hosts.\"c1\"]"),
        ({"hosts": {"c1": {"adress": "x"}}}, 'unknown key ssh.hosts."c1".adress'),
        ({"hosts": {"c1": {"port": "22"}}}, 'ssh.hosts."c1".port has a value of the wrong type (str)'),
        ({"hosts": {"c1": {"port": True}}}, 'ssh.hosts."c1".port has a value of the wrong type (bool)'),
        ({"hosts": {"c1": {"instances_path": "./x"}}}, "instances_path has to begin with a slash, not './x'"),
    ],
)
def test_a_table_that_makes_no_sense(table: dict[str, Any], words: str) -> None:
    with pytest.raises(Usage) as raised:
        read_ssh(table, "config.toml")
    assert raised.value.message.startswith("config.toml: ")
    assert words in raised.value.message


def test_a_host_has_what_is_its_own_and_else_what_all_have() -> None:
    hosts = {"c1": Host("10.0.0.1", 2222, "root", "/other"), "c2": Host(port=23)}
    ssh = Ssh(Path("/etc/ssh.conf"), "nova", ("doas",), "python3.6", "/srv", hosts)
    one, two, three = (destination(ssh, name) for name in ("c1", "c2", "c3"))
    assert (one.host, one.port, one.user, one.instances_path) == ("10.0.0.1", 2222, "root", "/other")
    assert (two.host, two.port, two.user, two.instances_path) == ("c2", 23, "nova", "/srv")
    assert (three.host, three.port, three.user, three.instances_path) == ("c3", 0, "nova", "/srv")
    for each in (one, two, three):
        assert (each.ssh_config, each.become, each.python) == (Path("/etc/ssh.conf"), ("doas",), "python3.6")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000", 1000), ("50M", 50 << 20), ("800k", 800 << 10), ("1.5G", 3 << 29), (" 2 MiB/s ", 2 << 20), ("10mb", 10 << 20),
    ],
)  # fmt: skip
def test_a_rate(text: str, rate: int) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "0.2", "-5M", "5T", "5 M M", "1e6"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        read_rate(text)
