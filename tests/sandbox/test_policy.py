"""The operator's rules, and that nothing moves unattended before that was switched on."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from cellmove.engine.journal_open import open_journal
from lab import oracle
from tests.support.sandbox.environment import Sandbox
from tests.support.sandbox.running import begin, slow, wait_for
from tests.support.sandbox.terminal import END, INTERRUPT, at_a_terminal

TARGET = "c2-host1"
STEPS = ("prep-dest", "prep-source", "finish", "confirm")


@dataclass(frozen=True)
class Config:
    """A configuration file of this test's own."""

    path: Path

    def write(self, text: str) -> dict[str, str]:
        """Replace it; returns what names it to a command."""
        self.path.write_text(text)
        return {"CELLMOVE_CONFIG": str(self.path)}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """An empty one."""
    (tmp_path / "config.toml").touch()
    return Config(tmp_path / "config.toml")


def test_nothing_moves_unattended_before_it_is_switched_on(sandbox: Sandbox, config: Config) -> None:
    server = sandbox.boot("alone", ports=1, volumes=1)
    before = sandbox.snapshot(server.id)
    off = config.write("")
    for verb in (("migrate", server.name, "--host", TARGET), ("migrate", server.name, "--host", TARGET, "--yes")):
        refused = sandbox.cellmove(*verb, "-f", "json", expect=5, env=off)
        assert "policy-unattended" in [check["code"] for check in refused.json["checks"]]
        (found,) = (check for check in refused.json["checks"] if check["code"] == "policy-unattended")
        assert "unattended = true" in found["remedy"]
        assert str(config.path) in found["remedy"]
    assert sandbox.cellmove("list", "--all", "-f", "json", env=off).json["moves"] == [], "a refused run opened a move"

    move = sandbox.cellmove("plan", server.name, "--host", TARGET, "-f", "json", env=off).json["move"]
    for _ in range(2):
        for verb in ("list", "show", "plan"):
            sandbox.cellmove(verb, *(() if verb == "list" else (server.name,)), env=off, expect=None)
    refused = sandbox.cellmove("prep-dest", move, "--yes", expect=5, env=off)
    assert "unattended = true" in refused.stderr
    assert str(config.path) in refused.stderr
    assert f"next: cellmove prep-dest {move}" in refused.stderr
    for step in STEPS:
        sandbox.cellmove(step, move)
        again = sandbox.cellmove(step, move, env=off)
        assert again.stderr == "", "what is done already needs no consent"
    after = sandbox.snapshot(server.id)
    assert oracle.compare(before, after, moved=True) == []


@pytest.mark.parametrize("verb", ["resume", "rollback", "migrate", "resume --all"])
def test_what_has_begun_is_ended_from_cron_whatever_the_rules_say_now(
    sandbox: Sandbox, config: Config, verb: str
) -> None:
    server = sandbox.boot("cron", ports=1, volumes=1)
    command = ("migrate", server.name, "--host", TARGET)
    with slow(sandbox, 0.2):
        run = begin(sandbox, *command)
        wait_for(sandbox, "stop_source")
        run.signal(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
    off = config.write('[policy]\nmoves_a_day = 0\ndeny.projects = "*"\n')
    words = {"migrate": command, "resume --all": ("resume", "--all")}.get(verb, (verb, server.name))
    sandbox.cellmove(*words, env=off)
    (move,) = sandbox.cellmove("list", "--all", "-f", "json").json["moves"]
    assert move["state"] == ("rolled-back" if verb == "rollback" else "finished")
    if move["state"] == "finished":
        refused = sandbox.cellmove("confirm", server.name, env=off, expect=5)
        assert "unattended = true" in refused.stderr, "the next step is a new decision"
        on = config.write('[policy]\nunattended = true\nmoves_a_day = 0\ndeny.projects = "*"\n')
        sandbox.cellmove("confirm", server.name, env=on)


def test_a_person_is_asked_at_the_terminal(sandbox: Sandbox, config: Config) -> None:
    """A signal at the prompt, the end of the input, and an answer; every other answer: tests/sandbox/test_consent.py."""
    server = sandbox.boot("asked", ports=1)
    off = config.write("")
    command = ("migrate", server.name, "--host", TARGET, "--confirm")
    code, shown = at_a_terminal(sandbox, off, INTERRUPT, *command)
    assert code == 130, shown
    assert "before any action started" in shown
    code, shown = at_a_terminal(sandbox, off, END, *command)
    assert code == 5, shown
    assert f"cellmove migrate {server.name} --host {TARGET} --confirm" in shown
    assert sandbox.cellmove("list", "--all", "-f", "json").json["moves"] == []
    code, shown = at_a_terminal(sandbox, off, "y", *command)
    assert code == 0, shown
    assert shown.count("[y/N]") == 1


def test_so_many_a_day_and_no_more(sandbox: Sandbox, config: Config) -> None:
    servers = [sandbox.boot(f"many{number}", volume_backed=True) for number in range(3)]
    env = config.write("[policy]\nunattended = true\nmoves_a_day = 2\n")
    sandbox.cellmove("plan", servers[2].name, "--host", TARGET, env=env)
    sandbox.cellmove("migrate", servers[0].name, "--host", TARGET, env=env)
    sandbox.cellmove("migrate", servers[1].name, "--host", TARGET, env=env)
    refused = sandbox.cellmove("prep-dest", servers[2].name, expect=5, env=env)
    assert "policy.moves_a_day = 2" in refused.stderr
    assert "started 2 moves" in refused.stderr
    assert str(config.path) in refused.stderr
    sandbox.cellmove("confirm", servers[0].name, env=env)
    sandbox.cellmove("revert", servers[1].name, env=env)
    assert sandbox.cellmove("migrate", servers[2].name, "--host", TARGET, expect=5, env=env).stdout == ""
    env = config.write("[policy]\nunattended = true\nmoves_a_day = 3\n")
    sandbox.cellmove("prep-dest", servers[2].name, env=env)


def test_a_rule_made_after_the_plan_holds_but_stops_nothing_that_has_begun(sandbox: Sandbox, config: Config) -> None:
    server = sandbox.boot("later", ports=1)
    on, denied = "[policy]\nunattended = true\n", '[policy]\nunattended = true\ndeny.tags = "blue"\n'
    sandbox.cellmove("plan", server.name, "--host", TARGET, env=config.write(on))
    before = sandbox.snapshot(server.id)
    for command in (("prep-dest", server.name), ("migrate", server.name, "--host", TARGET)):
        refused = sandbox.cellmove(*command, expect=5, env=config.write(denied))
        assert 'policy.deny.tags = "blue"' in refused.stderr
        assert "next: cellmove rollback move-" in refused.stderr
    assert sandbox.snapshot(server.id) == before
    sandbox.cellmove("prep-dest", server.name, env=config.write(on))
    for step in ("prep-source", "finish", "revert"):
        sandbox.cellmove(step, server.name, env=config.write(denied))


def test_a_rule_holds_for_a_run_that_was_interrupted_before_it_began(sandbox: Sandbox, config: Config) -> None:
    server = sandbox.boot("early", ports=1)
    move = sandbox.cellmove("plan", server.name, "--host", TARGET, "-f", "json").json["move"]
    open_journal(str(sandbox.folder / "journal.db"), lambda: "").set_goal(move, "finished")
    before = sandbox.snapshot(server.id)
    for words, code in ((("resume", move), 5), (("resume", "--all"), 3)):
        refused = sandbox.cellmove(*words, expect=code, env=config.write('[policy]\ndeny.hosts = "c1-host1"\n'))
        assert "policy.deny.hosts" in refused.stderr
    assert sandbox.snapshot(server.id) == before
    assert sandbox.cellmove("resume", move, "-f", "json", env=config.write("")).json["state"] == "finished"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[policy]\nunatended = true\n", "unknown key policy.unatended"),
        ('[policy]\nunattended = "yes"\n', "wrong type"),
        ("[policy]\nmoves_a_day = true\n", "wrong type"),
        ("[policy]\nmoves_a_day = -1\n", "below 0"),
        ('[policy]\nallow.servers = "x"\n', "unknown key servers"),
        ("[policy]\ndeny.tags = [1]\n", "policy.deny.tags has to be a pattern"),
    ],
)
def test_a_policy_that_makes_no_sense_stops_everything(sandbox: Sandbox, config: Config, text: str, words: str) -> None:
    wrong = sandbox.cellmove("list", expect=2, env=config.write(text))
    assert words in wrong.stderr
    assert str(config.path) in wrong.stderr
