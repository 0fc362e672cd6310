"""How the disks of an image-backed server travel, and how compute hosts are reached for that.

``stream``: over ssh, while the guest runs (docs/stream.md). ``image``: through a temporary image in glance, as nova
does it. ``auto``: ``stream`` where nothing speaks against it, else ``image``. Volumes need neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellmove.core.errors import Usage

AUTO, STREAM, IMAGE, VOLUMES = "auto", "stream", "image", "volumes"
TRANSFERS = (AUTO, STREAM, IMAGE)
"""What an operator may ask for."""

CARRIED = ("swap", "ephemeral", "config-drive")
"""What is lost through an image and not when the disks are streamed, by the names of :data:`cellmove.core.move.LOSSES`."""

MOST = 1 << 50  # bytes a second, more than any network has

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Host:
    """How one host is reached where it differs from the others. Empty: as the others."""

    address: str = ""
    port: int = 0
    user: str = ""
    instances_path: str = ""


@dataclass(frozen=True)
class Ssh:
    """The table ``[ssh]`` of config.toml.

    :param config: read by ssh instead of the user's own configuration
    :param become: put before the command there, as ``("sudo", "-n")``
    :param instances_path: nova's, on all hosts that do not say otherwise
    :param hosts: what is different, by the name that nova has for the compute host
    """

    config: Path | None = None
    user: str = ""
    become: tuple[str, ...] = ()
    python: str = "python3"
    instances_path: str = "/var/lib/nova/instances"
    hosts: Mapping[str, Host] = field(default_factory=dict)


def read_ssh(table: Mapping[str, Any] | None, file: str) -> Ssh | None:
    """The table as it was read; None when there is none, and then nothing is ever streamed.

    :raises Usage: a key that is not known, or a value of the wrong type
    """
    if table is None:
        return None
    kinds: dict[str, type] = {
        "config": str, "user": str, "become": list, "python": str, "instances_path": str, "hosts": dict,
    }  # fmt: skip
    _check(table, kinds, f"{file}: ssh")
    become = table.get("become", [])
    if not all(isinstance(word, str) for word in become):
        raise Usage(f'{file}: ssh.become has to be a list of words, as ["sudo", "-n"]')
    hosts = {}
    for name, each in table.get("hosts", {}).items():
        if not isinstance(each, dict):
            raise Usage(f'{file}: ssh.hosts: {name!r} has to be a table, as [ssh.hosts."{name}"]')
        _check(each, {"address": str, "port": int, "user": str, "instances_path": str}, f'{file}: ssh.hosts."{name}"')
        hosts[name] = Host(**each)
    config = table.get("config")
    try:
        config_path = Path(config).expanduser() if config else None
    except RuntimeError:
        raise Usage(
            f"{file}: ssh.config: {config}: there is no such user, or the home directory is not known"
        ) from None
    ssh = Ssh(
        config=config_path,
        user=table.get("user", ""),
        become=tuple(become),
        python=table.get("python", Ssh.python),
        instances_path=table.get("instances_path", Ssh.instances_path),
        hosts=hosts,
    )
    if not ssh.python:
        raise Usage(f"{file}: ssh: python has to name an interpreter")
    wrong = next((each.port for each in hosts.values() if not 0 <= each.port < 65536), None)
    if wrong is not None:
        raise Usage(f"{file}: ssh.hosts: {wrong} is no port")
    for path in (ssh.instances_path, *(each.instances_path for each in hosts.values() if each.instances_path)):
        if not path.startswith("/"):
            raise Usage(f"{file}: ssh: instances_path has to begin with a slash, not {path!r}")
    return ssh


def _check(table: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for key, value in table.items():
        if key not in kinds:
            raise Usage(f"{where}: unknown key {key}; known: {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise Usage(f"{where}.{key} has a value of the wrong type ({type(value).__name__})")


def read_transfer(chosen: Any) -> str:
    """How disks travel, as it was set; ``auto`` where it was not.

    :raises Usage: there is no such way
    """
    word = str(chosen or AUTO)
    if word not in TRANSFERS:
        raise Usage(f"transfer is one of {', '.join(TRANSFERS)}, not {word!r}")
    return word


def read_bwlimit(chosen: Any) -> int:
    """Bytes a second, as it was set; 0 where it was not.

    :raises Usage: it is no rate
    """
    try:
        return read_rate(str(chosen)) if chosen else 0
    except ValueError as error:
        raise Usage(f"bwlimit: {error}") from None


def read_rate(text: str) -> int:
    """Bytes a second, of a number with an optional unit: ``50M``, ``800k``, ``1.5G`` (1024 each).

    :raises ValueError: it is none, or not above 0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?(?:/s)?", text.strip().lower())
    number = float(found[1]) * UNITS[found[2]] if found else 0.0
    rate = int(number) if number < MOST else 0
    if rate <= 0:
        raise ValueError(f"{text!r} is no rate: write bytes a second, with k, M or G, as 50M")
    return rate
