"""The documents that ``--format json`` prints; all that a person sees is drawn from them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.cell_names import with_display_names
from cellmove.core.move import SCHEMA_VERSION, TRANSITIONS, Entry, Move, Phase, State, Step, next_commands
from cellmove.engine.executor import busy_step, facts_of

if TYPE_CHECKING:
    from cellmove.core.errors import CellmoveError
    from cellmove.engine.journal import JournalCheck
    from cellmove.operations.audit import Report

Document = dict[str, Any]

RANKS = (State.PLANNED, State.DEST_PREPARED, State.SOURCE_PREPARED, State.FINISHED)


def move_document(move: Move, entries: Sequence[Entry], *, with_steps: bool = True) -> Document:
    """One move as plain data.

    :param entries: its lines in the journal
    :param with_steps: False leaves the steps out, as in a list
    """
    facts, busy = facts_of(move, entries), busy_step(entries, move)
    document: Document = {
        "schema_version": SCHEMA_VERSION,
        "move": move.id,
        "state": move.state.value,
        "busy_step": busy.value if busy is not None and move.is_open else None,
        "server": {"id": move.server_id, "name": move.server_name},
        "kind": move.kind,
        "source": _place(facts, "source"),
        "target": _target(move, entries, facts),
        "created_at": move.created_at,
        "updated_at": move.updated_at,
        "accepted_losses": list(facts.get("accepted_losses", ())),
        "next": list(next_commands(move, busy)),
    }
    if with_steps:
        document["tried"] = _tried(entries)
        document["steps"] = _step_documents(move, entries)
    return document


def list_document(moves: Sequence[tuple[Move, Sequence[Entry]]]) -> Document:
    """Many moves as plain data, without their steps."""
    documents = [move_document(move, entries, with_steps=False) for move, entries in moves]
    return {"schema_version": SCHEMA_VERSION, "moves": documents}


def plan_document(report: Any, entries: Sequence[Entry], next_command: str) -> Document:
    """A plan as plain data: the move it opened (if it did), the summary and every check.

    :param report: a ``PlanReport``
    :param next_command: what to type next when no move was opened
    """
    summary = dict(report.summary)
    if report.move is not None:
        document = move_document(report.move, entries)
    else:
        document = {
            "schema_version": SCHEMA_VERSION,
            "move": None,
            "state": "refused" if report.refused else "not recorded",
            "server": {"id": summary.get("server_id", ""), "name": summary.get("server_name", "")},
            "kind": summary.get("kind", ""),
            "source": _place(summary, "source"),
            "target": _place(summary, "target"),
            "next": [next_command] if next_command else [],
            "steps": [],
        }
    return document | {"refused": report.refused, "checks": _check_documents(report.checks), "summary": summary}


def verification_document(found: Any, entries: Sequence[Entry]) -> Document:
    """A verification as plain data: the move and every check.

    :param found: a ``Verification``
    """
    document = move_document(found.move, entries, with_steps=False)
    return document | {"verified": not found.differences, "checks": _check_documents(found.checks)}


def _check_documents(checks: Sequence[Any]) -> list[Document]:
    return [
        {"code": check.code, "level": check.level.value, "text": check.text, "remedy": check.remedy} for check in checks
    ]


def audit_document(report: Report) -> Document:
    """What an audit found, and what became of it. docs/audit.md describes it.

    :param report: an ``audit.Report``
    """
    findings = []
    for each in report.results:
        finding, owner = each.finding, each.finding.owner
        findings.append(
            {
                "kind": finding.kind.value,
                "server": {"id": finding.server_id, "name": finding.server_name, "project": finding.project_id},
                "cell": str(finding.cell or ""),
                "cell_uuid": finding.cell_uuid,
                "host": finding.host,
                "subject": finding.subject,
                "text": finding.text,
                "since": f"{finding.since.isoformat()}Z" if finding.since else None,
                "age_seconds": max(int((report.now - finding.since).total_seconds()), 0) if finding.since else None,
                "owner": {"by": owner.by, "move": owner.move_id or None, "text": owner.text} if owner else None,
                "safe": finding.safe,
                "mend": finding.mend,
                "outcome": each.outcome or None,
                "why": each.why or None,
                "repair": each.repair or None,
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "cells": [cell.label for cell in report.cells],
        "cell_uuids": [cell.uuid for cell in report.cells],
        "unseen": list(report.unseen),
        "repair": report.mode,
        "counts": {
            "owned": sum(each.finding.owner is not None for each in report.results),
            "mended": sum(each.outcome == "mended" for each in report.results),
            "left": len(report.left),
        },
        "findings": findings,
    }


def journal_check_document(location: str, check: JournalCheck) -> Document:
    """A journal that was found sound.

    :param location: the journal's path, or its URL without the password
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "journal": location,
        "checked": {"moves": check.moves, "lines": check.lines},
    }


def error_document(error: CellmoveError) -> Document:
    """An error as plain data."""
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
    """The hosts that were chosen and did not do, each with the reason."""
    found = []
    for chose in entries:
        if chose.phase is not Phase.UNDONE or "target_host" not in chose.result:
            continue
        later = (entry for entry in entries if entry.sequence > chose.sequence and entry.step == chose.step)
        failed = next((entry for entry in later if entry.error or entry.action == chose.action), None)
        if failed is not None and failed.error:
            host = _place(with_display_names(chose.result), "target")
            found.append(host | {"action": failed.action, "error": failed.error})
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
    outcome = {name: entry.result[name] for name in ("mended", "left") if name in entry.result}
    return outcome | {
        "action": entry.action,
        "phase": entry.phase.value,
        "started_at": entry.started_at,
        "finished_at": entry.finished_at or None,
        "error": entry.error or None,
    }


def _target(move: Move, entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, str]:
    """Where the move goes: what the scheduler chose, also when that was taken back; before, what was asked for."""
    chosen = dict(facts)
    for entry in entries:
        names = ("target_cell", "target_cell_uuid", "target_host")
        chosen |= {name: entry.result[name] for name in names if name in entry.result}
    target = _place(with_display_names(chosen), "target")
    return _place(move.plan, "wanted") | {key: value for key, value in target.items() if value}


def _place(facts: Mapping[str, Any], end: str) -> dict[str, str]:
    """A cell, for people and by its identity, and a host.

    :param end: the beginning of the facts' keys: ``source``, ``target`` or ``wanted``
    """
    return {
        "cell": facts.get(f"{end}_cell", ""), "cell_uuid": facts.get(f"{end}_cell_uuid", ""),
        "host": facts.get(f"{end}_host", ""),
    }  # fmt: skip
