"""What every command shares: its options, signals, and how an error becomes lines and an exit code."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cellmove.errors import CallError, CannotConnect, CellmoveError, Refused, Stopped, before_writing
from cellmove.events import Event, EventKind

if TYPE_CHECKING:
    from cellmove.documents import Document
    from cellmove.move import Move
    from cellmove.progress import Progress

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
    """What the options before and after the verb say."""

    nova_conf: str | None = None
    os_cloud: str | None = None
    journal: str | None = None
    config: str | None = None
    form: str = "table"
    quiet: bool = False
    yes: bool = False
    answered: bool = False  # whether stdout has its one document

    def flags(self) -> dict[str, str | None]:
        """The options that settings.py knows."""
        names = ("nova_conf", "os_cloud", "journal", "config")
        return {name: getattr(self, name) for name in names}


# signals


class Left(BaseException):
    """The first signal came while nothing was under way: there is nothing to wait for."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
    if sys.stderr.isatty():
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


class InOrder(click.Group):
    """A group whose commands are listed in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        return list(self.commands)


class Commands(InOrder):
    """The group of commands; the one place where errors become lines and exit codes."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit with the code of its consequence."""
        options = extra.setdefault("obj", Options())
        extra.setdefault("prog_name", "cellmove")
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        parse: Callable[..., Any] = super().main
        code = _guarded(options, lambda: parse(*args, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def _guarded(options: Options, run: Callable[[], Any]) -> int:
    try:
        code = run()
    except click.ClickException as error:
        error.show()
        if _asks_for_json(sys.argv[1:]):
            options.form = "json"  # the mistake may stand before the option that says so
        _answer_error(options, consequence(error), exit_code=2)
        return 2
    except click.Abort:
        return 130
    except Left as left:
        return _report(options, consequence(left), 128 + left.number)
    except Exception as error:  # the last resort: a fault of ours must not read as exit code 1, "taken back"
        if os.environ.get("CELLMOVE_DEBUG") and not isinstance(error, (CellmoveError, CallError)):
            raise
        known = consequence(error)
        return _report(options, known, known.exit_code)
    return code if isinstance(code, int) else 0


def consequence(error: BaseException) -> CellmoveError:
    """What ends a command, as one of the errors that it is reported by."""
    if isinstance(error, CellmoveError):
        return error
    if isinstance(error, click.ClickException):
        return CellmoveError(error.format_message())
    if isinstance(error, Left):
        return CellmoveError(f"{signal.Signals(error.number).name} before anything was begun")
    if isinstance(error, CannotConnect):
        return before_writing(error, state="")
    if isinstance(error, CallError):
        return Stopped(str(error), next_command="cellmove list")
    return _fault(error)


def _asks_for_json(words: Sequence[str]) -> bool:
    pairs = itertools.pairwise((*words, ""))
    return any(
        (word in ("-f", "--format") and after == "json") or word in ("-fjson", "--format=json") for word, after in pairs
    )


def _fault(error: BaseException) -> CellmoveError:
    """A fault in cellmove itself, named by its place: a foreign exception's text might hold a password."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if f"{os.sep}cellmove{os.sep}" in code.co_filename:
            place = f" at {Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return Stopped(
        f"this is a fault in cellmove: {type(error).__name__}{place}; CELLMOVE_DEBUG=1 shows more",
        state="every action that was begun stands in the journal",
        next_command="cellmove list",
    )


def _report(options: Options, error: CellmoveError, exit_code: int) -> int:
    from cellmove.console import render_error

    render_error(error, sys.stderr)
    _answer_error(options, error, exit_code)
    return exit_code


def _answer_error(options: Options, error: CellmoveError, exit_code: int) -> None:
    if options.form != "json" or options.answered:
        return
    from cellmove.documents import error_document

    error.exit_code = exit_code
    answer(options, error_document(error), lambda _page, _document: None)


def answer(options: Options, document: Document, draw: Callable[[Any, Document], None]) -> None:
    """Write the command's one result.

    :raises Stopped: there is no room for it where stdout goes
    """
    from cellmove.console import render, silence

    options.answered = True
    try:
        render(document, options.form, sys.stdout, draw)
    except OSError as error:
        silence(sys.stdout)
        raise Stopped(
            f"the result cannot be written to stdout: {error.strerror}",
            state="all that the command was to do is done", next_command="cellmove list",
        ) from None  # fmt: skip


@dataclass(frozen=True)
class Run:
    """An open session and the functions that work on it."""

    functions: Any  # the module cellmove.session
    session: Any
    observe: Callable[[Event], None]


@contextmanager
def running(
    options: Options,
    activity: str = "looking at the cloud",
    observer: Progress | None = None,
    again: str = "cellmove list",
) -> Iterator[Run]:
    """Open a session; progress is shown and signals are received while the block runs.

    :param activity: what a terminal shows until something happens
    :param observer: who shows it instead
    :param again: what to type after a second signal, which leaves at once
    """
    _hush()
    from cellmove import session, settings
    from cellmove.policy import Consent
    from cellmove.progress import observer_for

    with install_signals(again) as signals, ExitStack() as stack:
        watching = observer or stack.enter_context(observer_for(sys.stderr, options.quiet, activity=activity))
        signals.announce = watching.announce

        def observe(event: Event) -> None:
            signals.busy = signals.busy or event.kind in UNDER_WAY
            watching(event)

        environ = dict(os.environ) | ({"CELLMOVE_CONFIG": options.config} if options.config else {})
        found = settings.load(options.flags(), environ)
        consent = Consent(options.yes, watching.ask if at_a_terminal() else None)
        yield Run(session, session.open_session(found, observe, interrupted=signals, consent=consent), observe)


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
    from cellmove.console import draw_details, draw_move
    from cellmove.documents import move_document

    document = move_document(move, run.session.journal.entries_of(move.id))
    answer(options, document, draw_details if detailed else draw_move)


def answer_moves(options: Options, run: Run, moves: list[Move]) -> None:
    """List moves."""
    from cellmove.console import draw_list
    from cellmove.documents import list_document

    journal = run.session.journal
    answer(options, list_document([(move, journal.entries_of(move.id)) for move in moves]), draw_list)


def answer_verification(options: Options, run: Run, found: Any) -> None:
    """Show how a moved server compares with what it was.

    :raises Refused: when anything is not as it was
    """
    from cellmove.console import draw_verification
    from cellmove.documents import error_document, verification_document

    document = verification_document(found, run.session.journal.entries_of(found.move.id))
    count = len(found.differences)
    if not count:
        answer(options, document, draw_verification)
        return
    error = Refused(
        f"{found.move.server_name} is not what it was before the move: {count} difference{'s' if count != 1 else ''}",
        state="nothing was written; its old self waits at the source",
        next_command=f"cellmove revert {found.move.id}",
    )
    answer(options, document | error_document(error), draw_verification)
    raise error


def answer_audit(options: Options, report: Any, again: str) -> None:
    """Show what an audit found.

    :param again: the same command with ``--repair``
    :raises LeftoversRemain: when anything of it is nobody's and still there
    """
    from cellmove.console import draw_audit
    from cellmove.documents import audit_document, error_document
    from cellmove.errors import LeftoversRemain

    document = audit_document(report)
    if not report.left:
        answer(options, document, draw_audit)
        return
    count, mendable = len(report.left), sum(finding.safe for finding in report.left)
    error = LeftoversRemain(
        f"{count} leftover{'s' if count != 1 else ''}, {mendable or 'none'} of which --repair mends",
        next_command=again if mendable else "",
    )
    answer(options, document | error_document(error), draw_audit)
    raise error


def answer_plan(options: Options, run: Run, report: Any, command: str) -> None:
    """Show a plan.

    :param command: what to type next when the plan opened no move
    :raises Refused: when a check refuses
    """
    from cellmove.console import draw_plan
    from cellmove.documents import error_document, plan_document

    entries = run.session.journal.entries_of(report.move.id) if report.move is not None else []
    document = plan_document(report, entries, command)
    if not report.refused:
        answer(options, document, draw_plan)
        return
    count = sum(check["level"] == "refusal" for check in document["checks"])
    name = document["server"]["name"] or document["server"]["id"]
    if any(check["code"] == "being-moved" for check in document["checks"]):
        command = f"cellmove adopt {name}"  # it says where to resume when the journal is not lost
    error = Refused(
        f"{name} cannot be moved as it is: {count} check{'s' if count != 1 else ''} refused",
        state="nothing was written; every reason is listed with what to do about it",
        next_command=command,
    )
    answer(options, document | error_document(error), draw_plan)
    raise error
