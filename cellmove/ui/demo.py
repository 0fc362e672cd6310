"""The show: an embedded cloud, two servers, real commands and a kill; then a look at what they have left behind."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cellmove.core.errors import RolledBack, Usage
from cellmove.sandbox import services
from cellmove.sandbox.process import Process, start
from cellmove.sandbox.seed import running_hosts
from cellmove.sandbox.store import CELLS, Cloud, cell_of, metadata
from cellmove.ui.console import draws_over

FIRST, SECOND = "web-1", "db-1"
FINISH = "finish_snapshot_based_resize_at_dest"
PATIENCE = 30.0  # seconds until something that was begun has to be seen


@dataclass(frozen=True)
class Wanted:
    """Where a server has to be in the end."""

    name: str
    host: str
    flavor: str


def show(pace: float) -> None:
    """Run the whole show, in a temporary folder that is gone afterwards.

    :param pace: seconds that a host takes between two of its writes
    :raises Usage: the extra ``demo`` is not installed
    :raises RolledBack: something is not as it has to be
    """
    if find_spec("bottle") is None:
        raise Usage("cellmove demo needs the package bottle: run pip install 'cellmove[demo]'")
    with tempfile.TemporaryDirectory(prefix="cellmove-demo-") as folder:
        _say("An embedded cloud: cells cell1 and cell2, two hosts each. All that follows is real but for nova.")
        process = start(Path(folder))
        try:
            _play(process, {**process.environment, "CELLMOVE_JOURNAL": f"{folder}/journal.db"}, pace)
        finally:
            process.end()


def _play(process: Process, environment: Mapping[str, str], pace: float) -> None:
    def cellmove(*words: str) -> None:
        command = _started(environment, *words)
        try:
            ended = command.wait()
        finally:
            command.terminate()  # when the show is ended from outside; of one that has ended nothing comes
        if ended:
            died = "" if process.process.poll() is None else f"; the cloud ended with {process.process.poll()}"
            raise RolledBack(f"cellmove {shlex.join(words)} ended with {ended}{died}")

    servers = {
        FIRST: process.control("boot", name=FIRST, ports=2, volumes=1),
        SECOND: process.control("boot", name=SECOND, volume_backed=True),
    }
    process.control("pace", seconds=pace)
    _say(f"Two servers in cell1: {FIRST} with its disk on the host, {SECOND} on a volume.")
    _list(process.cloud(), servers)

    _say("Step by step. plan looks at everything and changes nothing.")
    cellmove("plan", FIRST, "m1.small", "--cell", "cell2")
    cellmove("prep-dest", FIRST)
    cellmove("prep-source", FIRST)

    _say("The worst moment: the guest is down, the target starts it, and cellmove is killed.")
    _killed(process, environment, servers[FIRST], pace)
    cellmove("list")
    _say("The journal knows what was begun; the cloud is asked what came of it. Nothing is done twice.")
    cellmove("resume", FIRST)
    _list(process.cloud(), servers)
    cellmove("confirm", FIRST)

    _say("The other one in one go, and back again.")
    cellmove("migrate", SECOND, "--host", "c2-host2")
    _list(process.cloud(), servers)
    cellmove("revert", SECOND)

    _say("What the operator saw:")
    cellmove("list", "--all")
    _judge(process.cloud(), servers)


def _started(environment: Mapping[str, str], *words: str) -> subprocess.Popen[bytes]:
    click.echo(_styled(f"\n$ cellmove {shlex.join(words)}", bold=True))
    sys.stdout.flush()
    command = [sys.executable, "-m", "cellmove", *words]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves


def _killed(process: Process, environment: Mapping[str, str], server: str, pace: float) -> None:
    """`kill -9` while the target host is at work."""
    command = _started(environment, "finish", FIRST)
    deadline = time.monotonic() + PATIENCE
    while not _told(process.control("state"), "call begun", server):
        if command.poll() is not None or time.monotonic() > deadline:
            raise RolledBack(f"finish did not come to its call of the host: {command.poll()}")
        time.sleep(0.02)
    time.sleep(2 * pace)
    command.kill()
    ended = command.wait()
    if draws_over(sys.stdout):
        click.echo("\x1b[?25h", nl=False)  # the killed one could not give the cursor back
    if ended != -signal.SIGKILL or _told(process.control("state"), "call done", server):
        raise RolledBack("the kill came too late: try a larger --pace")
    click.echo(_styled(f"\n$ kill -9 {command.pid}", bold=True))


def _styled(words: str, **style: Any) -> str:
    """Words in bold or colour, without an escape sequence where NO_COLOR asks for none."""
    return click.style(words, **style) if draws_over(sys.stdout) else words


def _told(state: Mapping[str, Any], what: str, server: str) -> bool:
    """Whether the history has that of the call that starts the guest."""
    return any(
        (each["what"], each.get("method"), each.get("server")) == (what, FINISH, server) for each in state["history"]
    )


def _say(words: str) -> None:
    click.echo(_styled(f"\n# {words}", fg="cyan"))


def _list(cloud: Cloud, servers: Mapping[str, str]) -> None:
    """What the cloud itself says of the servers."""
    click.echo(f"\n  {'SERVER':8}{'STATE':10}{'CELL':8}{'HOST':10}{'vCPUs':7}GUEST RUNS ON")
    for name, server in servers.items():
        row, cell = _home(cloud, server)
        running = ", ".join(running_hosts(cloud, server)) or "no host"
        click.echo(f"  {name:8}{row['vm_state']:10}{cell:8}{row['host']:10}{row['vcpus']:<7}{running}")


def _home(cloud: Cloud, server: str) -> tuple[Mapping[str, Any], str]:
    """The server's row in the cell that its mapping names."""
    mapping = cloud.row("api", "instance_mappings", instance_uuid=server) or {}
    cell = CELLS[mapping["cell_id"] - 2]
    return cloud.row(cell, "instances", uuid=server, deleted=0) or {}, cell


def _judge(cloud: Cloud, servers: Mapping[str, str]) -> None:
    """Show where everything is, and stop if anything is not as it has to be."""
    target = str(_home(cloud, servers[FIRST])[0].get("host"))
    wrong = [] if target in cloud.world.guests and cell_of(target) == "cell2" else [f"{FIRST} is on {target}"]
    _list(cloud, servers)
    for wanted in (Wanted(FIRST, target, "m1.small"), Wanted(SECOND, "c1-host1", "m1.tiny")):
        wrong += [f"{wanted.name}: {what}" for what in misplaced(cloud, servers[wanted.name], wanted)]
    wrong += [f"image {image['name']} is left" for image in cloud.world.images.values()]
    wrong += [f"{consumer} holds allocations" for consumer in cloud.world.allocations.keys() - set(servers.values())]
    if not wrong:
        click.echo("\n  left over: no row in the other cell, no second binding or attachment, no allocation, no image")
    for name, server in servers.items():
        lives = list(guest_history(cloud.world.history, server))
        click.echo(f"\n  the guest of {name}: " + ", ".join(f"{what} on {host}" for what, host in lives))
        most = most_at_once(lives)
        if most == 1:
            click.echo("  it never ran on two hosts at once")
        else:
            wrong.append(f"the guest of {name} ran on {most} hosts at once")
        if len(lives) < 3:
            wrong.append(f"the guest of {name} was never moved: {lives}")
    if wrong:
        raise RolledBack("the show did not end as it should:\n" + "\n".join(wrong))
    click.echo(_styled("\n  all is as it should be", fg="green"))


def misplaced(cloud: Cloud, server: str, wanted: Wanted) -> Iterable[str]:
    """What is not where it has to be, or is there once more than it has to be."""
    row, cell = _home(cloud, server)
    seen = (row.get("host"), row.get("vm_state"), row.get("task_state"), row.get("hidden"))
    if seen != (wanted.host, "active", None, 0):
        yield f"host, state, task and hidden are {seen}"
    flavor = cloud.row("api", "flavors", name=wanted.flavor) or {}
    if row.get("instance_type_id") != flavor["id"]:
        yield f"its flavor is number {row.get('instance_type_id')}, not {wanted.flavor}"
    other = next(each for each in CELLS if each != cell)
    for table in metadata("cell").tables.values():
        column = "uuid" if table.name == "instances" else "instance_uuid"
        if column in table.c and cloud.rows(other, table.name, **{column: server}):
            yield f"{other} still has rows in {table.name}"
    world = cloud.world
    if running_hosts(cloud, server) != [wanted.host]:
        yield f"its guest runs on {running_hosts(cloud, server)}"
    for what, places in (("guest", world.guests), ("disk", world.disks)):
        strange = [host for host, there in places.items() if server in there and host != wanted.host]
        if strange:
            yield f"a {what} is left on {strange}"
    for port in services.ports_of(cloud, server):
        bound = {host: binding["status"] for host, binding in port["bindings"].items()}
        if bound != {wanted.host: "ACTIVE"}:
            yield f"port {port['name']} is bound {bound}"
    mapped = cloud.rows(cell, "block_device_mapping", instance_uuid=server, destination_type="volume", deleted=0)
    attached = {each["id"]: (each["host"], each["status"]) for each in world.attachments.values()
                if each["instance"] == server}  # fmt: skip
    if attached != {each["attachment_id"]: (wanted.host, "attached") for each in mapped}:
        yield f"its volumes are attached {list(attached.values())}"
    held = list(services.held(cloud, server)["allocations"])
    if held != [services.provider_of(wanted.host)]:
        yield f"it holds allocations of {held}"


def guest_history(history: Iterable[Mapping[str, Any]], server: str) -> Iterable[tuple[str, str]]:
    """(started or stopped, host) for each time that the guest was."""
    for each in history:
        if each.get("server") == server and each["what"] in ("guest started", "guest stopped"):
            yield each["what"].removeprefix("guest "), each["host"]


def most_at_once(lives: Iterable[tuple[str, str]]) -> int:
    """On how many hosts a guest ran at the same time, at most."""
    running: list[str] = []
    most = 0
    for what, host in lives:
        if what == "started":
            running.append(host)
        elif host in running:
            running.remove(host)
        most = max(most, len(running))
    return most
