"""The connections to compute hosts' disks of one run: opened when first asked for, kept while their server is worked on.

The program at the other end remembers what it has read, so a connection that is kept makes the next pass cheap.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cellmove.core.errors import CallFailed
from cellmove.core.transfer import Host, Ssh

if TYPE_CHECKING:
    from cellmove.hosts.disk_link import Link
    from cellmove.hosts.disk_ssh import Destination


def destination(ssh: Ssh, host: str) -> Destination:
    """Return how a compute host is reached.

    :param host: nova's name for it
    """
    from cellmove.hosts.disk_ssh import Destination

    own = ssh.hosts.get(host, Host())
    return Destination(
        host=own.address or host,
        instances_path=own.instances_path or ssh.instances_path,
        user=own.user or ssh.user,
        port=own.port,
        ssh_config=ssh.config,
        become=ssh.become,
        python=ssh.python,
    )


class DiskLinks:
    """Shared by a run's threads; each server's connections are used by the one thread that works on it.

    :param ssh: how hosts are reached; None: they are not
    """

    def __init__(self, ssh: Ssh | None) -> None:
        self._ssh = ssh
        self._open: dict[tuple[str, str], tuple[Link, ExitStack]] = {}
        self._turn = threading.Lock()

    def to(self, host: str, server_id: str, move_id: str) -> Link:
        """The connection to a host for a server's move.

        :raises CallFailed: ssh is not configured
        :raises CannotConnect: the host does not let us in
        """
        if self._ssh is None:
            raise CallFailed("ssh is not configured any more: the table [ssh] is missing in config.toml", kind="usage")
        with self._turn:
            found = self._open.get((server_id, host))
        if found is not None and found[0].usable and found[0].move_id == move_id:
            return found[0]
        if found is not None:
            found[1].close()
        from cellmove.hosts.disk_link import connect

        stack = ExitStack()
        link = stack.enter_context(connect(destination(self._ssh, host), move_id))
        with self._turn:
            self._open[server_id, host] = (link, stack)
        return link

    def close(self, server_id: str) -> None:
        """End a server's connections; the programs at their other ends end with them."""
        with self._turn:
            mine = [self._open.pop(key) for key in list(self._open) if key[0] == server_id]
        for _link, stack in mine:
            stack.close()
