"""The ssh command that starts the disk agent on a host, and the meaning of its error messages.

It is the system's own OpenSSH client, so the operator's ssh configuration applies (jump hosts, keys, agents, known hosts). It never
gets a password and accepts no unknown host key.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cellmove.core.errors import CannotConnect
from cellmove.hosts.disk_agent.protocol import BLOCK
from cellmove.hosts.disk_archive import BOOTSTRAP

MEANINGS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the known one: find out why before anything else",
    ),
    (
        r"Host key verification failed|host key is known",
        "its host key is not known here: verify it and add it to known_hosts",
    ),
    (
        r"[Bb]ad configuration option|terminating, \d+ bad|Can't open user config file|Bad owner or permissions on",
        "the ssh configuration cannot be used (ssh.config of config.toml, or the user's own)",
    ),
    (r"Permission denied \(", "it accepts no key of this user"),
    (
        r"Too many authentication failures",
        "ssh offered too many keys: name one in the ssh configuration (IdentitiesOnly)",
    ),
    (r"Could not resolve hostname", "its name cannot be resolved"),
    (
        r"Connection refused|No route to host|timed out|Network is unreachable|Connection reset",
        "it cannot be reached",
    ),
    (
        r"sudo: .*(password|terminal|tty)",
        "sudo asks for a password there, or a terminal: a rule with NOPASSWD is needed",
    ),
    (r"sudo: .*(not allowed|may not)|is not in the sudoers", "sudo does not allow it there"),
    (r"sudo: .*not found|doas: .*not found", "the command of ssh.become is not installed there"),
    (r"python\S*: (command )?not found|python\S*.*No such file", "there is no python3 there"),
    (r"SyntaxError|invalid syntax", "its python3 is older than 3.6"),
)
"""Messages of ssh, sudo and shells, and their meaning for the operator."""


@dataclass(frozen=True)
class Destination:
    """A compute host as ssh reaches it.

    :param host: its name, as the ssh configuration or the resolver knows it
    :param instances_path: nova's, on that host
    :param user: empty: the user of the ssh configuration
    :param port: 0: the port of the ssh configuration
    :param ssh_config: read instead of the user's own (``ssh -F``)
    :param become: put before the command, for instance ``("sudo", "-n")``
    :param python: the interpreter there, 3.6 or later
    :param alive: seconds after which ssh probes a silent connection; it ends the connection after three times as many
    :param connect_timeout: seconds
    :param block: bytes of a block, the same at both ends of a pass; a multiple of 4096
    :param threads: that read and hash there; 0: up to four, as the host has processors
    """

    host: str
    instances_path: str = "/var/lib/nova/instances"
    user: str = ""
    port: int = 0
    ssh_config: Path | None = None
    become: tuple[str, ...] = ()
    python: str = "python3"
    alive: int = 15
    connect_timeout: int = 10
    block: int = BLOCK
    threads: int = 0


def ssh_command(destination: Destination) -> list[str]:
    """Return the command that starts the agent on a host.

    cellmove's options come before the user's configuration: ssh uses the first value. No cipher is set, because the hosts'
    configuration knows their fast ones.

    :raises CannotConnect: ssh would read a name as an option
    """
    options = [
        *("-T", "-e", "none"),
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        "-oControlMaster=no",
        "-oRemoteCommand=none",
        "-oClearAllForwardings=yes",
        "-oForwardAgent=no",
        "-oForwardX11=no",
        "-oPermitLocalCommand=no",
        "-oLogLevel=INFO",
        f"-oServerAliveInterval={destination.alive}",
        "-oServerAliveCountMax=3",
        f"-oConnectTimeout={destination.connect_timeout}",
    ]
    remote = shlex.join([*destination.become, destination.python, "-I", "-c", BOOTSTRAP])
    return ["ssh", *options, *_address(destination), remote]


def trial_command(destination: Destination) -> str:
    """Return a command by which the operator can test the login."""
    return shlex.join(["ssh", *_address(destination), *destination.become, "true"])


def meaning_of(output: str) -> str:
    """Return the meaning of what ssh, sudo or a shell printed; empty when it is unknown."""
    return next((meaning for pattern, meaning in MEANINGS if re.search(pattern, output)), "")


def _address(destination: Destination) -> list[str]:
    if destination.host.startswith("-") or not destination.host or destination.user.startswith("-"):
        raise CannotConnect(f"{destination.user or destination.host!r} is not a name that ssh can connect to")
    options = ["-F", str(destination.ssh_config)] if destination.ssh_config is not None else []
    options += ["-p", str(destination.port)] if destination.port else []
    options += ["-l", destination.user] if destination.user else []
    return [*options, "--", destination.host]
