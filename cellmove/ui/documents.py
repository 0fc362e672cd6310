"""The documents that ``--format json`` prints, except for those of one move; the tables are drawn from them, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellmove.core.move import SCHEMA_VERSION, Entry, Move
from cellmove.engine.record import labels_from
from cellmove.operations.documents import Document, move_document, source_document, target_document

if TYPE_CHECKING:
    from cellmove.engine.journal import JournalCheck
    from cellmove.operations.audit import AuditReport


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


def audit_document(report: AuditReport) -> Document:
    """What an audit found, and what became of it. docs/audit.md describes it.

    :param report: the report
    """
    leftovers = []
    for each in report.results:
        leftover, owner = each.leftover, each.leftover.owner
        leftovers.append(
            {
                "kind": leftover.kind.value,
                "server": {"id": leftover.server_id, "name": leftover.server_name, "project": leftover.project_id},
                "cell": str(leftover.cell or ""),
                "cell_uuid": leftover.cell_uuid,
                "host": leftover.host,
                "subject": leftover.subject,
                "text": leftover.text,
                "since": f"{leftover.since.isoformat()}Z" if leftover.since else None,
                "age_seconds": max(int((report.now - leftover.since).total_seconds()), 0) if leftover.since else None,
                "owner": {"by": owner.by, "move": owner.move_id or None, "text": owner.text} if owner else None,
                "safe": leftover.safe,
                "mend": leftover.remedy,
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
            "owned": sum(each.leftover.owner is not None for each in report.results),
            "mended": sum(each.outcome == "mended" for each in report.results),
            "left": len(report.remaining),
        },
        "findings": leftovers,
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
