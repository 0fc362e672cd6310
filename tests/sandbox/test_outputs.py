"""Every command with closed streams, on a narrow terminal, and with a journal that it cannot write or that is not there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest

from cellmove.man_pages import commands
from tests.scenarios.environment import Outcome, Server
from tests.support.commands import run_at_a_terminal, run_with_closed_streams, run_without_override
from tests.support.sandbox.environment import Sandbox

TARGET = "c2-host1"
LEAVES = {words: command for words, command in commands() if not isinstance(command, click.Group)}
MORE = {
    "plan": ("--host", TARGET), "resize": ("m1.small", "--host", TARGET), "migrate": ("--host", TARGET),
    "drain-cell": ("--dry-run",), "demo": ("--help",), "audit": ("--cell", "cell1"), "resume": (),
}  # fmt: skip
STEPS = ("prep-dest", "prep-source", "finish")
BEFORE = {
    "prep-dest": 1, "prep-source": 2, "finish": 3, "verify": 4, "confirm": 4, "revert": 4, "resume": 2, "rollback": 2, "show": 2,
}  # fmt: skip
"""How many steps, plan included, were run before a command."""

READS = {
    ("verify",), ("audit",), ("list",), ("show",), ("drain-cell",), ("drain", "status"), ("drain", "report"), ("demo",),
    ("journal", "check"), ("metrics",), ("schema",),
}  # fmt: skip
"""What only reads the journal, as it is typed here. Every other command writes it: a new one is in one of both."""


def typed(path: tuple[str, ...], server: Server) -> list[str]:
    """A command about a server, or a cell."""
    names = [each.name for each in LEAVES[path].params if isinstance(each, click.Argument)]
    words = [*path]
    words += [server.name] if {"reference", "server"} & set(names) else []
    words += ["cell1"] if "cell" in names else []
    return [*words, *MORE.get(path[-1], ())]


def prepared(sandbox: Sandbox, path: tuple[str, ...]) -> Server:
    """A server with a move that has come as far as the command needs it."""
    server = sandbox.boot(f"s{len(sandbox.made)}")
    steps = BEFORE.get(path[0], 0) if len(path) == 1 else 0
    for number in range(steps):
        words = ["plan", server.name, "--host", TARGET] if number == 0 else [STEPS[number - 1], server.name]
        sandbox.cellmove(*words)
    return server


def state_of(sandbox: Sandbox, server: Server) -> list[str]:
    """The states of its moves."""
    found = sandbox.cellmove("list", "--all", "-f", "json").json["moves"]
    return [move["state"] for move in found if move["server"]["id"] == server.id]


def differently(sandbox: Sandbox, target: Any, *words: str, env: dict[str, str] | None = None) -> Outcome:
    """A command with something different about its process."""
    return replace(sandbox, target=target).cellmove(*words, expect=None, env=env)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_a_closed_stream_changes_nothing(sandbox: Sandbox, path: tuple[str, ...]) -> None:
    usual = prepared(sandbox, path)
    wanted = sandbox.cellmove(*typed(path, usual), expect=None)
    for closed in ((1,), (2,)):
        server = prepared(sandbox, path)
        ended = differently(sandbox, partial(run_with_closed_streams, closed), *typed(path, server))
        assert ended.code == wanted.code, (closed, ended)
        assert state_of(sandbox, server) == state_of(sandbox, usual), closed
        assert (ended.stdout == "") is (1 in closed or wanted.stdout == ""), (closed, ended)
        assert (ended.stderr == "") is (2 in closed or wanted.stderr == ""), (closed, ended)
        assert "fault in cellmove" not in ended.stderr


class Screen:
    """A terminal that keeps what is shown on it."""

    def __init__(self, columns: int) -> None:
        self.above, below = pty.openpty()
        fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.path, self.below, self.shown = os.ttyname(below), below, b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while piece := os.read(self.above, 4096):
                self.shown += piece

    def end(self) -> str:
        os.close(self.below)
        self.reader.join()
        os.close(self.above)
        return self.shown.decode().replace("\r", "")


def to_type(said: str) -> set[str]:
    """The commands that are shown to be typed."""
    found = re.findall(r"^(?:next|or) +(cellmove .+)$|next: (cellmove .+)$", said, re.MULTILINE)
    return {(first or second).rstrip() for first, second in found}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_on_a_narrow_terminal_commands_are_whole_and_without_colour_nothing_is_escaped(
    sandbox: Sandbox, path: tuple[str, ...]
) -> None:
    server = prepared(sandbox, path)
    screen = Screen(40)
    env = {"NO_COLOR": "1", "TERM": "xterm-256color"}
    ended = differently(sandbox, partial(run_at_a_terminal, screen.path), *typed(path, server), env=env)
    shown = screen.end()
    assert shown
    assert "\x1b" not in shown
    again = sandbox.cellmove(*typed(path, server), expect=None)  # done already, or refused for the same reason
    assert again.code == ended.code
    wanted = to_type(again.stdout + again.stderr)
    lines = shown.splitlines()
    for command in wanted:
        assert any(line.endswith(command) for line in lines), (command, shown)
    assert wanted or path in {
        ("audit",),
        ("demo",),
        ("confirm",),
        ("revert",),
        ("rollback",),
        ("list",),
        ("drain-cell",),
        ("journal", "check"),
        ("metrics",),
        ("schema",),
    }


def test_a_list_on_a_narrow_terminal_can_be_copied_from(sandbox: Sandbox) -> None:
    journal = str(sandbox.folder / "a journal with a long name.db")
    for _ in range(2):
        server = prepared(sandbox, ("list",))
        sandbox.cellmove("--journal", journal, "plan", server.name, "--host", TARGET)
    wanted = to_type(sandbox.cellmove("--journal", journal, "list").stdout.replace("  cellmove", "\nnext  cellmove"))
    assert len(wanted) == 2
    for columns in (20, 40, 80, 120, 200):
        screen = Screen(columns)
        target = partial(run_at_a_terminal, screen.path)
        differently(sandbox, target, "--journal", journal, "list", env={"TERM": "xterm-256color"})
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.end())
        for command in wanted:
            assert any(line.rstrip().endswith(command) for line in shown.splitlines()), (columns, shown)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in a folder can be written by whoever minds modes."""
    before = {each: each.stat().st_mode for each in (folder, *folder.rglob("*"))}
    for each, mode in before.items():
        each.chmod(mode & 0o555)
    yield
    for each, mode in before.items():
        each.chmod(mode)


def without_ages(text: str) -> str:
    """The figures of metrics without the ages of open moves, which grow."""
    return re.sub(r'^(cellmove_open_move_\w+\{state="[\w-]+"\}) \S+$', r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_what_only_reads_works_with_a_journal_that_can_only_be_read(sandbox: Sandbox, path: tuple[str, ...]) -> None:
    folder = sandbox.folder / "journals"
    env = {"CELLMOVE_JOURNAL": str(folder / "journal.db")}
    server = sandbox.boot()
    sandbox.cellmove("migrate", server.name, "--host", TARGET, env=env)
    wanted = sandbox.cellmove(*typed(path, server), expect=None, env=env) if path in READS else None
    content = (folder / "journal.db").read_bytes()
    with read_only(folder):
        ended = differently(sandbox, run_without_override, *typed(path, server), env=env)
        reading = (("plan", server.name, "--dry-run"), ("list", "--all"))
        reads = [differently(sandbox, run_without_override, *words, env=env) for words in reading]
    assert (folder / "journal.db").read_bytes() == content
    assert [each.code for each in reads] == [5, 0], reads
    assert server.name in reads[1].stdout
    if wanted is None:
        assert ended.code == 4
        assert "cannot be opened for writing" in ended.stderr
    else:
        assert (ended.code, without_ages(ended.stdout)) == (wanted.code, without_ages(wanted.stdout)), ended.stderr


@pytest.mark.parametrize("path", sorted(READS), ids=" ".join)
def test_what_only_reads_needs_no_journal(sandbox: Sandbox, path: tuple[str, ...]) -> None:
    server = sandbox.boot()
    folder = sandbox.folder / "no" / "journal"
    env = {"CELLMOVE_JOURNAL": str(folder / "journal.db")}
    for words in (typed(path, server), ["plan", server.name, "--host", TARGET, "--dry-run"]):
        ended = sandbox.cellmove(*words, expect=None, env=env)
        assert ended.code in (0, 2, 10), ended  # an audit may find what other tests left in the shared cloud
        assert "journal.db" not in ended.stderr
        assert not folder.parent.exists()


def test_an_owner_who_ended_a_move_is_shown_without_writing(sandbox: Sandbox) -> None:
    server = sandbox.boot()
    folder = sandbox.folder / "journals"
    env = {"CELLMOVE_JOURNAL": str(folder / "journal.db")}
    other = {"CELLMOVE_JOURNAL": str(sandbox.folder / "other.db")}
    sandbox.cellmove("migrate", server.name, "--host", TARGET, env=env)
    sandbox.cellmove("adopt", server.name, env=other)
    sandbox.cellmove("confirm", server.name, env=other)
    with read_only(folder):
        shown = differently(sandbox, run_without_override, "show", server.name, "-f", "json", env=env)
    assert shown.json["state"] == "confirmed"
    assert "was ended outside of cellmove" not in shown.stderr
    assert sandbox.cellmove("list", "-f", "json", env=env).json["moves"][0]["state"] == "finished"
