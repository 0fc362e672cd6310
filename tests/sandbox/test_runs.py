"""Real processes that meet: two runs on one server, signals, and runs that find nothing to do."""

from __future__ import annotations

import signal
import time

import pytest

from cellmove.core.move import Move, State
from cellmove.engine.journal_open import open_journal
from lab import oracle
from tests.support import fork_server
from tests.support.commands import run_with_full_disk
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.running import begin, files_of, phases, slow, wait_for

TARGET = "c2-host1"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_waits_for_the_action_in_hand(sandbox: Sandbox, number: int, code: int) -> None:
    server = sandbox.boot("sig", ports=1, volumes=1)
    with slow(sandbox, 0.2):
        run = begin(sandbox, "resize", server.name, "m1.small", "--host", TARGET)
        wait_for(sandbox, "stop_source")
        time.sleep(0.3)
        run.signal(number)
        assert run.end() == code
    said = run.err.read_text()
    move = sandbox.cellmove("list", "-f", "json").json["moves"][0]
    assert f"next: cellmove resume {move['move']}" in said
    assert "Finishing the current action" in said
    assert list(phases(sandbox).items())[-1] == ("stop_source", "done")
    assert sandbox.cellmove("resume", server.name, "-f", "json").json["state"] == "finished"
    shot = sandbox.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.small", status="VERIFY_RESIZE") == []


def test_the_second_signal_leaves_at_once(sandbox: Sandbox) -> None:
    server = sandbox.boot("twice", ports=1, volumes=1)
    before = sandbox.snapshot(server.id)
    with slow(sandbox, 0.5):
        run = begin(sandbox, "resize", server.name, "m1.small", "--host", TARGET)
        wait_for(sandbox, "stop_source")
        time.sleep(0.3)
        run.signal(signal.SIGINT)
        time.sleep(0.2)
        assert run.child.is_alive()
        run.signal(signal.SIGTERM)
        assert run.end(2) == 143
    (move,) = sandbox.cellmove("list", "-f", "json").json["moves"]
    assert f"next: cellmove resume {move['move']}\n" in run.err.read_text()
    assert phases(sandbox)["stop_source"] == "intent"
    assert sandbox.cellmove("rollback", server.name, "-f", "json").json["state"] == "rolled-back"
    shot = sandbox.snapshot(server.id)
    assert oracle.compare(before, shot) == []
    assert oracle.problems(shot, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []


def test_a_signal_during_a_rollback(sandbox: Sandbox) -> None:
    server = sandbox.boot("back", volumes=1)
    before = sandbox.snapshot(server.id)
    sandbox.cellmove("plan", server.name, "--host", TARGET)
    sandbox.cellmove("prep-dest", server.name)
    sandbox.cellmove("prep-source", server.name)
    with slow(sandbox, 0.2):
        run = begin(sandbox, "rollback", server.name)
        wait_for(sandbox, "stop_source", "undoing")
        time.sleep(0.3)
        run.signal(signal.SIGINT)
        assert run.end() == 130
    assert phases(sandbox)["stop_source"] == "undone"
    assert phases(sandbox)["stash"] == "done"
    assert "next: cellmove rollback move-" in run.err.read_text()
    sandbox.cellmove("resume", server.name)
    assert oracle.compare(before, sandbox.snapshot(server.id)) == []


def test_a_signal_that_comes_at_the_pivot_is_honoured_behind_the_step(sandbox: Sandbox) -> None:
    """finish is at its pivot and goes on to its end; the confirm that was to follow does not begin."""
    server = sandbox.boot("pivot", volumes=1)
    with slow(sandbox, 0.2):
        run = begin(sandbox, "migrate", server.name, "--host", TARGET, "--confirm")
        wait_for(sandbox, "start_target")
        wait_for(sandbox, "start_target", "done")
        # Stopped and continued, so that the signal is there when the process comes to itself again.
        run.signal(signal.SIGSTOP)
        run.signal(signal.SIGINT)
        run.signal(signal.SIGCONT)
        assert run.end() == 130
    known = phases(sandbox)
    assert known.get("close") == "done" or not {"show_target", "switch_mapping"} & set(known)
    assert "clean_source" not in known
    assert sandbox.cellmove("resume", server.name, "-f", "json").json["state"] == "confirmed"
    shot = sandbox.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="ACTIVE") == []


def test_two_runs_on_one_server_and_one_on_another(sandbox: Sandbox) -> None:
    server, other = sandbox.boot("one", volumes=1), sandbox.boot("other", volumes=1)
    with slow(sandbox, 0.3):
        first = begin(sandbox, "resize", server.name, "m1.small", "--host", TARGET)
        wait_for(sandbox, "stop_source")
        again = ("resize", server.name, "m1.small", "--host", TARGET)
        for command in (again, ("resume", server.name), ("rollback", server.name), ("adopt", server.id)):
            turned_away = sandbox.cellmove(*command, expect=6)
            assert len(turned_away.stderr.strip().splitlines()) == 1, turned_away.stderr
            assert turned_away.stdout == ""
        sandbox.cellmove("show", server.name)
        second = begin(sandbox, "migrate", other.name, "--host", TARGET)
        assert first.end() == 0
        assert second.end() == 0
    for each, flavor in ((server, "m1.small"), (other, "m1.tiny")):
        shot = sandbox.snapshot(each.id)
        assert oracle.problems(shot, cell="cell2", host=TARGET, flavor=flavor, status="VERIFY_RESIZE") == []


def test_a_lock_whose_process_was_killed_needs_no_hand(sandbox: Sandbox) -> None:
    server = sandbox.boot("stale", volumes=1)
    with slow(sandbox, 0.2):
        run = begin(sandbox, "resize", server.name, "m1.small", "--host", TARGET)
        wait_for(sandbox, "stop_source")
        run.signal(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
        assert list((sandbox.folder / "locks").iterdir())
        assert sandbox.cellmove("resume", server.name, "-f", "json").json["state"] == "finished"


def test_what_is_finished_is_left_alone_to_the_last_byte(sandbox: Sandbox) -> None:
    server = sandbox.boot("idle", ports=1, volumes=1)
    command = ("resize", server.name, "m1.small", "--host", TARGET)
    sandbox.cellmove(*command)
    cells = sandbox.snapshot(server.id)["cells"].values()
    rows = [row for cell in cells for row in cell.get("instance_system_metadata", [])]
    assert len(rows) > 2
    assert [row["key"] for row in rows if row["key"].startswith("cellmove")] == [], "our marks are taken off"
    idle = (
        command,
        ("resume", server.name),
        ("resume", "--all"),
        ("finish", server.name),
        ("list",),
        ("show", server.id),
    )
    for commands in (idle, (("confirm", server.name), *idle[:3], ("confirm", server.name))):
        if commands is not idle:
            sandbox.cellmove("confirm", server.name)
        files, shot = files_of(sandbox.folder), sandbox.snapshot(server.id)
        for each in commands:
            assert sandbox.cellmove(*each).stderr == ""
        assert files_of(sandbox.folder) == files
        assert sandbox.snapshot(server.id) == shot


def test_a_journal_without_room_stops_before_the_effect(sandbox: Sandbox) -> None:
    server = sandbox.boot("room", volumes=1)
    before = sandbox.snapshot(server.id)
    sandbox.cellmove("plan", server.name, "--host", TARGET)
    journal = open_journal(str(sandbox.folder / "journal.db"), lambda: "")
    journal.open_move(Move("ballast", "none", "none", "resize", State.ROLLED_BACK, "", "", {}))
    stopped_at = []
    for room in (10, 150, 500, 900):
        journal.intend("ballast", "finish", "ballast", {"z": "z" * (3900 - room)})
        pages = (sandbox.folder / "journal.db").stat().st_size // 4096
        number = next(sandbox.numbers)
        out, err = sandbox.folder / f"{number}.out", sandbox.folder / f"{number}.err"
        what = (pages, ["prep-dest", server.name], sandbox.environment, out, err)
        code = fork_server.call(run_with_full_disk, *what)
        assert "database or disk is full" in err.read_text()
        shot = sandbox.snapshot(server.id)
        known = {action: phase for action, phase in phases(sandbox).items() if action != "ballast"}
        assert code == (3 if known else 4), err.read_text()
        assert ("next: cellmove resume move-" if known else "nothing was written") in err.read_text()
        stopped_at.append(len(known))
        rows = shot["cells"]["cell1"]["instance_system_metadata"]
        assert any(row["key"] == "cellmove" for row in rows) == ("take_server" in known), "no effect without its line"
        assert bool(shot["cells"]["cell2"].get("instances")) <= ("copy_records" in known)
    assert stopped_at[0] == 0, "no room for the first line: nothing was written at all"
    assert stopped_at == sorted(stopped_at)
    assert stopped_at[-1] > stopped_at[0]
    sandbox.cellmove("rollback", server.name)
    assert oracle.compare(before, sandbox.snapshot(server.id)) == []
