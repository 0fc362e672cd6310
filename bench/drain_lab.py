"""How long the lab takes to empty a cell: ``drain-cell --parallel 8`` against a plain loop of nova's own migrate and confirm.

Needs the lab (``make lab-up``) with nothing in cell1. The same servers are moved both ways: by nova's loop to cell2, back
by nova, then by cellmove. Exits 1 when cellmove is not at least twice as fast.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WANTED = 2.0


def lab_environment() -> None:
    """What `. .lab/env` gives, for this process and its children."""
    script = f"set -a; . '{ROOT / '.lab' / 'env'}'; env -0"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    os.environ.update(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)


def main() -> int:
    """Boot, move natively, bring back, drain, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", type=int, default=16)
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
            began = time.monotonic()
            for number, server in enumerate(servers):
                cloud.native_move(server, host=f"c2-host{1 + number % 2}")
                cloud.native_confirm(server)
            native = time.monotonic() - began
            list(threads.map(home, enumerate(servers)))
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "config.toml"
                config.write_text("[policy]\nunattended = true\n")
                environment = {
                    **os.environ, "CELLMOVE_JOURNAL": f"{folder}/journal.db", "CELLMOVE_CONFIG": str(config),
                }  # fmt: skip
                command = [sys.executable, "-m", "cellmove", "drain-cell", "cell1", "--to", "cell2", "--no-cordon"]
                began = time.monotonic()
                subprocess.run([*command, "--parallel", str(chosen.parallel)], check=True, cwd=ROOT, env=environment)
                ours = time.monotonic() - began
        finally:
            list(threads.map(cloud.delete, servers))
    ratio = native / ours
    print(f"{'':34}{'seconds':>9}{'a server':>10}")
    print(f"{'nova, migrate + confirm in a loop':34}{native:9.1f}{native / chosen.servers:10.1f}")
    print(f"{f'cellmove drain-cell --parallel {chosen.parallel}':34}{ours:9.1f}{ours / chosen.servers:10.1f}")
    print(f"{'times as fast':34}{ratio:9.1f}   (wanted: {WANTED:.0f})")
    return int(ratio < WANTED)


if __name__ == "__main__":
    sys.exit(main())
