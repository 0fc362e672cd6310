"""Moves, their states and steps: plain data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cellmove.core.documents import Document
from cellmove.core.shell import command_line

SCHEMA_VERSION = 1
"""Version of the JSON that commands print and of the journal's tables."""


AUDIT = "audit"
"""The kind of a record of leftovers that an audit repairs; it is no move."""

DRAIN = "drain"
"""The kind of a record of a cell that is being drained; it is no move. Its actions cordon the cell."""

LOSSES = ("ephemeral", "swap", "local-disk", "config-drive", "vtpm", "nvram", "pmem")
"""Data of a server that is not moved, by the values of ``--accept-loss``."""


class State(enum.StrEnum):
    """The states of a move: each names the last step that was completed."""

    PLANNED = "planned"
    DEST_PREPARED = "dest-prepared"
    SOURCE_PREPARED = "source-prepared"
    FINISHED = "finished"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    SWEEPING = "sweeping"  # its owner deleted the server; its leftovers are being removed
    SERVER_GONE = "server-gone"
    SUPERSEDED = "superseded"  # another journal continued the move; this record is no longer used
    REPAIRING = "repairing"  # leftovers that an audit found are being repaired
    REPAIRED = "repaired"
    CORDONING = "cordoning"  # a cell is being closed to new servers
    DRAINING = "draining"  # the cell is closed, and its servers are being moved
    DRAINED = "drained"


class Step(enum.StrEnum):
    """The steps of moves, repairs and drains. ``plan`` creates the move and has no transition.

    ``resume`` and ``rollback`` run ``sweep``; ``audit`` and ``resume`` run ``repair``; ``drain-cell`` runs ``cordon``.
    """

    PREP_DEST = "prep-dest"
    PREP_SOURCE = "prep-source"
    FINISH = "finish"
    CONFIRM = "confirm"
    REVERT = "revert"
    SWEEP = "sweep"
    REPAIR = "repair"
    CORDON = "cordon"


TRANSITIONS: Mapping[Step, tuple[State, State]] = {
    Step.PREP_DEST: (State.PLANNED, State.DEST_PREPARED),
    Step.PREP_SOURCE: (State.DEST_PREPARED, State.SOURCE_PREPARED),
    Step.FINISH: (State.SOURCE_PREPARED, State.FINISHED),
    Step.CONFIRM: (State.FINISHED, State.CONFIRMED),
    Step.REVERT: (State.FINISHED, State.REVERTED),
    Step.SWEEP: (State.SWEEPING, State.SERVER_GONE),
    Step.REPAIR: (State.REPAIRING, State.REPAIRED),
    Step.CORDON: (State.CORDONING, State.DRAINING),
}
"""The states before and after each step. This table is the only definition of their order."""

TO_FINISH = (Step.PREP_DEST, Step.PREP_SOURCE, Step.FINISH)
"""The steps that ``resize`` and ``migrate`` run."""

EARLIER: Mapping[Step, tuple[Step, ...]] = {
    Step.PREP_DEST: (),
    Step.PREP_SOURCE: TO_FINISH[:1],
    Step.FINISH: TO_FINISH[:2],
    Step.CONFIRM: TO_FINISH,
    Step.REVERT: TO_FINISH,
    Step.SWEEP: TO_FINISH[:2],  # finish may not be complete
    Step.REPAIR: (),
    Step.CORDON: (),
}
"""The steps that are complete when a step begins."""

CLOSED = frozenset(
    {
        State.CONFIRMED,
        State.REVERTED,
        State.ROLLED_BACK,
        State.SERVER_GONE,
        State.SUPERSEDED,
        State.REPAIRED,
        State.DRAINED,
    }
)
"""The states of moves that have ended. A server has at most one move in another state."""


@dataclass(frozen=True)
class Move:
    """The move of one server from its source cell to a target cell, or the record of a repair or a drain.

    :param kind: nova's migration_type ``resize`` or ``migration``; :data:`AUDIT` or :data:`DRAIN` for other records
    :param created_at: UTC, ISO 8601
    :param plan: the decisions of the plan: cells, hosts, flavors, request id, the server's properties. No secrets
    :param goal_state: the state that ``resize`` or ``migrate`` leads to; empty: the operator runs single steps
    :param generations: the values that the generation of the server's ownership mark may have
        (:mod:`cellmove.core.ownership`)
    """

    id: str
    server_id: str
    server_name: str
    kind: str
    state: State
    created_at: str
    updated_at: str
    plan: Document = field(default_factory=dict)
    goal_state: str = ""
    generations: tuple[str, ...] = ()

    @property
    def is_running_to_goal(self) -> bool:
        """Whether a ``resize`` or ``migrate`` was started and has not reached its goal."""
        return (
            bool(self.goal_state)
            and self.state is not State.ROLLING_BACK
            and self.is_open
            and self.state != self.goal_state
        )

    @property
    def is_repair(self) -> bool:
        """Whether this is the record of a repair."""
        return self.kind == AUDIT

    @property
    def is_drain(self) -> bool:
        """Whether this is the record of a drain; ``server_id`` is the cell then."""
        return self.kind == DRAIN

    @property
    def is_open(self) -> bool:
        """Whether the move has not ended."""
        return self.state not in CLOSED


class Phase(enum.StrEnum):
    """The phases of an action in the journal."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"


@dataclass(frozen=True)
class Entry:
    """The line of one action in the journal.

    :param intent: the ids and values that were recorded before the effect
    :param result: the ids and values that the effect gave
    """

    move_id: str
    sequence: int
    step: str
    action: str
    phase: Phase
    intent: Document
    result: Document
    error: str
    started_at: str
    finished_at: str


def standing(move: Move, busy: Step | None) -> str:
    """Return the state of a move as text for an operator.

    :param busy: the step that has started and is not complete, if any
    """
    return f"{move.state}, in {busy}" if busy is not None and move.state is not State.ROLLING_BACK else move.state.value


def next_commands(move: Move, busy: Step | None, wanted: Step | None = None) -> tuple[str, ...]:
    """Return the commands that the operator can type next, the most likely one first.

    :param busy: the step that has started and is not complete, if any
    :param wanted: the step that the operator asked for and that could not start; after ``revert`` the first command is
        never ``confirm``
    """
    if move.is_drain:
        again = () if not move.is_open else (command_line("drain-cell", move.server_id),)
        return (command_line("drain abort", move.server_id),) if move.state is State.ROLLING_BACK else again
    if move.state is State.ROLLING_BACK:
        return (f"cellmove rollback {move.id}",)
    if busy in (Step.CONFIRM, Step.REVERT) or move.state in (State.SWEEPING, State.REPAIRING):
        return (f"cellmove resume {move.id}",)
    if busy is None and move.goal_state == move.state == State.DEST_PREPARED:  # held, or the run that held it is dead
        return (f"cellmove finish {move.id}", f"cellmove rollback {move.id}")
    if busy is not None or move.is_running_to_goal:
        return (f"cellmove resume {move.id}", f"cellmove rollback {move.id}")
    if move.state is State.FINISHED:
        ways = (f"cellmove confirm {move.id}", f"cellmove revert {move.id}")
        return ways[::-1] if wanted is Step.REVERT else ways
    for step, (before, _after) in TRANSITIONS.items():
        if before is move.state:
            return (f"cellmove {step} {move.id}", f"cellmove rollback {move.id}")
    return ()


HELD = State.DEST_PREPARED
"""The state, and the goal, of a move that is held before its guest is stopped."""


def is_held(move: Move) -> bool:
    """Whether a run holds this move, or did so until it died."""
    return move.state is HELD and move.goal_state == HELD
