"""Every refusal and every warning of the plan, tripped through the command line; none is forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import cellmove
from cellmove.checks import preflight
from cellmove.core.move import LOSSES, Move
from cellmove.engine.journal_open import open_journal
from tests.support.sandbox.environment import Sandbox, change_cloud
from tests.support.sandbox.harness import copy_databases, put_databases_back
from tests.support.sandbox.refusals import CASES, Case, is_compared, require_found

PACKAGE = Path(cellmove.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "preflight.md"
PASSED_ON = {"code", "rule.code", "found.code"}
"""Where a code comes from somewhere else that is looked at as well."""

NEEDS_A_THIRD_CELL = dict.fromkeys(
    ("target-conductor-down", "no-live-compute", "target-too-old", "availability-zone", "no-room", "no-valid-host", "volume-zone", "leftovers", "schema", "schema-needs", "schema-narrow",
     "shared-disk-store", "disk-store-unknown", "target-hypervisor", "target-architecture"),
    "warning",
)  # fmt: skip
"""Documented levels without a case here: it takes another healthy cell to go to, and the sandbox has two in all."""

UNREACHED = {"target-unreachable": "refusal"}
"""Without a case here: of the only cell there is, it ends with 4 instead of a list of checks."""


EXAMPLES = {"vm-state", "locked", "quota", "loses-swap", "config-drive"}
"""Codes whose cases are typed as commands although they need none."""

OF_DISKS = {"cannot-stream", "disks-in-danger"}
"""Without a case here: they need hosts with disks; see tests/ssh/test_streamed_moves.py."""

OF_RIGHTS = {"rights", "target-rights"}
"""Without a case here: SQLite knows no users; see tests/lab/test_plan_checks.py and tests/unit/db/test_rights.py."""


def codes_in_the_source() -> set[str]:
    """Every code that the checks can give, read from their source."""
    found: set[str] = set()
    asked = {check.__module__ for group in (*preflight.CHECKS, preflight.MARKED) for check in group.checks}
    checks = [PACKAGE / "checks" / f"{name.rpartition('.')[2]}.py" for name in asked]
    for path in (*checks, PACKAGE / "core" / "policy.py", PACKAGE / "operations" / "permission.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in ("refusal", "warning", "PolicyViolation"):
                assert isinstance(node, ast.Call)
                found |= codes_of(node.args[0])
            if path.name == "target.py" and isinstance(node, ast.Tuple) and len(node.elts) == 3:
                first = node.elts[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


def codes_of(expression: ast.expr) -> set[str]:
    """The codes that an argument stands for."""
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    if ast.unparse(expression) == "f'loses-{loss.name}'":
        return {f"loses-{name}" for name in LOSSES if name != "config-drive"}
    assert ast.unparse(expression) in PASSED_ON, f"a code that cannot be read: {ast.unparse(expression)}"
    return set()


@pytest.fixture
def broken(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The cloud, which is put back as it was."""
    folder = Path(sandbox.process.own_environment["CELLMOVE_NOVA_CONF"]).parent
    world, databases = asdict(sandbox.process.cloud().world), copy_databases(folder.glob("*.db"))
    yield sandbox
    put_databases_back(folder, databases)
    sandbox.process.control("world", **world)
    sandbox.made.clear()


def plan(sandbox: Sandbox, case: Case, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Boot the server, change the cloud, and ask."""
    server = sandbox.boot("bad", **case.boot)
    change_cloud(sandbox, case.change, server.id)
    env = dict(case.env)
    if case.config:
        config = tmp_path / "config.toml"
        config.write_text(f"[policy]\n{case.config}\n")
        env["CELLMOVE_CONFIG"] = str(config)
    runs = case.config == "unattended = false"
    verb = ("resize" if case.flavor else "migrate",) if runs else ("plan",)
    name = server.id if case.by_id else server.name
    words = (*verb, name, *([case.flavor] if case.flavor else []), *case.where, *case.options, "-f", "json")
    ended = sandbox.cellmove(*words, *(() if runs else ("--dry-run",)), expect=None, env=env)
    return ended.code, ended.json


def moves_of(sandbox: Sandbox) -> list[Move]:
    """The moves in the test's journal, if there is one."""
    journal = sandbox.folder / "journal.db"
    return list(open_journal(str(journal), str).all_moves()) if journal.exists() else []


def is_typed(code: str, case: Case) -> bool:
    """Return whether a case needs a command: tests/sandbox/test_census.py plans the others in one process."""
    of_the_command = case.options or case.env or case.config or case.by_id
    return bool(of_the_command) or code in EXAMPLES or not is_compared(code, case)


@pytest.mark.parametrize(
    ("code", "case"),
    [
        pytest.param(code, case, id=f"{code}-{n}")
        for code, cases in CASES.items()
        for n, case in enumerate(cases)
        if is_typed(code, case)
    ],
)
def test_it_is_found(broken: Sandbox, tmp_path: Path, code: str, case: Case) -> None:
    exit_code, document = plan(broken, case, tmp_path)
    assert "checks" in document, document
    require_found(code, case, document["checks"])
    assert exit_code == (5 if case.level == "refusal" else 0)
    assert moves_of(broken) == []


def test_all_are_shown_at_once(broken: Sandbox, tmp_path: Path) -> None:
    codes = (
        "vm-state",
        "locked",
        "shares",
        "disk-too-small",
        "port-resources",
        "loses-swap",
        "no-live-compute",
        "quota",
    )

    def change(cloud: Any, server: str) -> None:
        for code in codes:
            CASES[code][0].change(cloud, server)

    exit_code, document = plan(
        broken, Case("refusal", change, flavor="m1.small", config='deny.tags = "blue"'), tmp_path
    )
    assert exit_code == 5
    assert {check["code"] for check in document["checks"] if check["level"] == "refusal"} >= {*codes, "policy-denied"}


def test_no_code_is_forgotten() -> None:
    known = codes_in_the_source()
    assert len(known) > 60
    assert known == set(CASES) | OF_DISKS | OF_RIGHTS


def test_the_document_lists_every_code_with_its_level() -> None:
    rows = [line.split("|") for line in DOCUMENT.read_text().splitlines() if re.match(r"\| `[a-z0-9-]+` \|", line)]
    listed = {cells[1].strip().strip("`"): cells[2].strip() for cells in rows}
    assert set(listed) == codes_in_the_source()
    for code, cases in CASES.items():
        without = NEEDS_A_THIRD_CELL.get(code, UNREACHED.get(code, ""))
        assert {case.level for case in cases} == set(listed[code].split(", ")) - {without}, code


def test_only_what_is_named_is_accepted_and_it_is_remembered(sandbox: Sandbox) -> None:
    server = sandbox.boot("both", ports=1)
    for code in ("loses-ephemeral", "loses-swap"):
        change_cloud(sandbox, CASES[code][0].change, server.id)
    words = ("migrate", server.name, "--host", "c2-host1")
    refused = sandbox.cellmove(*words, "--accept-loss", "swap", "-f", "json", expect=5)
    assert [check["code"] for check in refused.json["checks"] if check["level"] == "refusal"] == ["loses-ephemeral"]
    assert refused.json["error"]["next"].endswith("--accept-loss swap")
    wrong = sandbox.cellmove(*words, "--accept-loss=swop", expect=2)
    assert "there is no 'swop'" in wrong.stderr
    assert "ephemeral, swap" in wrong.stderr
    done = sandbox.cellmove(*words, "--accept-loss=swap,ephemeral", "-f", "json")
    assert done.json["accepted_losses"] == ["swap", "ephemeral"]
    assert done.json["state"] == "finished"
    shown = sandbox.cellmove("show", server.name)
    assert "the loss of swap, ephemeral" in shown.stdout
    assert sandbox.cellmove(*words, "--accept-loss=swap,ephemeral").stderr == "", "the same command again does nothing"
    back = sandbox.cellmove("revert", server.name, "-f", "json").json
    assert back["accepted_losses"] == ["swap", "ephemeral"]


@pytest.mark.parametrize(("cell", "where"), [("cell1", "cell2"), ("cell2", "cell2"), ("cell2", "")])
def test_a_bus_alone_ends_with_4_and_names_its_cell_and_setting(broken: Sandbox, cell: str, where: str) -> None:
    server = broken.boot("bus", ports=1)
    change_cloud(broken, lambda cloud, _server: cloud.update(
        "api", "cell_mappings", {"transport_url": "sandbox://127.0.0.1:9/bus"}, name=cell), server.id)  # fmt: skip
    for verb in (("plan",), ("plan", "--dry-run"), ("migrate",)):
        words = (*verb[:1], server.name, *verb[1:], *(("--cell", where) if where else ()))
        ended = broken.cellmove(*words, expect=4)
        assert f"message bus of {cell} cannot be reached" in ended.stderr
        assert f"correct transport_url of {cell}" in ended.stderr
        assert "nothing was written" in ended.stderr
    assert broken.cellmove("list", "--all", "-f", "json").json["moves"] == []


def test_a_port_that_is_no_interface_stops_no_move(broken: Sandbox) -> None:
    server = broken.boot("stray", ports=1, volumes=1)
    change_cloud(broken, CASES["port-stray"][0].change, server.id)
    move = ("migrate", server.name, "--host", "c2-host1")
    assert broken.cellmove(*move, "-f", "json").json["state"] == "finished"
    assert broken.cellmove("rollback", server.name, "-f", "json").json["state"] == "reverted"
    with broken.fault("c2-host1", "spawn", "fail"):
        broken.cellmove(*move, expect=1)
    assert broken.cellmove(*move, "--confirm", "-f", "json").json["state"] == "confirmed"
