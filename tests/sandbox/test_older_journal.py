"""An older copy of the journal is refused while the move that it records goes on elsewhere. Nothing of the server changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cellmove.core import ownership
from lab import oracle
from tests.scenarios.environment import Outcome, Server
from tests.support import fork_server
from tests.support.commands import run_killed
from tests.support.sandbox.environment import Sandbox
from tests.unit.db.test_generation import as_second_version

STEPS = ("prep-dest", "prep-source", "finish")
COMMANDS = ("prep-dest", "prep-source", "finish", "confirm", "revert", "resume", "rollback")
REFUSED = "this journal is older than the move"

With = Callable[..., Outcome]
"""Types a command with one journal."""


def begun(sandbox: Sandbox, *steps: str, name: str = "older") -> tuple[Server, str]:
    """A server with volumes and ports, and its move after these steps."""
    server = sandbox.boot(name, volumes=2, ports=2)
    move = sandbox.cellmove("plan", server.id, "m1.small", "--cell", "cell2", "-f", "json").json["move"]
    for step in steps:
        sandbox.cellmove(step, move)
    return server, move


def copied(sandbox: Sandbox, name: str = "copy.db") -> With:
    """Copy the journal as it is now."""
    path = sandbox.folder / name
    shutil.copy(sandbox.folder / "journal.db", path)
    return partial(sandbox.cellmove, env={"CELLMOVE_JOURNAL": str(path)})


def refuses_everything(sandbox: Sandbox, server: Server, move: str, copy: With, *says: str) -> None:
    """Every command is refused with 5, says the same, and changes nothing."""
    before = sandbox.snapshot(server.id)
    for command in COMMANDS:
        refused = copy(command, move, expect=5)
        assert REFUSED in refused.stderr, (command, refused.stderr)
        assert "nothing was written by this run" in refused.stderr
        assert "next: cellmove " in refused.stderr
        for words in says:
            assert words in refused.stderr, (command, refused.stderr)
        assert "as before" not in refused.stderr
    assert sandbox.snapshot(server.id) == before


def test_a_copy_from_before_the_guest_was_stopped(sandbox: Sandbox) -> None:
    """What once stopped a guest for good: a copy after prep-dest, used after the original's prep-source."""
    server, move = begun(sandbox, "prep-dest")
    before = sandbox.snapshot(server.id)["volumes"]
    copy = copied(sandbox)
    sandbox.cellmove("prep-source", move)
    journal = sandbox.folder / "journal.db"
    refuses_everything(
        sandbox, server, move, copy, "the server's mark says generation", f":{journal}: use that one",
        f"next: cellmove --journal {journal} show {move}",
    )  # fmt: skip
    sandbox.cellmove("finish", move)
    refuses_everything(sandbox, server, move, copy, "carries no mark of the move any more")
    sandbox.cellmove("confirm", move)
    refuses_everything(sandbox, server, move, copy, "carries no mark of the move any more")
    shot = sandbox.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host="c2-host1", flavor="m1.small", status="ACTIVE") == []
    assert set(shot["volumes"]) == set(before)


@pytest.mark.parametrize("done", range(4))
def test_a_copy_from_every_other_boundary_of_a_step(sandbox: Sandbox, done: int) -> None:
    server, move = begun(sandbox, *STEPS[:done])
    copy = copied(sandbox)
    for step in STEPS[done:]:
        sandbox.cellmove(step, move)
        refuses_everything(sandbox, server, move, copy)
    sandbox.cellmove("revert", move)
    if done == len(STEPS):
        # What became of it shows: the copy takes note, and changes nothing.
        assert "reverted" in copy("resume", move).stdout
    assert oracle.problems(
        sandbox.snapshot(server.id), cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE"
    ) == []  # fmt: skip


@pytest.mark.parametrize("ends", ["rollback", "revert"])
def test_a_copy_of_a_plan_whose_move_is_over(sandbox: Sandbox, ends: str) -> None:
    """The copy was made before the first effect. The server carries no mark and is back where the plan found it."""
    server, move = begun(sandbox)
    copy = copied(sandbox)
    for step in ("prep-dest",) if ends == "rollback" else STEPS:
        sandbox.cellmove(step, move)
    sandbox.cellmove(ends, move)
    refuses_everything(
        sandbox, server, move, copy, "another journal started it, and it was rolled back or reverted since"
    )
    assert REFUSED in copy("resize", server.id, "m1.small", "--cell", "cell2", expect=5).stderr
    copy("adopt", server.id)
    states = {each["move"]: each["state"] for each in copy("list", "--all", "-f", "json").json["moves"]}
    assert states[move] == "superseded"
    assert copy("resize", server.id, "m1.small", "--cell", "cell2", "--confirm").code == 0


def test_of_two_copies_of_a_plan_the_first_one_in_use_stays_valid(sandbox: Sandbox) -> None:
    server, move = begun(sandbox)
    copy = copied(sandbox)
    killed(sandbox, "prep-dest:take_server:after-intent", "prep-dest", move)  # nothing is in the cloud yet
    copy("prep-dest", move)
    refuses_everything(sandbox, server, move, sandbox.cellmove, "the server's mark says generation")
    copy("rollback", move)
    refuses_everything(sandbox, server, move, sandbox.cellmove)


@pytest.mark.parametrize("step", ["confirm", "revert"])
def test_a_copy_while_a_confirm_or_revert_is_half_done(sandbox: Sandbox, step: str) -> None:
    server, move = begun(sandbox, *STEPS)
    copy = copied(sandbox)
    where = {"confirm": "confirm:delete_source:after-intent", "revert": "revert:hide_target:after-intent"}[step]
    killed(sandbox, where, step, move)
    refuses_everything(sandbox, server, move, copy, "the server's mark says generation")
    sandbox.cellmove("resume", move)
    ended = {"confirm": "confirmed", "revert": "reverted"}[step]
    assert ended in copy("resume", move).stdout


def test_a_backup_of_the_journal_in_its_place(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, "prep-dest")
    journal, backup, original = (sandbox.folder / name for name in ("journal.db", "backup.db", "original.db"))
    shutil.copy(journal, backup)
    sandbox.cellmove("prep-source", move)
    journal.rename(original)
    shutil.copy(backup, journal)
    refuses_everything(
        sandbox, server, move, sandbox.cellmove, "an older copy was put in its place",
        f"next: cellmove adopt {server.id} --journal-is-lost",
    )  # fmt: skip
    original.replace(journal)
    assert "finished" in sandbox.cellmove("finish", move).stdout


def killed(sandbox: Sandbox, where: str, *command: str) -> None:
    """Type a command that ends with SIGKILL."""
    environment = {**sandbox.environment}
    out = sandbox.folder / "killed.out"
    code = fork_server.call(partial(run_killed, where), list(command), environment, out, out.with_suffix(".err"))
    assert code == -9, out.with_suffix(".err").read_text()


def test_an_older_copy_while_the_original_is_half_rolled_back(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, "prep-dest", "prep-source")
    before, copy = sandbox.snapshot(server.id), copied(sandbox)
    killed(sandbox, "prep-dest:claim:after-undone", "rollback", move)
    refuses_everything(sandbox, server, move, copy)
    rolled_back = sandbox.cellmove("rollback", move)
    assert "every action was rolled back; looked at since" in rolled_back.stderr
    assert "is active and running on c1-host1 in cell1" in rolled_back.stderr
    assert "its 2 ports bound to c1-host1, its 2 volumes attached" in rolled_back.stderr
    refuses_everything(sandbox, server, move, copy, "carries no mark of the move any more")
    assert before["volumes"].keys() == sandbox.snapshot(server.id)["volumes"].keys()


def test_a_drain_with_an_older_copy_leaves_the_server_alone(sandbox: Sandbox) -> None:
    server = sandbox.boot("drained", volumes=1)
    words = (
        "drain-cell",
        "cell1",
        "--to",
        "cell2",
        "--confirm",
        "never",
        "--no-cordon",
        "--include",
        f"name={server.name}",
    )
    killed(sandbox, "prep-dest:mirror:after-done", *words, "--yes")
    move = sandbox.cellmove("list", "-f", "json").json["moves"][0]["move"]
    copy = copied(sandbox)
    sandbox.cellmove("resume", move)
    shot = sandbox.snapshot(server.id)
    drained = copy(*words, "--yes", expect=8)
    assert REFUSED in drained.stdout + drained.stderr
    assert sandbox.snapshot(server.id) == shot


@pytest.mark.parametrize("action", ["clear_source", "clear_target", "clear_rest"])
def test_what_is_left_of_a_deleted_server_stays_when_the_server_is_there_again(sandbox: Sandbox, action: str) -> None:
    """A database was put back from a dump of before the deletion: its server must not be torn down."""
    server, move = begun(sandbox, *STEPS)
    cloud = sandbox.process.cloud()
    cloud.update("cell2", "instances", {"deleted": 1}, uuid=server.id)
    killed(sandbox, f"sweep:{action}:after-intent", "resume", move)
    cloud.update("cell2", "instances", {"deleted": 0}, uuid=server.id)
    before = sandbox.snapshot(server.id)
    stopped = sandbox.cellmove("resume", move, expect=3)
    assert "the server is not deleted any more" in stopped.stderr
    assert f"next: cellmove audit --server {server.id}" in stopped.stderr
    assert sandbox.snapshot(server.id) == before


# what an older journal can do: be rebuilt


def test_the_journal_that_is_older_is_rebuilt_when_all_newer_ones_are_lost(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, "prep-dest")
    copy = copied(sandbox)
    sandbox.cellmove("prep-source", move)
    assert "is recorded in another journal" in copy("adopt", server.id, expect=5).stderr
    adopted = copy("adopt", server.id, "--journal-is-lost", "-f", "json").json
    assert (adopted["move"], adopted["state"]) == (move, "source-prepared")
    assert "finished" in copy("finish", move).stdout
    # The other one was not lost after all: now it is the older one.
    refuses_everything(sandbox, server, move, sandbox.cellmove)
    copy("revert", move)
    assert oracle.problems(
        sandbox.snapshot(server.id), cell="cell1", host="c1-host1", flavor="m1.tiny", status="ACTIVE"
    ) == []  # fmt: skip


def test_the_mark_names_the_journal_that_went_on_last(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, "prep-dest")
    copy = copied(sandbox)
    copy("prep-source", move)
    rows = sandbox.snapshot(server.id)["cells"]["cell1"]["instance_system_metadata"]
    (value,) = [row["value"] for row in rows if row["key"] == ownership.KEY]
    assert value.endswith("copy.db")
    refuses_everything(sandbox, server, move, sandbox.cellmove, "copy.db: use that one")


@pytest.mark.parametrize("ends", ["rollback", "finish"])
def test_what_is_over_by_now_is_given_up_by_adopt(sandbox: Sandbox, ends: str) -> None:
    server, move = begun(sandbox, "prep-dest")
    copy = copied(sandbox)
    for step in ["rollback"] if ends == "rollback" else ["prep-source", "finish"]:
        sandbox.cellmove(step, move)
    adopted = copy("adopt", server.id, "-f", "json").json
    states = {each["move"]: each["state"] for each in copy("list", "--all", "-f", "json").json["moves"]}
    assert states[move] == "superseded"
    if ends == "rollback":
        assert adopted["move"] == move
    else:
        assert states[adopted["move"]] == "finished"
        copy("revert", adopted["move"])


# journals and marks of earlier versions


@pytest.mark.parametrize("ends", ["resume", "rollback"])
@pytest.mark.parametrize("done", range(4))
def test_a_move_that_an_earlier_version_began(sandbox: Sandbox, done: int, ends: str) -> None:
    """Its journal has no generations, and neither has the server's mark."""
    server, move = begun(sandbox, *STEPS[:done])
    cloud = sandbox.process.cloud()
    for cell in ("cell1", "cell2"):
        cloud.delete(cell, "instance_system_metadata", instance_uuid=server.id, key=ownership.GENERATION)
    as_second_version(sandbox.folder / "journal.db")
    sandbox.cellmove(ends, move)
    if ends == "resume":
        for step in (*STEPS[done:], "confirm"):
            sandbox.cellmove(step, move)
    shot = sandbox.snapshot(server.id)
    cell, host, flavor = ("cell2", "c2-host1", "m1.small") if ends == "resume" else ("cell1", "c1-host1", "m1.tiny")
    assert oracle.problems(shot, cell=cell, host=host, flavor=flavor, status="ACTIVE") == []


def test_an_earlier_version_s_copy_of_a_move_that_went_on(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, "prep-dest")
    copy = copied(sandbox)
    as_second_version(sandbox.folder / "copy.db")
    sandbox.cellmove("prep-source", move)
    refuses_everything(sandbox, server, move, copy, "this journal knows of none")


def test_a_journal_is_whole_after_it_was_refused(sandbox: Sandbox) -> None:
    """Nothing of a refusal is written to the older journal either."""
    server, move = begun(sandbox, "prep-dest")
    copy, path = copied(sandbox), sandbox.folder / "copy.db"
    sandbox.cellmove("prep-source", move)
    before = Path(path).read_bytes()
    refuses_everything(sandbox, server, move, copy)
    assert Path(path).read_bytes() == before
    assert json.loads(copy("show", move, "-f", "json").stdout)["state"] == "dest-prepared"


def test_a_mark_of_a_revert_that_its_owner_was_quicker_with_goes(sandbox: Sandbox) -> None:
    server, move = begun(sandbox, *STEPS)
    killed(sandbox, "revert:begin_revert:after-intent", "revert", move)
    cloud = sandbox.process.cloud()
    for key, value in ownership.rows_of(ownership.OwnershipMark(move, "me@here:/j", generation="9 raised")).items():
        row = {"instance_uuid": server.id, "key": key, "value": value, "deleted": 0}
        cloud.insert("cell1", "instance_system_metadata", row)
    # What nova's own revert leaves in the source cell.
    cloud.update("cell1", "migrations", {"status": "reverted"}, instance_uuid=server.id)
    cloud.update("cell1", "instances", {"hidden": 0, "task_state": None}, uuid=server.id)
    cloud.update("api", "instance_mappings", {"cell_id": 2}, instance_uuid=server.id)
    assert "reverted" in sandbox.cellmove("resume", move).stdout
    rows = sandbox.snapshot(server.id)["cells"]["cell1"]["instance_system_metadata"]
    assert [row["key"] for row in rows if row["key"] in ownership.KEYS] == []
