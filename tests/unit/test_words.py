"""What is said of states: each sentence is true, and understood without knowing nova's code."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cellmove import probe
from cellmove.checks import server as checks
from cellmove.db.shapes import Group, MigrationRow
from cellmove.errors import Usage
from tests.unit.test_preflight import compute, conductor, instance, picture

GUEST = probe.Guest("uuid-1", "web 1", ("192.0.2.1",))


def group(policy: str) -> str:
    (found,) = checks.check_group(picture(group=Group("g1", "db", policy, ()), group_hosts=("c2-host1",)))
    return found.text


def test_a_hard_anti_affinity_is_no_matter_of_possibility() -> None:
    assert group("anti-affinity").endswith("the scheduler refuses the hosts of its other members: c2-host1")
    assert "possible" not in group("anti-affinity")
    assert group("soft-anti-affinity").endswith(
        "the scheduler avoids the hosts of its other members if it can: c2-host1"
    )


@pytest.mark.parametrize(
    ("migration", "words"),
    [
        (
            MigrationRow("m", "finished", "resize", "a", "b"),
            "nova has not ended its resize from a to b: the record m has the status finished, which is neither confirmed "
            "nor reverted",
        ),
        (
            MigrationRow("", "migrating", "migration", "c1-host1", ""),
            "nova has not ended its migration from c1-host1 to a host that is not recorded: the record without a UUID has "
            "the status migrating",
        ),
    ],
)
def test_a_migration_that_did_not_end_is_told_with_its_hosts_and_a_way_out(migration: MigrationRow, words: str) -> None:
    (found,) = checks.check_migrations(picture(migrations=(migration,)))
    assert found.text == words
    assert found.remedy.startswith("cellmove audit --repair --server server-1  # ")


def test_an_offloaded_server_of_a_closed_cell_is_not_told_to_unshelve() -> None:
    offloaded = instance(vm_state="shelved_offloaded", host="", node="")
    closed = (conductor(), compute("c1-host1", disabled=True), compute("c1-host2", up=False))
    (found,) = checks._check_vm_state(picture(server=offloaded, source_services=closed))
    assert found.remedy.startswith("leave it, or decide with its owner: cell1 takes no server")
    (found,) = checks._check_vm_state(picture(server=offloaded))
    assert found.remedy == "openstack server unshelve server-1"
    (found,) = checks._check_vm_state(picture(server=instance(vm_state="shelved"), source_services=closed))
    assert found.remedy == "openstack server unshelve server-1"


def test_a_server_without_a_request_spec_is_sent_to_no_migration_that_is_gone() -> None:
    (found,) = checks.check_records(picture(request_spec={}))
    assert "online_data_migrations" not in found.remedy
    assert "from a copy of the API database" in found.remedy


# probes


@pytest.mark.parametrize(
    "command",
    [
        'test -n "$CELLMOVE_SERVER_ID" && echo $CELLMOVE_ADDRESSES | grep -q 192.0.2.1',
        'test "$CELLMOVE_SERVER_NAME" = "web 1"',
        "exit 0; false",
        "(false || true) >/dev/null",
    ],
)
def test_a_command_is_run_by_the_shell(command: str) -> None:
    assert probe._ask(probe.parse(f"cmd:{command}"), GUEST) == ""


def test_a_command_that_fails_is_named_as_it_was_typed() -> None:
    assert probe._ask(probe.parse("cmd:true | false"), GUEST) == "true | false ended with 1"
    assert probe._ask(probe.parse("cmd:/no/such/command"), GUEST) == "/no/such/command ended with 127"


def test_a_command_that_the_shell_cannot_read_is_refused_and_nothing_of_it_is_run(tmp_path: Any) -> None:
    with pytest.raises(Usage, match="cannot be read"):
        probe.parse(f"cmd:touch {tmp_path / 'done'}; if true")
    assert list(tmp_path.iterdir()) == []
    assert dataclasses.astuple(probe.parse("cmd:a && b")) == ("cmd", "a && b")
