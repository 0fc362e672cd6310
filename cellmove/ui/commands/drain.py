"""The commands about whole cells: ``drain-cell`` and ``drain``; parse, call, render, like :mod:`cellmove.cli`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellmove.core.errors import Stopped, Unreachable
from cellmove.core.move import LOSSES
from cellmove.core.shell import command_line
from cellmove.ui.answers import answer
from cellmove.ui.fault import Left, consequence
from cellmove.ui.group import InOrder
from cellmove.ui.invocation import Options
from cellmove.ui.options import (
    FiniteRange,
    Grouped,
    output_options,
    pass_options,
    probe_option,
    transfer_options,
    typed_command,
    yes_option,
)
from cellmove.ui.running import running
from cellmove.ui.signals import Signals

if TYPE_CHECKING:
    from cellmove.drain.drains import Show
    from cellmove.drain.happening import Happening
    from cellmove.drain.wish import Wish
    from cellmove.operations.context import Session

_ORDERS = ("smallest", "largest", "oldest", "host")


HEADINGS = {
    "--dry-run": "What to do",
    "--include": "Which servers",
    "--to": "Where to",
    "--parallel": "How many at once, and how",
    "--window": "When to begin with servers, by this machine's clock; what was begun is always finished",
    "--probe": "When a server has arrived",
    "--yes": "Options",
}
"""What stands above groups of options in the help."""


def _number(name: str, what: str, default: int | None = None, lowest: int = 1) -> Callable[[Any], Any]:
    return click.option(name, type=click.IntRange(lowest), default=default, metavar="N", help=what)


def wish_options(function: Any) -> Any:
    """Everything that can be asked of a drain, in the order in which its help shows it."""
    decorators = (
        click.option("--no-cordon", is_flag=True, help="Leave the cell that is emptied open to new servers, until a run without this."),
        click.option("--include", multiple=True, metavar="KIND=PATTERN",
                     help="Only servers that match. KIND is project, flavor, host, tag, name or state; PATTERN may hold * and ?. "
                     "May be given more than once: one of each kind has to match."),
        click.option("--exclude", multiple=True, metavar="KIND=PATTERN", help="No servers that match; written as --include."),
        click.option("--order", type=click.Choice(_ORDERS), default="smallest", show_default=True,
                     help="Which go first: those with the smallest or largest local disk, the oldest, or host after host."),
        _number("--limit", "Begin with at most N servers in this run. Default: no limit."),
        click.option("--force-locked", is_flag=True, help="Move locked servers as well."),
        click.option("--accept-loss", multiple=True, metavar="NAME[,NAME…]",
                     help="Move servers although this is lost: " + ", ".join(LOSSES) + "."),
        click.option("--to", multiple=True, metavar="CELL",
                     help="A cell that takes servers. May be given more than once. Default: every other cell."),
        click.option("--flavor-map", multiple=True, metavar="OLD=NEW",
                     help="Resize servers of flavor OLD to flavor NEW on their way. May be given more than once."),
        click.option("--min-free", type=FiniteRange(0, 99), default=0, metavar="PERCENT",
                     help="Keep so much of the vCPUs, the memory and the disk of each target cell free. Default: 0."),
        _number("--max-hosts", "Try at most N of the hosts that the scheduler offers for a server. Default: all of them."),
        _number("--parallel", "Servers under way in this run. Default: 1.", 1),
        _number("--ahead", "Prepare up to N servers more than that: their streamed disks are copied while their guests run, and they wait "
                "until one of --parallel is through. Default: 0.", default=0, lowest=0),
        *transfer_options,
        _number("--per-source-host", "At most N from one host, over all runs that empty this cell. Default: no limit."),
        _number("--per-target-host", "At most N to one host, over all runs that empty this cell. Default: no limit."),
        _number("--per-project", "At most N of one project, over all runs that empty this cell. Default: no limit."),
        click.option("--window", default="", metavar="HH:MM-HH:MM", help="Only between these times; it may go over midnight."),
        click.option("--days", default="", metavar="DAYS",
                     help="Only on these days: mon-fri, or sat,sun. A night belongs to the day on which it begins."),
        click.option("--until", default="", metavar="HH:MM", help="Not after the next HH:MM."),
        _number("--max-failures", "Not after N servers have failed in this run; 0: however many fail. Default: 1.", lowest=0),
        click.option("--pause-file", default="", metavar="FILE", help="Not while FILE is there."),
        probe_option,
        click.option("--confirm", default="verified", show_default=True, metavar="never|verified|after:DURATION",
                     help="When to confirm a server that is what it was: never, so that it stays in VERIFY_RESIZE; as soon as "
                     "that is verified; or by the first run so long after its move (24h, 2d)."),
        click.option("--soak", default="", metavar="DURATION",
                     help="Wait so long (90s, 10m), and verify it once more before it is confirmed. Default: no wait."),
        click.option("--on-unverified", type=click.Choice(("keep", "revert")), default="keep", show_default=True,
                     help="What becomes of a server that is not what it was: kept in VERIFY_RESIZE for you to look at, or reverted."),
    )  # fmt: skip
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def _wish(given: dict[str, Any]) -> Wish:
    from cellmove.drain import wish

    losses = tuple(
        dict.fromkeys(name.strip() for text in given["accept_loss"] for name in text.split(",") if name.strip())
    )
    for name in losses:
        if name not in LOSSES:
            raise click.UsageError(f"--accept-loss: there is no {name!r}; there are: {', '.join(LOSSES)}")
    word, after = wish.parse_confirm(given["confirm"])
    if word == "never" and given["soak"]:
        raise click.UsageError("--soak waits for a confirm, and --confirm never has none")
    limits = {
        name: given[name] or 0 for name in ("limit", "per_source_host", "per_target_host", "per_project", "max_hosts")
    }
    return wish.Wish(
        to=given["to"], parallel=given["parallel"], ahead=given["ahead"], transfer=given["transfer"],
        bwlimit=given["bwlimit"], order=given["order"],
        include=tuple(wish.parse_filter(text, "--include") for text in given["include"]),
        exclude=tuple(wish.parse_filter(text, "--exclude") for text in given["exclude"]),
        flavor_map=wish.parse_flavor_map(given["flavor_map"]), confirm=word, confirm_after=after,
        soak=wish.parse_seconds(given["soak"], "--soak") if given["soak"] else 0.0, on_unverified=given["on_unverified"],
        probes=given["probes"], max_failures=1 if given["max_failures"] is None else given["max_failures"],
        until=given["until"], window=given["window"], days=given["days"], min_free=given["min_free"],
        pause_file=given["pause_file"], force_locked=given["force_locked"], accept_loss=losses, **limits,
    )  # fmt: skip


@click.command("drain-cell", cls=Grouped, headings=HEADINGS, short_help="Move every server out of a cell.")
@click.argument("cell", metavar="CELL")
@click.option(
    "--dry-run", is_flag=True, help="Only look: which servers would move, which would not and why. Writes nothing."
)
@click.option(
    "--abort", "aborts", is_flag=True, help="Begin with no more servers, and open the cell again, as drain abort does."
)
@wish_options
@yes_option
@output_options
@pass_options
def drain_cell(options: Options, /, cell: str, dry_run: bool, aborts: bool, **given: Any) -> None:
    """Move every server out of a cell, several at once, and go on wherever an earlier run stopped.

    CELL is a name or UUID. First every server is looked at: it can be moved, is skipped (a filter, or its
    tag cellmove:skip), or is refused by a check. The cell is closed to new servers. Then each server is
    looked at again, moved, verified and confirmed.

    The same command goes on tomorrow, and after a crash; what was under way comes first. A signal lets
    guests that are down come up first, a second one does not. Exit code 8 says that it is through, but
    servers failed or were left where they are; 9 says that servers wait for the next run.

    \b
    Example:
      cellmove drain-cell cell1 --dry-run
      cellmove drain-cell cell1 --to cell2 --parallel 4 --window 22:00-06:00 --days mon-thu
      cellmove drain-cell cell1 --include 'host=c1-old*' --limit 10 --soak 10m --probe tcp:22
      cellmove drain-cell cell1 --abort
    """
    context, outputs = click.get_current_context(), ("dry_run", "aborts")
    command = typed_command(context, without=outputs)
    if dry_run and aborts:
        raise click.UsageError("--dry-run and --abort exclude each other")
    if dry_run:
        dry_plan(options, cell, _wish(given), context)
        return
    if aborts:
        _abort(options, cell)
        return
    with _errors_as_lines(options, cell):
        wish = _wish(given)
        with _drawn(options, command) as (session, show):
            from cellmove.drain import drains

            uuid, wish = drains.with_uuids(session, cell, wish)
            command = typed_command(context, without=outputs, instead={"cell": uuid, "to": wish.to})
            ended = drains.drain(session, uuid, wish, show, cordons=not given["no_cordon"], again=command)
    if not ended.is_new and not sys.stdout.isatty():
        return  # cron has nothing to mail; a person is told how to delete the cell
    from cellmove.drain import ending
    from cellmove.ui.console import is_one_place
    from cellmove.ui.drain_show import draw_ended, ended_document

    if options.form != "json":
        answer(options, ended_document(ended), draw_ended)
    told = options.form not in ("json", "value") and is_one_place(sys.stdout, sys.stderr)
    error = ending.verdict(ended, command, told=told)
    if error is not None:
        raise error


def dry_plan(options: Options, cell: str, wish: Wish | None = None, context: click.Context | None = None) -> None:
    """Show what a drain would do; ``plan --cell CELL`` as well.

    :param context: of ``drain-cell``, whose options the printed command has
    """
    from cellmove.drain import wish as wishes

    with running(options, activity="looking at every server of the cell", only_reads=True) as session:
        from cellmove.drain import drains, plan

        uuid, wish = drains.with_uuids(session, cell, wish or wishes.Wish())
        found = drains.look(session, uuid, wish)
    again = command_line("drain-cell", uuid)
    if context is not None:
        again = typed_command(context, without=("dry_run", "aborts"), instead={"cell": uuid, "to": wish.to})
    answer(options, plan.document(found, again), plan.draw)


@contextmanager
def _errors_as_lines(options: Options, cell: str) -> Iterator[None]:
    """With ``--format json`` what ends a run early is one more line, with the same keys."""
    try:
        yield
    except (Exception, Left) as failure:
        if options.form == "json":
            error = consequence(failure, options)
            from cellmove.core.cell_names import CellRef
            from cellmove.core.clock import Clock
            from cellmove.core.reference import is_uuid
            from cellmove.drain.happening import Happening, Kind
            from cellmove.ui.drain_show import Lines

            typed = CellRef(cell if is_uuid(cell) else "", cell)
            text = "; ".join(part for part in (error.message, error.state) if part)
            happening = _shown(
                options, Happening(Kind.ERROR, Clock().text(), typed, reason=text, next_command=error.next_command)
            )
            options.answered = True
            Lines(sys.stdout, sys.stderr).watch(happening)
        raise


def _shown(options: Options, happening: Happening) -> Happening:
    """A happening with the options in front of the verb in every command that it names."""
    insert = options.in_front.inserted
    return replace(happening, reason=insert(happening.reason), next_command=insert(happening.next_command))


@contextmanager
def _drawn(options: Options, again: str) -> Iterator[tuple[Session, Show]]:
    """An open session with a drain's own drawing.

    :param again: what to type when it is left at once
    """
    from cellmove.drain.drains import Show
    from cellmove.ui.drain_show import drawing_for

    as_json = options.form == "json"
    with (
        drawing_for(sys.stdout, sys.stderr, as_json=as_json, quiet=options.quiet) as drawing,
        running(options, observer=drawing, again=again) as session,
    ):

        def watch(happening: Happening) -> None:
            options.answered = options.answered or as_json  # from here on stdout holds lines, and no document follows
            if isinstance(session.interrupted, Signals):
                session.interrupted.busy = True  # something is under way: a signal has to wait for it
            drawing.watch(_shown(options, happening))

        yield session, Show(watch, session.observer)


# the same from another terminal


@click.group("drain", cls=InOrder, short_help="Look at the emptying of a cell, pause or abort it.")
def drain() -> None:
    """Look at the emptying of a cell, pause it, go on, abort it: from any terminal, also while a run is at work.

    Runs are begun, and gone on with, by cellmove drain-cell.

    \b
    Example:
      cellmove drain status
      cellmove drain pause cell1
    """


_cell = click.argument("cell", metavar="[CELL]", required=False)


@drain.command("status", short_help="Show where the emptying of a cell stands.")
@_cell
@output_options
@pass_options
def status(options: Options, cell: str | None) -> None:
    """Show where the emptying of a cell stands: what is under way, what waits, what went wrong, what to type next.

    CELL is a name or UUID; it may be left out when there is only one that it can be. Only the journal is read.

    \b
    Example:
      cellmove drain status
      cellmove drain status cell1 -f json
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.drain import drains, standing

        found = standing.status(session, drains.find(session, cell))
    from cellmove.ui.drain_show import draw_status

    answer(options, found, draw_status)


def _control(options: Options, cell: str | None, verb: str) -> None:
    with running(options, activity="") as session:
        from cellmove.drain import drains, standing

        record = drains.find(session, cell)
        {"pause": drains.pause, "resume": drains.go_on}[verb](session, record)
        found = standing.status(session, record)
    from cellmove.ui.drain_show import draw_status

    answer(options, found, draw_status)


@drain.command("pause", short_help="Begin with no more servers for now.")
@_cell
@output_options
@pass_options
def pause(options: Options, cell: str | None) -> None:
    """Let runs begin with no more servers; what is under way is finished, and confirmed when it is due.

    CELL is a name or UUID. It holds, also for runs that begin later, until cellmove drain resume. Unlike
    --pause-file it holds on every machine that shares the journal.

    \b
    Example:
      cellmove drain pause cell1
    """
    _control(options, cell, "pause")


@drain.command("resume", short_help="Go on after drain pause.")
@_cell
@output_options
@pass_options
def resume(options: Options, cell: str | None) -> None:
    """Let runs begin with servers again, after drain pause. It starts no run.

    CELL is a name or UUID.

    \b
    Example:
      cellmove drain resume cell1
    """
    _control(options, cell, "resume")


@drain.command("abort", short_help="Begin with no more servers, and open the cell again.")
@_cell
@output_options
@pass_options
def abort(options: Options, cell: str | None) -> None:
    """Begin with no more servers, finish what is under way, and open the cell to new servers again.

    CELL is a name or UUID. Servers that were moved stay where they are; those that are not confirmed yet
    stay in VERIFY_RESIZE, and no soak is waited for. What was closed to new servers before stays closed.
    While a run is at work, that run opens the cell when it ends.

    \b
    Example:
      cellmove drain abort cell1
    """
    _abort(options, cell)


def _abort(options: Options, cell: str | None) -> None:
    with running(options) as session:
        from cellmove.drain import drains, standing
        from cellmove.steps import cordon

        record = drains.find(session, cell)
        record = drains.abort(session, record, drains.Show(lambda _happening: None, session.observer))
        found = standing.status(session, record)
        stuck = [] if record.is_open else standing.halfway(session, record)
    from cellmove.ui.drain_show import draw_status

    answer(options, found, draw_status)
    if stuck:
        names = ", ".join(task.name for task in stuck)
        raise Stopped(
            f"{cordon.cell_of(record)} is open again, but the move{'s' if len(stuck) > 1 else ''} of {names} stopped half-way",
            state="their guests may be off", next_command=stuck[0].next_command,
        )  # fmt: skip


@drain.command("report", short_help="Show what became of a cell's servers.")
@_cell
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(dir_okay=False), help="Write it as one HTML page as well."
)
@output_options
@pass_options
def report(options: Options, cell: str | None, page: str | None) -> None:
    """Show what became of the servers of a cell: how many moved, how fast, how long guests were down, what failed and why.

    CELL is a name or UUID. The page that --html writes needs nothing else, and holds the time line of
    every server as well. Only the journal is read.

    \b
    Example:
      cellmove drain report cell1
      cellmove drain report cell1 --html drain.html
    """
    with running(options, activity="", only_reads=True) as session:
        from cellmove.drain import drains, standing
        from cellmove.ui import drain_report as reports

        story = standing.story(session, drains.find(session, cell))
        insert = options.in_front.inserted
        tales = tuple(replace(tale, next_command=insert(tale.next_command)) for tale in story.tales)
        story = replace(story, tales=tales)
        if page:
            try:
                Path(page).write_text(reports.html(story), encoding="utf-8")
            except OSError as error:
                raise Unreachable(
                    f"{page} cannot be written: {error.strerror}", state="nothing else was done"
                ) from None
    from cellmove.drain import story as stories

    answer(options, stories.document(story), stories.draw)
