"""The commands ``drain status``, ``pause``, ``resume``, ``abort`` and ``report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellmove.core.errors import Stopped, Unreachable
from cellmove.ui.answers import answer
from cellmove.ui.group import InOrder
from cellmove.ui.invocation import Options
from cellmove.ui.options import output_options, pass_options
from cellmove.ui.running import running

if TYPE_CHECKING:
    from cellmove.drain.drain_report import DrainReport
    from cellmove.drain.status import DrainStatus


@click.group("drain", cls=InOrder, short_help="Show, pause, resume or abort the drain of a cell.")
def drain() -> None:
    """Show, pause, resume or abort the drain of a cell, from any terminal and also during a run.

    cellmove drain-cell starts and continues drains.

    \b
    Example:
      cellmove drain status
      cellmove drain pause cell1
    """


_cell = click.argument("cell", metavar="[CELL]", required=False)


@drain.command("status", short_help="Show the status of a drain.")
@_cell
@output_options
@pass_options
def status(options: Options, cell: str | None) -> None:
    """Show the status of a drain: servers in progress, waiting and failed servers, and the next command.

    CELL is a name or UUID. It can be omitted when only one cell has a drain. Only the journal is read.

    \b
    Example:
      cellmove drain status
      cellmove drain status cell1 -f json
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.drain.control import find_drain
        from cellmove.drain.status import read_status

        found = read_status(session, find_drain(session, cell))
    _answer_status(options, found)


def _answer_status(options: Options, status: DrainStatus) -> None:
    from cellmove.ui.drain_documents import status_document
    from cellmove.ui.drain_text import draw_status

    answer(options, status_document(status), draw_status)


def _control(options: Options, cell: str | None, *, pauses: bool) -> None:
    with running(options, activity="") as session:
        from cellmove.drain.control import find_drain, pause_drain, resume_drain
        from cellmove.drain.status import read_status

        record = find_drain(session, cell)
        (pause_drain if pauses else resume_drain)(session, record)
        found = read_status(session, record)
    _answer_status(options, found)


@drain.command("pause", short_help="Start no more servers until drain resume.")
@_cell
@output_options
@pass_options
def pause(options: Options, cell: str | None) -> None:
    """Start no more servers. Moves in progress are completed, and soaking servers are confirmed when due.

    CELL is a name or UUID. The pause lasts until cellmove drain resume, also for runs that start
    later. Unlike --pause-file it holds on every machine that shares the journal.

    \b
    Example:
      cellmove drain pause cell1
    """
    _control(options, cell, pauses=True)


@drain.command("resume", short_help="End a pause.")
@_cell
@output_options
@pass_options
def resume(options: Options, cell: str | None) -> None:
    """End a pause, so that runs start servers again. No run is started.

    CELL is a name or UUID.

    \b
    Example:
      cellmove drain resume cell1
    """
    _control(options, cell, pauses=False)


@drain.command("abort", short_help="Start no more servers and uncordon the cell.")
@_cell
@output_options
@pass_options
def abort(options: Options, cell: str | None) -> None:
    """Start no more servers, complete the moves in progress, and open the cell to new servers again.

    CELL is a name or UUID. Moved servers stay at the target. Unconfirmed servers stay in VERIFY_RESIZE
    without a further soak. Hosts that were disabled before the drain stay disabled. During a run, that
    run opens the cell when it ends.

    \b
    Example:
      cellmove drain abort cell1
    """
    abort_and_answer(options, cell)


def abort_and_answer(options: Options, cell: str | None) -> None:
    """Abort a drain and show its status.

    :raises Stopped: a killed run left incomplete moves
    """
    with running(options) as session:
        from cellmove.drain.control import abort_drain, find_drain
        from cellmove.drain.status import incomplete_tasks, read_status

        record = abort_drain(session, find_drain(session, cell), session.observer)
        found = read_status(session, record)
        incomplete = [] if record.is_open else incomplete_tasks(session, record)
    _answer_status(options, found)
    if incomplete:
        names = ", ".join(task.name for task in incomplete)
        subject = f"the moves of {names} are" if len(incomplete) > 1 else f"the move of {names} is"
        raise Stopped(
            f"{found.cell} is uncordoned, but {subject} incomplete",
            state="their guests may be down" if len(incomplete) > 1 else "its guest may be down",
            next_command=incomplete[0].next_command,
        )


@drain.command("report", short_help="Show the report of a drain.")
@_cell
@click.option("--html", "page", metavar="FILE", type=click.Path(dir_okay=False), help="Write an HTML page as well.")
@output_options
@pass_options
def report(options: Options, cell: str | None, page: str | None) -> None:
    """Show the report of a drain: moved servers, pace, downtimes, and failures with their reasons.

    CELL is a name or UUID. The page that --html writes is one file, and also has the time line of every
    server. Only the journal is read.

    \b
    Example:
      cellmove drain report cell1
      cellmove drain report cell1 --html drain.html
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.drain.control import find_drain
        from cellmove.drain.drain_report import build_report

        found = _with_global_options(options, build_report(session, find_drain(session, cell)))
        if page:
            _write_page(Path(page), found)
    from cellmove.ui.drain_documents import report_document
    from cellmove.ui.drain_text import draw_report

    answer(options, report_document(found), draw_report)


def _with_global_options(options: Options, report: DrainReport) -> DrainReport:
    """Insert the global options into the commands of a report."""
    insert = options.global_options.inserted
    servers = tuple(replace(server, next_command=insert(server.next_command)) for server in report.servers)
    return replace(report, servers=servers)


def _write_page(path: Path, report: DrainReport) -> None:
    from cellmove.ui.drain_html import html

    try:
        path.write_text(html(report), encoding="utf-8")
    except OSError as error:
        raise Unreachable(f"cannot write {path}: {error.strerror}", state="nothing else was written") from None
