"""The commands about whole cells: ``drain-cell`` and ``drain``; parse, call, render, like :mod:`cellmove.cli`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellmove.command import Options, Run, Signals, answer, running
from cellmove.errors import CellmoveError, Unreachable
from cellmove.options import command_line, output_options, pass_options, probe_option, yes_option

if TYPE_CHECKING:
    from cellmove.drain.wish import Wish

_ORDERS = ("smallest", "largest", "oldest", "host")


def _number(name: str, what: str, default: int | None = 0) -> Callable[[Any], Any]:
    lowest = click.IntRange(1 if default else 0)
    return click.option(name, type=lowest, default=default, metavar="N", help=what)


def wish_options(function: Any) -> Any:
    """Everything that can be asked of a drain, in the order in which its help shows it."""
    decorators = (
        click.option("--to", multiple=True, metavar="CELL", help="A cell that takes servers; may be given again. Default: every other one."),
        _number("--parallel", "How many servers are under way at once. Default: 1.", 1),
        _number("--per-source-host", "How many of them from one host at most."),
        _number("--per-target-host", "How many of them to one host at most."),
        _number("--per-project", "How many of them of one project at most."),
        click.option("--order", type=click.Choice(_ORDERS), default="smallest", show_default=True,
                     help="Which servers go first; host: one host after the other."),
        click.option("--include", multiple=True, metavar="KIND=PATTERN",
                     help="Only these: project, flavor, host, tag, name or state. Of one kind any has to match."),
        click.option("--exclude", multiple=True, metavar="KIND=PATTERN", help="Not these."),
        _number("--limit", "Begin with so many servers at most in this run."),
        click.option("--flavor-map", multiple=True, metavar="OLD=NEW", help="Resize servers of one flavor to another on their way."),
        click.option("--confirm", default="verified", show_default=True, metavar="never|verified|after:24h",
                     help="When a moved server is confirmed, if it is what it was."),
        click.option("--soak", default="", metavar="DURATION",
                     help="Let each server run at the target for so long (10m) before it is verified once more and confirmed."),
        click.option("--on-unverified", type=click.Choice(("keep", "revert")), default="keep", show_default=True,
                     help="What becomes of a server that is not what it was: left in VERIFY_RESIZE, or reverted."),
        probe_option,
        _number("--max-failures", "Begin with nothing new after so many failures; 0: go on whatever fails. Default: 1.", None),
        click.option("--until", default="", metavar="HH:MM", help="Begin with nothing new from then on."),
        click.option("--window", default="", metavar="HH:MM-HH:MM", help="Begin with servers only within these hours."),
        click.option("--days", default="", metavar="DAYS", help="Only on these days: mon-fri, sat,sun."),
        click.option("--min-free", type=click.FloatRange(0, 99), default=0, metavar="PERCENT",
                     help="Leave so much of each resource of a target cell free."),
        click.option("--pause-file", default="", metavar="FILE", help="Begin with nothing new while this file is there."),
        click.option("--no-cordon", is_flag=True, help="Leave the cell open to new servers."),
        click.option("--force-locked", is_flag=True, help="Move locked servers, too."),
        click.option("--accept-loss", multiple=True, metavar="NAME[,NAME…]", help="Move servers although this is lost: see cellmove-plan(1)."),
        _number("--max-hosts", "Try at most so many of the hosts that the scheduler offers for a server."),
    )  # fmt: skip
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def _wish(given: dict[str, Any]) -> Wish:
    from cellmove.drain import wish
    from cellmove.move import LOSSES

    losses = tuple(
        dict.fromkeys(name.strip() for text in given["accept_loss"] for name in text.split(",") if name.strip())
    )
    for name in losses:
        if name not in LOSSES:
            raise click.UsageError(f"--accept-loss: there is no {name!r}; there are: {', '.join(LOSSES)}")
    word, after = wish.parse_confirm(given["confirm"])
    return wish.Wish(
        to=given["to"], parallel=given["parallel"], per_source_host=given["per_source_host"],
        per_target_host=given["per_target_host"], per_project=given["per_project"], order=given["order"],
        include=tuple(wish.parse_filter(text, "--include") for text in given["include"]),
        exclude=tuple(wish.parse_filter(text, "--exclude") for text in given["exclude"]),
        limit=given["limit"], flavor_map=wish.parse_flavor_map(given["flavor_map"]), confirm=word, confirm_after=after,
        soak=wish.parse_seconds(given["soak"], "--soak") if given["soak"] else 0.0, on_unverified=given["on_unverified"],
        probes=given["probes"], max_failures=1 if given["max_failures"] is None else given["max_failures"],
        until=given["until"], window=given["window"], days=given["days"], min_free=given["min_free"],
        pause_file=given["pause_file"], force_locked=given["force_locked"], accept_loss=losses,
        max_hosts=given["max_hosts"],
    )  # fmt: skip


def _again(cell: str, given: dict[str, Any]) -> str:
    """The command line, to be typed again."""
    words: list[str] = []
    defaults = {"parallel": 1, "order": "smallest", "confirm": "verified", "on_unverified": "keep"}
    for name, value in given.items():
        option = "--probe" if name == "probes" else f"--{name.replace('_', '-')}"
        unsaid = value in ("", (), None, False, defaults.get(name, 0)) and (name, value) != ("max_failures", 0)
        if unsaid:
            continue
        if value is True:
            words.append(option)
        else:
            words += [
                word
                for each in (value if isinstance(value, tuple) else (value,))
                for word in (option, f"{each:g}" if isinstance(each, float) else str(each))
            ]
    return command_line("drain-cell", cell, *words)


@click.command("drain-cell", short_help="Move every server out of a cell.")
@click.argument("cell", metavar="CELL")
@click.option("--dry-run", is_flag=True, help="Only look: every server, what would become of it, and why.")
@click.option("--abort", "aborts", is_flag=True, help="Begin with nothing new, and open the cell again.")
@wish_options
@yes_option
@output_options
@pass_options
def drain_cell(options: Options, /, cell: str, dry_run: bool, aborts: bool, **given: Any) -> None:
    """Move every server out of a cell, several at once, on from wherever an earlier run stopped.

    CELL is a name or UUID. First every server is looked at: it is movable, skipped (a filter, the tag
    cellmove:skip) or refused. Then the cell is closed to new servers, and one server after the other is
    looked at again, moved, verified and confirmed. The same command goes on tomorrow, and after a crash:
    what was under way is brought to its end first. Exit code 8 says that servers failed or were left where
    they are, 9 that servers wait for the next run.

    \b
    Example:
      cellmove drain-cell cell1 --dry-run
      cellmove drain-cell cell1 --to cell2 --parallel 4 --window 22:00-06:00 --days mon-thu
      cellmove drain-cell cell1 --include host=c1-old* --limit 10 --soak 10m --probe tcp:22
      cellmove drain-cell cell1 --abort
    """
    if dry_run and aborts:
        raise click.UsageError("--dry-run and --abort exclude each other")
    if dry_run:
        dry_plan(options, cell, _wish(given), _again(cell, given))
        return
    if aborts:
        _abort(options, cell)
        return
    command = _again(cell, given)
    with _errors_as_lines(options, cell):
        wish = _wish(given)
        with _drawn(options) as (run, show):
            from cellmove.drain import drains

            ended = drains.drain(run.session, cell, wish, show, cordons=not given["no_cordon"], again=command)
    from cellmove.drain import ending
    from cellmove.drain.show import draw_ended, ended_document

    if options.form != "json":
        answer(options, ended_document(ended), draw_ended)
    error = ending.verdict(ended, command)
    if error is not None:
        raise error


def dry_plan(options: Options, cell: str, wish: Wish | None = None, again: str = "") -> None:
    """Show what a drain would do; ``plan --cell CELL`` as well."""
    from cellmove.drain import wish as wishes

    with running(options, activity="looking at every server of the cell") as run:
        from cellmove.drain import drains, plan

        found = drains.look(run.session, cell, wish or wishes.Wish())
    answer(options, plan.document(found, again or command_line("drain-cell", cell)), plan.draw)


@contextmanager
def _errors_as_lines(options: Options, cell: str) -> Iterator[None]:
    """With ``--format json`` what ends a run early is one more line, with the same keys."""
    try:
        yield
    except CellmoveError as error:
        if options.form == "json":
            from cellmove.clock import Clock
            from cellmove.drain.happening import Happening, Kind
            from cellmove.drain.show import Lines

            text = "; ".join(part for part in (error.message, error.state) if part)
            happening = Happening(Kind.ERROR, Clock().text(), cell, reason=text, next_command=error.next_command)
            options.answered = True
            Lines(sys.stdout, sys.stderr).watch(happening)
        raise


@contextmanager
def _drawn(options: Options) -> Iterator[tuple[Run, Any]]:
    """An open session with a drain's own drawing."""
    from cellmove.drain.drains import Show
    from cellmove.drain.show import drawing_for

    as_json = options.form == "json"
    with (
        drawing_for(sys.stdout, sys.stderr, as_json=as_json, quiet=options.quiet) as drawing,
        running(options, observer=drawing) as run,
    ):

        def watch(happening: Any) -> None:
            options.answered = options.answered or as_json  # from here on stdout holds lines, and no document follows
            if isinstance(run.session.interrupted, Signals):
                run.session.interrupted.busy = True  # something is under way: a signal has to wait for it
            drawing.watch(happening)

        yield run, Show(watch, run.observe)


# the same from another terminal


@click.group("drain", short_help="Look at a drain, hold it, take it back.")
def drain() -> None:
    """Look at the draining of a cell, hold it, take it back: from any terminal, while a run is at work.

    \b
    Example:
      cellmove drain status
      cellmove drain pause cell1
    """


_cell = click.argument("cell", metavar="[CELL]", required=False)


@drain.command("status", short_help="Where a drain stands.")
@_cell
@output_options
@pass_options
def status(options: Options, cell: str | None) -> None:
    """Show where the draining of a cell stands: what is under way, what waits, what went wrong. Only reads the journal.

    CELL is a name or UUID; it may be left out when there is only one that it can be.

    \b
    Example:
      cellmove drain status
      cellmove drain status cell1 -f json
    """
    with running(options, activity="") as run:
        from cellmove.drain import drains

        found = drains.status(run.session, drains.find(run.session, cell))
    from cellmove.drain.show import draw_status

    answer(options, found, draw_status)


def _control(options: Options, cell: str | None, verb: str) -> None:
    with running(options, activity="") as run:
        from cellmove.drain import drains

        record = drains.find(run.session, cell)
        {"pause": drains.pause, "resume": drains.go_on}[verb](run.session, record)
        found = drains.status(run.session, record)
    from cellmove.drain.show import draw_status

    answer(options, found, draw_status)


@drain.command("pause", short_help="Begin with nothing new.")
@_cell
@output_options
@pass_options
def pause(options: Options, cell: str | None) -> None:
    """Let the runs of a drain begin with nothing new; what is under way is finished. Holds until drain resume.

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
    """Let the runs of a drain begin with servers again.

    \b
    Example:
      cellmove drain resume cell1
    """
    _control(options, cell, "resume")


@drain.command("abort", short_help="Begin with nothing new, and open the cell again.")
@_cell
@output_options
@pass_options
def abort(options: Options, cell: str | None) -> None:
    """End a drain: nothing new is begun, what is under way is finished, and the cell is opened to new servers again.

    What was closed before the drain stays closed. While a run is at work, that run opens the cell when it ends.

    \b
    Example:
      cellmove drain abort cell1
    """
    _abort(options, cell)


def _abort(options: Options, cell: str | None) -> None:
    with running(options) as run:
        from cellmove.drain import drains

        record = drains.find(run.session, cell)
        record = drains.abort(run.session, record, drains.Show(lambda _happening: None, run.observe))
        found = drains.status(run.session, record)
    from cellmove.drain.show import draw_status

    answer(options, found, draw_status)


@drain.command("report", short_help="What became of a drain's servers.")
@_cell
@click.option("--html", "page", metavar="FILE", type=click.Path(dir_okay=False), help="Write one HTML page to look at.")
@output_options
@pass_options
def report(options: Options, cell: str | None, page: str | None) -> None:
    """Show what became of the servers of a drain: when, how long each was down, what failed and why.

    With --html it is one page that needs nothing else: the time line of every server, downtimes, failures,
    hosts. Only reads the journal.

    \b
    Example:
      cellmove drain report cell1
      cellmove drain report cell1 --html drain.html
    """
    with running(options, activity="") as run:
        from cellmove.drain import drains
        from cellmove.drain import report as reports

        story = drains.story(run.session, drains.find(run.session, cell))
        if page:
            try:
                Path(page).write_text(reports.html(story), encoding="utf-8")
            except OSError as error:
                raise Unreachable(
                    f"{page} cannot be written: {error.strerror}", state="nothing else was done"
                ) from None
    from cellmove.drain import story as stories

    answer(options, stories.document(story), stories.draw)
