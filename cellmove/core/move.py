"""What a move is: plain data, and the table of states it may walk through."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cellmove.core.documents import Document
from cellmove.core.shell import command_line

SCHEMA_VERSION = 1
"""Version of the JSON that commands print and of the journal's tables."""


AUDIT = "audit"
"""The kind of a record that is no move: leftovers that an audit mends."""

DRAIN = "drain"
"""The kind of a record that is no move: a cell that is being emptied. Its actions cordon the cell."""

LOSSES = ("ephemeral", "swap", "local-disk", "config-drive", "vtpm", "nvram", "pmem")
"""What of a server does not travel, by the names under which an operator accepts that."""


class State(enum.StrEnum):
    """How far a move has come: the last step that was completed."""

    PLANNED = "planned"
    DEST_PREPARED = "dest-prepared"
    SOURCE_PREPARED = "source-prepared"
    FINISHED = "finished"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    SWEEPING = "sweeping"  # its owner deleted the server; what is left of it is being removed
    SERVER_GONE = "server-gone"
    SUPERSEDED = "superseded"  # another journal went on with it; this one's record was given up
    REPAIRING = "repairing"  # leftovers that an audit found are being mended
    REPAIRED = "repaired"
    CORDONING = "cordoning"  # a cell is closed to new servers
    DRAINING = "draining"  # it is closed, and its servers are being moved
    DRAINED = "drained"


class Step(enum.StrEnum):
    """What a person runs. ``plan`` makes the move and so has no transition.

    ``sweep`` is run by ``resume`` and ``rollback`` alone, ``repair`` by ``audit`` and ``resume``, ``cordon`` by ``drain-cell``.
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
"""Which step leads from which state to which; the only place that knows the order."""

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
"""A move in one of these states is over; a server has at most one move that is not."""


@dataclass(frozen=True)
class Move:
    """One server's journey from its source cell to a target cell.

    ``plan`` holds what was decided when the move was planned and never changes: names and ids of
    the cells, hosts, flavors, the request id, the shape of the server. Nothing secret stands in it.
    """

    id: str
    server_id: str
    server_name: str
    kind: str  # nova's migration_type: "resize" or "migration"; "audit" or "drain" for what moves nothing itself
    state: State
    created_at: str  # UTC, ISO 8601
    updated_at: str
    plan: Document = field(default_factory=dict)
    goal_state: str = (
        ""  # the state that a whole run ("resize", "migrate") leads to; empty: the steps are typed one by one
    )
    generations: tuple[
        str, ...
    ] = ()  # of the server's mark: those that the cloud may have; see cellmove.core.ownership

    @property
    def is_running_to_goal(self) -> bool:
        """Whether a whole run was begun and has not come to the end it was after."""
        return (
            bool(self.goal_state)
            and self.state is not State.ROLLING_BACK
            and self.is_open
            and self.state != self.goal_state
        )

    @property
    def is_repair(self) -> bool:
        """Whether it mends leftovers and moves nothing."""
        return self.kind == AUDIT

    @property
    def is_drain(self) -> bool:
        """Whether it is the record of a cell that is being emptied; its server is the cell."""
        return self.kind == DRAIN

    @property
    def is_open(self) -> bool:
        """Whether anything is left to do or undo."""
        return self.state not in CLOSED


class Phase(enum.StrEnum):
    """Where one action of a move stands in the journal."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"


@dataclass(frozen=True)
class Entry:
    """One action's line in the journal."""

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
    """Where a move stands, for a person.

    :param busy: the step that started and is not complete, if any: what it has done so far is in the cloud
    """
    return f"{move.state}, in {busy}" if busy is not None and move.state is not State.ROLLING_BACK else move.state.value


def next_commands(move: Move, busy: Step | None, wanted: Step | None = None) -> tuple[str, ...]:
    """What an operator can type next, the natural one first.

    :param busy: the step that started and is not complete, if any
    :param wanted: the step that somebody asked for and that could not begin: who wants a server back is never told
        to confirm it
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
