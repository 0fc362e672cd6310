"""The demonstration: an embedded cloud, two servers, real commands and a kill; then a check for leftovers."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellmove.core.errors import RolledBack, Usage
from cellmove.sandbox import services
from cellmove.sandbox.process import Process, start
from cellmove.sandbox.seed import running_hosts
from cellmove.sandbox.store import CELLS, Cloud, cell_of, metadata
from cellmove.ui.console import draws_over

if TYPE_CHECKING:
    from cellmove.sandbox.store import Record

FIRST, SECOND = "web-1", "db-1"
FINISH_CALL = "finish_snapshot_based_resize_at_dest"
FINISH_TIMEOUT_SECONDS = 30.0
CONTROL_INTERVAL_SECONDS = 0.02


@dataclass(frozen=True)
class Expected:
    """Where a server has to be at the end."""

    name: str
    host: str
    flavor: str


def show(pace: float) -> None:
    """Run the whole demonstration, in a temporary directory that is removed afterwards.

    :param pace: seconds that a host takes between two of its writes
    :raises Usage: the extra ``demo`` is not installed
    :raises RolledBack: the state of the cloud at the end is wrong
    """
    if find_spec("bottle") is None:
        raise Usage("cellmove demo needs the package bottle: run pip install 'cellmove[demo]'")
    with tempfile.TemporaryDirectory(prefix="cellmove-demo-") as directory:
        _explain("An embedded cloud: cells cell1 and cell2, two hosts each. Everything except nova is real.")
        process = start(Path(directory))
        try:
            environment = {**process.environment, "CELLMOVE_JOURNAL": f"{directory}/journal.db"}
            Demonstration(process, environment, pace).run()
        finally:
            process.end()


@dataclass(frozen=True)
class Demonstration:
    """The commands of the demonstration, run against an embedded cloud.

    :param pace: seconds that a host takes between two of its writes
    """

    process: Process
    environment: Mapping[str, str]
    pace: float

    def run(self) -> None:
        """Move two servers, kill cellmove on the way, and check the result."""
        control = self.process.control
        servers = {
            FIRST: str(control("boot", name=FIRST, ports=2, volumes=1)),
            SECOND: str(control("boot", name=SECOND, volume_backed=True)),
        }
        control("pace", seconds=self.pace)
        _explain(f"Two servers in cell1: {FIRST} has its disk on the host, {SECOND} on a volume.")
        _list(self.process.cloud(), servers)

        _explain("Step by step. plan checks everything and changes nothing.")
        self._cellmove("plan", FIRST, "m1.small", "--cell", "cell2")
        self._cellmove("prep-dest", FIRST)
        self._cellmove("prep-source", FIRST)

        _explain("The worst moment: the guest is down, the target host starts it, and cellmove is killed.")
        self._kill_finish(servers[FIRST])
        self._cellmove("list")
        _explain(
            "The journal records the action in progress. resume reads its result from the cloud and repeats nothing."
        )
        self._cellmove("resume", FIRST)
        _list(self.process.cloud(), servers)
        self._cellmove("confirm", FIRST)

        _explain("The other server in one command, and back again.")
        self._cellmove("migrate", SECOND, "--host", "c2-host2")
        _list(self.process.cloud(), servers)
        self._cellmove("revert", SECOND)

        _explain("All moves of this journal:")
        self._cellmove("list", "--all")
        check_result(self.process.cloud(), servers)

    def _cellmove(self, *words: str) -> None:
        command = self._start(*words)
        try:
            exit_code = command.wait()
        finally:
            command.terminate()  # if the demonstration is interrupted
        if exit_code:
            cloud_code = self.process.process.poll()
            cloud_state = "" if cloud_code is None else f"; the embedded cloud ended with {cloud_code}"
            raise RolledBack(f"cellmove {shlex.join(words)} ended with {exit_code}{cloud_state}")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        click.echo(_bold(f"\n$ cellmove {shlex.join(words)}"))
        sys.stdout.flush()
        command = [sys.executable, "-m", "cellmove", *words]
        return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves

    def _kill_finish(self, server: str) -> None:
        """Run finish and kill it with SIGKILL while the target host is at work."""
        command = self._start("finish", FIRST)
        deadline = time.monotonic() + FINISH_TIMEOUT_SECONDS
        while not self._has_event("call begun", server):
            if command.poll() is not None or time.monotonic() > deadline:
                raise RolledBack(f"finish did not reach its call of the host: {command.poll()}")
            time.sleep(CONTROL_INTERVAL_SECONDS)
        time.sleep(2 * self.pace)
        command.kill()
        exit_code = command.wait()
        if draws_over(sys.stdout):
            click.echo("\x1b[?25h", nl=False)  # the killed process could not restore the cursor
        if exit_code != -signal.SIGKILL or self._has_event("call done", server):
            raise RolledBack("the kill came too late: try a larger --pace")
        click.echo(_bold(f"\n$ kill -9 {command.pid}"))

    def _has_event(self, event: str, server: str) -> bool:
        """Whether the history of the cloud has this event of the call that starts the guest."""
        return any(
            (entry["what"], entry.get("method"), entry.get("server")) == (event, FINISH_CALL, server)
            for entry in self.process.control("state")["history"]
        )


def _bold(text: str) -> str:
    return click.style(text, bold=True) if draws_over(sys.stdout) else text


def colored(text: str, color: str) -> str:
    """Return a text in a colour, or unchanged where NO_COLOR forbids escape sequences."""
    return click.style(text, fg=color) if draws_over(sys.stdout) else text


def _explain(text: str) -> None:
    click.echo(colored(f"\n# {text}", "cyan"))


def _list(cloud: Cloud, servers: Mapping[str, str]) -> None:
    """Print the servers as the cloud itself has them."""
    click.echo(f"\n  {'SERVER':8}{'STATE':10}{'CELL':8}{'HOST':10}{'vCPUs':7}GUEST RUNS ON")
    for name, server in servers.items():
        row, cell = _mapped_row(cloud, server)
        hosts = ", ".join(running_hosts(cloud, server)) or "no host"
        click.echo(f"  {name:8}{row['vm_state']:10}{cell:8}{row['host']:10}{row['vcpus']:<7}{hosts}")


def _mapped_row(cloud: Cloud, server: str) -> tuple[Record, str]:
    """The server's row in the cell that its mapping names, and that cell."""
    mapping = cloud.row("api", "instance_mappings", instance_uuid=server) or {}
    cell = CELLS[mapping["cell_id"] - 2]
    return cloud.row(cell, "instances", uuid=server, deleted=0) or {}, cell


def check_result(cloud: Cloud, servers: Mapping[str, str]) -> None:
    """Print where both servers are.

    :raises RolledBack: something is not where it has to be
    """
    target = str(_mapped_row(cloud, servers[FIRST])[0].get("host"))
    is_moved = target in cloud.world.guests and cell_of(target) == "cell2"
    errors = [] if is_moved else [f"{FIRST} is on {target}"]
    _list(cloud, servers)
    for expected in (Expected(FIRST, target, "m1.small"), Expected(SECOND, "c1-host1", "m1.tiny")):
        errors += [f"{expected.name}: {error}" for error in misplaced(cloud, servers[expected.name], expected)]
    errors += [f"the image {image['name']} remains" for image in cloud.world.images.values()]
    errors += [f"{consumer} holds allocations" for consumer in cloud.world.allocations.keys() - set(servers.values())]
    if not errors:
        click.echo("\n  no leftovers: no row in the other cell, no second binding, attachment or allocation, no image")
    for name, server in servers.items():
        errors += _check_guest(name, list(guest_history(cloud.world.history, server)))
    if errors:
        raise RolledBack("the result of the demonstration is wrong:\n" + "\n".join(errors))
    click.echo(colored("\n  all checks passed", "green"))


def _check_guest(name: str, events: list[tuple[str, str]]) -> Iterator[str]:
    """Print the history of a guest; yield an error if it ran on two hosts at once, or never moved."""
    click.echo(f"\n  the guest of {name}: " + ", ".join(f"{event} on {host}" for event, host in events))
    count = most_at_once(events)
    if count == 1:
        click.echo("  it never ran on two hosts at once")
    else:
        yield f"the guest of {name} ran on {count} hosts at once"
    if len(events) < 3:
        yield f"the guest of {name} was never moved: {events}"


def misplaced(cloud: Cloud, server: str, expected: Expected) -> Iterator[str]:
    """Yield an error for each record or resource of a server that is in the wrong place, or there twice."""
    row, cell = _mapped_row(cloud, server)
    state = (row.get("host"), row.get("vm_state"), row.get("task_state"), row.get("hidden"))
    if state != (expected.host, "active", None, 0):
        yield f"host, state, task and hidden are {state}"
    flavor = cloud.row("api", "flavors", name=expected.flavor) or {}
    if row.get("instance_type_id") != flavor["id"]:
        yield f"its flavor is number {row.get('instance_type_id')}, not {expected.flavor}"
    other_cell = next(name for name in CELLS if name != cell)
    for table in metadata("cell").tables.values():
        column = "uuid" if table.name == "instances" else "instance_uuid"
        if column in table.c and cloud.rows(other_cell, table.name, **{column: server}):
            yield f"{other_cell} still has rows in {table.name}"
    yield from _misplaced_on_hosts(cloud, server, expected.host)
    yield from _misplaced_resources(cloud, server, expected.host, cell)


def _misplaced_on_hosts(cloud: Cloud, server: str, host: str) -> Iterator[str]:
    if running_hosts(cloud, server) != [host]:
        yield f"its guest runs on {running_hosts(cloud, server)}"
    for kind, servers_by_host in (("guest", cloud.world.guests), ("disk", cloud.world.disks)):
        others = [name for name, servers in servers_by_host.items() if server in servers and name != host]
        if others:
            yield f"a {kind} remains on {others}"


def _misplaced_resources(cloud: Cloud, server: str, host: str, cell: str) -> Iterator[str]:
    for port in services.ports_of(cloud, server):
        bindings = {name: binding["status"] for name, binding in port["bindings"].items()}
        if bindings != {host: "ACTIVE"}:
            yield f"port {port['name']} is bound {bindings}"
    volumes = cloud.rows(cell, "block_device_mapping", instance_uuid=server, destination_type="volume", deleted=0)
    attachments = {
        attachment["id"]: (attachment["host"], attachment["status"])
        for attachment in cloud.world.attachments.values()
        if attachment["instance"] == server
    }
    if attachments != {volume["attachment_id"]: (host, "attached") for volume in volumes}:
        yield f"its volumes are attached {list(attachments.values())}"
    providers = list(services.held(cloud, server)["allocations"])
    if providers != [services.provider_of(host)]:
        yield f"it holds allocations of {providers}"


def guest_history(history: Iterable[Record], server: str) -> Iterator[tuple[str, str]]:
    """Yield ("started" or "stopped", host) for each start and stop of a guest."""
    for entry in history:
        if entry.get("server") == server and entry["what"] in ("guest started", "guest stopped"):
            yield entry["what"].removeprefix("guest "), entry["host"]


def most_at_once(events: Iterable[tuple[str, str]]) -> int:
    """Return on how many hosts a guest ran at the same time, at most."""
    running: list[str] = []
    most = 0
    for event, host in events:
        if event == "started":
            running.append(host)
        elif host in running:
            running.remove(host)
        most = max(most, len(running))
    return most
