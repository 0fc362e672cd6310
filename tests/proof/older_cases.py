"""Older copies of the journal in the proof: taken at every point of every step, and used when the original has gone on."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellmove.core.move import State
from tests.support.sandbox import cloud_oracle
from tests.support.sandbox.snapshot import snapshot

if TYPE_CHECKING:
    from tests.support.sandbox.fixtures import Checkpoint, Fixtures
    from tests.support.sandbox.harness import Harness, Outcome

COMMANDS = ("prep-dest", "prep-source", "finish", "confirm", "revert", "resume", "rollback")
"""What is typed with the older copy; each has to be refused."""

Played = tuple[Any, Callable[[], list[str]] | None]


def play(
    fixtures: Fixtures, outcomes: list[Outcome], shape: str, step: str, verb: str, action: str, point: str
) -> Played:
    """The original runs a verb to its end; the copy was taken at a point of it.

    :param step: before which the move stands when the verb is typed
    """
    checkpoint = fixtures.set(shape, step)
    harness = fixtures.harness
    copy = copy_at(harness, outcomes, action, point, verb, checkpoint.move)
    original = journal_of(harness)
    if knows(copy, generation_in_cloud(harness, checkpoint.scene.server)):
        return as_good(harness, outcomes, checkpoint, original, copy)
    wrong = refused(harness, checkpoint, copy)
    put_journal(harness, original)
    go_on(harness, outcomes, checkpoint.move)
    return checkpoint, lambda: [*wrong, *cloud_oracle.violations(harness, checkpoint.scene, outcomes)]


def as_good(harness: Harness, outcomes: list[Outcome], checkpoint: Checkpoint, original: bytes, copy: bytes) -> Played:
    """A copy that knows every effect there was is no older one: whoever goes on first makes the other one older."""
    put_journal(harness, copy)
    was_open = harness.move().is_open
    go_on(harness, outcomes, checkpoint.move, first="resume")
    last = journal_of(harness)
    was_left_behind = not knows(original, generation_in_cloud(harness, checkpoint.scene.server))
    wrong = refused(harness, checkpoint, original) if was_open and is_open(original) and was_left_behind else []
    put_journal(harness, last)
    return checkpoint, lambda: [*wrong, *cloud_oracle.violations(harness, checkpoint.scene, outcomes)]


def refused(harness: Harness, checkpoint: Checkpoint, copy: bytes) -> list[str]:
    """What is wrong with what an older copy was let do."""
    wrong = []
    before = everything(harness, checkpoint)
    for command in COMMANDS:
        put_journal(harness, copy)
        outcome = harness.run(command, checkpoint.move)
        ended = not harness.move().is_open
        if outcome.code != 5 and not (ended and outcome.code == 0):
            wrong.append(f"with an older copy: {outcome.text}")
        if outcome.effects:
            wrong.append(f"with an older copy {command} wrote {outcome.effects} times")
        if not outcome.next_command and not ended:
            wrong.append(f"with an older copy {command} did not say what to type")
    if everything(harness, checkpoint) != before:
        wrong.append("an older copy changed the server")
    return wrong


def everything(harness: Harness, checkpoint: Checkpoint) -> Any:
    """The server as it is, its volumes and ports too."""
    return snapshot(harness.cloud, checkpoint.scene.server), harness.cloud.world.allocations, harness.cloud.world.images


def go_on(harness: Harness, outcomes: list[Outcome], move: str, first: str = "") -> None:
    """On to finish, or back: wherever the move is going."""
    verbs = {State.PLANNED: "prep-dest", State.DEST_PREPARED: "prep-source", State.SOURCE_PREPARED: "finish"}
    verb = first
    for _ in range(6):
        state = harness.move().state
        verb = verb or verbs.get(state, "")
        if not verb:
            return
        outcomes.append(harness.run(verb, move))
        if outcomes[-1].code:
            raise AssertionError(outcomes[-1].text)
        verb = ""


def copy_at(harness: Harness, outcomes: list[Outcome], action: str, point: str, *command: str) -> bytes:
    """Run a command to its end; the journal as it was at a point of it."""
    taken: list[bytes] = []

    def on_journal(here: str, what: str) -> None:
        if (here, what) == (point, action) and not taken:
            taken.append(journal_of(harness))

    harness.taps.on_journal = on_journal
    outcomes.append(harness.run(*command))
    harness.taps.on_journal = lambda _point, _action: None
    if outcomes[-1].code or not taken:
        raise AssertionError(f"never came to {point} of {action}: {outcomes[-1].text}")
    return taken[0]


def journal_of(harness: Harness) -> bytes:
    """The journal's file as it is now."""
    return (harness.folder / "journal.db").read_bytes()


def put_journal(harness: Harness, content: bytes) -> None:
    """Restore a backup of the journal at the same path."""
    harness._stop_reading()
    (harness.folder / "journal.db").write_bytes(content)


def read_move(journal: bytes, column: str) -> str:
    """A column of the newest move in a journal."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(journal)
        return str(connection.execute(f"SELECT {column} FROM moves ORDER BY rowid DESC").fetchone()[0])  # noqa: S608


def is_open(journal: bytes) -> bool:
    """Whether the newest move in a journal is open."""
    return read_move(journal, "coalesce(open_server, '')") != ""


def knows(journal: bytes, generations: set[str]) -> bool:
    """Whether a journal has announced all that was raised in the cloud; none are raised when the move is over."""
    known = json.loads(read_move(journal, "generations") or "[]")
    return generations <= set(known) if generations else "" in known[1:]  # first comes what was before


def generation_in_cloud(harness: Harness, server: str) -> set[str]:
    """The highest generation of the server's marks."""
    found = [
        str(row["value"])
        for cell in ("cell1", "cell2")
        for row in harness.cloud.rows(cell, "instance_system_metadata", instance_uuid=server, key="cellmove_generation")
    ]
    return {max(found, key=lambda value: int(value.split()[0]))} if found else set()
