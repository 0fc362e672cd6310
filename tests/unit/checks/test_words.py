"""What is said of states: each sentence is true, and understood without knowing nova's code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.checks import server as checks
from cellmove.checks.leftover import LeftoverKind
from cellmove.core.errors import Usage
from cellmove.core.move import Entry, Move, Phase, State, Step
from cellmove.db.shapes import Group, MigrationRow
from cellmove.engine.action import describe
from cellmove.engine.journal_open import open_journal
from cellmove.engine.record import EndpointLabels
from cellmove.operations import probe
from cellmove.operations.documents import move_document
from cellmove.ui import demo
from cellmove.ui.console import Page, draws_over
from cellmove.ui.fault import with_move_state
from cellmove.ui.invocation import Options
from cellmove.ui.move_text import IN_USE, draw_list, draw_move
from tests.support.pipeline_harness import toy
from tests.unit.checks.test_preflight import compute, conductor, instance, snapshot

GUEST = probe.Guest("uuid-1", "web 1", ("192.0.2.1",))


def group(policy: str) -> str:
    (found,) = checks.check_group(snapshot(group=Group("g1", "db", policy, ()), group_hosts=("c2-host1",)))
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
    (found,) = checks.check_migrations(snapshot(migrations=(migration,)))
    assert found.text == words
    assert found.remedy.startswith("cellmove audit --repair --server server-1  # ")


def test_an_offloaded_server_of_a_closed_cell_is_not_told_to_unshelve() -> None:
    offloaded = instance(vm_state="shelved_offloaded", host="", node="")
    closed = (conductor(), compute("c1-host1", disabled=True), compute("c1-host2", up=False))
    (found,) = checks._check_vm_state(snapshot(server=offloaded, source_services=closed))
    assert found.remedy.startswith("leave it, or decide with its owner: cell1 takes no server")
    (found,) = checks._check_vm_state(snapshot(server=offloaded))
    assert found.remedy == "openstack server unshelve server-1"
    (found,) = checks._check_vm_state(snapshot(server=instance(vm_state="shelved"), source_services=closed))
    assert found.remedy == "openstack server unshelve server-1"


def test_a_server_without_a_request_spec_is_sent_to_no_migration_that_is_gone() -> None:
    (found,) = checks.check_records(snapshot(request_spec={}))
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
    assert probe._ask(probe.parse("cmd:true | false"), GUEST) == "the command ended with 1"
    assert probe._ask(probe.parse("cmd:/no/such/command"), GUEST) == "the command ended with 127"


def test_a_command_that_the_shell_cannot_read_is_refused_and_nothing_of_it_is_run(tmp_path: Any) -> None:
    with pytest.raises(Usage, match="cannot be parsed"):
        probe.parse(f"cmd:touch {tmp_path / 'done'}; if true")
    assert list(tmp_path.iterdir()) == []
    assert dataclasses.astuple(probe.parse("cmd:a && b")) == ("cmd", "a && b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cmd:curl -u admin:hunter2 https://web", "cmd:curl"),
        ("cmd: TOKEN=hunter2 check", "cmd"),
        ("tcp:22", "tcp:22"),
        ("ping", "ping"),
    ],
)
def test_the_name_of_a_probe_holds_no_arguments(text: str, name: str) -> None:
    assert probe.parse(text).name == name


@pytest.mark.parametrize("text", ["cmd:curl -u admin:hunter2 'x", "CMD:curl -u admin:hunter2", "cmd:true\0hunter2"])
def test_a_probe_that_is_refused_is_not_quoted_whole(text: str) -> None:
    with pytest.raises(Usage) as refused:
        probe.parse(text)
    assert "hunter2" not in str(refused.value)


# where a move stands


def a_move(state: State = State.PLANNED, **more: Any) -> Move:
    values = {"kind": "resize", "created_at": "t", "updated_at": "t", "plan": {}} | more
    return Move("move-aaaaaa", "uuid-1", "web-1", state=state, **values)


def an_entry(step: Step = Step.PREP_DEST, phase: Phase = Phase.DONE) -> Entry:
    return Entry("move-aaaaaa", 1, step.value, "take_server", phase, {}, {}, "", "t", "t")


def test_a_move_in_the_middle_of_a_step_says_so() -> None:
    document = move_document(a_move(), [an_entry()])
    assert (document["state"], document["busy_step"]) == ("planned", "prep-dest")
    page = Page(None)
    draw_list(page, {"moves": [document]})
    assert "  planned, in prep-dest  " in page.text
    page = Page(None)
    draw_move(page, document)
    assert "state   planned, in prep-dest\n" in page.text
    for state, entries in ((State.PLANNED, []), (State.ROLLED_BACK, [an_entry(phase=Phase.UNDONE)])):
        document = move_document(a_move(state), entries)
        assert document["busy_step"] is None
        page = Page(None)
        draw_move(page, document)
        assert f"state   {state}\n" in page.text


@pytest.mark.parametrize(
    ("entries", "state", "words"),
    [
        ([an_entry()], "nothing was written", "nothing was written by this run; move-aaaaaa is planned, in prep-dest"),
        (
            [an_entry()], "nothing was written by this run; it waits",
            "nothing was written by this run; it waits; move-aaaaaa is planned, in prep-dest",
        ),
        ([], "nothing was written", "nothing was written"),
        ([an_entry()], "the cell is open", "the cell is open"),
    ],
)  # fmt: skip
def test_a_command_that_wrote_nothing_does_not_say_so_of_a_server_that_is_half_moved(
    tmp_path: Path, entries: list[Entry], state: str, words: str
) -> None:
    journal = open_journal(str(tmp_path / "journal.db"), lambda: "t")
    journal.adopt(a_move(), entries)
    options = Options(session=SimpleNamespace(journal=journal), reference="web-1", verb="migrate")
    assert with_move_state(options, state) == words


def test_a_title_leaves_out_what_is_not_known_yet() -> None:
    action = toy("schedule", "ask the scheduler: {target_host} in {target_cell}", lambda *_all: {})
    assert describe(action, EndpointLabels()) == "ask the scheduler"
    assert describe(action, EndpointLabels(target_host="c2-host1")) == "ask the scheduler"
    chosen = EndpointLabels(target_host="c2-host1", target_cell="cell2")
    assert describe(action, chosen) == "ask the scheduler: c2-host1 in cell2"
    assert (
        describe(toy("a", "bind the ports to {target_host}", lambda *_all: {}), EndpointLabels())
        == "bind the ports to …"
    )


@pytest.mark.parametrize(("no_color", "words"), [("1", "all is well"), ("", "\x1b[32mall is well\x1b[0m")])
def test_the_demo_writes_no_escape_sequence_when_asked_for_none(
    monkeypatch: pytest.MonkeyPatch, no_color: str, words: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(demo, "draws_over", lambda stream: draws_over(SimpleNamespace(isatty=lambda: True)))
    assert demo.colored("all is well", "green") == words


def test_nothing_that_a_healthy_move_uses_is_called_left_over() -> None:
    assert set(IN_USE) == {kind.value for kind in LeftoverKind}
    assert not [words for words in IN_USE.values() if "stuck" in words or "stale" in words or "dead" in words]
