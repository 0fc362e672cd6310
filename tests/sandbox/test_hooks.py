"""Hooks of single moves and of drains, run by whole commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.commands import run_impatient
from tests.support.documents import check_document
from tests.support.sandbox.drained_cell import Drained
from tests.support.sandbox.environment import Sandbox

TARGET = "c2-host1"


def with_hooks(sandbox: Sandbox, text: str = "") -> dict[str, str]:
    """An environment whose configuration has hooks that append what they get to a file."""
    config = sandbox.folder / "hooks.toml"
    written = Path(sandbox.environment["CELLMOVE_CONFIG"]).read_text()
    default = f"""
        after_move = "cat >> '{sandbox.folder}/heard'"
        on_failure = ["/bin/sh", "-c", "cat >> '{sandbox.folder}/heard'"]
    """
    config.write_text(f"{written}\n[hooks]\n{text or default}\n")
    return {"CELLMOVE_CONFIG": str(config)}


def heard(sandbox: Sandbox) -> list[dict[str, Any]]:
    """What the hooks got since the last time."""
    path = sandbox.folder / "heard"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.write_text("")
    for document in found:
        check_document(document, "hook")
    return found


def told(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(document["event"], document["state"]) for document in documents]


def test_a_move_and_its_confirm(sandbox: Sandbox) -> None:
    env, server = with_hooks(sandbox), sandbox.boot()
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=env)
    (document,) = heard(sandbox)
    assert (document["event"], document["state"], document["target"]["host"]) == ("after_move", "finished", TARGET)
    assert document["next"] == [f"cellmove {verb} {document['move']}" for verb in ("confirm", "revert")]
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=env)  # it is there already
    assert heard(sandbox) == []
    sandbox.cellmove("confirm", server.id, env=env)
    assert told(heard(sandbox)) == [("after_move", "confirmed")]


def test_a_move_that_fails_and_is_rolled_back(sandbox: Sandbox) -> None:
    env, server = with_hooks(sandbox), sandbox.boot()
    with sandbox.fault(TARGET, "spawn", "fail", server.id):
        ended = sandbox.cellmove("migrate", server.id, "--host", TARGET, "--max-hosts", "1", expect=None, env=env)
    (document,) = heard(sandbox)
    assert document["event"] == "on_failure"
    assert document["error"]["exit_code"] == ended.code != 0
    assert document["error"]["message"] in ended.stderr


def test_a_hook_that_fails_changes_neither_the_code_nor_the_document(sandbox: Sandbox) -> None:
    env, server = with_hooks(sandbox, 'after_move = "echo no route to the pager >&2; exit 7"'), sandbox.boot()
    ended = sandbox.cellmove("migrate", server.id, "--host", TARGET, "-f", "json", env=env)
    assert ended.json["state"] == "finished"
    note = "the hook after_move ended with 7: no route to the pager; this does not affect the move"
    assert note in ended.stderr


def test_a_hook_may_run_cellmove_itself(sandbox: Sandbox) -> None:
    """The server's lock is free again when a hook runs."""
    server = sandbox.boot()
    taken = sandbox.folder / "taken"
    lock = f"for each in '{sandbox.folder}'/locks/*; do flock -n $each true || echo $each >> '{taken}'; done"
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=with_hooks(sandbox, f'after_move = "{lock}"'))
    assert not taken.exists()


def test_a_server_that_is_not_what_it_was(sandbox: Sandbox) -> None:
    env, server = with_hooks(sandbox), sandbox.boot()
    sandbox.cellmove("migrate", server.id, "--host", TARGET, env=env)
    impatient = replace(sandbox, target=run_impatient)
    impatient.cellmove("confirm", server.id, "--probe", "cmd:false", expect=5, env=env)
    documents = heard(sandbox)
    assert told(documents) == [("after_move", "finished"), ("on_failure", "finished")]
    assert documents[1]["error"]["exit_code"] == 5


def test_a_drain_tells_of_each_server(cell: Drained) -> None:
    env = with_hooks(cell)
    cell.add("a", "b")
    cell.drain("--to", "cell2", "--parallel", "2", env=env)
    documents = heard(cell)
    assert sorted(document["server"]["name"] for document in documents if document["state"] == "confirmed") == [
        "a",
        "b",
    ]
    assert sorted(told(documents)) == [("after_move", "confirmed")] * 2 + [("after_move", "finished")] * 2


def test_a_drain_tells_of_a_server_that_is_not_what_it_was(cell: Drained) -> None:
    env = with_hooks(cell)
    cell.add("a")
    cell.drain("--to", "cell2", "--soak", "1s", "--probe", "cmd:false", expect=8, env=env)
    documents = heard(cell)
    assert told(documents) == [("after_move", "finished"), ("on_failure", "finished")]
    error, move = documents[1]["error"], documents[1]["move"]
    assert (error["exit_code"], error["next"]) == (5, f"cellmove verify {move} --probe cmd:false")
