"""How the disks of an image-backed server travel, and how compute hosts are reached for that.

``stream`` copies them over ssh while the guest runs (docs/stream.md). ``image`` copies them through a temporary image in
glance, as nova does. ``auto`` is ``stream`` where the hosts allow it, else ``image``. Volumes need neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cellmove.core.errors import Usage
from cellmove.core.toml_table import TomlTable, read_table

AUTO, STREAM, IMAGE, VOLUMES = "auto", "stream", "image", "volumes"
TRANSFERS = (AUTO, STREAM, IMAGE)
"""The values of the setting ``transfer``."""

CARRIED = ("swap", "ephemeral", "config-drive")
"""What an image loses and a stream keeps, by the names of :data:`cellmove.core.move.LOSSES`."""

MOST_BYTES_A_SECOND = 1 << 50
"""More than any network can carry."""

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Host:
    """The ssh settings of one host. An empty value means: as for the other hosts."""

    address: str = ""
    port: int = 0
    user: str = ""
    instances_path: str = ""


@dataclass(frozen=True)
class Ssh:
    """The table ``[ssh]`` of config.toml.

    :param config: the file that ssh reads instead of the user's own configuration
    :param become: words put before the command on the host, as ``("sudo", "-n")``
    :param instances_path: nova's ``instances_path`` on all hosts without a value of their own
    :param hosts: settings of single hosts, by nova's name of the compute host
    """

    config: Path | None = None
    user: str = ""
    become: tuple[str, ...] = ()
    python: str = "python3"
    instances_path: str = "/var/lib/nova/instances"
    hosts: Mapping[str, Host] = field(default_factory=dict)


SSH_KEYS: Mapping[str, type] = {
    "config": str,
    "user": str,
    "become": list,
    "python": str,
    "instances_path": str,
    "hosts": dict,
}
HOST_KEYS: Mapping[str, type] = {"address": str, "port": int, "user": str, "instances_path": str}


def read_ssh(value: object, file: str) -> Ssh | None:
    """Read the table ``[ssh]``.

    :param value: as tomllib gives it; None: there is none, and disks are never streamed
    :param file: the file that holds it, for messages
    :raises Usage: an unknown key, or a value that cannot be used
    """
    if value is None:
        return None
    table = read_table(value, SSH_KEYS, file, "ssh")
    become = table.values.get("become", [])
    if not isinstance(become, list) or not all(isinstance(word, str) for word in become):
        raise Usage(f'{file}: ssh.become has to be a list of words, as ["sudo", "-n"]')
    ssh = Ssh(
        config=_config_path(table),
        user=table.text("user"),
        become=tuple(become),
        python=table.text("python", Ssh.python),
        instances_path=table.text("instances_path", Ssh.instances_path),
        hosts={name: _read_host(each, name, file) for name, each in table.mapping("hosts").items()},
    )
    if not ssh.python:
        raise Usage(f"{file}: ssh: python has to name an interpreter")
    for path in (ssh.instances_path, *(each.instances_path for each in ssh.hosts.values() if each.instances_path)):
        if not path.startswith("/"):
            raise Usage(f"{file}: ssh: instances_path has to begin with a slash, not {path!r}")
    return ssh


def _config_path(table: TomlTable) -> Path | None:
    """Return the path of ssh's configuration file; None when it is not set."""
    config = table.text("config")
    try:
        return Path(config).expanduser() if config else None
    except RuntimeError:
        raise Usage(
            f"{table.where}.config: {config}: there is no such user, or the home directory is not known"
        ) from None


def _read_host(value: object, name: str, file: str) -> Host:
    """Read the table of one host."""
    if not isinstance(value, dict):
        raise Usage(f'{file}: ssh.hosts: {name!r} has to be a table, as [ssh.hosts."{name}"]')
    table = read_table(value, HOST_KEYS, file, f'ssh.hosts."{name}"')
    port = table.integer("port") or 0
    if not 0 <= port < 65536:
        raise Usage(f"{file}: ssh.hosts: {port} is no port")
    return Host(table.text("address"), port, table.text("user"), table.text("instances_path"))


def read_transfer(chosen: str) -> str:
    """Return how disks travel; ``auto`` when it is not set.

    :raises Usage: there is no such way
    """
    word = chosen or AUTO
    if word not in TRANSFERS:
        raise Usage(f"transfer is one of {', '.join(TRANSFERS)}, not {word!r}")
    return word


def read_bwlimit(chosen: str) -> int:
    """Return a limit in bytes a second; 0 when it is not set.

    :raises Usage: it is no rate
    """
    try:
        return read_rate(chosen) if chosen else 0
    except ValueError as error:
        raise Usage(f"bwlimit: {error}") from None


def read_rate(text: str) -> int:
    """Return the bytes a second of a number with an optional unit: ``50M``, ``800k``, ``1.5G`` (factors of 1024).

    :raises ValueError: the text is no rate, or not above 0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?(?:/s)?", text.strip().lower())
    number = float(found[1]) * UNITS[found[2]] if found else 0.0
    rate = int(number) if number < MOST_BYTES_A_SECOND else 0
    if rate <= 0:
        raise ValueError(f"{text!r} is no rate: write bytes a second, with k, M or G, as 50M")
    return rate
