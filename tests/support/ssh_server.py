"""A real sshd on loopback, with keys of its own and nobody's configuration."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))
MISSING = "is missing: apt-get install openssh-server qemu-utils, or as root: python3 -m lab install-ssh"

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
PermitRootLogin prohibit-password
"""

CLIENT = """
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/{key}
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/{known}
    GlobalKnownHostsFile /dev/null
    ControlPath none
"""


@dataclass(frozen=True)
class Server:
    """An sshd that runs.

    :param folder: of its keys and configurations
    """

    folder: Path
    port: int

    def client(self, *, key: str = "key", known: str = "known_hosts", port: int = 0) -> Path:
        """A configuration for ssh, of the server's own or with something wrong about it."""
        text = CLIENT.format(port=port or self.port, user=getpass.getuser(), folder=self.folder, key=key, known=known)
        path = self.folder / f"config-{key}-{known}-{port}"
        path.write_text(text)
        return path

    def only(self, key: str, command: str) -> None:
        """Make a key that may start one command and nothing else."""
        make_key(self.folder / key)
        with open(self.folder / "authorized_keys", "a", encoding="ascii") as file:
            file.write(f'restrict,command="{command}" {(self.folder / f"{key}.pub").read_text()}')


def program(name: str) -> str:
    """Where a program is. A missing one is a failure: what nobody has run is not tested."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.fail(f"{name} {MISSING}")
    return found


def make_key(path: Path) -> None:
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start it, and end it whatever happens."""
    server = Server(folder, free_port())
    for name in ("host_key", "key", "stranger", "other_host_key"):
        make_key(folder / name)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    for known, name in (("known_hosts", "host_key"), ("changed_hosts", "other_host_key")):
        (folder / known).write_text(f"[127.0.0.1]:{server.port} {(folder / f'{name}.pub').read_text()}")
    (folder / "empty_hosts").touch()
    (folder / "sshd_config").write_text(SERVER.format(port=server.port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its unprivileged half up; empty, and it stays so
    with open(folder / "log", "wb") as log:
        daemon = subprocess.Popen([program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        _wait(server, daemon)
        yield server
    finally:
        daemon.terminate()
        daemon.wait(10)


def _wait(server: Server, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"sshd does not start: {(server.folder / 'log').read_text()}")
            time.sleep(0.02)
        else:
            return
