"""Reports how much CPU time ``cellmove --help`` costs over bare Python."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

RUNS = 9
USUAL_SECONDS = 0.15
"""More than this wants a look; what may not be imported at the start is tested in tests/unit/ui/test_cli.py."""


def cpu_seconds(*arguments: str) -> float:
    """The CPU time, own and system, that one child process took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure both in turns and print the medians; 0."""
    bare, ours = [], []
    cpu_seconds("-m", "cellmove", "--help")  # once for the byte code
    for _run in range(RUNS):
        bare.append(cpu_seconds("-c", "pass"))
        ours.append(cpu_seconds("-m", "cellmove", "--help"))
    difference = statistics.median(ours) - statistics.median(bare)
    print(
        f"python -c pass {statistics.median(bare):.3f} s, cellmove --help {statistics.median(ours):.3f} s,"
        f" difference {difference:.3f} s (usually below {USUAL_SECONDS} s, medians of {RUNS} runs)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
