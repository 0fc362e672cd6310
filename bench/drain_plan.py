"""How long `drain-cell CELL --dry-run` takes for 10,000 servers, and how much memory; exits 1 when it is too much of either.

The whole command is timed, in words and in JSON; then its census by itself, which tells where the time goes.

The servers stand in a MariaDB (a throw-away one, unless --database or CELLMOVE_BENCH_DATABASE names one) with nova's
tables and indexes; the APIs are the sandbox's, whose own time is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import sqlalchemy
from sqlalchemy import event, insert, text

from cellmove.core import settings as settings_module
from cellmove.core.clock import Clock
from cellmove.drain import census
from cellmove.drain.item import Verdict
from cellmove.drain.options import DrainOptions
from cellmove.gateway import Gateway
from cellmove.sandbox.process import Process, start
from cellmove.sandbox.store import Cloud

SECONDS = 10.0
MEGABYTES = 200

INDEXES = {
    "cell": {
        "instances": (
            ("uuid", "deleted"),
            ("host", "node", "deleted"),
            ("project_id", "deleted"),
            ("task_state", "updated_at"),
        ),
        "instance_extra": (("instance_uuid",),),
        "instance_metadata": (("instance_uuid",),),
        "instance_system_metadata": (("instance_uuid",),),
        "block_device_mapping": (("instance_uuid",), ("instance_uuid", "device_name"), ("volume_id",)),
        "virtual_interfaces": (("instance_uuid",),),
        "instance_actions": (("instance_uuid",), ("request_id",)),
        "instance_actions_events": (("action_id",),),
        "instance_faults": (("instance_uuid", "deleted", "created_at"),),
        "instance_id_mappings": (("uuid",),),
        "migrations": (("deleted", "instance_uuid", "status"),),
    },
    "api": {
        "instance_mappings": (("cell_id",), ("project_id",)),
        "instance_group_member": (("instance_uuid",), ("group_id",)),
        "instance_group_policy": (("group_id",),),
    },
}
"""nova's own (nova/db/main/models.py, nova/db/api/models.py) besides keys that are unique, which the sandbox has."""

KINDS: tuple[tuple[int, dict[str, Any]], ...] = (
    (7, {"ports": 1, "volumes": 1}),
    (3, {"ports": 2, "volumes": 1, "volume_backed": True}),
)
"""Of every ten servers so many are made so."""

ODD = {
    "vm_state": (50, {"vm_state": "error"}),
    "locked": (40, {"locked": 1, "locked_by": "owner"}),
    "task_state": (90, {"task_state": "rebooting"}),
}
"""Every so manieth server has a reason to stay."""

KEPT = ("ports", "volumes", "attachments", "allocations")
"""What the sandbox remembers of a server that a census reads."""


# --- a database server ---


@contextlib.contextmanager
def mariadb(folder: Path) -> Iterator[str]:
    """A MariaDB of our own; gives the URL in front of its databases' names."""
    data, user = folder / "mariadb", pwd.getpwuid(os.geteuid()).pw_name
    make = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([*make, f"--datadir={data}", f"--user={user}"], check=True, stdout=subprocess.DEVNULL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mariadbd"
    statements = folder / "mariadb.sql"
    account = "bench@'127.0.0.1'"
    statements.write_text(f"FLUSH PRIVILEGES;\nCREATE USER {account};\nGRANT ALL ON *.* TO {account};\n")
    command = [
        program, "--no-defaults", f"--datadir={data}", "--bind-address=127.0.0.1", f"--port={port}", f"--user={user}",
        f"--init-file={statements}", "--socket=mariadb.sock", "--skip-name-resolve", "--skip-log-bin",
        "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--innodb-doublewrite=0",
        "--innodb-buffer-pool-size=512M", "--max-allowed-packet=64M", "--character-set-server=utf8mb4",
    ]  # fmt: skip
    with (folder / "mariadb.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"mysql+pymysql://bench@127.0.0.1:{port}/"
    try:
        while not answers(url):
            if server.poll() is not None:
                raise SystemExit(f"mariadbd ended: {(folder / 'mariadb.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def answers(url: str) -> bool:
    """Whether a database server lets us in."""
    try:
        with sqlalchemy.create_engine(url).connect():
            return True
    except sqlalchemy.exc.OperationalError:
        return False


# --- servers ---


def fill(process: Process, servers: int) -> None:
    """Servers are booted in the sandbox, one of each kind, and copied row by row, with ids of their own."""
    cloud = process.cloud()
    for name, engine in cloud.engines.items():
        with engine.begin() as connection:
            for table, keys in INDEXES["api" if name == "api" else "cell"].items():
                for number, key in enumerate(keys):
                    connection.execute(text(f"CREATE INDEX bench_{table}_{number} ON {table} ({', '.join(key)})"))
    templates = []
    for share, how in KINDS:
        made = [process.control("boot", name=f"template-{host}-{share}", host=host, **how)
                for host in ("c1-host1", "c1-host2")]  # fmt: skip
        templates += [Template(process.cloud(), each) for each in made] * share
    world: dict[str, dict[str, Any]] = {name: dict(vars(process.cloud().world)[name]) for name in KEPT}
    pending: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(servers - len(KINDS) * 2):
        templates[number % len(templates)].copy(number, pending, world)
        if number % 500 == 499:
            write(cloud, pending)
    write(cloud, pending)
    process.control("world", **world)
    for engine in cloud.engines.values():
        with engine.begin() as connection:
            for (table,) in connection.execute(text("SHOW TABLES")).all():
                connection.execute(text(f"ANALYZE TABLE {table}"))
        engine.dispose()


def write(cloud: Cloud, pending: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Insert what has been made so far."""
    for (where, table), rows in pending.items():
        with cloud.write(where) as connection:
            connection.execute(insert(cloud.table(table, "api" if where == "api" else "cell")), rows)
    pending.clear()


class Template:
    """A server that was booted, and all that it has."""

    def __init__(self, cloud: Cloud, server: str) -> None:
        self.server = server
        keys = {"instances": "uuid", "tags": "resource_id", "instance_id_mappings": "uuid"}
        names = ("instances", "instance_extra", "instance_info_caches", "instance_metadata", "instance_system_metadata",
                 "block_device_mapping", "virtual_interfaces", "tags", "instance_id_mappings", "instance_actions")  # fmt: skip
        self.rows = {
            ("cell1", name): cloud.rows("cell1", name, **{keys.get(name, "instance_uuid"): server}) for name in names
        }
        self.rows |= {
            ("api", name): cloud.rows("api", name, instance_uuid=server)
            for name in ("instance_mappings", "request_specs")
        }
        (action,) = self.rows["cell1", "instance_actions"]
        self.rows["cell1", "instance_actions_events"] = cloud.rows(
            "cell1", "instance_actions_events", action_id=action["id"]
        )
        devices = self.rows["cell1", "block_device_mapping"]
        self.parts = {
            "ports": {key: each for key, each in cloud.world.ports.items() if each["device_id"] == server},
            "attachments": {key: each for key, each in cloud.world.attachments.items() if each["instance"] == server},
            "allocations": {server: cloud.world.allocations[server]},
        }
        volumes = {each["volume_id"] for each in self.parts["attachments"].values()}
        self.parts["volumes"] = {key: cloud.world.volumes[key] for key in volumes}
        self.ids = [server, *self.parts["ports"], *self.parts["attachments"], *volumes]
        self.ids += [row["uuid"] for row in devices] + [row["uuid"] for row in self.rows["cell1", "virtual_interfaces"]]
        self.ids += [action["request_id"]]
        self.macs = [each["mac_address"] for each in self.parts["ports"].values()]

    def copy(self, number: int, pending: Any, world: Any) -> None:
        """One more like it."""
        new = {each: str(uuid.uuid4()) for each in self.ids}
        digits = f"{number * 4:08x}"
        for at, mac in enumerate(self.macs):
            new[mac] = f"fa:16:{digits[0:2]}:{digits[2:4]}:{digits[4:6]}:{int(digits[6:8], 16) + at:02x}"

        def renamed(value: Any) -> Any:
            if isinstance(value, str):
                for old, other in new.items():
                    if old in value:
                        value = value.replace(old, other)
            return value

        for place, rows in self.rows.items():
            for row in rows:
                made = {name: renamed(value) for name, value in row.items() if name != "id"}
                if place[1] == "instance_actions":
                    made["id"] = 1000 + number
                if place[1] == "instance_actions_events":
                    made["action_id"] = 1000 + number
                if place[1] == "instances":
                    made["display_name"] = f"server-{number}"
                    for every, odd in ODD.values():
                        made |= odd if number % every == 7 else {}
                pending.setdefault(place, []).append(made)
        for name, entries in self.parts.items():
            for key, entry in entries.items():
                world[name][new[key]] = json.loads(renamed(json.dumps(entry)))


# --- measuring, in a process of its own ---


def dry_run(form: str) -> None:
    """The command as it is typed: seconds, MB at most, how many servers it found and whether all, as a line of JSON.

    In a process of its own: what a parent needs counts as its child's, until the child is another program.
    """
    command = [sys.executable, "-m", "cellmove", "drain-cell", "cell1", "--dry-run", "-f", form]
    with tempfile.TemporaryFile("w+") as out:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out)
        _pid, status, used = os.wait4(process.pid, 0)
        spent = time.monotonic() - began
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        said = out.read()
    told = json.loads(said) if form == "json" else {"servers": [], "seen": {"whole": bool(said)}}
    document = {"servers": len(told["servers"]), "whole": told["seen"]["whole"]}
    print(json.dumps({"seconds": spent, "megabytes": used.ru_maxrss / 1024, **document}))


def peak_memory() -> float:
    """In MB, of this program alone: getrusage would count what its parent had, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(began: float) -> None:
    """Take the census and say what it cost, as a line of JSON."""
    spent = {"sql": 0.0, "rest": 0.0}
    counts = {"sql": 0, "rest": 0}
    send = requests.adapters.HTTPAdapter.send

    def timed(adapter: Any, request: Any, **options: Any) -> Any:
        before = time.monotonic()
        try:
            return send(adapter, request, **options)
        finally:
            counts["rest"] += 1
            spent["rest"] += time.monotonic() - before

    requests.adapters.HTTPAdapter.send = timed  # type: ignore[method-assign]

    def before_statement(connection: Any, *_rest: Any) -> None:
        connection.info["began"] = time.monotonic()

    def after_statement(connection: Any, *_rest: Any) -> None:
        counts["sql"] += 1
        spent["sql"] += time.monotonic() - connection.info["began"]

    event.listen(sqlalchemy.Engine, "before_cursor_execute", before_statement)
    event.listen(sqlalchemy.Engine, "after_cursor_execute", after_statement)
    gateway = Gateway(settings_module.load({}, os.environ))
    connected = time.time()
    found = census.take(gateway, Clock(), gateway.cell("cell1"), DrainOptions())
    verdicts = {each.value: sum(item.verdict is each for item in found.items) for each in Verdict}
    document = {
        "seconds": time.time() - began, "census": time.time() - connected, "rest": spent["rest"], "sql": spent["sql"],
        "rest_calls": counts["rest"], "statements": counts["sql"], "servers": len(found.items), "whole": found.is_whole,
        "megabytes": peak_memory(), **verdicts,
    }  # fmt: skip
    print(json.dumps(document))


def main() -> int:
    """Make the servers, and have their census taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=10_000)
    parser.add_argument("--database", default=os.environ.get("CELLMOVE_BENCH_DATABASE", ""),
                        help="URL in front of the names of databases, which are made anew")  # fmt: skip
    parser.add_argument("--measure", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.dry_run:
        dry_run(chosen.dry_run)
        return 0
    if chosen.measure:
        measure(chosen.measure)
        return 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellmove-bench-")))
        url = chosen.database or stack.enter_context(mariadb(folder))
        process = start(folder / "cloud", url)
        stack.callback(process.end)
        began = time.monotonic()
        fill(process, chosen.servers)
        print(f"{chosen.servers} servers made in {time.monotonic() - began:.0f} s", flush=True)

        def asked(*options: str) -> Any:
            command = [sys.executable, __file__, *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=process.environment)
            return json.loads(done.stdout.splitlines()[-1])

        listed, plain = asked("--dry-run", "json"), asked("--dry-run", "table")
        found = asked("--measure", str(time.time()))
    print(
        f"{found['servers']} servers: {found['movable']} movable, {found['refused']} refused\n"
        f"drain-cell --dry-run: {plain['seconds']:.1f} s (limit {SECONDS:.0f} s), {plain['megabytes']:.0f} MB "
        f"(limit {MEGABYTES} MB); as JSON {listed['seconds']:.1f} s, {listed['megabytes']:.0f} MB\n"
        f"its census by itself: {found['seconds']:.1f} s, of which {found['census']:.1f} s after connecting: "
        f"{found['statements']} statements in {found['sql']:.1f} s, "
        f"{found['rest_calls']} calls, some at once, which the sandbox took {found['rest']:.1f} s to answer\n"
        f"{found['megabytes']:.0f} MB at most"
    )
    right = found["servers"] == listed["servers"] == chosen.servers and found["whole"] and listed["whole"]
    runs = (plain, listed)
    return int(not right or any(run["seconds"] > SECONDS or run["megabytes"] > MEGABYTES for run in runs))


if __name__ == "__main__":
    sys.exit(main())
