"""A misspelt function, attribute, part of a plan or of a result is an error of mypy's: each is injected into a copy of its module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Fault:
    """A word of a module, and what it is misspelt as."""

    module: str
    right: str
    wrong: str


FAULTS = {
    "function": Fault("cellmove/steps/finish.py", "state.carry_over(", "state.cary_over("),
    "attribute": Fault("cellmove/steps/finish.py", "context.gateway.api_engine", "context.gateway.api_engin"),
    "part of the plan": Fault("cellmove/steps/finish.py", "plan.request_id", "plan.reqest_id"),
    "part of a result": Fault("cellmove/steps/stream_off.py", "context[COPY_REST].stopped", "context[COPY_REST].stopt"),
    "part of a result that is made": Fault("cellmove/steps/stream_off.py", "stopped=stamps", "stopt=stamps"),
    "part of an intent": Fault("cellmove/steps/prep_source.py", "intent.image_id", "intent.imageid"),
    "type of another action's result": Fault(
        "cellmove/steps/prep_source.py", "Action(\n        CREATE_IMAGE", "Action(\n        STOP_SOURCE"
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What mypy says of each copy, by the fault; "" for a copy without any."""
    folder = tmp_path_factory.mktemp("faulty")
    files = {}
    for number, (name, fault) in enumerate(FAULTS.items()):
        source = (ROOT / fault.module).read_text(encoding="utf-8")
        assert fault.right in source
        files[name] = folder / f"faulty_{number}.py"
        files[name].write_text(source.replace(fault.right, fault.wrong), encoding="utf-8")
    files[""] = folder / "as_it_is.py"
    files[""].write_text((ROOT / "cellmove/steps/finish.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files.values())]
    environment = os.environ | {"MYPYPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    return {name: "\n".join(line for line in lines if path.name in line) for name, path in files.items()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_misspelt_word_is_an_error(said: Mapping[str, str], name: str) -> None:
    word = FAULTS[name].wrong.rpartition(".")[2].rpartition(" ")[2].strip("(").partition("=")[0]
    assert "error:" in said[name]
    assert word in said[name] or "type" in name


def test_a_copy_without_a_fault_has_no_error(said: Mapping[str, str]) -> None:
    assert said[""] == ""
