"""What a command takes for the move, server or cell that is meant: an id first, and never another one's name."""

from __future__ import annotations

from typing import Any

import click
import pytest

from cellmove.man_pages import commands
from tests.scenarios.environment import Server
from tests.support.sandbox.environment import Sandbox

TARGET = "c2-host1"
BY_ARGUMENT = {
    argument: [
        words[0]
        for words, command in commands()
        if len(words) == 1 and argument in [each.name for each in command.params if isinstance(each, click.Argument)]
    ]
    for argument in ("reference", "server")
}
"""The commands about a move, and those about a server: a new command is tested by itself."""

MORE = {"resize": ("m1.small", "--host", TARGET), "migrate": ("--host", TARGET), "plan": ("--host", TARGET)}


def named(sandbox: Sandbox, name: str) -> Server:
    """A server of exactly this name."""
    sandbox.made.append(sandbox.process.control("boot", name=name))
    return Server(sandbox.made[-1], name)


def moves(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """All moves, by server."""
    return {each["server"]["id"]: each for each in sandbox.cellmove("list", "--all", "-f", "json").json["moves"]}


def untouched(sandbox: Sandbox, server: Server, before: Any, move: Any) -> None:
    """Neither the server nor its move was changed."""
    assert sandbox.snapshot(server.id) == before
    assert moves(sandbox).get(server.id) == move


def test_the_tables_hold_every_command() -> None:
    assert {"show", "rollback", "confirm", "revert", "resume", "verify", "finish"} <= set(BY_ARGUMENT["reference"])
    assert set(BY_ARGUMENT["server"]) == {"plan", "resize", "migrate", "adopt"}


@pytest.mark.parametrize("form", [str, str.upper])
@pytest.mark.parametrize("verb", BY_ARGUMENT["reference"])
def test_a_uuid_is_no_name_of_another_server(sandbox: Sandbox, verb: str, form: Any) -> None:
    meant = sandbox.boot("meant")
    other = named(sandbox, form(meant.id))
    sandbox.cellmove("migrate" if verb in ("confirm", "revert", "verify") else "plan", other.id, "--host", TARGET)
    before, move = sandbox.snapshot(other.id), moves(sandbox)[other.id]
    refused = sandbox.cellmove(verb, form(meant.id), expect=2)
    assert move["move"] in refused.stderr  # what to type instead
    untouched(sandbox, other, before, move)
    # And with a move of its own it is that one.
    own = sandbox.cellmove("plan", meant.id, "--host", TARGET, "-f", "json").json["move"]
    assert sandbox.cellmove("show", form(meant.id), "-f", "json").json["move"] == own
    sandbox.cellmove(verb, form(meant.id), expect=None)
    untouched(sandbox, other, before, move)


@pytest.mark.parametrize("form", [str, str.upper])
@pytest.mark.parametrize("verb", BY_ARGUMENT["server"])
def test_a_uuid_is_a_server_and_no_name(sandbox: Sandbox, verb: str, form: Any) -> None:
    meant = sandbox.boot("meant")
    other = named(sandbox, form(meant.id))
    before = sandbox.snapshot(other.id)
    done = sandbox.cellmove(verb, form(meant.id), *MORE.get(verb, ()), expect=None)
    assert done.code == (5 if verb == "adopt" else 0)
    assert meant.name in done.stdout + done.stderr
    untouched(sandbox, other, before, None)
    # One that is not there is not looked for by name.
    nobody = "00000000-1111-4222-8333-444444444444"
    other = named(sandbox, nobody)
    before = sandbox.snapshot(other.id)
    gone = sandbox.cellmove(verb, nobody, *MORE.get(verb, ()), expect=None)
    assert gone.code == (5 if verb == "adopt" else 2)
    assert verb == "adopt" or f"no server has the id {nobody}" in gone.stderr
    assert verb == "adopt" or other.id in gone.stderr
    untouched(sandbox, other, before, None)


@pytest.mark.parametrize("verb", [*BY_ARGUMENT["reference"], *BY_ARGUMENT["server"]])
def test_the_id_of_a_move_is_no_name_of_another_server(sandbox: Sandbox, verb: str) -> None:
    meant = sandbox.boot("meant")
    move = sandbox.cellmove("plan", meant.id, "--host", TARGET, "-f", "json").json["move"]
    other = named(sandbox, move)
    sandbox.cellmove("plan", other.id, "--host", TARGET)
    before, its = sandbox.snapshot(other.id), moves(sandbox)[other.id]
    done = sandbox.cellmove(verb, move, *MORE.get(verb, ()), expect=None)
    if verb in BY_ARGUMENT["server"]:
        assert done.code == 2
        assert f"{move} is a move of {meant.name}" in done.stderr
    else:
        assert done.code in (0, 5)
        assert move in done.stdout + done.stderr
    untouched(sandbox, other, before, its)
    sandbox.cellmove("rollback", its["move"])


@pytest.mark.parametrize("verb", BY_ARGUMENT["reference"])
def test_what_looks_like_a_move_of_another_journal_is_no_name(sandbox: Sandbox, verb: str) -> None:
    other = named(sandbox, "move-ffffff")
    sandbox.cellmove("plan", other.id, "--host", TARGET)
    before, its = sandbox.snapshot(other.id), moves(sandbox)[other.id]
    refused = sandbox.cellmove(verb, "move-ffffff", expect=2)
    assert its["move"] in refused.stderr
    assert "there is no move move-eeeeee in the journal" in sandbox.cellmove(verb, "move-eeeeee", expect=2).stderr
    untouched(sandbox, other, before, its)
    assert sandbox.cellmove("plan", "move-ffffff", "--host", TARGET, "-f", "json").json["move"] == its["move"]


@pytest.mark.parametrize("verb", [*BY_ARGUMENT["reference"], *BY_ARGUMENT["server"]])
def test_a_name_of_several_servers_is_refused(sandbox: Sandbox, verb: str) -> None:
    name = f"two of {sandbox.folder.name}"
    servers = [named(sandbox, name), named(sandbox, name)]
    for server in servers:
        sandbox.cellmove("plan", server.id, "--host", TARGET)
    before = moves(sandbox)
    refused = sandbox.cellmove(verb, name, *MORE.get(verb, ()), expect=2)
    for server in servers:
        assert server.id in refused.stderr
    for server in servers:  # also when both are over
        sandbox.cellmove("rollback", server.id)
    after = moves(sandbox)
    assert {each["state"] for each in after.values()} == {"rolled-back"}
    assert before.keys() == after.keys()
    over = sandbox.cellmove(verb, name, *MORE.get(verb, ()), expect=2)
    for server in servers:
        assert server.id in over.stderr
    assert moves(sandbox) == after


@pytest.mark.parametrize("verb", [*BY_ARGUMENT["reference"], *BY_ARGUMENT["server"]])
def test_a_command_to_type_is_quoted(sandbox: Sandbox, verb: str) -> None:
    name = f"it's -x {sandbox.folder.name}"
    nobody = sandbox.cellmove(verb, name, *MORE.get(verb, ()), expect=2)
    if verb in BY_ARGUMENT["reference"]:
        assert f"next: cellmove plan 'it'\"'\"'s -x {sandbox.folder.name}'" in nobody.stderr
    dashed = sandbox.cellmove(verb, *MORE.get(verb, ())[1 if verb == "resize" else 0 :], "--", "-x", *MORE.get(verb, ())[: verb == "resize"], expect=2)  # fmt: skip
    if verb in BY_ARGUMENT["reference"]:
        assert "next: cellmove plan -- -x" in dashed.stderr
    empty = sandbox.cellmove(verb, "", *MORE.get(verb, ()), expect=2)
    assert "Traceback" not in empty.stderr


def test_audit_takes_a_uuid_for_an_id_and_no_name_of_several(sandbox: Sandbox) -> None:
    meant = sandbox.boot("meant")
    other = named(sandbox, meant.id)
    sandbox.cellmove("migrate", other.id, "--host", TARGET)
    found = sandbox.cellmove("audit", "--server", meant.id, "-f", "json").json
    assert found["findings"] == []
    (owned,) = {
        each["server"]["id"] for each in sandbox.cellmove("audit", "--server", other.id, "-f", "json").json["findings"]
    }
    assert owned == other.id
    twins = [named(sandbox, f"twin {sandbox.folder.name}") for _ in range(2)]
    for twin in twins:
        sandbox.cellmove("migrate", twin.id, "--host", TARGET)
    refused = sandbox.cellmove("audit", "--server", twins[0].name, expect=2)
    assert all(twin.id in refused.stderr for twin in twins)
    move = moves(sandbox)[twins[0].id]["move"]
    assert f"{move} is a move of" in sandbox.cellmove("audit", "--server", move, expect=2).stderr
    for server in (other, *twins):
        sandbox.cellmove("revert", server.id)


def test_a_cell_that_was_never_drained_is_quoted(sandbox: Sandbox) -> None:
    nobody = sandbox.cellmove("drain", "status", "a cell", expect=2)
    assert "next: cellmove drain-cell 'a cell' --dry-run" in nobody.stderr
