"""Write the one result of a command to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellmove.core.errors import CellmoveError, Refused, Stopped
from cellmove.core.shell import command_line
from cellmove.ui.invocation import Options

if TYPE_CHECKING:
    from cellmove.core.move import Move
    from cellmove.operations.context import Session
    from cellmove.operations.documents import Document


def answer(options: Options, document: Document, draw: Callable[[Any, Document], None]) -> None:
    """Write the command's one result.

    :raises Stopped: there is no room for it where stdout goes
    """
    from cellmove.ui.console import render, silence

    options.answered = True
    try:
        render(options.in_front.inserted_everywhere(document), options.form, sys.stdout, draw)
    except OSError as error:
        silence(sys.stdout)
        move = document.get("move")
        raise Stopped(
            f"the result cannot be written to stdout: {error.strerror}",
            state="all that the command was to do is done",
            next_command=f"cellmove show {move}" if isinstance(move, str) else options.typed or "cellmove list",
        ) from None


def answer_error(options: Options, error: CellmoveError, exit_code: int) -> None:
    if options.form != "json" or options.answered:
        return
    from cellmove.operations.documents import error_document

    error.exit_code = exit_code
    answer(options, error_document(error), lambda _page, _document: None)


def answer_move(options: Options, session: Session, move: Move, *, detailed: bool = False) -> None:
    """Show where a move stands, or (detailed) everything the journal knows about it."""
    from cellmove.operations.documents import move_document
    from cellmove.ui.move_text import draw_details, draw_move

    document = move_document(move, session.journal.entries_of(move.id))
    answer(options, document, draw_details if detailed else draw_move)


def answer_moves(options: Options, session: Session, moves: list[Move]) -> None:
    """List moves."""
    from cellmove.ui.documents import list_document
    from cellmove.ui.move_text import draw_list

    journal = session.journal
    entries = journal.entries_of_moves([move.id for move in moves])
    answer(options, list_document([(move, entries.get(move.id, ())) for move in moves]), draw_list)


def answer_verification(options: Options, session: Session, found: Any) -> None:
    """Show how a moved server compares with what it was.

    :raises Refused: when anything is not as it was
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import verification_document
    from cellmove.ui.move_text import draw_verification

    document = verification_document(found, session.journal.entries_of(found.move.id))
    count = len(found.differences)
    if not count:
        answer(options, document, draw_verification)
        return
    error = Refused(
        f"{found.move.server_name} differs from its state before the move: {count} difference{'s' if count != 1 else ''}",
        state="nothing was written; the move is finished, and was not confirmed",
        next_command=f"cellmove revert {found.move.id}",
    )
    answer(options, document | error_document(error), draw_verification)
    raise error


def answer_audit(options: Options, report: Any, again: str) -> None:
    """Show what an audit found.

    :param again: the same command with ``--repair``
    :raises LeftoversRemain: when anything of it is nobody's and still there
    :raises Unreachable: when nothing was found, and a cell could not be looked at
    """
    from cellmove.core.errors import LeftoversRemain, Unreachable
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import audit_document
    from cellmove.ui.move_text import draw_audit

    document = audit_document(report)
    if not report.remaining and not report.unseen:
        answer(options, document, draw_audit)
        return
    error: CellmoveError
    if not report.remaining:
        error = Unreachable(
            "this audit is not complete: " + "; ".join(report.unseen),
            state="nothing was written; no leftovers were found, apart from those that may belong to servers of that cell",
            next_command=options.again,
        )
        answer(options, document | error_document(error), draw_audit)
        raise error
    count, repairable = len(report.remaining), sum(leftover.safe for leftover in report.remaining)
    error = LeftoversRemain(
        f"{count} leftover{'s' if count != 1 else ''}, {repairable or 'none'} of which --repair can repair"
        + ("; the audit is not complete" if report.unseen else ""),
        next_command=again if repairable else "",
    )
    answer(options, document | error_document(error), draw_audit)
    raise error


def answer_plan(options: Options, session: Session, report: Any, command: str) -> None:
    """Show a plan.

    :param command: what to type next when the plan opened no move
    :raises Refused: when a check refuses
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.documents import plan_document
    from cellmove.ui.move_text import draw_plan

    entries = session.journal.entries_of(report.move.id) if report.move is not None else []
    document = plan_document(report, entries, command)
    if not report.refused:
        answer(options, document, draw_plan)
        return
    count = sum(check["level"] == "refusal" for check in document["checks"])
    name, again = document["server"]["name"] or document["server"]["id"], options.typed or command
    if any(check["code"] == "being-moved" for check in document["checks"]):
        # It says where to resume when the journal is not lost.
        again = command_line("adopt", document["server"]["id"] or name)
    error = Refused(
        f"{name} cannot be moved as it is: {count} check{'s' if count != 1 else ''} refused",
        state="nothing was written; every reason is listed with what to do about it",
        next_command=again,
    )
    answer(options, document | error_document(error), draw_plan)
    raise error
