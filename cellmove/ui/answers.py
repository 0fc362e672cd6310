"""Write the one result of a command to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from cellmove.core.errors import CellmoveError, LeftoversRemain, Refused, Stopped, Unreachable
from cellmove.core.shell import command_line
from cellmove.ui.invocation import Options

if TYPE_CHECKING:
    from cellmove.core.move import Move
    from cellmove.operations.audit import AuditReport
    from cellmove.operations.context import Session
    from cellmove.operations.documents import Document
    from cellmove.operations.planning import PlanReport
    from cellmove.operations.verify import Verification
    from cellmove.ui.console import Page

D = TypeVar("D", bound="Mapping[str, object]")


def answer(options: Options, document: D, draw: Callable[[Page, D], None]) -> None:
    """Write the one result of a command.

    :param draw: draws the document as text for a person
    :raises Stopped: stdout cannot be written, such as on a full disk
    """
    from cellmove.ui.console import render, silence

    options.has_answered = True
    shown = options.global_options.inserted_everywhere(document)
    try:
        render(shown, options.output_format, sys.stdout, cast("Callable[[Page, Document], None]", draw))
    except OSError as error:
        silence(sys.stdout)
        move = document.get("move")
        raise Stopped(
            f"cannot write the result to stdout: {error.strerror}",
            state="the command itself is complete",
            next_command=f"cellmove show {move}" if isinstance(move, str) else options.typed or "cellmove list",
        ) from None


def answer_error(options: Options, error: CellmoveError, exit_code: int) -> None:
    """Write an error as JSON, if JSON was asked for and the command has no other document."""
    if options.output_format != "json" or options.has_answered:
        return
    from cellmove.operations.documents import error_document

    error.exit_code = exit_code
    answer(options, error_document(error), lambda _page, _document: None)


def answer_move(options: Options, session: Session, move: Move, *, detailed: bool = False) -> None:
    """Show the state of a move, or (detailed) everything that the journal records about it."""
    from cellmove.operations.documents import move_document
    from cellmove.ui.move_text import draw_details, draw_move

    document = move_document(move, session.journal.entries_of(move.id))
    answer(options, document, draw_details if detailed else draw_move)


def answer_moves(options: Options, session: Session, moves: Sequence[Move]) -> None:
    """List moves."""
    from cellmove.ui.documents import list_document
    from cellmove.ui.move_text import draw_list

    entries = session.journal.entries_of_moves([move.id for move in moves])
    answer(options, list_document([(move, entries.get(move.id, ())) for move in moves]), draw_list)


def answer_verification(options: Options, session: Session, verification: Verification) -> None:
    """Show how a moved server compares with its state before the move.

    :raises Refused: the server differs
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import verification_document
    from cellmove.ui.move_text import draw_verification

    move, count = verification.move, len(verification.differences)
    document = verification_document(verification, session.journal.entries_of(move.id))
    if not count:
        answer(options, document, draw_verification)
        return
    error = Refused(
        f"verification failed: {move.server_name} differs from its state before the move"
        f" ({count} difference{'s' if count != 1 else ''})",
        state="nothing was written; the move is finished, and was not confirmed",
        next_command=f"cellmove revert {move.id}",
    )
    answer(options, document | error_document(error), draw_verification)
    raise error


def answer_audit(options: Options, report: AuditReport) -> None:
    """Show the findings of an audit.

    :raises LeftoversRemain: leftovers remain
    :raises Unreachable: no leftovers were found, and a cell could not be read
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import audit_document
    from cellmove.ui.move_text import draw_audit

    document = audit_document(report)
    error = _audit_error(options, report)
    if error is None:
        answer(options, document, draw_audit)
        return
    answer(options, document | error_document(error), draw_audit)
    raise error


def _audit_error(options: Options, report: AuditReport) -> CellmoveError | None:
    count = len(report.remaining)
    if count:
        repairable = sum(leftover.safe for leftover in report.remaining)
        incomplete = "; the audit is incomplete" if report.unseen else ""
        return LeftoversRemain(
            f"{count} leftover{'s' if count != 1 else ''}; --repair can repair {repairable or 'none'}{incomplete}",
            next_command=report.command if repairable else "",
        )
    if report.unseen:
        return Unreachable(
            "the audit is incomplete: " + "; ".join(report.unseen),
            state="nothing was written; the cells that could be read have no leftovers",
            next_command=options.retry_command,
        )
    return None


def answer_plan(options: Options, session: Session, report: PlanReport, command: str) -> None:
    """Show a plan.

    :param command: the command to type next if the plan opened no move
    :raises Refused: a check refuses the move
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import plan_document
    from cellmove.ui.move_text import draw_plan

    entries = session.journal.entries_of(report.move.id) if report.move is not None else []
    document = plan_document(report, entries, command)
    if not report.refused:
        answer(options, document, draw_plan)
        return
    count = sum(check.level == "refusal" for check in report.checks)
    server_id, name = document["server"]["id"], document["server"]["name"] or document["server"]["id"]
    next_command = options.typed or command
    if any(check.code == "being-moved" for check in report.checks):
        # adopt tells which journal has the move, unless that journal is lost.
        next_command = command_line("adopt", server_id or name)
    error = Refused(
        f"{name} cannot be moved: {count} check{'s' if count != 1 else ''} refused",
        state="nothing was written; each reason is listed with its remedy",
        next_command=next_command,
    )
    answer(options, document | error_document(error), draw_plan)
    raise error
