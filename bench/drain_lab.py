"""How long the lab takes to empty a cell: ``drain-cell --parallel 8`` against loops of nova's own migrate and confirm.

Needs the lab (``make lab-up``) with nothing in cell1. The same servers are moved to cell2 in three ways, and back by nova in
between: by a plain loop, as it is typed in a shell, of ``openstack server migrate --wait`` and ``openstack server migration
confirm``; by the same loop in one process that logs in once and looks every quarter of a second, which is the least that
one server after another can take; and by cellmove. Exits 1 when cellmove is not at least twice as fast as the plain loop.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WANTED = 2.0

PLAIN_LOOP = """
while read -r server host; do
  openstack --os-compute-api-version 2.56 server migrate --host "$host" --wait "$server" </dev/null &&
  openstack server migration confirm "$server" </dev/null || exit 1
done
"""


def lab_environment() -> None:
    """What `. .lab/env` gives, for this process and its children."""
    script = f"set -a; . '{ROOT / '.lab' / 'env'}'; env -0"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    os.environ.update(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)


def type_plain_loop(servers: list[str]) -> None:
    """The loop in a shell, until the last one is confirmed."""
    from lab import cloud, layout

    pairs = "".join(f"{server} {target(number)}\n" for number, server in enumerate(servers))
    path = f"{layout.load().venv / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", PLAIN_LOOP], input=pairs, text=True, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    for server in servers[-1:]:
        cloud.wait_migration(server, "confirmed")


def loop_in_one_process(servers: list[str]) -> None:
    """One after the other, without a moment lost."""
    from lab import cloud

    for number, server in enumerate(servers):
        cloud.native_move(server, host=target(number))
        cloud.native_confirm(server)


def drain(parallel: int) -> None:
    """What this is about."""
    from lab import cloud

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text("[policy]\nunattended = true\n")
        environment = {**os.environ, "CELLMOVE_JOURNAL": f"{folder}/journal.db", "CELLMOVE_CONFIG": str(config)}
        source, to = (cloud.layout().operator_name(cell) for cell in ("cell1", "cell2"))
        command = [sys.executable, "-m", "cellmove", "drain-cell", source, "--to", to, "--no-cordon"]
        subprocess.run([*command, "--parallel", str(parallel)], check=True, cwd=ROOT, env=environment)


def target(number: int) -> str:
    """The hosts of cell2 in turn."""
    return f"c2-host{1 + number % 2}"


def seconds(what: Callable[[], None]) -> float:
    """How long it takes."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


def main() -> int:
    """Boot, move in one way, bring back, move in the next, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", type=int, default=24)
    parser.add_argument("--parallel", type=int, default=8)
    chosen = parser.parse_args()
    lab_environment()
    from lab import cloud

    token = uuid.uuid4().hex[:6]

    def boot(number: int) -> str:
        name = f"bench-{number}-{token}"
        return str(cloud.boot(name, host=f"c1-host{1 + number % 2}", volume_backed=number % 2 == 1))

    def home(pair: tuple[int, str]) -> None:
        cloud.native_move(pair[1], host=f"c1-host{1 + pair[0] % 2}")
        cloud.native_confirm(pair[1])

    with ThreadPoolExecutor(4) as threads:
        servers = list(threads.map(boot, range(chosen.servers)))
        try:
            typed = seconds(lambda: type_plain_loop(servers))
            list(threads.map(home, enumerate(servers)))
            native = seconds(lambda: loop_in_one_process(servers))
            list(threads.map(home, enumerate(servers)))
            ours = seconds(lambda: drain(chosen.parallel))
        finally:
            list(threads.map(cloud.delete, servers))
    print(f"{'':50}{'seconds':>9}{'a server':>10}{'times as fast':>15}")
    for name, spent in (
        ("plain loop: openstack server migrate, and confirm", typed),
        ("the same in one process, looking all the time", native),
        (f"cellmove drain-cell --parallel {chosen.parallel}", ours),
    ):
        print(f"{name:50}{spent:9.1f}{spent / chosen.servers:10.1f}{spent / ours:15.2f}")
    print(f"wanted: {WANTED:.0f} times as fast as the plain loop")
    return int(typed / ours < WANTED)


if __name__ == "__main__":
    sys.exit(main())
