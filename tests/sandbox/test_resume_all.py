"""`resume --all` after a night in which several moves were interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmove.engine.locks import server_lock
from cellmove.sandbox.store import Cloud
from tests.scenarios.environment import Server
from tests.support import fork_server
from tests.support.commands import run_killed
from tests.support.sandbox.environment import Sandbox, change_cloud

AWAY = "mysql+pymysql://nobody:x@127.0.0.1:9/nova"
BEGINNING, MIDDLE = "prep-dest:take_server:before-intent", "prep-source:stop_source:after-effect"


@pytest.fixture
def second_name(sandbox: Sandbox) -> Iterator[str]:
    """cell2 by a second mapping, which can be taken away while the cell stays."""

    def add(cloud: Cloud, _server: str) -> None:
        known = cloud.row("api", "cell_mappings", name="cell2")
        own = {"id": None, "uuid": cloud.new_id("cell"), "name": "cell2-too"}
        cloud.insert("api", "cell_mappings", known | own)

    change_cloud(sandbox, add, "")
    yield "cell2-too"
    sandbox.process.cloud().delete("api", "cell_mappings", name="cell2-too")


def take_away(sandbox: Sandbox, cell: str) -> None:
    """Its database answers no more."""
    sandbox.process.cloud().update("api", "cell_mappings", {"database_connection": AWAY}, name=cell)


def interrupted(sandbox: Sandbox, name: str, where: str, *target: str) -> Server:
    """A server whose whole run was killed."""
    server = sandbox.boot(name, volumes=1)
    out, err = sandbox.folder / f"{name}.out", sandbox.folder / f"{name}.err"
    words = ["migrate", server.name, *target]
    code = fork_server.call(run_killed, where, words, sandbox.environment, out, err)
    assert code == -9, err.read_text()
    return server


def states(sandbox: Sandbox) -> dict[str, str]:
    """The state of each server's move."""
    moves = sandbox.cellmove("list", "--all", "-f", "json").json["moves"]
    return {move["server"]["name"]: move["state"] for move in moves}


def move_of(sandbox: Sandbox, server: Server) -> str:
    """The id of its move."""
    moves = sandbox.cellmove("list", "-f", "json").json["moves"]
    return str(next(move["move"] for move in moves if move["server"]["id"] == server.id))


def test_one_that_cannot_go_on_keeps_no_other_from_it(sandbox: Sandbox, second_name: str) -> None:
    away = interrupted(sandbox, "away", BEGINNING, "--cell", second_name)
    locked = interrupted(sandbox, "locked", MIDDLE, "--host", "c2-host1")
    other = interrupted(sandbox, "other", MIDDLE, "--host", "c2-host1")
    take_away(sandbox, second_name)
    with server_lock(sandbox.folder / "locks", locked.id, locked.name):
        ended = sandbox.cellmove("resume", "--all", expect=3)

    assert states(sandbox) == {away.name: "planned", locked.name: "dest-prepared", other.name: "finished"}
    first, second, *rest = ended.stderr.splitlines()[-3:]
    assert f"{move_of(sandbox, away)} ({away.name}): " in first
    assert f"database of {second_name}" in first
    assert first.endswith(f"; next: cellmove resume {move_of(sandbox, away)}")
    assert f"{move_of(sandbox, locked)} ({locked.name}): another run of cellmove" in second
    assert second.endswith(f"; next: cellmove show {locked.id}")
    assert rest == ["next: cellmove list"]
    assert other.name not in first + second

    assert f"({away.name})" in sandbox.cellmove("resume", "--all", expect=3).stderr
    assert states(sandbox) == {away.name: "planned", locked.name: "finished", other.name: "finished"}
    nothing = sandbox.cellmove("resume", "--all", expect=4).stderr
    assert nothing.count("\n") == 1
    assert f"next: cellmove resume {move_of(sandbox, away)}" in nothing


def test_without_its_journal_it_ends_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    interrupted(sandbox, "lost", MIDDLE, "--host", "c2-host1")
    journal = tmp_path / "journal.db"
    content = journal.read_bytes()
    journal.write_bytes(content[: len(content) // 2])
    ended = sandbox.cellmove("resume", "--all", expect=4)
    assert "journal" in ended.stderr
    journal.write_bytes(content)
    sandbox.cellmove("resume", "--all")
