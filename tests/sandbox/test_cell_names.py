"""Whole commands in a cloud whose cells have no names, blank ones, equal ones, or ones with spaces and quotes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cellmove.sandbox.buses import CELL_UUIDS
from cellmove.sandbox.process import Process
from tests.scenarios.environment import Server
from tests.support import fork_server
from tests.support.commands import run_killed
from tests.support.sandbox.cloud_process import served_cloud
from tests.support.sandbox.drained_cell import Drained, parsed
from tests.support.sandbox.environment import Sandbox

SOURCE, TARGET = CELL_UUIDS["cell1"], CELL_UUIDS["cell2"]
DIGITS = {uuid: uuid[:8] for uuid in (SOURCE, TARGET)}

NAMES: dict[str, tuple[str | None, str | None]] = {
    "no names": (None, None),
    "blank names": ("", "  "),
    "one name": ("cell", "cell"),
    "spaces and quotes": ("the 'old' cell", 'a "new"; cell'),
    "each other's digits": (TARGET[:8], SOURCE[:8]),
    "each other's UUID": (TARGET, SOURCE),
    "the name of cell0": ("cell0", "API"),
}
SHOWN = {
    "no names": (SOURCE[:8], TARGET[:8]),
    "blank names": (SOURCE[:8], TARGET[:8]),
    "one name": (f"cell ({SOURCE[:8]})", f"cell ({TARGET[:8]})"),
    "spaces and quotes": ("the 'old' cell", 'a "new"; cell'),
    "each other's digits": (f"{TARGET[:8]} ({SOURCE[:8]})", f"{SOURCE[:8]} ({TARGET[:8]})"),
    "each other's UUID": (f"{TARGET} ({SOURCE[:8]})", f"{SOURCE} ({TARGET[:8]})"),
    "the name of cell0": (f"cell0 ({SOURCE[:8]})", "API"),
}
"""What people see, by the case: the source and the target."""


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """A cloud of this module's own, whose cells it renames."""
    with served_cloud() as (process, _folder):
        yield process


FEW = ("no names", "one name", "spaces and quotes")


@pytest.fixture(params=FEW)
def case(request: pytest.FixtureRequest) -> str:
    """How the cells are named."""
    return str(request.param)


@pytest.fixture
def cloud(process: Process, tmp_path: Path, case: str) -> Iterator[Sandbox]:
    """It, its cells named."""
    name(process, *NAMES[case])
    place = Sandbox(process, tmp_path)
    yield place
    place.clear()


def name(process: Process, source: str | None, target: str | None) -> None:
    """Rename both cells."""
    process.control("name_cell", cell="cell1", name=source)
    process.control("name_cell", cell="cell2", name=target)


def place(uuid: str, shown: tuple[str, str], host: str) -> dict[str, str]:
    """A place as documents have it."""
    return {"cell": shown[0] if uuid == SOURCE else shown[1], "cell_uuid": uuid, "host": host}


def mapped(cloud: Sandbox, server: Server) -> str:
    """The UUID of the cell that a server is mapped to."""
    view = cloud.process.cloud()
    mapping = view.row("api", "instance_mappings", instance_uuid=server.id) or {}
    return str((view.row("api", "cell_mappings", id=mapping["cell_id"]) or {})["uuid"])


def typed(command: str) -> list[str]:
    """A printed command as arguments of cellmove."""
    program, *words = shlex.split(command)
    assert program == "cellmove"
    return words


def test_a_move_step_by_step_and_back(cloud: Sandbox, case: str) -> None:
    server = cloud.boot("steps", volumes=1)
    planned = cloud.cellmove("plan", server.name, "--cell", TARGET, "-f", "json").json
    assert planned["source"] == place(SOURCE, SHOWN[case], "c1-host1")
    assert (planned["target"]["cell"], planned["target"]["cell_uuid"]) == (SHOWN[case][1], TARGET)
    assert {host["cell_uuid"] for host in planned["summary"]["target_hosts"]} == {TARGET}
    for step in ("prep-dest", "prep-source", "finish"):
        cloud.cellmove(step, server.name)
    assert mapped(cloud, server) == TARGET
    shown = cloud.cellmove("show", server.name, "-f", "json").json
    assert shown["target"] == place(TARGET, SHOWN[case], shown["target"]["host"])
    assert f"{SHOWN[case][1]} / c2-host" in cloud.cellmove("show", server.name).stdout
    cloud.cellmove("verify", server.name)
    back = cloud.cellmove("revert", server.name)
    assert "settle the server in \n" not in back.stderr
    assert mapped(cloud, server) == SOURCE


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_a_whole_move_goes_to_the_cell_that_was_named_and_is_confirmed(cloud: Sandbox, case: str) -> None:
    server = cloud.boot("whole")
    ended = cloud.cellmove("migrate", server.name, "--cell", TARGET, "-f", "json").json
    assert (ended["target"]["cell"], ended["target"]["cell_uuid"]) == (SHOWN[case][1], TARGET)
    (listed,) = cloud.cellmove("list", "-f", "json").json["moves"]
    assert listed["source"] == place(SOURCE, SHOWN[case], "c1-host1")
    assert listed["target"] == ended["target"]
    again = cloud.cellmove("migrate", server.name, "--cell", SHOWN[case][1], "-f", "json").json
    assert (again["move"], again["state"]) == (ended["move"], "finished")
    told = cloud.cellmove("confirm", server.name).stderr
    assert f"settle the server in {SHOWN[case][1]}" in told
    assert mapped(cloud, server) == TARGET


def test_another_cell_is_another_aim_and_the_printed_command_names_the_first(cloud: Sandbox) -> None:
    server = cloud.boot("aim")
    cloud.cellmove("plan", server.name, "--cell", TARGET)
    refused = cloud.cellmove("migrate", server.name, "--cell", SOURCE, expect=5)
    assert f"--cell {TARGET}" in refused.stderr
    cloud.cellmove("rollback", server.name)


def test_the_cell_where_it_is_is_no_target(cloud: Sandbox, case: str) -> None:
    server = cloud.boot("same")
    refused = cloud.cellmove("plan", server.name, "--cell", SOURCE, "-f", "json", expect=5).json
    assert [check["code"] for check in refused["checks"] if check["level"] == "refusal"] == ["same-cell"]
    assert SHOWN[case][0] in next(check["text"] for check in refused["checks"] if check["code"] == "same-cell")


def test_a_killed_move_is_resumed_and_another_is_taken_back(cloud: Sandbox) -> None:
    for word, end in (("resume", TARGET), ("rollback", SOURCE)):
        server = cloud.boot(word)
        out, err = cloud.folder / f"{word}.out", cloud.folder / f"{word}.err"
        words = ["migrate", server.name, "--cell", TARGET]
        where = "prep-source:stop_source:after-effect"
        assert fork_server.call(run_killed, where, words, cloud.environment, out, err) == -9
        cloud.cellmove(word, server.name)
        assert mapped(cloud, server) == end


@pytest.mark.parametrize("where", ["prep-dest:schedule:before-intent", "prep-source:stop_source:after-effect"])
def test_a_move_whose_journal_was_lost_is_adopted(cloud: Sandbox, case: str, where: str) -> None:
    server = cloud.boot("adopt")
    out, err = cloud.folder / "adopt.out", cloud.folder / "adopt.err"
    words = ["migrate", server.name, "--cell", TARGET]
    assert fork_server.call(run_killed, where, words, cloud.environment, out, err) == -9
    view = cloud.process.cloud()
    marks = {
        row["key"]: row["value"] for row in view.rows("cell1", "instance_system_metadata", instance_uuid=server.id)
    }
    assert marks["cellmove_cell"] == TARGET
    for file in cloud.folder.glob("journal.db*"):
        file.unlink()
    cloud.cellmove("adopt", server.name)
    shown = cloud.cellmove("show", server.name, "-f", "json").json
    assert (shown["source"]["cell"], shown["target"]["cell"]) == SHOWN[case]
    assert (shown["source"]["cell_uuid"], shown["target"]["cell_uuid"]) == (SOURCE, TARGET)
    cloud.cellmove(*typed(shown["next"][0]))
    assert mapped(cloud, server) == TARGET


def test_an_audit_finds_names_and_repairs(cloud: Sandbox, case: str) -> None:
    server = cloud.boot("audit")
    view = cloud.process.cloud()
    (row,) = view.rows("cell1", "instances", uuid=server.id)
    view.insert("cell2", "instances", {**row, "id": None, "hidden": 1, "host": None, "node": None})
    found = cloud.cellmove("audit", "--cell", TARGET, "--older-than", "0", "-f", "json", expect=10).json
    assert (found["cells"], found["cell_uuids"]) == ([SHOWN[case][1]], [TARGET])
    (finding,) = [each for each in found["findings"] if each["server"]["id"] == server.id]
    assert (finding["kind"], finding["cell"], finding["cell_uuid"]) == ("hidden-row", SHOWN[case][1], TARGET)
    mended = cloud.cellmove(
        "audit", "--cell", TARGET, "--server", server.id, "--older-than", "0", "--repair", "-f", "json", expect=None
    ).json
    assert [each["outcome"] for each in mended["findings"]] == ["mended"]
    assert view.rows("cell2", "instances", uuid=server.id) == []


def test_a_cell_is_drained_and_every_command_about_that_takes_its_uuid(cell: Drained, case: str) -> None:
    name(cell.process, *NAMES[case])
    cell.add("one", "two")
    source, target = SHOWN[case]
    looked = cell.cellmove("drain-cell", SOURCE, "--to", TARGET, "--dry-run", "-f", "json").json
    assert (looked["cell"], looked["cell_uuid"], looked["to"], looked["to_uuids"]) == (
        source,
        SOURCE,
        [target],
        [TARGET],
    )
    assert [(room["cell"], room["cell_uuid"]) for room in looked["room"]] == [(target, TARGET)]
    assert typed(looked["next"]) == ["drain-cell", SOURCE, "--to", TARGET]
    run = cell.cellmove(*typed(looked["next"]), "--limit", "1", "-f", "json", expect=9)
    lines = parsed(run.stdout)
    assert {(line["cell"], line["cell_uuid"]) for line in lines} == {(source, SOURCE)}
    assert typed(lines[-1]["next"]) == ["drain-cell", SOURCE, "--limit", "1", "--to", TARGET]
    for verb in ("status", "pause", "resume"):
        found = cell.cellmove("drain", verb, SOURCE, "-f", "json").json
        assert (found["cell"], found["cell_uuid"]) == (source, SOURCE)
        assert (found["wish"]["to"], found["wish"]["to_uuids"]) == ([target], [TARGET])
        assert SOURCE in typed(found["next"])
    assert cell.cellmove("drain", "status", source, "-f", "json").json["cell_uuid"] == SOURCE
    told = cell.cellmove("drain", "report", SOURCE, "-f", "json").json
    assert (told["cell"], told["cell_uuid"], told["to"], told["to_uuids"]) == (source, SOURCE, [target], [TARGET])
    assert cell.cellmove("drain", "abort", SOURCE, "-f", "json").json["state"] == "rolled-back"
    assert not any(row["disabled"] for row in cell.process.cloud().rows("cell1", "services"))
    cell.cellmove("drain-cell", SOURCE, "--to", target if "(" not in target else TARGET)
    assert cell.moved == {"one", "two"}
    assert cell.cellmove("drain", "status", "-f", "json").json["state"] == "drained"


def test_a_name_that_several_cells_have_is_refused_with_their_uuids(process: Process, tmp_path: Path) -> None:
    name(process, "cell", "cell")
    cloud = Sandbox(process, tmp_path)
    server = cloud.boot("several")
    refused = cloud.cellmove("migrate", server.name, "--cell", "cell", expect=2)
    assert "several cells are called cell; use the UUID" in refused.stderr
    assert SOURCE in refused.stderr
    assert TARGET in refused.stderr
    cloud.clear()


def test_a_server_that_was_never_built_is_known_by_the_uuid_of_cell0(process: Process, tmp_path: Path) -> None:
    name(process, None, "cell0")
    cloud = Sandbox(process, tmp_path)
    server = cloud.boot("buried")
    view = cloud.process.cloud()
    cell0 = view.row("api", "cell_mappings", uuid="00000000-0000-0000-0000-000000000000") or {}
    here = view.row("api", "instance_mappings", instance_uuid=server.id) or {}
    view.update("api", "instance_mappings", {"cell_id": cell0["id"]}, instance_uuid=server.id)
    codes: list[Any] = [
        check["code"]
        for check in cloud.cellmove("plan", server.name, "-f", "json", expect=5).json["checks"]
        if check["level"] == "refusal"
    ]
    view.update("api", "instance_mappings", {"cell_id": here["cell_id"]}, instance_uuid=server.id)
    assert "cell0" in codes
    cloud.clear()


def test_a_plan_of_an_earlier_version_holds_names_which_are_read_while_they_are_unique(cell: Drained) -> None:
    cell.add("one")
    cell.cellmove("plan", "one", "--cell", "cell2")
    (move,) = cell.journal.open_moves()
    older = {key: value for key, value in move.plan.items() if key not in ("wanted_cell_uuid", "target_cell_uuids")}
    request = {**move.plan["request"], "destination": {"cell": "cell2", "host": "", "cells": []}}
    cell.journal.set_plan(move.id, {**older, "request": request}, move.state)
    name(cell.process, "cell2", "cell2")
    for words in (("prep-dest", "one"), ("migrate", "one", "--cell", TARGET)):
        refused = cell.cellmove(*words, expect=2).stderr
        assert "several cells are called cell2; use the UUID" in refused
    name(cell.process, "cell1", "cell2")
    moved = cell.cellmove("migrate", "one", "--cell", TARGET, "-f", "json").json
    assert (moved["move"], moved["target"]["cell_uuid"]) == (move.id, TARGET)
    cell.judge("one", status="VERIFY_RESIZE")
