"""Whole commands where two cell mappings lead to one database (nova bug 1923899)."""

from __future__ import annotations

import pytest

from cellmove.sandbox.buses import CELL_UUIDS
from tests.support import fork_server
from tests.support.commands import run_killed
from tests.support.sandbox.drained_cell import SOURCE, TARGET, Drained

SECOND = "33333333-3333-4333-8333-333333333333"


def map_again(cell: Drained, which: str) -> None:
    """Map the database of a cell once more."""
    cell.process.control("map_again", cell=which, uuid=SECOND, name=which)


def test_a_second_mapping_of_the_target_takes_no_server_and_is_no_capacity(cell: Drained) -> None:
    map_again(cell, "cell2")
    one, _two = cell.add("one", "two")
    planned = cell.cellmove("plan", one.name, "--dry-run", "-f", "json").json
    (found,) = [check for check in planned["checks"] if check["code"] == "duplicate-cell"]
    assert found["level"] == "warning"
    assert f"delete_cell --cell_uuid {SECOND}" in found["remedy"]
    assert {host["cell_uuid"] for host in planned["summary"]["target_hosts"]} == {TARGET}
    looked = cell.cellmove("drain-cell", SOURCE, "--dry-run", "-f", "json").json
    assert looked["to_uuids"] == [TARGET]
    assert [text.partition(" (")[0] for text in looked["left_out"]] == ["cell2"]
    assert "left out" in cell.cellmove("drain-cell", SOURCE, "--dry-run").stdout
    cell.cellmove("drain-cell", SOURCE, "--to", TARGET, "--to", SECOND, "--limit", "1", expect=9)
    assert len(cell.moved) == 1


def test_a_second_mapping_of_the_source_is_no_target(cell: Drained) -> None:
    map_again(cell, "cell1")
    (one,) = cell.add("one")
    refused = cell.cellmove("plan", one.name, "--cell", SECOND, "-f", "json", expect=5).json
    assert [check["code"] for check in refused["checks"] if check["level"] == "refusal"] == ["duplicate-cell"]
    told = cell.cellmove("drain-cell", SOURCE, "--to", SECOND, "--dry-run", expect=2).stderr
    assert "where the servers are already" in told
    assert cell.cellmove("migrate", one.name, "-f", "json").json["target"]["cell_uuid"] == TARGET
    cell.cellmove("revert", one.name)
    cell.judge("one", cell="cell1")


@pytest.mark.parametrize("mapped", ["cell1", "second"])
def test_an_audit_reports_the_mapping_and_no_server_as_visible_twice(cell: Drained, mapped: str) -> None:
    map_again(cell, "cell1")
    (one,) = cell.add("one")
    cloud = cell.process.cloud()
    if mapped == "second":
        (second,) = cloud.rows("api", "cell_mappings", uuid=SECOND)
        cloud.update("api", "instance_mappings", {"cell_id": second["id"]}, instance_uuid=one.id)
    found = cell.cellmove("audit", "--older-than", "0", "-f", "json", expect=10).json["findings"]
    assert [(each["kind"], each["cell_uuid"], each["safe"]) for each in found] == [("duplicate-cell", SECOND, False)]
    for uuid in (SOURCE, SECOND):
        only = cell.cellmove("audit", "--cell", uuid, "--older-than", "0", "-f", "json", expect=10).json
        assert (only["cell_uuids"], [each["kind"] for each in only["findings"]]) == ([uuid], ["duplicate-cell"])
    repaired = cell.cellmove("audit", "--repair", "--older-than", "0", "-f", "json", expect=10).json
    assert [each["outcome"] for each in repaired["findings"]] == [None]
    assert len(cloud.rows("cell1", "instances", uuid=one.id, deleted=0)) == 1


@pytest.mark.parametrize("which", ["cell1", "cell2"])
def test_a_move_whose_journal_was_lost_is_adopted(cell: Drained, which: str) -> None:
    (one,) = cell.add("one")
    out, err = cell.folder / "killed.out", cell.folder / "killed.err"
    where, words = "prep-source:stop_source:after-effect", ["migrate", one.name, "--cell", CELL_UUIDS["cell2"]]
    assert fork_server.call(run_killed, where, words, cell.environment, out, err) == -9
    map_again(cell, which)
    for file in cell.folder.glob("journal.db*"):
        file.unlink()
    cell.cellmove("adopt", one.name)
    cell.cellmove("rollback", one.name)
    cell.judge("one", cell="cell1")
