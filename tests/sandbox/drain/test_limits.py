"""How many servers are under way at once, and where to: told from the cloud's history and the journal's times, not from our own counts."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cellmove.core.move import State
from cellmove.drain.options import SKIP_TAG
from tests.support.sandbox.drained_cell import Drained, most_at_once, most_by, most_in_calls, until_called

PACE = 0.04


@pytest.fixture
def slow(cell: Drained) -> Iterator[Drained]:
    """Six servers on two hosts, and computes that take their time."""
    cell.add("a1", "a2", "a3", volume_backed=True, host="c1-host1")
    cell.add("b1", "b2", "b3", volume_backed=True, host="c1-host2")
    cell.pace(PACE)
    yield cell
    cell.pace(0)
    cell.judge(*cell.moved)


def targets(cell: Drained) -> dict[str, str]:
    return {name: cell.where(name) for name in cell.servers}


@pytest.mark.parametrize("number", [1, 3])
def test_so_many_at_once(slow: Drained, number: int) -> None:
    slow.drain("--parallel", str(number))
    assert most_at_once(slow.spans().values()) == number
    assert most_in_calls(slow.history, lambda _call: True) == number
    assert slow.moved == slow.servers.keys()


def test_so_many_from_a_host(slow: Drained) -> None:
    slow.drain("--parallel", "4", "--per-source-host", "1")
    spans = slow.spans((*("prep-dest", "prep-source", "finish"), "confirm"))
    assert most_by(spans, lambda name: name[0]) == {"a": 1, "b": 1}
    assert most_at_once(spans.values()) == 2
    for host in ("c1-host1", "c1-host2"):
        assert most_in_calls(slow.history, lambda call, host=host: call["host"] == host) == 1


def test_so_many_to_a_host(slow: Drained) -> None:
    slow.drain("--parallel", "4", "--per-target-host", "1")
    where = targets(slow)
    assert set(where.values()) == {"c2-host1", "c2-host2"}
    assert most_by(slow.spans(), lambda name: where[name]) == {"c2-host1": 1, "c2-host2": 1}
    assert most_at_once(slow.spans().values()) == 2
    for host in ("c2-host1", "c2-host2"):
        calls = [call for call in slow.history if call["what"].startswith("call")]
        there = [call for call in calls if where[slow_name(slow, call["server"])] == host]
        assert most_in_calls(there, lambda _call: True) == 1


def slow_name(cell: Drained, server_id: str) -> str:
    return next(name for name, each in cell.servers.items() if each.id == server_id)


def test_a_crowded_host_is_waited_for(slow: Drained) -> None:
    """Only one host is left: the others wait for it, and none fails."""
    slow.process.cloud().update("cell2", "services", {"disabled": 1}, host="c2-host2")
    slow.drain("--parallel", "3", "--per-target-host", "2")
    assert set(targets(slow).values()) == {"c2-host1"}
    assert most_at_once(slow.spans().values()) == 2
    assert {len(moves) for moves in slow.moves().values()} == {1}


def test_so_many_of_a_project(slow: Drained) -> None:
    cloud = slow.process.cloud()
    for name in ("a2", "b2"):
        cloud.update("cell1", "instances", {"project_id": "5c" * 16}, uuid=slow.servers[name].id)
    slow.drain("--parallel", "4", "--per-project", "1", "--max-failures", "0", expect=None)
    spans = slow.spans()
    assert most_by(spans, lambda name: "other" if name in ("a2", "b2") else "admin") == {"other": 1, "admin": 1}
    assert most_at_once(spans.values()) == 2


def test_only_to_the_cells_that_are_named(cell: Drained) -> None:
    cell.add("one")
    cell.process.cloud().update("api", "cell_mappings", {"disabled": 1}, name="cell2")
    assert "no other cell" in cell.drain("--dry-run").stdout
    refused = cell.drain(expect=8)
    assert cell.moved == set()
    assert refused.stdout
    assert cell.plan("--to", "cell2")["to"] == ["cell2"]


def add_third_cell(cell: Drained) -> None:
    """A cell without any hosts."""
    cloud = cell.process.cloud()
    row = cloud.row("api", "cell_mappings", name="cell2") or {}
    database = Path(row["database_connection"].removeprefix("sqlite:///"))
    third = shutil.copy(database, database.with_name("cell3.db"))
    with closing(sqlite3.connect(third)) as connection:
        for table in ("services", "compute_nodes"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
        connection.commit()
    changed = {
        "id": row["id"] + 1, "uuid": "33333333-3333-4333-8333-333333333333", "name": "cell3",
        "database_connection": f"sqlite:///{third}", "transport_url": row["transport_url"].replace("cell2", "cell3"),
    }  # fmt: skip
    cloud.insert("api", "cell_mappings", {**row, **changed})


def test_of_several_cells_that_are_named_each_is_asked_in_turn(cell: Drained) -> None:
    """The first one has no hosts, so that the second one takes them all; a cell that is not named is not asked."""
    add_third_cell(cell)
    cell.add("one", "two")
    assert cell.plan()["to"] == ["cell2", "cell3"]
    assert cell.plan("--to", "cell3", "--to", "cell2")["to"] == ["cell3", "cell2"]
    assert cell.plan("--to", "cell3")["to"] == ["cell3"]
    cell.drain("--to", "cell3", expect=8)
    assert cell.moved == set()
    cell.drain("--to", "cell3", "--to", "cell2")
    assert cell.moved == {"one", "two"}
    cell.judge("one", "two")


def test_no_more_than_so_many_in_a_run(slow: Drained) -> None:
    slow.pace(0)
    said = slow.drain("--limit", "2", "--parallel", "4", expect=9)
    assert len(slow.moved) == 2
    assert "4 servers remain in cell1: --limit 2" in said.stderr
    slow.drain("--limit", "4", "--parallel", "4")
    assert slow.moved == slow.servers.keys()


def test_what_is_not_begun_or_put_back_does_not_count_against_the_limit(slow: Drained) -> None:
    """The first one is tagged while it waits, a second one cannot be placed at first: two others are moved."""
    slow.process.cloud().update("cell2", "services", {"disabled": 1}, host="c2-host2")
    run = slow.begin("--limit", "3", "--parallel", "2", "--per-target-host", "1")
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_dest")
    tag(slow, "a2")
    assert run.end() == 9
    assert slow.moved == {"a1", "a3", "b1"}
    assert most_at_once(slow.spans().values()) == 1


def tag(cell: Drained, name: str, word: str = SKIP_TAG) -> None:
    cell.process.cloud().insert("cell1", "tags", {"resource_id": cell.servers[name].id, "tag": word})


@pytest.mark.parametrize("options", [(), ("--include", "project=admin")])
def test_a_tag_that_is_set_between_plan_and_move_is_heeded(slow: Drained, options: tuple[str, ...]) -> None:
    run = slow.begin(*options)
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_dest")
    tag(slow, "b3")
    assert run.end() == 8
    assert slow.moved == slow.servers.keys() - {"b3"}
    assert f"b3: skipped: it has the tag {SKIP_TAG}" in run.err.read_text()
    assert "b3" not in slow.moves()


def test_each_server_is_looked_at_again_just_before_it_is_moved(slow: Drained) -> None:
    """One is locked meanwhile, one resized so that a filter speaks against it, one renamed, one deleted."""
    run = slow.begin("--exclude", "flavor=m1.small", "--exclude", "name=keep*", "--max-failures", "0")
    until_called(slow, "call begun", "prep_snapshot_based_resize_at_dest")
    cloud, ids = slow.process.cloud(), {name: each.id for name, each in slow.servers.items()}
    slow.process.control("lock", server=ids["a3"])
    small = cloud.row("cell1", "instance_extra", instance_uuid=ids["b1"]) or {}
    flavor = small["flavor"].replace("m1.tiny", "m1.small")
    cloud.update("cell1", "instance_extra", {"flavor": flavor}, instance_uuid=ids["b1"])
    slow.process.control("rename", server=ids["b2"], name="keep-me")
    slow.process.control("delete", server=ids["b3"])
    assert run.end() == 8
    said = run.err.read_text()
    assert slow.moved == {"a1", "a2"}
    assert "a3: refused: " in said
    assert "--force-locked" in said
    assert "b1: skipped: --exclude flavor=m1.small" in said
    assert "b2: skipped: --exclude name=keep*" in said
    assert "b3: gone" in said
    counts = slow.status()["counts"]
    assert (counts["moved"], counts["refused"], counts["skipped"], counts["gone"]) == (2, 1, 2, 1)
    del slow.servers["b3"]


def test_flavors_are_changed_on_the_way(cell: Drained) -> None:
    cell.add("tiny")
    cell.add("small", flavor="m1.small")
    cell.drain("--flavor-map", "m1.tiny=m1.small")
    cell.judge("tiny", "small", flavor="m1.small")
    assert (cell.move("tiny").kind, cell.move("small").kind) == ("resize", "migration")


def test_a_flavor_that_is_deleted_may_be_mapped_also_when_its_last_server_has_left(cell: Drained) -> None:
    cell.add("a")
    cell.add("b", flavor="m1.small")
    cloud = cell.process.cloud()
    cloud.update("api", "flavors", {"name": "another", "flavorid": "another"}, name="m1.tiny")
    wanted = ("--flavor-map", "m1.tiny=m1.small", "--limit", "1")
    cell.drain(*wanted, expect=9)
    assert (cell.moved, cell.move("a").kind) == ({"a"}, "resize")
    cell.drain(*wanted)
    assert (cell.moved, cell.move("b").kind) == ({"a", "b"}, "migration")


def test_losses_and_locks_are_accepted_by_name(cell: Drained) -> None:
    (locked,) = cell.add("locked")
    cell.process.control("lock", server=locked.id)
    cell.drain(expect=8)
    assert cell.moved == set()
    cell.drain("--force-locked")
    assert cell.moved == {"locked"}
    assert cell.move("locked").state is State.CONFIRMED


def test_no_more_hosts_are_tried_than_asked_for(cell: Drained) -> None:
    cell.add("one")
    cell.process.control("world", faults={"c2-host1:get_host_ip_addr": "fail"})
    cell.drain("--max-hosts", "1", expect=8)
    assert cell.moved == set()
    cell.drain()
    assert cell.where("one") == "c2-host2"


def test_so_much_is_left_free(cell: Drained) -> None:
    """Of eight vCPU, three quarters have to stay free: two servers fit, whatever runs at once."""
    cell.add("a", "b", "c", "d", volume_backed=True)
    cell.process.control("world", capacity={"VCPU": 4, "MEMORY_MB": 16384, "DISK_GB": 200})
    said = cell.drain("--min-free", "75", "--parallel", "4", expect=9)
    assert len(cell.moved) == 2
    assert "--min-free 75" in said.stderr
    assert cell.status()["counts"]["failed"] == 0
    again = cell.drain("--min-free", "75", expect=9)
    assert len(cell.moved) == 2
    assert "cell2 has 75 % free" in again.stderr
    cell.drain("--min-free", "50")
    assert len(cell.moved) == 4


def test_policy_allows_so_many_moves_a_day_also_when_they_run_at_once(cell: Drained) -> None:
    cell.add("a", "b", "c", "d", volume_backed=True)
    config = cell.folder / "config.toml"
    config.write_text("[policy]\nunattended = true\nmoves_a_day = 2\n")
    cell.pace(PACE)
    env = {"CELLMOVE_CONFIG": str(config)}
    look = cell.drain("--dry-run", env=env)
    assert "today    policy.moves_a_day allows 2 of them to start now" in look.stdout
    said = cell.drain("--parallel", "4", expect=9, env=env)
    assert json.loads(cell.drain("--dry-run", "-f", "json", env=env).stdout)["left_today"] == 0
    assert len(cell.moved) == 2
    assert "policy.moves_a_day = 2" in said.stderr
    assert [move.state for moves in cell.moves().values() for move, _ in moves] == [State.CONFIRMED] * 2
