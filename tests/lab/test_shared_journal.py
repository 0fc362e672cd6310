"""A journal in MariaDB that machines share: one run a server wherever it was started, and no lock outlives its run."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cellmove.core.errors import Locked, Unreachable
from cellmove.core.move import Move, Phase, State
from cellmove.core.ownership import owner_of_journal
from cellmove.engine.journal_open import open_journal
from lab import cloud, oracle

TARGET = "c2-host1"


@pytest.mark.lab
def test_two_machines_share_a_journal(cellmove, started, boot, shared, tmp_path):
    """Two homes: the lock files of the one do not lie before the other."""
    server = boot("shared", volumes=1)
    here, there = ({"CELLMOVE_JOURNAL": shared, "HOME": str(tmp_path / name)} for name in ("here", "there"))
    with cloud.fault("c1-host1", "power_off", "hang 20", server.id):
        run = started("migrate", server.name, "--host", TARGET, env=here)
        journal = open_journal(shared, lambda: "now")
        deadline = time.monotonic() + 60
        while not any(entry.action == "stop_source" for m in journal.all_moves() for entry in journal.entries_of(m.id)):
            assert time.monotonic() < deadline, run.err.read_text()
            time.sleep(0.2)
        turned_away = cellmove("resume", server.name, env=there, expect=6)
        assert "on another machine" in turned_away.stderr
        assert len(turned_away.stderr.strip().splitlines()) == 1
        rows = oracle.snapshot(server.id)["cells"]["cell1"]["instance_system_metadata"]
        (value,) = [row["value"] for row in rows if row["key"] == "cellmove"]
        assert value.split(" ", 1)[1] == owner_of_journal(shared)
        assert "lab-secret" not in value
        run.kill()
    assert "finished" in cellmove("resume", server.name, env=there).stdout
    cloud.wait_ports(server.id, "ACTIVE")  # their agent follows a moment later
    shot = oracle.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="VERIFY_RESIZE") == []
    assert "revert" in cellmove("revert", server.name, env=here).stdout


@pytest.mark.lab
def test_eight_first_runs_at_once(shared):
    start = threading.Barrier(8)

    def first(number):
        start.wait()
        journal = open_journal(shared, lambda: "now")
        journal.open_move(Move(f"m{number}", f"uuid-{number}", "web", "resize", State.PLANNED, "", ""))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(first, number) for number in range(8)]:
            future.result()
    assert len(open_journal(shared, lambda: "now").all_moves()) == 8


@pytest.mark.lab
def test_the_journal_in_mariadb_is_sealed_as_in_a_file(shared):
    journal = open_journal(shared, lambda: "2026-01-01T00:00:00Z")
    move = Move("m1", "uuid-1", "wéb-1", "resize", State.PLANNED, "2026", "2026", {"words": "ü" * 300})
    journal.open_move(move)
    entry = journal.intend("m1", "prep-dest", "claim", {"a": 1})
    journal.done(entry, {"b": 2})
    again = open_journal(shared, lambda: "")
    assert again.move("m1") == move
    assert again.entries_of("m1")[0].phase is Phase.DONE
    with journal.server_lock("uuid-1", "web-1"):
        with pytest.raises(Locked), again.server_lock("uuid-1", "web-1"):
            pass
        with again.server_lock("uuid-2", "web-2"):
            pass
    with again.server_lock("uuid-1", "web-1"):
        pass
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE entries SET phase = 'intent'")
    damaged = open_journal(shared, lambda: "")  # lines are checked when they are read
    assert damaged.move("m1") == move
    with pytest.raises(Unreachable, match="is damaged: a row of entries differs from what was written, a line of m1"):
        damaged.entries_of("m1")
    with pytest.raises(Unreachable, match="is damaged: a row of entries differs from what was written, a line of m1"):
        damaged.check()
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE moves SET state = 'finished'")
    with pytest.raises(Unreachable, match="is damaged: a row of moves differs from what was written"):
        open_journal(shared, lambda: "")
