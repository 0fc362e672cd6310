"""Lost journals, a sample of them (all: ``python -m tests.sandbox.lost``), and what adopt refuses.

In processes of their own: the sandbox listens to every HTTP call of its process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    """Run a module of the sandbox's tests, which has to end well."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=900
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_moves_whose_journal_was_lost_end_as_ever() -> None:
    assert ", 0 ended badly" in run("tests.sandbox.lost", "--sample", "23")
