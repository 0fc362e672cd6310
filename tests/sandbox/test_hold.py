"""A move that is held before the guest is stopped: another terminal, the clock, a signal or a death end the waiting."""

from __future__ import annotations

import json
import signal
import time

import pytest

from cellmove.core.clock import Clock
from cellmove.engine.journal_open import open_journal
from lab import oracle
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.running import begin_held

TARGET = "c2-host1"


def state_of(sandbox: Sandbox, server: str) -> str:
    """The state of its newest move, or nothing."""
    if not (sandbox.folder / "journal.db").exists():
        return ""
    moves = open_journal(str(sandbox.folder / "journal.db"), Clock().text).find(server)
    return str(moves[-1].state) if moves else ""


def check_finished(sandbox: Sandbox, server: str) -> None:
    """It is in the other cell, as it has to be."""
    shot = sandbox.snapshot(server)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.tiny", status="VERIFY_RESIZE") == []


def test_another_terminal_ends_it(sandbox: Sandbox):
    """The run that holds it goes on, and both commands say so."""
    server = sandbox.boot()
    begun = begin_held(sandbox, "migrate", server.id, "--host", TARGET, "--hold")
    time.sleep(1)
    assert state_of(sandbox, server.id) == "dest-prepared"  # it waits
    shown = json.loads(sandbox.cellmove("show", server.id, "-f", "json").stdout)
    assert shown["next"][0].startswith("cellmove finish ")
    finished = sandbox.cellmove("finish", server.id)
    assert "finished" in finished.stdout
    assert begun.end() == 0
    assert "finished" in begun.out.read_text()
    check_finished(sandbox, server.id)


def test_a_time_ends_it(sandbox: Sandbox):
    """Not before the minute that was asked for."""
    server = sandbox.boot()
    now = Clock().utc_now().astimezone()
    left = 60 - now.second
    if left < 10:  # it would be over before it is prepared
        time.sleep(left + 0.5)
        now = Clock().utc_now().astimezone()
        left = 60 - now.second
    minute = (now.minute + 1) % 60
    hour = (now.hour + (now.minute + 1) // 60) % 24
    began = time.monotonic()
    begun = begin_held(sandbox, "migrate", server.id, "--host", TARGET, "--cutover-at", f"{hour:02}:{minute:02}")
    assert begun.end(left + 30) == 0
    assert time.monotonic() - began > left - 1.5
    check_finished(sandbox, server.id)


def test_a_time_that_is_none(sandbox: Sandbox):
    server = sandbox.boot()
    refused = sandbox.cellmove("migrate", server.id, "--host", TARGET, "--cutover-at", "25:00", expect=2)
    assert "--cutover-at: '25:00' is not a time of day" in refused.stderr
    assert state_of(sandbox, server.id) == ""


@pytest.mark.parametrize("way", ["finish", "rollback"])
def test_the_run_that_holds_it_dies(sandbox: Sandbox, way: str):
    """The move stays prepared: one command goes on, one rolls it back."""
    server = sandbox.boot()
    before = sandbox.snapshot(server.id)
    begun = begin_held(sandbox, "migrate", server.id, "--host", TARGET, "--hold")
    begun.signal(signal.SIGKILL)
    begun.child.join(30)
    assert sandbox.cellmove("resume", server.id).code == 0  # nothing to go on with: it waits for a person
    assert state_of(sandbox, server.id) == "dest-prepared"
    sandbox.cellmove(way, server.id)
    if way == "finish":
        check_finished(sandbox, server.id)
    else:
        after = sandbox.snapshot(server.id)
        assert oracle.compare(before, after) == []
        assert oracle.problems(after, cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE") == []


def test_a_signal_ends_the_waiting(sandbox: Sandbox):
    """Nothing is stopped and nothing rolled back; what to type next is said."""
    server = sandbox.boot()
    begun = begin_held(sandbox, "migrate", server.id, "--host", TARGET, "--hold")
    begun.signal(signal.SIGINT)
    assert begun.end() == 130
    assert "cellmove finish move-" in begun.err.read_text()
    assert state_of(sandbox, server.id) == "dest-prepared"
    busy = begin_held(sandbox, "migrate", server.id, "--host", TARGET, "--hold")  # the same command holds it again
    taken = sandbox.cellmove("rollback", server.id, expect=6)
    assert "another run" in taken.stderr
    busy.signal(signal.SIGTERM)
    assert busy.end() == 143
    sandbox.cellmove("rollback", server.id)
