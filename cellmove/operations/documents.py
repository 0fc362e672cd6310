"""A move and an error as the documents that ``--format json`` prints and that hooks get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.documents import to_document
from cellmove.core.move import SCHEMA_VERSION, TRANSITIONS, Entry, Move, Phase, State, Step, next_commands
from cellmove.core.move_plan import outline_of
from cellmove.engine.executor import busy_step
from cellmove.engine.record import EndpointLabels, labels_from, record_of
from cellmove.steps.repair import outcome_of

if TYPE_CHECKING:
    from cellmove.core.errors import CellmoveError

Document = dict[str, Any]

RANKS = (State.PLANNED, State.DEST_PREPARED, State.SOURCE_PREPARED, State.FINISHED)


def move_document(move: Move, entries: Sequence[Entry], *, with_steps: bool = True) -> Document:
    """Return the document of one move.

    :param entries: the entries of the move in the journal
    :param with_steps: False omits the steps, as in a list
    """
    labels, busy = record_of(move, entries).labels, busy_step(entries, move)
    document: Document = {
        "schema_version": SCHEMA_VERSION,
        "move": move.id,
        "state": move.state.value,
        "busy_step": busy.value if busy is not None and move.is_open else None,
        "server": {"id": move.server_id, "name": move.server_name},
        "kind": move.kind,
        "source": source_document(labels),
        "target": _target(move, entries),
        "created_at": move.created_at,
        "updated_at": move.updated_at,
        "accepted_losses": list(outline_of(move).accepted_losses),
        "next": list(next_commands(move, busy)),
    }
    if with_steps:
        document["tried"] = _tried(entries)
        document["steps"] = _step_documents(move, entries)
    return document


def error_document(error: CellmoveError) -> Document:
    """Return the document of an error."""
    return {
        "schema_version": SCHEMA_VERSION,
        "error": {
            "message": error.message,
            "state": error.state,
            "next": error.next_command,
            "exit_code": error.exit_code,
        },
    }


def _tried(entries: Sequence[Entry]) -> list[Document]:
    """Return the hosts that were chosen and failed, each with the reason."""
    found = []
    for chose in entries:
        if chose.phase is not Phase.UNDONE or "target_host" not in chose.result:
            continue
        later = (entry for entry in entries if entry.sequence > chose.sequence and entry.step == chose.step)
        failed = next((entry for entry in later if entry.error or entry.action == chose.action), None)
        if failed is not None and failed.error:
            found.append(target_document(labels_from(chose.result)) | {"action": failed.action, "error": failed.error})
    return found


def _step_documents(move: Move, entries: Sequence[Entry]) -> list[Document]:
    documents = []
    reverting = any(entry.step == Step.REVERT and entry.phase is not Phase.UNDONE for entry in entries)
    for step in TRANSITIONS:
        own = [entry for entry in entries if entry.step == step]
        if (step is Step.REPAIR) is not move.is_repair or (step is Step.CORDON) is not move.is_drain:
            continue
        if step is Step.SWEEP and not own:
            continue
        state = _step_state(move, step, own)
        ahead = move.is_open and move.state is not State.ROLLING_BACK
        planned = ahead and step is not Step.REVERT and not (reverting and step is Step.CONFIRM)
        if own or state == "done" or planned:
            documents.append(
                {"step": step.value, "state": state, "actions": [_action_document(entry) for entry in own]}
            )
    return documents


def _step_state(move: Move, step: Step, own: Sequence[Entry]) -> str:
    after = TRANSITIONS[step][1]
    passed = RANKS.index(move.state) if move.state in RANKS else len(RANKS)
    forward = move.state not in (State.ROLLING_BACK, State.ROLLED_BACK)
    if move.state is after or (forward and after in RANKS and RANKS.index(after) <= passed):
        return "done"
    live = [entry for entry in own if entry.phase is not Phase.UNDONE]
    if any(entry.phase is Phase.FAILED for entry in live):
        return "failed"
    if live:
        return "running"
    return "undone" if own else "pending"


def _action_document(entry: Entry) -> Document:
    outcome: Document = dict(to_document(outcome_of(entry))) if entry.step == Step.REPAIR else {}
    return outcome | {
        "action": entry.action,
        "phase": entry.phase.value,
        "started_at": entry.started_at,
        "finished_at": entry.finished_at or None,
        "error": entry.error or None,
    }


def _target(move: Move, entries: Sequence[Entry]) -> dict[str, str]:
    """Return the target: the scheduler's choice, even if it was rolled back; before the choice, the requested one."""
    labels = labels_from(move.plan, *(entry.result for entry in entries))
    wanted = endpoint_document(labels.wanted_cell, labels.wanted_cell_uuid, labels.wanted_host)
    return wanted | {key: value for key, value in target_document(labels).items() if value}


def source_document(labels: EndpointLabels) -> dict[str, str]:
    """The end that a server comes from."""
    return endpoint_document(labels.source_cell, labels.source_cell_uuid, labels.source_host)


def target_document(labels: EndpointLabels) -> dict[str, str]:
    """The end that a server goes to."""
    return endpoint_document(labels.target_cell, labels.target_cell_uuid, labels.target_host)


def endpoint_document(cell: str, cell_uuid: str, host: str) -> dict[str, str]:
    """Return the document of a cell and a host."""
    return {"cell": cell, "cell_uuid": cell_uuid, "host": host}
