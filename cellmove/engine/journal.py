"""The journal: the durable record of moves and their actions.

Every ``intent`` is committed before its effect and every ``done`` after it, so that the journal is true wherever a run
dies. By default it is an SQLite file with mode 0600, a rollback journal and ``synchronous=FULL``, so that a commit that
returned survives a power failure. A write-ahead log is not used: after one changed bit in it SQLite silently drops all
later commits. A journal that machines share is in MySQL or MariaDB. Checksums (:mod:`cellmove.engine.integrity`) detect a
damaged journal, which is refused. The journal contains no secrets: actions record ids, states and before-images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import Refused, Stopped, Usage, scrub
from cellmove.core.move import CLOSED, DRAIN, Entry, Move, Phase, State
from cellmove.core.reference import Kind, kind_of
from cellmove.db import statements
from cellmove.engine import integrity
from cellmove.engine.journal_rows import (
    GOAL_COLUMN,
    Generations,
    entry_of,
    entry_values,
    generation_values,
    last_sequence,
    move_of,
    move_values,
    moves_started_since,
    open_moves,
)
from cellmove.engine.journal_store import JournalStore

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

MOVES_PER_STATEMENT = 500


@dataclass(frozen=True)
class JournalCheck:
    """The size of a journal that passed the check.

    :param moves: the number of moves, repairs and drains
    :param lines: the number of their actions
    """

    moves: int
    lines: int


class Journal(JournalStore):
    """An open journal. Every method is one transaction."""

    # moves

    def open_move(self, move: Move) -> None:
        """Record a new move.

        :raises Refused: when the server already has an open move
        """
        self.adopt(move, ())

    def adopt(self, move: Move, entries: Sequence[Entry]) -> Move:
        """Record a move together with the entries that are known already.

        :returns: the move as it is recorded
        :raises Refused: when the server already has an open move
        """
        from sqlalchemy.exc import IntegrityError

        values = move_values(move)
        try:
            with self.writing() as connection:
                self._insert(connection, values, entries)
        except IntegrityError:
            other = self.open_move_of(move.server_id)
            name = other.id if other else "unknown"
            raise Refused(
                f"{move.server_name} already has an open move, {name}",
                next_command=f"cellmove show {name}",
            ) from None
        return self._known(move.id)

    def replace(self, old: Move, move: Move, entries: Sequence[Entry]) -> Move:
        """Replace an older record of the same server by a new one.

        :param old: its lines are removed; with another id it stays as :attr:`State.SUPERSEDED`
        :returns: the move as it is recorded
        """
        values = move_values(move)
        with self.writing() as connection:
            if old.id == move.id:
                integrity.remove_move(connection, self.moves, old.id)
            else:
                closed = {"state": State.SUPERSEDED.value, "updated_at": self.now(), "open_server": None}
                integrity.change_move(connection, self.moves, old.id, closed)
            self._insert(connection, values, entries)
        return self._known(move.id)

    def _insert(self, connection: Connection, values: Mapping[str, object], entries: Sequence[Entry]) -> None:
        integrity.insert_move(connection, self.moves, values)
        if entries:
            rows = [entry_values(entry) for entry in entries]
            integrity.insert_lines(connection, self.entries, str(values["id"]), rows, {})

    def move(self, move_id: str) -> Move | None:
        """Return the move with this id, or None."""
        found = self._with(id=move_id)
        return found[0] if found else None

    def open_move_of(self, server_id: str) -> Move | None:
        """Return the open move of a server, or None."""
        found = self._with(open_server=server_id)
        return found[0] if found else None

    def all_moves(self) -> list[Move]:
        """Return all moves and repairs, oldest first."""
        with self.one_view() as connection:
            rows = connection.execute(statements.rows(self.moves, order=("created_at", "id"))).all()
            moves = [move_of(row) for row in rows]
            integrity.verify_moves(connection, self.metadata, [row._mapping for row in rows])
        return [move for move in moves if not move.is_drain]

    def open_moves(self) -> list[Move]:
        """Return the open moves and repairs, oldest first."""
        return self._read(open_moves(self.moves))

    def drains(self) -> list[Move]:
        """Return the records of drains, oldest first."""
        return self._with(kind=DRAIN)

    def begun_since(self, moment: str) -> int:
        """Return the number of moves, without repairs and drains, whose first action started since then.

        :param moment: UTC, ISO 8601
        """
        with self.transaction() as connection:
            found = connection.execute(moves_started_since(self.moves, self.entries), {"moment": moment})
            return int(found.scalar_one())

    def find(self, reference: str) -> list[Move]:
        """Return the moves that a move id, a server UUID or a server name means; a word with the form of an id is no name.

        For a server these are its open moves, or else its closed ones, repairs only if there are no others.
        """
        kind = kind_of(reference)
        exact = self.move(reference) if kind is not Kind.UUID else None
        if exact is not None:
            return [exact]
        if kind is Kind.MOVE_ID:
            return []
        found = self.moves_named(reference) if kind is Kind.NAME else self.moves_of(reference.lower())
        moves = [move for move in found if not move.is_repair]
        return [move for move in found if move.is_open] or moves or found

    def require_no_move_id(self, word: str) -> None:
        """Refuse the id of a move where a server is expected, even if a server has that name.

        :raises Usage: the word is the id of a move
        """
        move = self.move(word) if kind_of(word) is Kind.MOVE_ID else None
        if move is not None:
            raise Usage(
                f"{word} is a move of {move.server_name}; use the UUID of a server with that name",
                state="nothing was written",
                next_command=f"cellmove show {word}",
            )

    def moves_named(self, server_name: str) -> list[Move]:
        """Return the moves and repairs of servers that had this name when they were planned, oldest first."""
        return [
            move
            for move in self._with(server_name=server_name)
            if not move.is_drain and move.server_name == server_name
        ]

    def moves_of(self, server_id: str) -> list[Move]:
        """Return the moves and repairs of a server, oldest first."""
        return [move for move in self._with(server_id=server_id) if not move.is_drain]

    def set_state(self, move_id: str, state: State) -> Move:
        """Record the state of a move. A closed move allows another move of the server."""
        values: dict[str, object] = {"state": state.value, "updated_at": self.now()}
        if state in CLOSED:
            values["open_server"] = None
        return self._set(move_id, values)

    def set_plan(self, move_id: str, plan: Mapping[str, object], state: State) -> Move:
        """Record a new plan and state of a move."""
        return self._set(move_id, {"plan": json.dumps(dict(plan)), "state": state.value, "updated_at": self.now()})

    def set_goal(self, move_id: str, goal_state: str) -> Move:
        """Record the state to which ``resize`` or ``migrate`` leads, so that ``resume`` continues to it."""
        return self._set(move_id, {GOAL_COLUMN: goal_state})

    def _set(self, move_id: str, values: Mapping[str, object]) -> Move:
        with self.writing() as connection:
            integrity.change_move(connection, self.moves, move_id, values)
        return self._known(move_id)

    def _known(self, move_id: str) -> Move:
        move = self.move(move_id)
        if move is None:
            raise self._vanished(move_id)
        return move

    def _with(self, **key: str) -> list[Move]:
        return self._read(statements.rows(self.moves, *key, order=("created_at", "id")), key)

    def _read(self, query: Select[Any], values: Mapping[str, str] | None = None) -> list[Move]:
        with self.transaction() as connection:
            return [move_of(row) for row in connection.execute(query, values)]

    # entries

    def entries_of(self, move_id: str) -> list[Entry]:
        """Return all lines of a move in the order of their start."""
        with self.one_view() as connection:
            return [entry_of(values) for values in integrity.lines(connection, self.metadata, move_id)]

    def entries_of_moves(self, move_ids: Sequence[str]) -> dict[str, list[Entry]]:
        """Return the lines of many moves, by move; moves without lines are omitted."""
        found: dict[str, list[Entry]] = {}
        with self.one_view() as connection:
            for at in range(0, len(move_ids), MOVES_PER_STATEMENT):
                part = integrity.lines_of_moves(connection, self.metadata, move_ids[at : at + MOVES_PER_STATEMENT])
                found |= {move_id: [entry_of(line) for line in lines] for move_id, lines in part.items()}
        return found

    def intend(
        self, move_id: str, step: str, action: str, intent: Mapping[str, object], generations: Generations = None
    ) -> Entry:
        """Record the intent of an action, before its effect.

        :param generations: the values that the server's mark may have from now on; None: as before
        """
        with self.writing() as connection:
            last = connection.execute(last_sequence(self.entries), {"move_id": move_id}).scalar()
            values = {
                "move_id": move_id,
                "sequence": (last or 0) + 1,
                "step": step,
                "action": action,
                "phase": Phase.INTENT.value,
                "intent": json.dumps(dict(intent)),
                "result": "{}",
                "error": "",
                "started_at": self.now(),
                "finished_at": "",
            }
            if not integrity.insert_lines(connection, self.entries, move_id, [values], generation_values(generations)):
                raise self._vanished(move_id)
        return entry_of(values)

    def done(self, entry: Entry, result: Mapping[str, object]) -> Entry:
        """Record that the effect happened, with its result.

        :returns: the changed line
        """
        return self._mark(entry, phase=Phase.DONE, result=json.dumps(dict(result)), error="")

    def failed(self, entry: Entry, error: str) -> None:
        """Record that the action failed.

        :param error: a message, perhaps of another program; secrets are removed
        """
        self._mark(entry, phase=Phase.FAILED, error=scrub(error))

    def announce(self, move_id: str, generations: Generations) -> None:
        """Record the values that the server's mark may have from now on, for an action that has a line already."""
        with self.writing() as connection:
            if generations is not None and not integrity.change_move(
                connection, self.moves, move_id, generation_values(generations)
            ):
                raise self._vanished(move_id)

    def undoing(self, entry: Entry, generations: Generations = None) -> None:
        """Record that the action is about to be undone.

        :param generations: see :meth:`intend`
        """
        self._mark(entry, phase=Phase.UNDOING, generations=generations)

    def undone(self, entry: Entry) -> None:
        """Record that the action was undone."""
        self._mark(entry, phase=Phase.UNDONE)

    def _vanished(self, move_id: str) -> Stopped:
        return Stopped(f"move {move_id} has vanished from the journal {self.location}")

    def _mark(self, entry: Entry, *, phase: Phase, generations: Generations = None, **values: str) -> Entry:
        key = {"move_id": entry.move_id, "sequence": entry.sequence}
        with self.writing() as connection:
            change = {"phase": phase.value, "finished_at": self.now(), **values}
            if not integrity.change_line(connection, self.entries, key, change, generation_values(generations)):
                raise Stopped(f"line {entry.sequence} of move {entry.move_id} has vanished from the journal")
        return entry_of({**entry_values(entry), **change})

    # everything

    def check(self) -> JournalCheck:
        """Check every page, move and line, and that none is missing.

        :raises Unreachable: the journal is damaged, or cannot be read
        """
        with self.one_view() as connection:
            return JournalCheck(*integrity.verify(connection, self.metadata))
