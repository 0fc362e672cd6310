"""The alerts and the figures, as promtool of Prometheus sees them. It is installed by ``make promtool``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import typed

RULES = Path(__file__).parents[2] / "contrib" / "prometheus"


def promtool(*words: str, text: str = "") -> str:
    """Run promtool, which has to succeed; return what it said."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is missing: run `make promtool`")
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, cwd=RULES, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_the_rules_are_valid() -> None:
    assert "SUCCESS: 8 rules found" in promtool("check", "rules", "cellmove.rules.yml")


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "cellmove.rules.test.yml")


def test_a_text_file_is_valid_and_its_names_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    target = tmp_path / "cellmove.prom"
    assert typed("--journal", str(tmp_path / "journal.db"), "metrics", "--textfile", str(target)).exit_code == 0
    assert promtool("check", "metrics", text=target.read_text()) == ""
