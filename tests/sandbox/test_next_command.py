"""The command that is printed after a failure is typed, and does what was asked for at first."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest
from click.testing import Result

from cellmove.engine import executor as pipeline
from cellmove.engine.journal import Journal
from lab import oracle
from lab.layout import CELL_UUIDS
from tests.support import commands
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.running import begin, begin_held, slow, wait_for

TARGET = "c2-host1"
ALL = ("--force-locked", "--accept-loss", "swap", "--max-hosts", "1", "--transfer", "image", "--bwlimit", "5M")


def next_of(stderr: str) -> list[str]:
    """The words of the command that is printed last."""
    line = [line for line in stderr.splitlines() if line.startswith("next: ")][-1]
    return shlex.split(line.removeprefix("next: "))[1:]


def asked(words: list[str]) -> set[str]:
    """What a command line asks for, in whatever order; 5M is printed in bytes."""
    return {word.replace("5242880", "5M") for word in words}


def test_a_run_that_failed_prints_all_that_was_typed(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    environment = dict.fromkeys(("CELLMOVE_JOURNAL", "CELLMOVE_CONFIG", "OS_CLOUD"), "")
    given = sandbox.environment
    front = ("--journal", str(sandbox.folder / "my journal.db"), "--os-cloud", given["OS_CLOUD"])
    front += ("--config", given["CELLMOVE_CONFIG"])
    more = ("--host", TARGET, *ALL, "--confirm", "--probe", "cmd:true 'and more'")
    with sandbox.fault(TARGET, "spawn", "fail", server.id):
        failed = sandbox.cellmove(*front, "resize", server.name, "m1.small", *more, expect=1, env=environment)
    again = next_of(failed.stderr)
    assert asked(again) == asked([*front, "resize", server.name, "m1.small", *more])
    assert sandbox.cellmove(*again, "-f", "json", env=environment).json["state"] == "confirmed"
    assert not (sandbox.folder / "journal.db").exists()
    shot = sandbox.snapshot(server.id)
    assert oracle.problems(shot, cell="cell2", host=TARGET, flavor="m1.small", status="ACTIVE") == []


def test_the_options_in_front_are_in_all_that_is_printed(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    journal = str(sandbox.folder / "my journal.db")
    front = ("--journal", journal)
    planned = sandbox.cellmove(*front, "plan", server.id, "--host", TARGET)
    assert f"cellmove --journal '{journal}' prep-dest move-" in planned.stdout
    for words in (("list",), ("show", server.id), ("list", "-f", "value")):
        assert f"cellmove --journal '{journal}' prep-dest move-" in sandbox.cellmove(*front, *words).stdout
    (move,) = sandbox.cellmove(*front, "list", "-f", "json").json["moves"]
    assert move["next"][0] == f"cellmove --journal '{journal}' prep-dest {move['move']}"
    assert "--journal" not in sandbox.cellmove("list", env={"CELLMOVE_JOURNAL": journal}).stdout
    refused = sandbox.cellmove(*front, "confirm", server.id, expect=5)
    assert next_of(refused.stderr) == [*front, "prep-dest", move["move"]]


HELD = ("--host", TARGET, "--hold", "--confirm", "--probe", "cmd:true")


def test_a_held_run_that_failed_prints_hold_and_confirm(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    words = ("resize", server.name, "m1.small", *HELD)
    run = begin_held(sandbox, *words)
    with sandbox.fault(TARGET, "spawn", "fail", server.id):
        finished = sandbox.cellmove("finish", server.id, expect=1)
        assert run.end() == 1
    for said in (finished.stderr, run.err.read_text()):
        assert asked(next_of(said)) == asked(list(words))


def test_a_held_run_that_is_interrupted_prints_what_holds_it_again(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    words = ("resize", server.name, "m1.small", *HELD)
    run = begin_held(sandbox, *words)
    run.signal(signal.SIGINT)
    assert run.end() == 130
    said = run.err.read_text()
    assert asked(next_of(said)) == asked(list(words))
    assert "cellmove finish move-" in said  # what stops the guest is said as well
    again = begin_held(sandbox, *next_of(said))
    again.signal(signal.SIGKILL)
    again.child.join(30)
    done = sandbox.cellmove("finish", server.id, "-f", "json").json  # --confirm was asked for, and is kept
    assert done["state"] == "confirmed"


def test_a_later_session_keeps_confirm_and_probes(sandbox: Sandbox) -> None:
    server = sandbox.boot(ports=1)
    probe = f"cmd:test ! -e {sandbox.folder / 'wrong'}"
    with slow(sandbox, 0.2):
        run = begin(sandbox, "migrate", server.name, "--host", TARGET, "--confirm", "--probe", probe)
        wait_for(sandbox, "stop_source")
        run.signal(signal.SIGKILL)
        run.child.join(30)
    (sandbox.folder / "wrong").touch()
    stopped = sandbox.cellmove("resume", server.id, expect=3)
    assert probe in stopped.stderr
    assert next_of(stopped.stderr)[:4] == ["verify", next_of(stopped.stderr)[1], "--probe", probe]
    (sandbox.folder / "wrong").unlink()
    assert sandbox.cellmove("resume", server.id, "-f", "json").json["state"] == "confirmed"


def test_a_run_that_continues_a_plan_prints_both(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    sandbox.cellmove("plan", server.name, "--cell", "cell2", "--max-hosts", "1", "--accept-loss", "swap")
    with sandbox.fault("c2-host1", "spawn", "fail", server.id), sandbox.fault("c2-host2", "spawn", "fail", server.id):
        failed = sandbox.cellmove("migrate", server.id, "--confirm", expect=1)
    wanted = [
        "migrate",
        server.id,
        "--cell",
        CELL_UUIDS["cell2"],
        "--max-hosts",
        "1",
        "--accept-loss",
        "swap",
        "--confirm",
    ]
    assert asked(next_of(failed.stderr)) == asked(wanted)


@pytest.mark.parametrize(
    "more", [("--max-hosts", "2"), ("--bwlimit", "6M"), ("--transfer", "auto"), ("--cell", "cell1")]
)
def test_an_option_that_the_open_move_does_not_have_is_not_dropped(sandbox: Sandbox, more: tuple[str, ...]) -> None:
    server = sandbox.boot()
    where = () if more[0] == "--cell" else ("--host", TARGET)
    planned = ("--max-hosts", "1", "--bwlimit", "5M", "--transfer", "image")
    move = sandbox.cellmove("plan", server.name, "--host", TARGET, *planned, "-f", "json").json["move"]
    refused = sandbox.cellmove("migrate", server.name, *where, *more, expect=5)
    assert f"{move}, with another goal: cellmove plan {server.name} --host {TARGET}" in refused.stderr
    sandbox.cellmove("migrate", server.name, "--host", TARGET, *planned)


def test_steps_that_were_typed_one_by_one_are_not_run_at_once_afterwards(sandbox: Sandbox) -> None:
    """After the whole move is undone the printed command plans again, and does not stop the guest."""
    server = sandbox.boot()
    sandbox.cellmove("plan", server.name, "m1.small", "--host", TARGET)
    sandbox.cellmove("prep-dest", server.id)
    with sandbox.fault("c1-host1", "destroy", "fail once", server.id):
        failed = sandbox.cellmove("prep-source", server.id, expect=1)
    assert next_of(failed.stderr) == ["plan", server.name, "m1.small", "--host", TARGET]


def test_a_confirm_that_is_refused_keeps_its_options(sandbox: Sandbox) -> None:
    server = sandbox.boot(ports=1)
    move = sandbox.cellmove("migrate", server.name, "--host", TARGET, "-f", "json").json["move"]
    refused = sandbox.cellmove("confirm", move, "--probe", "cmd:false", expect=5)
    line = refused.stderr.splitlines()[-1].removeprefix("next: ")
    assert line == (
        f"cellmove verify {move} --probe cmd:false  # then cellmove revert {move}, or cellmove confirm {move} --force"
    )
    config = sandbox.folder / "strict.toml"
    config.write_text(Path(sandbox.environment["CELLMOVE_CONFIG"]).read_text().replace("unattended = true", ""))
    alone = sandbox.cellmove(
        "confirm", move, "--force", "--probe", "cmd:true", expect=5, env={"CELLMOVE_CONFIG": str(config)}
    )
    assert next_of(alone.stderr) == ["confirm", move, "--force", "--probe", "cmd:true"]


# faults of cellmove's own


def typed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """A command in this process, which can be broken."""
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    return commands.typed(*words)


@pytest.mark.parametrize(
    ("verb", "action", "command"),
    [
        ("migrate", "take_server", "resume"),
        ("migrate", "stop_source", "resume"),
        ("migrate", "start_target", "resume"),
        ("confirm", "delete_source", "resume"),
        ("revert", "switch_back", "resume"),
    ],
)
def test_a_fault_prints_what_goes_on_with_the_move(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, verb: str, action: str, command: str
) -> None:
    server = sandbox.boot()
    if verb != "migrate":
        sandbox.cellmove("migrate", server.name, "--host", TARGET)
    real, names = pipeline._perform, []

    def broken(runner, context, step, act, *rest, **more):
        names.append(act.name)
        if act.name == action:
            raise TypeError("mysql://user:secret@host")
        return real(runner, context, step, act, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_perform", broken)
        result = typed(sandbox, patch, verb, server.name, *(("--host", TARGET) if verb == "migrate" else ()))
    assert action in names, names
    assert result.exit_code == 3
    assert "Traceback" not in result.output
    assert "secret" not in result.output
    (move,) = sandbox.cellmove("list", "-f", "json").json["moves"]
    assert "this is a fault in cellmove: TypeError at " in result.stderr
    assert next_of(result.stderr) == [command, move["move"]]
    where = f"{move['state']}, in {move['busy_step']}" if move["busy_step"] else move["state"]
    assert f"state: {move['move']} of {server.name} is {where}\n" in result.stderr
    sandbox.cellmove(command, move["move"])


def test_a_fault_while_it_is_undone_prints_rollback(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sandbox.boot()
    sandbox.cellmove("plan", server.name, "--host", TARGET)
    sandbox.cellmove("prep-dest", server.id)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_undo_one", lambda *_: 1 / 0)
        result = typed(sandbox, patch, "rollback", server.name)
    assert result.exit_code == 3
    assert next_of(result.stderr)[0] == "rollback"
    assert "is rolling-back" in result.stderr
    sandbox.cellmove(*next_of(result.stderr))


@pytest.mark.parametrize(
    "words",
    [
        ("migrate", "{name}", "--host", TARGET, "--hold", "--confirm"),
        ("plan", "{name}", "--cell", "cell2", "--dry-run"),
        ("audit", "--server", "{name}"),
        ("resume", "--all"),
        ("drain-cell", "cell1", "--limit", "1", "--dry-run"),
    ],
)
def test_a_fault_before_there_is_a_move_prints_the_command_itself(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    server = sandbox.boot()
    words = tuple(word.format(name=server.name) for word in words)
    with monkeypatch.context() as patch:
        for name in ("open_move_of", "open_moves", "all_moves"):
            patch.setattr(Journal, name, lambda *_: 1 / 0)
        result = typed(sandbox, patch, *words)
    assert result.exit_code == 3
    assert asked(next_of(result.stderr)) == asked(list(words))
