"""What every command shares: its options, signals, and how an error becomes lines and an exit code."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cellmove.core.errors import CellmoveError, Refused, Stopped
from cellmove.core.shell import GlobalOptions, command_line
from cellmove.engine.events import Event, EventKind
from cellmove.ui.fault import Left, consequence, with_standing
from cellmove.ui.streams import open_closed_streams

if TYPE_CHECKING:
    from cellmove.core.move import Move
    from cellmove.operations.context import Session
    from cellmove.operations.documents import Document
    from cellmove.ui.progress import Progress

EXIT_CODES = {
    "0": "done, or already done",
    "1": "failed and was rolled back; the message says what a look at the server showed",
    "2": "the command line or the configuration makes no sense",
    "3": "stopped part-way; the journal knows where, and the next command is printed",
    "4": "something cannot be reached or does not let us in; nothing was written",
    "5": "refused by a check; nothing was written",
    "6": "another run is working on this server, or emptying this cell",
    "7": "taking back failed as well; what is left to do is printed",
    "8": "drain-cell: through, but servers failed, or were skipped or refused",
    "9": "drain-cell: stopped by its window, a limit or a stop rule; servers wait for the next run",
    "10": "audit: leftovers were found that are still there",
    "130": "interrupted by SIGINT (143: by SIGTERM) after the journal was brought up to date",
}
"""What a command's exit code means, the same for every command."""

FORMATS = ("table", "json", "value")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNDER_WAY = (EventKind.STEP_STARTED, EventKind.ACTION_STARTED, EventKind.UNDO_STARTED)
"""Events after which an interrupt has to wait for the action in hand."""


@dataclass
class Options:
    """What the options before and after the verb say, and what the command at hand is about.

    :param typed: its command line, without the options in front of the verb and those about its output
    :param reference: the server or move that it names; empty: none
    :param is_about_many: it may work on several servers at once
    :param session: once it is open
    :param move_id: of the move that was last heard of
    """

    nova_conf: str | None = None
    os_cloud: str | None = None
    os_region_name: str | None = None
    journal: str | None = None
    config: str | None = None
    form: str = "table"
    quiet: bool = False
    yes: bool = False
    answered: bool = False  # whether stdout has its one document
    typed: str = ""
    verb: str = ""
    reference: str = ""
    is_about_many: bool = False
    session: Any = None
    move_id: str = ""

    @property
    def again(self) -> str:
        """What to type when it is not known which move is meant: the same command, or what finishes the move."""
        if self.move_id and not self.is_about_many:
            return f"cellmove {'rollback' if self.verb == 'rollback' else 'resume'} {self.move_id}"
        return self.typed or "cellmove list"

    @property
    def in_front(self) -> GlobalOptions:
        """The options in front of the verb, for every command that is shown."""
        return GlobalOptions(self.nova_conf, self.os_cloud, self.os_region_name, self.journal, self.config)

    def hear(self, event: Event) -> Event:
        """Learn from an event which move is under way.

        :returns: the event as it is shown
        """
        self.move_id = event.move_id or self.move_id
        return replace(event, text=self.in_front.inserted(event.text), title=self.in_front.inserted(event.title))

    def flags(self) -> dict[str, str | None]:
        """The options that settings.py knows."""
        names = ("nova_conf", "os_cloud", "os_region_name", "journal", "config")
        return {name: getattr(self, name) for name in names}


# signals


class Signals:
    """Counts signals: the first one asks, the second one ends.

    Called, it gives the number of the first signal, or 0.
    """

    def __init__(self, again: str) -> None:
        self.number = 0
        self.busy = False
        self.again = again
        self.announce: Callable[[str], None] = lambda _text: None

    def __call__(self) -> int:
        return self.number

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle one signal."""
        if self.number:
            leave_now(128 + number, self.again)
        self.number = number
        if not self.busy:
            raise Left(number)
        self.announce("finishing the action in hand; once more to leave now")


def leave_now(code: int, again: str) -> NoReturn:
    """End the process at once: no cleaning up that could take time. The journal is right anyway.

    :param again: what to type then
    """
    from cellmove.ui.console import draws_over

    with suppress(OSError):
        if draws_over(sys.stderr):
            os.write(2, b"\x1b[?25h\n")  # a spinner has hidden the cursor
        os.write(2, f"left at once; the journal knows where\nnext: {again}\n".encode())
    os._exit(code)


@contextmanager
def install_signals(again: str) -> Iterator[Signals]:
    """Receive signals during the block, except those that the caller (nohup, cron) had ignored.

    :param again: what to type when one ends the block at once
    """
    signals = Signals(again)
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, signals.receive)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# the group: options, and how errors end a command


def subcommands(group: click.Group) -> dict[str, click.Command]:
    """Return the commands of a group by name, in the order in which they are listed; a lazy group imports them."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


class InOrder(click.Group):
    """A group whose commands are listed in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        return list(self.commands)


class Commands(InOrder):
    """The group of commands; the one place where errors become lines and exit codes.

    :param commands_at: for each command, where it is: a module in :mod:`cellmove.ui.commands` and a function of it, as
        ``moves:plan``. The module is imported when the command is asked for
    """

    def __init__(self, *arguments: Any, commands_at: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._commands_at = commands_at or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import its module if it was not used before."""
        where = self._commands_at.get(cmd_name)
        if where is None:
            return None
        module, _, function = where.partition(":")
        command: click.Command = getattr(importlib.import_module(f"cellmove.ui.commands.{module}"), function)
        return command

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit with the code of its consequence."""
        options = extra.setdefault("obj", Options())
        extra.setdefault("prog_name", "cellmove")
        open_closed_streams()
        parse: Callable[..., Any] = super().main
        code = _guarded(options, lambda: parse(*args, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def _guarded(options: Options, run: Callable[[], Any]) -> int:
    try:
        code = run()
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        if _asks_for_json(sys.argv[1:]):
            options.form = "json"  # the mistake may stand before the option that says so
        _answer_error(options, consequence(error, options), exit_code=2)
        return 2
    except click.Abort:
        return 130
    except Left as left:
        return _report(options, consequence(left, options), 128 + left.number)
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours must not read as exit code 1
        known = consequence(error, options)
        return _report(options, known, known.exit_code)
    return code if isinstance(code, int) else 0


def _asks_for_json(words: Sequence[str]) -> bool:
    pairs = itertools.pairwise((*words, ""))
    return any(
        (word in ("-f", "--format") and after == "json") or word in ("-fjson", "--format=json") for word, after in pairs
    )


def _report(options: Options, error: CellmoveError, exit_code: int) -> int:
    from cellmove.ui.console import render_error

    error.state = with_standing(options, error.state)
    error.message, error.state, error.next_command = (
        options.in_front.inserted(text) for text in (error.message, error.state, error.next_command)
    )
    render_error(error, sys.stderr)
    _answer_error(options, error, exit_code)
    return exit_code


def _answer_error(options: Options, error: CellmoveError, exit_code: int) -> None:
    if options.form != "json" or options.answered:
        return
    from cellmove.operations.documents import error_document

    error.exit_code = exit_code
    answer(options, error_document(error), lambda _page, _document: None)


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


@dataclass(frozen=True)
class Run:
    """An open session, and the observer that its events are told to."""

    session: Session
    observe: Callable[[Event], None]


@contextmanager
def running(
    options: Options,
    activity: str = "looking at the cloud",
    observer: Progress | None = None,
    again: str = "",
    only_reads: bool = False,
) -> Iterator[Run]:
    """Open a session; progress is shown and signals are received while the block runs.

    :param activity: what a terminal shows until something happens
    :param observer: who shows it instead
    :param again: what to type after a second signal, which leaves at once; empty: what goes on with the move
    :param only_reads: the command writes nothing, not even to the journal
    """
    _hush()
    from cellmove.core import settings
    from cellmove.core.policy import Consent
    from cellmove.operations.context import open_session
    from cellmove.ui.progress import observer_for

    with install_signals(options.in_front.inserted(again or options.again)) as signals, ExitStack() as stack:
        watching = observer or stack.enter_context(observer_for(sys.stderr, options.quiet, activity=activity))
        signals.announce = watching.announce

        def observe(event: Event) -> None:
            signals.busy = signals.busy or event.kind in UNDER_WAY
            watching(options.hear(event))
            signals.again = signals.again if again else options.in_front.inserted(options.again)

        environ = dict(os.environ) | ({"CELLMOVE_CONFIG": options.config} if options.config else {})
        found = settings.load(options.flags(), environ)
        consent = Consent(options.yes, watching.ask if at_a_terminal() else None)
        options.session = open_session(
            found, observe, interrupted=signals, consent=consent, only_reads=only_reads, in_front=options.in_front
        )
        yield Run(options.session, observe)


def at_a_terminal() -> bool:
    """Whether a person can be asked: what is typed and what is shown go through a terminal."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):  # closed, or none at all
        return False


def _hush() -> None:
    """Keep libraries from writing on stderr between our lines, unless somebody is looking for a fault."""
    import logging
    import warnings

    if os.environ.get("CELLMOVE_DEBUG"):
        logging.basicConfig(level=logging.INFO)
        return
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def answer_move(options: Options, run: Run, move: Move, *, detailed: bool = False) -> None:
    """Show where a move stands, or (detailed) everything the journal knows about it."""
    from cellmove.operations.documents import move_document
    from cellmove.ui.console import draw_details, draw_move

    document = move_document(move, run.session.journal.entries_of(move.id))
    answer(options, document, draw_details if detailed else draw_move)


def answer_moves(options: Options, run: Run, moves: list[Move]) -> None:
    """List moves."""
    from cellmove.ui.console import draw_list
    from cellmove.ui.documents import list_document

    journal = run.session.journal
    entries = journal.entries_of_moves([move.id for move in moves])
    answer(options, list_document([(move, entries.get(move.id, ())) for move in moves]), draw_list)


def answer_verification(options: Options, run: Run, found: Any) -> None:
    """Show how a moved server compares with what it was.

    :raises Refused: when anything is not as it was
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.console import draw_verification
    from cellmove.ui.documents import verification_document

    document = verification_document(found, run.session.journal.entries_of(found.move.id))
    count = len(found.differences)
    if not count:
        answer(options, document, draw_verification)
        return
    error = Refused(
        f"{found.move.server_name} is not what it was before the move: {count} difference{'s' if count != 1 else ''}",
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
    from cellmove.ui.console import draw_audit
    from cellmove.ui.documents import audit_document

    document = audit_document(report)
    if not report.left and not report.unseen:
        answer(options, document, draw_audit)
        return
    error: CellmoveError
    if not report.left:
        error = Unreachable(
            "this audit is not complete: " + "; ".join(report.unseen),
            state="nothing was written; no leftovers were found, apart from those that may belong to servers of that cell",
            next_command=options.again,
        )
        answer(options, document | error_document(error), draw_audit)
        raise error
    count, mendable = len(report.left), sum(finding.safe for finding in report.left)
    error = LeftoversRemain(
        f"{count} leftover{'s' if count != 1 else ''}, {mendable or 'none'} of which --repair can repair"
        + ("; the audit is not complete" if report.unseen else ""),
        next_command=again if mendable else "",
    )
    answer(options, document | error_document(error), draw_audit)
    raise error


def answer_plan(options: Options, run: Run, report: Any, command: str) -> None:
    """Show a plan.

    :param command: what to type next when the plan opened no move
    :raises Refused: when a check refuses
    """
    from cellmove.operations.documents import error_document
    from cellmove.ui.console import draw_plan
    from cellmove.ui.documents import plan_document

    entries = run.session.journal.entries_of(report.move.id) if report.move is not None else []
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
