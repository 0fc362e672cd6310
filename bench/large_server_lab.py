"""What a long history and many volumes and ports cost, against the lab: moves by cellmove, and by nova beside them.

Three servers on volumes: one with one port and nothing else, one with 16 volumes and 8 ports more, one with 20,000
actions in its history. Of each: ``plan --dry-run``, ``migrate`` and ``revert``; how long the guest was down; and the
same move and revert by nova's own API. With --before DIRECTORY, a checkout of an earlier cellmove, that version is
measured in the same run. Exits 1 when 20,000 actions add more than is wanted.

    python bench/large_server_lab.py --before /tmp/before
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ACTIONS, VOLUMES, PORTS = 20_000, 16, 8
MOVE_WANTED_SECONDS, DOWN_WANTED_SECONDS = 3.0, 1.0
"""What 20,000 actions may add to a whole move, and to the time for which the guest is down."""


RECORDED = """\
recorded of dd7b10c, seconds              plan     move   down   revert
dd7b10c: plain                            2.3      6.2    2.0      4.6
dd7b10c: volumes and ports                3.1     17.3   10.3     17.6
dd7b10c: 20,000 actions add                      258.5   -0.2    564.9"""


@dataclass(frozen=True)
class Times:
    """Seconds of one server's plan, move and revert.

    :param down: from the action that stops the guest to the end of the one that starts it
    """

    plan: float
    move: float
    down: float
    revert: float


def lab_environment() -> None:
    """Take the lab's settings into this process and its children."""
    script = f"set -a; . '{ROOT / '.lab' / 'env'}'; env -0"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    os.environ.update(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)


def seconds(what: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


def by_cellmove(directory: Path, server: str) -> Times:
    """Plan, move and revert a server with the cellmove of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text("[policy]\nunattended = true\n")
        environment = os.environ | {
            "PYTHONPATH": str(directory), "CELLMOVE_JOURNAL": f"{folder}/journal.db", "CELLMOVE_CONFIG": str(config),
        }  # fmt: skip

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "cellmove", "-f", "json", *words]
            ended = subprocess.run(command, check=True, cwd=directory, env=environment, capture_output=True, text=True)
            return ended.stdout

        plan = seconds(lambda: run("plan", server, "--host", "c2-host1", "--dry-run"))
        move = seconds(lambda: run("migrate", server, "--host", "c2-host1"))
        down = down_seconds(json.loads(run("show", server)))
        revert = seconds(lambda: run("revert", server))
        return Times(plan, move, down, revert)


def down_seconds(document: dict[str, Any]) -> float:
    """How long a guest was down, of a move's document."""
    actions = {each["action"]: each for step in document["steps"] for each in step["actions"]}
    began = datetime.fromisoformat(actions["stop_source"]["started_at"])
    return (datetime.fromisoformat(actions["start_target"]["finished_at"]) - began).total_seconds()


def by_nova(server: str) -> Times:
    """Move and revert a server with nova's own API."""
    from lab import cloud

    move = seconds(lambda: cloud.native_move(server, host="c2-host1"))
    revert = seconds(lambda: cloud.native_revert(server))
    return Times(0, move, 0, revert)


def add_history(server: str) -> None:
    """Give a server a history as long as that of one that was started and stopped for years."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(os.environ["CELLMOVE_LAB_CELL1_DB"])
    tables = sqlalchemy.MetaData()
    tables.reflect(engine, only=["instance_actions", "instance_actions_events"])
    actions, events = tables.tables["instance_actions"], tables.tables["instance_actions_events"]
    now = datetime(2026, 1, 1)  # noqa: DTZ001 - as nova writes times
    mine = actions.c.instance_uuid == server
    with engine.begin() as connection:
        rows = [
            {
                "action": "start", "instance_uuid": server, "request_id": f"req-{uuid.uuid4()}", "user_id": "u" * 32,
                "project_id": "p" * 32, "start_time": now, "created_at": now, "deleted": 0,
            }
            for _ in range(ACTIONS)
        ]  # fmt: skip
        connection.execute(actions.insert(), rows)
        ids = connection.execute(sqlalchemy.select(actions.c.id).where(mine, actions.c.action == "start")).scalars()
        event = {
            "event": "compute_start_instance", "start_time": now, "finish_time": now, "result": "Success",
            "created_at": now, "deleted": 0, "host": "c1-host1",
        }  # fmt: skip
        connection.execute(events.insert(), [{**event, "action_id": number} for number in ids])


def report(name: str, times: Times) -> None:
    """Print one line."""
    plan, down = (f"{value:7.1f}" if value else " " * 7 for value in (times.plan, times.down))
    print(f"{name:36}{plan}{times.move:9.1f}{down}{times.revert:9.1f}", flush=True)


def main() -> int:
    """Boot, measure in turns, and print; 1 when the history adds too much."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, help="a checkout of an earlier cellmove")
    chosen = parser.parse_args()
    lab_environment()
    from lab import cloud

    token = uuid.uuid4().hex[:6]
    servers: dict[str, str] = {}
    added = Times(0, 0, 0, 0)
    try:
        for name, volumes, ports in (("plain", 0, 1), ("volumes and ports", VOLUMES, PORTS), ("history", 0, 1)):
            word = f"bench-{name.partition(' ')[0]}-{token}"
            servers[name] = cloud.boot(word, host="c1-host1", volume_backed=True, volumes=volumes, ports=ports)
        add_history(servers["history"])
        print(RECORDED)
        print(f"{'seconds':36}{'plan':>7}{'move':>9}{'down':>7}{'revert':>9}")
        versions = [("cellmove", ROOT), *([("before", chosen.before)] if chosen.before else [])]
        for version, directory in reversed(versions):
            found = {name: by_cellmove(directory, server) for name, server in servers.items()}
            for name, times in found.items():
                report(f"{version}: {name}", times)
            plain, long = found["plain"], found["history"]
            added = Times(0, long.move - plain.move, long.down - plain.down, long.revert - plain.revert)
            report(f"{version}: {ACTIONS:,} actions add", added)
        for name, server in servers.items():
            report(f"nova: {name}", by_nova(server))
    finally:
        for server in servers.values():
            cloud.delete(server)
    print(f"wanted: {ACTIONS:,} actions add at most {MOVE_WANTED_SECONDS} s, {DOWN_WANTED_SECONDS} s of them down")
    return int(added.move > MOVE_WANTED_SECONDS or added.down > DOWN_WANTED_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
