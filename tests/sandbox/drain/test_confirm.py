"""When a moved server is confirmed, and what becomes of one that differs from its state before the move."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cellmove.core.move import State
from tests.support.sandbox.drained_cell import Drained, err, said, seconds, wait_until


@pytest.fixture
def two(cell: Drained) -> Drained:
    """A cell with two servers."""
    cell.add("one", "two", volumes=1)
    return cell


def spoil(cell: Drained, name: str) -> None:
    """Let a moved server be another than it was."""
    cell.process.cloud().update("cell2", "instances", {"memory_mb": 1}, uuid=cell.servers[name].id)


def repair(cell: Drained, name: str) -> None:
    cell.process.cloud().update("cell2", "instances", {"memory_mb": 64}, uuid=cell.servers[name].id)


def probe(cell: Drained, *bad: str) -> str:
    """A probe that these guests do not answer; it writes down whom it asked."""
    script = cell.folder / "probe"
    words = " ".join(bad)
    script.write_text(
        f'#!/bin/sh\necho "$CELLMOVE_SERVER_NAME $CELLMOVE_ADDRESSES" >> {cell.folder}/asked\n'
        f'for bad in {words}; do [ "$CELLMOVE_SERVER_NAME" != $bad ] || exit 1; done\n'
    )
    script.chmod(0o755)
    return f"cmd:{script}"


def asked(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "asked").read_text().splitlines()]


def test_by_default_each_is_verified_and_confirmed_at_once(two: Drained) -> None:
    two.drain("--probe", probe(two))
    two.judge("one", "two")
    assert asked(two.folder) == ["one", "two"]
    assert {two.move(name).state for name in two.servers} == {State.CONFIRMED}


def test_none_is_confirmed(two: Drained) -> None:
    lines = two.lines("--confirm", "never", "--probe", probe(two))
    two.judge("one", "two", status="VERIFY_RESIZE")
    assert asked(two.folder) == ["one", "two"], "verified all the same"
    for line in said(lines, "server-moved"):
        assert line["next"] == f"cellmove confirm {line['move']}"
    assert "confirmed" not in {two.move(name).state for name in two.servers}
    left = next(said(lines, "ended"))["ending"]
    assert any("hidden rows belong to unconfirmed moves" in text for text in left["hindrances"])
    (moving,) = (text for text in left["hindrances"] if "a migration in progress" in text)
    assert all(f"(cellmove confirm {two.move(name).id})" in moving for name in two.servers)
    assert left["commands"] == [], "the cell cannot be deleted yet"


def test_what_is_to_be_confirmed_by_hand_is_named_until_it_is(two: Drained) -> None:
    ended = two.drain("--confirm", "never")
    for shown in (ended.stdout, two.cellmove("drain", "status").stdout):
        for name in two.servers:
            assert f"unconfirmed  {name} on {two.where(name)}\n" in shown
            assert f"next       cellmove confirm {two.move(name).id}\n" in shown
    two.cellmove("confirm", two.move("one").id)
    assert [each["server"]["name"] for each in two.status()["unconfirmed"]] == ["two"]
    two.cellmove("confirm", two.move("two").id)
    assert "unconfirmed" not in two.cellmove("drain", "status").stdout


def test_what_an_abort_leaves_unconfirmed_is_named(two: Drained) -> None:
    two.drain("--confirm", "after:1h", "--parallel", "2", expect=9)
    shown = two.cellmove("drain", "abort").stdout
    for name in two.servers:
        assert f"unconfirmed  {name} on {two.where(name)}\n" in shown
        assert f"next       cellmove confirm {two.move(name).id}\n" in shown


def test_a_soak_needs_a_confirm(two: Drained) -> None:
    wrong = two.drain("--confirm", "never", "--soak", "10m", expect=2)
    assert "--soak and --confirm never exclude each other" in wrong.stderr


def test_confirmed_later(two: Drained) -> None:
    ended = two.drain("--confirm", "after:2s", "--parallel", "2", expect=9)
    assert "2 servers of cell1 wait in VERIFY_RESIZE to be confirmed" in ended.stderr
    two.judge("one", "two", status="VERIFY_RESIZE")
    soaking = two.status()["soaking"]
    assert [each["server"]["name"] for each in soaking] == ["one", "two"]
    assert all(each["due_in_seconds"] <= 2 for each in soaking)
    wait_until(lambda: all(each["due_in_seconds"] < 0 for each in two.status()["soaking"]), "they are due")
    two.drain("--confirm", "after:2s", "--parallel", "2")
    two.judge("one", "two")
    assert two.drain("--confirm", "after:2s").stderr == ""


def test_not_before_it_is_due(two: Drained) -> None:
    two.drain("--confirm", "after:1h", expect=9)
    again = two.drain("--confirm", "after:1h", expect=9)
    assert "wait in VERIFY_RESIZE" in again.stderr
    two.judge("one", "two", status="VERIFY_RESIZE")


def test_soaked_and_verified_once_more(two: Drained) -> None:
    lines = two.lines("--soak", "2s", "--parallel", "2", "--probe", probe(two))
    two.judge("one", "two")
    assert sorted(asked(two.folder)) == ["one", "one", "two", "two"]
    for name in two.servers:
        (_, entries) = two.moves()[name][-1]
        finish = max(seconds(each.finished_at) for each in entries if each.step == "finish")
        confirm = min(seconds(each.started_at) for each in entries if each.step == "confirm")
        assert 2 <= confirm - finish < 20
    assert sorted(line["server"]["name"] for line in said(lines, "server-soaking")) == ["one", "two"]


def test_what_goes_wrong_while_it_soaks_is_left_and_named(two: Drained) -> None:
    run = two.begin("--soak", "3s", "--parallel", "2", "--max-failures", "0")
    wait_until(lambda: two.moved == {"one", "two"} and len(two.status()["soaking"]) == 2, "both soak")
    spoil(two, "one")
    assert run.end() == 8
    two.judge("two")
    move = two.move("one")
    assert move.state is State.FINISHED
    shown = err(run)
    assert "one: verification failed: one differs from its state before the move: " in shown
    assert "memory_mb" in shown
    assert f"(next: cellmove verify {move.id})" in shown
    assert shown.splitlines()[-1] == f"next: cellmove verify {move.id}"
    shown = two.cellmove("drain", "status").stdout
    assert "unverified" in shown


@pytest.fixture
def unverified(two: Drained) -> Drained:
    """One of two servers does not answer."""
    failed = two.drain("--probe", probe(two, "one"), expect=9)
    assert "1 server remains in cell1: --max-failures 1: 1 failed" in failed.stderr
    assert two.moved == {"one"}
    two.judge("one", status="VERIFY_RESIZE")
    (found,) = two.status()["trouble"]
    assert (found["server"]["name"], found["stage"]) == ("one", "unverified")
    assert found["next"] == f"cellmove verify {two.move('one').id} --probe {probe(two, 'one')}"
    assert "ended with 1" in found["reason"]
    assert f"unverified  one on {two.where('one')}\n" in two.cellmove("drain", "status").stdout
    assert "ended with 1" in two.cellmove(*found["next"].split()[1:], expect=5).stdout
    return two


def test_it_is_verified_again_by_the_next_run_and_then_confirmed(unverified: Drained) -> None:
    again = unverified.drain("--probe", probe(unverified, "one"), "--max-failures", "0", expect=8)
    assert unverified.moved == {"one", "two"}
    assert "one: unverified: " in again.stderr
    unverified.judge("one", status="VERIFY_RESIZE")
    unverified.drain("--probe", probe(unverified, "one"), expect=8)
    unverified.drain("--probe", probe(unverified))
    unverified.judge("one", "two")
    quiet = unverified.drain("--probe", probe(unverified))
    assert quiet.stdout + quiet.stderr == ""


@pytest.mark.parametrize("verb", ["confirm --force", "revert"])
def test_what_a_person_made_of_it_is_seen(unverified: Drained, verb: str) -> None:
    step, *force = verb.split()
    unverified.cellmove(step, "one", *force)
    unverified.drain()
    unverified.judge("one", "two")
    states = [move.state for move, _ in unverified.moves()["one"]]
    assert states == ([State.CONFIRMED] if force else [State.REVERTED, State.CONFIRMED])


def test_it_is_reverted_if_so_asked(two: Drained) -> None:
    lines = two.lines("--probe", probe(two, "one"), "--on-unverified", "revert", "--max-failures", "2", expect=8)
    two.judge("two")
    two.judge("one", cell="cell1")
    (line,) = said(lines, "server-reverted")
    assert "ended with 1" in line["reason"]
    assert two.move("one").state is State.REVERTED
    two.drain("--probe", probe(two))
    two.judge("one", "two")


def test_a_server_that_its_owner_has_reverted_is_moved_again(two: Drained) -> None:
    two.drain("--confirm", "never")
    two.cellmove("revert", "one")
    assert two.moved == {"two"}
    two.drain("--confirm", "never")
    assert two.moved == {"one", "two"}


def test_an_owner_confirms_or_deletes_while_it_soaks(two: Drained) -> None:
    run = two.begin("--soak", "8s", "--parallel", "2")
    wait_until(lambda: two.moved == {"one", "two"} and len(two.status()["soaking"]) == 2, "both soak")
    two.cellmove("confirm", "one")
    two.process.control("delete", server=two.servers["two"].id)
    assert run.end() == 0
    counts: dict[str, Any] = two.status()["counts"]
    assert (counts["moved"], counts["gone"]) == (1, 1)
    two.judge("one")


def test_an_owner_deletes_while_it_is_verified(two: Drained) -> None:
    """What the check saw is no fault of the move: the server is gone, and the drain goes on."""
    script = two.folder / "deletes"
    body = json.dumps({"server": two.servers["one"].id})
    script.write_text(
        f"#!{sys.executable}\nimport os, sys, urllib.request\n"
        "if os.environ['CELLMOVE_SERVER_NAME'] == 'one':\n"
        f"    asked = urllib.request.Request('{two.process.url}/sandbox/delete', b'{body}',"
        " {'Content-Type': 'application/json'})\n"
        "    urllib.request.urlopen(asked)\n"
        "    sys.exit(1)\n"
    )
    script.chmod(0o755)
    two.drain("--probe", f"cmd:{script}")
    counts: dict[str, Any] = two.status()["counts"]
    assert (counts["moved"], counts["gone"]) == (1, 1)
    assert two.move("one").state is State.SERVER_GONE
    two.judge("two")


def test_soaking_servers_are_not_confirmed_by_a_run_that_confirms_none(two: Drained) -> None:
    two.drain("--confirm", "after:6s", "--parallel", "2", expect=9)
    wait_until(lambda: all(each["due_in_seconds"] < 0 for each in two.status()["soaking"]), "they are due")
    two.drain("--confirm", "never")
    two.judge("one", "two", status="VERIFY_RESIZE")


def test_a_run_does_not_wait_for_what_another_one_left_to_be_confirmed_tomorrow(two: Drained) -> None:
    two.drain("--confirm", "after:24h", "--parallel", "2", expect=9)
    for later in ((), ("--confirm", "never"), ("--soak", "1s")):
        ended = two.drain(*later, expect=9)
        assert "2 servers of cell1 wait in VERIFY_RESIZE to be confirmed" in ended.stderr
    two.judge("one", "two", status="VERIFY_RESIZE")


def test_abort_ends_a_soak_and_leaves_its_servers_in_verify_resize(two: Drained) -> None:
    run = two.begin("--soak", "10m", "--parallel", "2")
    wait_until(lambda: two.moved == {"one", "two"} and len(two.status()["soaking"]) == 2, "both soak")
    two.cellmove("drain", "abort")
    assert run.end(20) == 0
    shown = run.err.read_text()
    for name in ("one", "two"):
        assert f"in VERIFY_RESIZE, because the drain was aborted (next: cellmove confirm {two.move(name).id})" in shown
    two.judge("one", "two", status="VERIFY_RESIZE")
    assert (two.status()["state"], two.status()["counts"]["moved"]) == ("rolled-back", 2)
    two.cellmove("confirm", two.move("one").id)
    two.judge("one")


def test_abort_names_what_would_have_been_confirmed_later(two: Drained) -> None:
    two.drain("--confirm", "after:1h", "--parallel", "2", expect=9)
    aborted = two.cellmove("drain", "abort")
    for name in ("one", "two"):
        assert (
            f"{name}: note: in VERIFY_RESIZE, because the drain was aborted: cellmove confirm {two.move(name).id}"
            in aborted.stderr
        )
    assert two.status()["soaking"] == []
    two.judge("one", "two", status="VERIFY_RESIZE")
