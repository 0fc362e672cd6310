"""The documents that ``--format json`` prints, except those of one move. The tables are drawn from them as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cellmove.core.move import SCHEMA_VERSION, Entry, Move
from cellmove.engine.record import labels_from
from cellmove.operations.documents import Document, move_document, source_document, target_document

if TYPE_CHECKING:
    import datetime

    from cellmove.checks.result import CheckResult
    from cellmove.engine.journal import JournalCheck
    from cellmove.operations.audit import AuditReport, RepairResult
    from cellmove.operations.planning import PlanReport
    from cellmove.operations.verify import Verification


def list_document(moves: Sequence[tuple[Move, Sequence[Entry]]]) -> Document:
    """Return many moves as plain data, without their steps."""
    documents = [move_document(move, entries, with_steps=False) for move, entries in moves]
    return {"schema_version": SCHEMA_VERSION, "moves": documents}


def plan_document(report: PlanReport, entries: Sequence[Entry], next_command: str) -> Document:
    """Return a plan as plain data: the move that it opened (if any), the summary and every check.

    :param next_command: the command to type next if no move was opened
    """
    summary = dict(report.summary)
    labels = labels_from(summary)
    if report.move is not None:
        document = move_document(report.move, entries)
    else:
        document = {
            "schema_version": SCHEMA_VERSION,
            "move": None,
            "state": "refused" if report.refused else "not recorded",
            "server": {"id": summary.get("server_id", ""), "name": summary.get("server_name", "")},
            "kind": summary.get("kind", ""),
            "source": source_document(labels),
            "target": target_document(labels),
            "next": [next_command] if next_command else [],
            "steps": [],
        }
    return document | {"refused": report.refused, "checks": _check_documents(report.checks), "summary": summary}


def verification_document(verification: Verification, entries: Sequence[Entry]) -> Document:
    """Return a verification as plain data: the move and every check."""
    document = move_document(verification.move, entries, with_steps=False)
    return document | {
        "verified": not verification.differences,
        "checks": _check_documents(verification.checks),
    }


def _check_documents(checks: Iterable[CheckResult]) -> list[Document]:
    return [
        {"code": check.code, "level": check.level.value, "text": check.text, "remedy": check.remedy} for check in checks
    ]


def audit_document(report: AuditReport) -> Document:
    """Return the leftovers that an audit found, each with the result of its repair. docs/audit.md describes the keys."""
    return {
        "schema_version": SCHEMA_VERSION,
        "cells": [cell.label for cell in report.cells],
        "cell_uuids": [cell.uuid for cell in report.cells],
        "unseen": list(report.unseen),
        "repair": report.mode,
        "counts": {
            "owned": sum(result.leftover.owner is not None for result in report.results),
            "mended": sum(result.outcome == "mended" for result in report.results),
            "left": len(report.remaining),
        },
        "findings": [_leftover_document(result, report.now) for result in report.results],
    }


def _leftover_document(result: RepairResult, now: datetime.datetime) -> Document:
    leftover, owner = result.leftover, result.leftover.owner
    return {
        "kind": leftover.kind.value,
        "server": {"id": leftover.server_id, "name": leftover.server_name, "project": leftover.project_id},
        "cell": str(leftover.cell or ""),
        "cell_uuid": leftover.cell_uuid,
        "host": leftover.host,
        "subject": leftover.subject,
        "text": leftover.text,
        "since": f"{leftover.since.isoformat()}Z" if leftover.since else None,
        "age_seconds": max(int((now - leftover.since).total_seconds()), 0) if leftover.since else None,
        "owner": {"by": owner.by, "move": owner.move_id or None, "text": owner.text} if owner else None,
        "safe": leftover.safe,
        "mend": leftover.remedy,
        "outcome": result.outcome or None,
        "why": result.why or None,
        "repair": result.repair or None,
    }


def journal_check_document(location: str, check: JournalCheck) -> Document:
    """Return the result of a check that found no damage in the journal.

    :param location: the journal's path, or its URL without the password
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "journal": location,
        "checked": {"moves": check.moves, "lines": check.lines},
    }
