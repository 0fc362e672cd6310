"""Hooks: what the configuration may say, how a command is run, and when one is."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cellmove.core import hook_settings
from cellmove.core.errors import (
    CallFailed,
    CellmoveError,
    Interrupted,
    Refused,
    RolledBack,
    Stopped,
    Unreachable,
    Unverified,
    Usage,
)
from cellmove.core.hook_settings import Hooks, read_hooks
from cellmove.core.move import Move, State
from cellmove.core.shell import GlobalOptions
from cellmove.engine.events import Event, EventKind
from cellmove.engine.journal import Journal
from cellmove.engine.journal_open import open_journal
from cellmove.operations import reporting
from cellmove.operations.hooks import call
from cellmove.operations.reporting import HookRun, reported
from tests.support.documents import check_document

SERVER = "6f1c0a52-1b7e-4d0e-9a53-0e8f5f0f6a11"


# the configuration


def test_a_text_is_for_the_shell_and_a_list_is_run_as_it_is() -> None:
    found = read_hooks({"after_move": "mail -s 'a move' root", "on_failure": ["/bin/page", "a b"], "timeout": 5}, "c")
    assert found == Hooks(("/bin/sh", "-c", "mail -s 'a move' root"), ("/bin/page", "a b"), 5.0)
    assert read_hooks({}, "c") == Hooks((), (), 30.0)


@pytest.mark.parametrize(
    "table",
    [
        {"before_move": "x"}, {"after_move": ""}, {"after_move": "  "}, {"after_move": []}, {"after_move": ["", "x"]},
        {"after_move": ["x", 1]}, {"after_move": True}, {"on_failure": {"x": 1}}, {"after_move": "a\0b"},
        {"on_failure": ["a", "b\0"]}, {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"timeout": float("inf")},
        {"timeout": "5"}, {"timeout": True}, {"timeout": 3601},
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_key(table: dict[str, Any]) -> None:
    with pytest.raises(Usage, match=f"config.toml: .*hooks.{next(iter(table))}"):
        read_hooks(table, "config.toml")


def test_an_argument_may_be_empty() -> None:
    assert read_hooks({"after_move": ["notify", ""]}, "c").after_move == ("notify", "")


# running one


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_hook_reads_the_document(tmp_path: Path) -> None:
    target = tmp_path / "seen"
    document = {"name": "日本\ud800", "long": "x" * 300_000}
    assert call(python(f"import sys; open({str(target)!r}, 'w').write(sys.stdin.read())"), document, 30) == ""
    assert json.loads(target.read_text()) == document


def test_a_hook_need_not_read() -> None:
    assert call(("/bin/true",), {"long": "x" * 300_000}, 30) == ""


def test_its_code_and_its_last_words_are_told_without_secrets() -> None:
    code = "import sys; sys.exit('first\\nhttps://user:hunter2@host is down, password=hunter2')"
    assert call(python(code), {}, 30) == "ended with 1: https://user:***@host is down, password=***"
    assert call(("/bin/false",), {}, 30) == "ended with 1"
    assert call(("/bin/sh", "-c", "kill -9 $$"), {}, 30) == "was killed by signal 9"


def test_the_last_line_is_that_of_a_long_output() -> None:
    code = "import sys; sys.stderr.write('progress\\n' * 20_000); sys.exit('no route')"
    assert call(python(code), {}, 30) == "ended with 1: no route"


def test_an_error_of_the_system_without_words_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: object, **_options: object) -> None:
        raise OSError("no words")

    monkeypatch.setattr("subprocess.Popen", fail)
    assert call(("/bin/true",), {}, 30) == "cannot be started: OSError"


def test_a_program_that_is_not_there() -> None:
    assert call(("/nowhere/hook",), {}, 30) == "cannot be started: No such file or directory"


def test_one_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = f"(while :; do echo x >> {alive}; sleep 0.05; done) & sleep 60"
    assert call(("/bin/sh", "-c", script), {}, 1) == "did not end within 1 s and was killed"
    size = alive.stat().st_size
    time.sleep(0.5)
    assert alive.stat().st_size == size


def test_what_it_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    done = threading.Event()

    def run() -> None:
        assert call(("/bin/sh", "-c", "sleep 30 & echo x >&2"), {}, 20) == ""
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert done.wait(15)


def test_it_gets_no_password_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "hunter2")
    monkeypatch.setenv("CELLMOVE_JOURNAL", "mysql://user:hunter2@host/journal")
    monkeypatch.setenv("PAGER_KEY", "its own")
    target = tmp_path / "seen"
    assert call(("/bin/sh", "-c", f"env > {target}"), {}, 30) == ""
    assert "hunter2" not in target.read_text()
    assert "PAGER_KEY=its own" in target.read_text()


# when


class Scene:
    """A journal with one planned move, and hooks that note what they get."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, list[Event]()
        self.journal: Journal = open_journal(str(folder / "journal.db"), lambda: "2026-01-01T10:00:00Z")
        times = ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z")
        self.move = Move("move-ab12cd", SERVER, "web-1", "migration", State.PLANNED, *times, {"source_cell": "cell1"})
        self.journal.open_move(self.move)
        self.hooks = Hooks(self.noting("after_move"), self.noting("on_failure"))

    def noting(self, name: str) -> tuple[str, ...]:
        return ("/bin/sh", "-c", f"cat >> {self.folder / name}")

    @property
    def hook_run(self) -> HookRun:
        return HookRun(self.hooks, self.journal, self.notes.append, GlobalOptions(journal="my journal.db"))

    def run(self, state: State | None = None, error: Exception | None = None) -> None:
        """Work on the server under its lock: set a state, and fail."""
        with reported(self.hook_run, SERVER, nullcontext()):
            if state is not None:
                self.journal.set_state(self.move.id, state)
            if error is not None:
                raise error

    def heard(self, name: str) -> list[dict[str, Any]]:
        """The documents that a hook got; each fits the schema."""
        path = self.folder / name
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for document in found:
            check_document(document, "hook")
            assert document["event"] == name
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize(
    "state", [State.FINISHED, State.CONFIRMED, State.REVERTED, State.ROLLED_BACK, State.SERVER_GONE]
)
def test_after_a_move(scene: Scene, state: State) -> None:
    scene.run(state)
    (document,) = scene.heard("after_move")
    assert (document["move"], document["state"], document["server"]["name"]) == ("move-ab12cd", state, "web-1")
    assert scene.heard("on_failure") == []
    assert scene.notes == []


def test_commands_to_type_have_the_options_in_front_of_the_verb(scene: Scene) -> None:
    scene.run(State.FINISHED)
    assert scene.heard("after_move")[0]["next"][0] == "cellmove --journal 'my journal.db' confirm move-ab12cd"


def test_a_state_on_the_way_and_a_run_that_changes_nothing_are_not_told(scene: Scene) -> None:
    scene.run(State.DEST_PREPARED)
    scene.run()
    scene.run(State.FINISHED)
    scene.run()
    assert len(scene.heard("after_move")) == 1


@pytest.mark.parametrize(
    "error",
    [RolledBack("a"), Stopped("a"), Unverified("a"), CallFailed("a"), ValueError("secret")],
    ids=lambda error: type(error).__name__,
)
def test_after_a_failure(scene: Scene, error: Exception) -> None:
    with pytest.raises(type(error)):
        scene.run(State.SOURCE_PREPARED, error)
    (document,) = scene.heard("on_failure")
    assert document["state"] == "source-prepared"
    assert document["error"]["message"]
    assert "secret" not in json.dumps(document)
    assert scene.heard("after_move") == []


@pytest.mark.parametrize(
    "error",
    [Refused("a"), Unreachable("a"), Usage("a"), Interrupted("a", signal_number=2)],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_failure_of_the_move_is_not_told(scene: Scene, error: CellmoveError) -> None:
    with pytest.raises(type(error)):
        scene.run(error=error)
    assert scene.heard("on_failure") == []


def test_the_exit_code_is_that_of_the_command(scene: Scene) -> None:
    with pytest.raises(RolledBack):
        scene.run(State.ROLLED_BACK, RolledBack("no room", state="it runs", next_command="cellmove plan web-1"))
    error = scene.heard("on_failure")[0]["error"]
    assert error == {
        "message": "no room", "state": "it runs", "next": "cellmove --journal 'my journal.db' plan web-1", "exit_code": 1,
    }  # fmt: skip


@pytest.mark.parametrize("broken", [("/nowhere/hook",), ("/bin/false",), ("/bin/sh", "-c", "\ud800")])
def test_a_hook_that_fails_is_a_note(scene: Scene, broken: tuple[str, ...]) -> None:
    scene.hooks = Hooks(broken, broken)
    scene.run(State.FINISHED)
    with pytest.raises(Stopped, match="the real error"):
        scene.run(error=Stopped("the real error"))
    assert [event.kind for event in scene.notes] == [EventKind.NOTE, EventKind.NOTE]
    assert all("this does not affect the move" in event.text for event in scene.notes)


def test_a_journal_that_is_lost_meanwhile_is_a_note(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with reported(scene.hook_run, SERVER, nullcontext()):
        scene.journal.set_state(scene.move.id, State.FINISHED)
        monkeypatch.setattr(scene.journal, "move", lambda _id: (_ for _ in ()).throw(Unreachable("gone")))
    assert [event.text.partition(";")[0] for event in scene.notes] == ["the hook after_move was not run: gone"]


def test_a_move_that_another_run_ended_before_the_lock_was_free_is_not_told_again(scene: Scene) -> None:
    @contextmanager
    def lock() -> Iterator[None]:
        scene.journal.set_state(scene.move.id, State.CONFIRMED)  # by the run that held the lock until now
        yield

    with reported(scene.hook_run, SERVER, lock()):
        pass
    assert scene.heard("after_move") == []


def test_a_repair_and_a_server_without_a_move_are_not_told(scene: Scene) -> None:
    scene.journal.set_state(scene.move.id, State.CONFIRMED)
    scene.run()
    scene.journal.open_move(Move(**{**vars(scene.move), "id": "audit-1", "kind": "audit", "state": State.REPAIRING}))
    with reported(scene.hook_run, SERVER, nullcontext()):
        scene.journal.set_state("audit-1", State.REPAIRED)
    assert scene.heard("after_move") == []


def test_the_names_are_those_of_the_schema() -> None:
    assert (hook_settings.AFTER_MOVE, hook_settings.ON_FAILURE) == ("after_move", "on_failure")
    assert {hook_settings.AFTER_MOVE, hook_settings.ON_FAILURE} < set(Hooks.__dataclass_fields__)


def test_the_documentation_names_every_state_and_exit_code() -> None:
    text = (Path(__file__).parents[3] / "docs" / "hooks.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `after_move` |"))
    assert set(re.findall(r"`([a-z-]+)`", row)) == {state.value for state in reporting.RESTING} | {"state"}
    (row,) = (line for line in text.splitlines() if line.startswith("| `on_failure` |"))
    assert {int(code) for code in re.findall(r"\d+", row)} == {kind.exit_code for kind in reporting.FAILURES}
