"""What a person, cron and a script see; one renderer for all commands.

Results go to stdout in the format asked for; progress and errors go to stderr. Whatever is shown for
a person is drawn from the same document that ``--format json`` prints, so the two cannot differ.
On a terminal rich draws; off a terminal there are plain lines without a single escape sequence.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from cellmove.core.errors import Locked, Unreachable
from cellmove.operations.documents import Document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from cellmove.core.errors import CellmoveError

FORMATS = ("table", "json", "value")
WORD_STYLES = {
    "done": "green", "finished": "green", "confirmed": "green", "reverted": "green",
    "running": "cyan", "intent": "cyan", "undoing": "yellow", "rolling-back": "yellow",
    "failed": "red", "refused": "red", "refusal": "red", "warning": "yellow",
    "server-gone": "yellow", "repaired": "green", "repairing": "cyan", "mended": "green", "left": "yellow",
    "undone": "dim", "pending": "dim", "rolled-back": "dim", "superseded": "dim", "nothing": "dim",
}  # fmt: skip
SHOWN_HOSTS = 5


# results: documents as json, as bare values, or drawn for a person


NEEDS_WIDTH = {"kind": 155, "from": 155, "changed (UTC)": 155, "to": 100}
"""Columns that a terminal narrower than this does without; ``show`` says them as well."""

SOME_WIDTH = 8
"""What a column that may be cut keeps at least."""

NEVER_CUT = frozenset({"move", "state", "next", "step", "action", "began", "took"})
"""What is typed, or is short anyway."""


class Command(str):
    """What is to be typed: it stands in one line however narrow the terminal, so that it can be copied."""

    __slots__ = ()


class Page:
    """Collects what is drawn for a person and gives it back as one text.

    :param rich_width: the terminal's width; None off a terminal
    """

    def __init__(self, rich_width: int | None) -> None:
        self._buffer = io.StringIO()
        self._console: Console | None = None
        if rich_width is not None:
            self._console = console(self._buffer, rich_width)

    @property
    def text(self) -> str:
        """Everything drawn so far."""
        return self._buffer.getvalue()

    def gap(self) -> None:
        """An empty line."""
        self._buffer.write("\n")

    def fields(self, rows: Sequence[tuple[str, str]], style: str = "") -> None:
        """Labels and values, two aligned columns."""
        if self._console is None:
            self._plain([(label, value) for label, value in rows])
            return
        from rich.table import Table
        from rich.text import Text

        width = max([7, *(len(label) for label, _value in rows)])
        for is_command, group in itertools.groupby(rows, lambda row: isinstance(row[1], Command)):
            pairs = [
                (
                    styled(label.ljust(width), WORD_STYLES.get(label.strip(), "dim")),
                    styled(value, _style(value) or style),
                )
                for label, value in group
            ]
            if is_command:
                for label, command in pairs:
                    self._console.print(Text.assemble(label, "  ", command), soft_wrap=True)
                continue
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column()
            for pair in pairs:
                grid.add_row(*pair)
            self._console.print(grid)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the words that mean something have their colour on a terminal."""
        if self._console is None:
            self._plain([tuple(header.upper() for header in headers), *rows])
            return
        from rich.table import Table

        width = self._console.width
        shown = [column for column, header in enumerate(headers) if width >= NEEDS_WIDTH.get(header, 0)]
        if "next" in headers and width < self._needed(headers, rows, shown):
            self._one_by_one(headers, rows, shown)
            return
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for column in shown:
            header, folds = headers[column], headers[column] == "error"
            longest = max(len(header), *(len(row[column]) for row in rows)) if header in NEVER_CUT else None
            table.add_column(
                header.upper(),
                overflow="fold" if folds else "ellipsis",
                no_wrap=not folds,
                min_width=longest,
                max_width=max(width // 6, 12) if header == "server" else None,
            )
        for row in rows:
            table.add_row(*(styled(row[column], _style(row[column])) for column in shown))
        self._console.print(table)

    @staticmethod
    def _needed(headers: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
        """The width in which no column that is typed from is cut, and the others keep a little."""
        columns = [column for column in shown if headers[column] in NEVER_CUT]
        widths = [max(len(headers[column]), *(len(row[column]) for row in rows)) for column in columns]
        return sum(widths) + SOME_WIDTH * (len(shown) - len(columns)) + 2 * (len(shown) - 1)

    def _one_by_one(self, headers: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> None:
        """The rows of a table that is too wide for its commands: a line for each value, the command whole."""
        for number, row in enumerate(rows):
            if number:
                self.gap()
            self.fields(
                [
                    (headers[column], Command(row[column]) if headers[column] == "next" else row[column])
                    for column in shown
                    if row[column]
                ]
            )

    def _plain(self, rows: Sequence[Sequence[str]]) -> None:
        cleaned = [[clean(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in cleaned) for column in range(len(cleaned[0]))]
        for row in cleaned:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._buffer.write(line.rstrip() + "\n")


def render(document: Document, form: str, stream: TextIO, draw: Callable[[Page, Document], None]) -> None:
    """Write a result to stdout.

    :param form: one of :data:`FORMATS`
    :param draw: how a person sees it: ``draw_plan``, ``draw_move``, ``draw_details``, ``draw_list`` or ``draw_audit``
    """
    if form == "json":
        text = json.dumps(document, indent=2) + "\n"
    elif form == "value":
        text = "".join("\t".join(clean(value) for value in values) + "\n" for values in _values(document))
    else:
        page = Page(_width(stream) if is_terminal(stream) else None)
        draw(page, document)
        text = page.text
    write(stream, text)


def _values(document: Document) -> Iterable[list[str]]:
    """Bare values, a line each: of leftovers, of a cell's servers, of how many stand where, or of moves."""
    if "findings" in document:
        return map(_leftover_values, document["findings"])
    if "servers" in document:
        return map(_server_values, document["servers"])
    if "schemas" in document:
        return [[each["name"], ", ".join(each["commands"])] for each in document["schemas"]]
    if "checked" in document:
        return [[name, str(number)] for name, number in document["checked"].items()]
    if "counts" in document:
        return [[stage, str(number)] for stage, number in document["counts"].items() if number]
    return map(_move_values, document.get("moves", [document]))


def _move_values(document: Document) -> list[str]:
    return [document["move"] or "-", document["state"], (document["next"] or [""])[0]]


def _server_values(server: Document) -> list[str]:
    """Of a cell that is looked at id, verdict and checks; of a drain's report id, stage and move."""
    if "verdict" in server:
        return [server["id"], server["verdict"], ",".join(server["codes"]) or "-"]
    return [server["server"]["id"], server["stage"], server["move"] or "-"]


def _leftover_values(leftover: Document) -> list[str]:
    whose = "owned" if leftover["owner"] else leftover["outcome"] or ("safe" if leftover["safe"] else "by hand")
    return [leftover["kind"], leftover["server"]["id"] or "-", leftover["subject"], whose]


def draw_move(page: Page, document: Document) -> None:
    """Where a move stands, in a few lines: what a step prints at its end."""
    page.fields([*_move_fields(document), *_next_fields(document)])


def draw_details(page: Page, document: Document) -> None:
    """Everything the journal knows about a move."""
    times = [("begun", f"{_moment(document['created_at'])} UTC"), ("changed", f"{_moment(document['updated_at'])} UTC")]
    tried = [("tried", f"{_place(each)}: {each['action']}: {each['error']}") for each in document["tried"]]
    page.fields([*_move_fields(document), *times, *tried])
    rows = []
    for step in document["steps"]:
        rows.append((step["step"], "", step["state"], "", "", ""))
        for action in step["actions"]:
            took = _took(action["started_at"], action["finished_at"])
            began = _moment(action["started_at"])[11:19]
            rows.append(("", action["action"], action["phase"], began, took, _became(action)))
    if rows:
        page.gap()
        page.table(("step", "action", "state", "began", "took", "error"), rows)
    if document["next"]:
        page.gap()
        page.fields(_next_fields(document))


def _became(action: Document) -> str:
    return str(action.get("mended") or action.get("left") or action["error"] or "")


def draw_list(page: Page, document: Document) -> None:
    """Many moves, one line each."""
    if not document["moves"]:
        page.fields([("moves", "none")])
        return
    rows = [
        (
            one["move"],
            one["server"]["name"] or one["server"]["id"],
            one["kind"],
            _standing(one),
            _place(one["source"]),
            _place(one["target"]),
            _moment(one["updated_at"]),
            (one["next"] or [""])[0],
        )
        for one in document["moves"]
    ]
    page.table(("move", "server", "kind", "state", "from", "to", "changed (UTC)", "next"), rows)


def draw_plan(page: Page, document: Document) -> None:
    """What would move where, what travels with it, what speaks against it."""
    summary: Mapping[str, Any] = document["summary"]
    page.fields([*_move_fields(document), *_summary_fields(summary)])
    page.gap()
    _draw_checks(page, document["checks"])
    if document["next"] and not document["refused"]:
        page.gap()
        page.fields(_next_fields(document))


def draw_verification(page: Page, document: Document) -> None:
    """How a moved server compares with what it was: here what is right is shown, too."""
    page.fields(_move_fields(document))
    page.gap()
    page.fields([(check["code"], check["text"]) for check in document["checks"] if check["level"] == "ok"])
    _draw_checks(page, document["checks"])
    if document["verified"]:
        page.gap()
        page.fields(_next_fields(document))


def draw_journal_check(page: Page, document: Document) -> None:
    """A journal that was found sound, and how much was checked."""
    checked = document["checked"]
    page.fields(
        [
            ("journal", document["journal"]),
            ("sound", f"{_count(checked['moves'], 'move')}, {_count(checked['lines'], 'line')}"),
        ]
    )


def _draw_checks(page: Page, checks: Sequence[Document]) -> None:
    levels = [check["level"] for check in checks]
    counts = [f"{levels.count('ok')} passed"]
    counts += [_count(levels.count(level), level) for level in ("warning", "refusal") if level in levels]
    page.fields([("checks", ", ".join(counts))])
    for level in ("refusal", "warning"):
        found = [check for check in checks if check["level"] == level]
        for check in found:
            rows = [(f"  {level}", f"{check['text']} [{check['code']}]")]
            page.fields(rows + ([("", Command(f"do: {check['remedy']}"))] if check["remedy"] else []))


IN_USE = {
    "stuck-migration": "migration", "two-visible-rows": "second visible row", "mapping-hidden": "hidden mapped row",
    "mapping-elsewhere": "wrong mapping", "hidden-row": "hidden row", "deleted-row": "deleted row",
    "inactive-binding": "port binding", "empty-attachment": "volume attachment", "dead-allocation": "allocation",
    "temporary-image": "temporary image", "stale-mark": "mark", "lost-keypairs": "lost keypair",
    "stale-context": "migration context", "old-migration": "migration record", "reserved-volume": "reserved volume",
    "unattached-volume": "unattached volume", "duplicate-cell": "cell mapping",
}  # fmt: skip
"""What each kind of leftover is while a move uses it: nothing of a healthy move is stuck, stale or dead."""


def draw_audit(page: Page, document: Document) -> None:
    """Leftovers, each with what would mend it; then, shortly, what somebody owns."""
    found = [each for each in document["findings"] if each["owner"] is None]
    for each in found:
        server = each["server"]
        name = f"{server['name']} ({server['id']})" if server["name"] else server["id"] or "unknown"
        rows = [(each["kind"], f"{each['text']}{_age(each['age_seconds'])}"), ("  server", f"{name}{_project(server)}")]
        if each["outcome"]:
            rows.append((f"  {each['outcome']}", each["why"] or ""))
        elif each["safe"]:
            rows.append(("  repair" if document["repair"] == "no" else "  would", each["mend"]))
        else:
            rows.append(("  do", Command(each["mend"])))
        page.fields(rows)
        page.gap()
    owned: dict[tuple[str, str], list[str]] = {}
    for each in document["findings"]:
        if each["owner"]:
            who = each["server"]["name"] or each["server"]["id"]
            owned.setdefault((who, each["owner"]["text"]), []).append(each["kind"])
    if owned:
        listed = [
            (who, ", ".join(_count(kinds.count(kind), IN_USE[kind]) for kind in dict.fromkeys(kinds)), text)
            for (who, text), kinds in owned.items()
        ]
        page.table(("server", "in use, no leftover", "by"), listed)
        page.gap()
    counts = document["counts"]
    cells = ", ".join(document["cells"])
    unseen = [("not looked at", why) for why in document["unseen"]]
    page.fields(
        [
            *unseen,
            ("cells", cells),
            ("found", f"{counts['left']} left, {counts['mended']} mended, {counts['owned']} owned"),
        ]
    )


def _age(seconds: int | None) -> str:
    return "" if seconds is None else f", {_long(seconds)} ago"


def _long(seconds: int) -> str:
    days = seconds // 86400
    return f"{days} day{'s' if days != 1 else ''}" if days else duration(seconds)


def _project(server: Mapping[str, str]) -> str:
    return f" of project {server['project']}" if server["project"] else ""


def render_error(error: CellmoveError, stream: TextIO) -> None:
    """What happened, in what state the server is, what to type next: three lines on stderr.

    What could not be reached, or is being worked on by another run, is one line: nothing happened.
    """
    if error.exit_code in (Unreachable.exit_code, Locked.exit_code):
        again = f"next: {error.next_command}" if error.next_command else ""
        write_safely(stream, "; ".join(_lines(words) for words in (error.message, error.state, again) if words) + "\n")
        return
    rows = [("", error.message, "bold red"), ("state: ", error.state, ""), ("next: ", error.next_command, "bold")]
    if not is_terminal(stream):
        text = "".join(f"{label}{_lines(value)}\n" for label, value, _ in rows if value)
    else:
        from rich.text import Text

        buffer = io.StringIO()
        drawn = console(buffer, _width(stream))
        for label, value, style in rows:
            if value:
                drawn.print(Text.assemble((label, "dim"), (_lines(value), style)), soft_wrap=True)
        text = buffer.getvalue()
    write_safely(stream, text)


def _move_fields(document: Document) -> list[tuple[str, str]]:
    server = document["server"]
    identity = f"{server['name']} ({server['id']})" if server["name"] else server["id"]
    move = [("move", document["move"])] if document["move"] else []
    accepted = ", ".join(document.get("accepted_losses") or ())
    return [
        *move,
        ("state", _standing(document)),
        ("server", identity),
        ("kind", document["kind"]),
        ("from", _place(document["source"])),
        ("to", _place(document["target"]) or "the scheduler chooses"),
        *([("accepts", f"the loss of {accepted}")] if accepted else []),
    ]


def _standing(document: Document) -> str:
    """Return the state, and the step that started and is not complete."""
    busy = document.get("busy_step")
    state = str(document["state"])
    return f"{state}, in {busy}" if busy and state != "rolling-back" else state


def _summary_fields(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plan's lines; what could not be looked at (the server is refused anyway) has none."""
    rows = []
    hosts = [_host_words(host) for host in summary.get("target_hosts") or ()]
    if hosts:
        more = f" and {len(hosts) - SHOWN_HOSTS} more" if len(hosts) > SHOWN_HOSTS else ""
        rows.append(("likely", ", ".join(hosts[:SHOWN_HOSTS]) + more))
    old, new = summary.get("flavor_from"), summary.get("flavor_to")
    if old:
        rows.append(("flavor", f"{old} -> {new}" if new and new != old else f"{old} (unchanged)"))
    if summary.get("backing"):
        runs = "running" if summary.get("active") else "stopped"
        way = f", disks travel by {summary['transfer']}" if summary.get("transfer") else ""
        way += f" (about {summary['downtime_seconds']} s down)" if summary.get("downtime_seconds") else ""
        rows.append(("guest", f"{runs}, {summary['backing']}-backed{way}"))
        rows.append(("has", f"{_count(summary.get('ports'), 'port')}, {_count(summary.get('volumes'), 'volume')}"))
    disks = ", ".join(f"{disk['name']} {disk['mib']} MiB" for disk in summary.get("disks") or ())
    rows += [("disks", disks)] if disks else []
    if summary.get("transfer_why") and summary.get("transfer") == "image":
        rows.append(("no stream", str(summary["transfer_why"])))
    copied: Mapping[str, int] = summary.get("copied") or {}
    if copied:
        rows.append(("copied", f"{_count(sum(copied.values()), 'row')} of {_count(len(copied), 'table')}"))
    lost = "; ".join(summary.get("lost") or ())
    if lost or summary.get("backing"):
        rows.append(("lost", lost or "nothing"))
    return rows


def _host_words(host: Mapping[str, Any]) -> str:
    note = f" ({host['note']})" if host.get("note") else ""
    return f"{host.get('host', '')}{note}"


def _next_fields(document: Document) -> list[tuple[str, str]]:
    return [("next" if not position else "or", Command(command)) for position, command in enumerate(document["next"])]


def _place(place: Mapping[str, str]) -> str:
    return " / ".join(part for part in (place["cell"], place["host"]) if part)


def _moment(text: str | None) -> str:
    return (text or "")[:19].replace("T", " ")


def _took(began: str, ended: str | None) -> str:
    import datetime

    if not began or not ended:
        return ""
    try:
        span = datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(began)
    except ValueError:
        return ""
    return duration(span.total_seconds())


def _count(number: int | None, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


# small tools


def is_terminal(stream: TextIO) -> bool:
    """Whether to draw for a person: a terminal that understands escape sequences."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except ValueError:  # closed
        return False


def draws_over(stream: TextIO) -> bool:
    """Whether to draw over what was drawn: not where NO_COLOR asks for text without a single escape sequence."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_one_place(one: TextIO, other: TextIO) -> bool:
    """Whether what is written to two streams is read in one place: a terminal, cron's mail, a log."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a reader that has gone away is no error of ours."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        silence(stream)


def write_safely(stream: TextIO, text: str) -> None:
    """Write and flush; a stream that takes nothing (no room, no reader, closed) is no error of ours."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Give a stream that nobody reads any more somewhere to flush to: Python flushes once again at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return


def clean(text: str) -> str:
    """The text without anything a terminal would obey; names of servers are other people's input."""
    return "".join(character if character.isprintable() else " " for character in text)


def duration(seconds: float) -> str:
    """A length of time as a person says it: 0.1 s, 12 s, 2 min 05 s, 1 h 04 min."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _lines(text: str) -> str:
    return "\n  ".join(clean(line) for line in text.splitlines() if line.strip())


def _style(cell: str) -> str:
    return WORD_STYLES.get(cell.strip().partition(", in ")[0], "")


def styled(words: str, style: str) -> Text:
    from rich.text import Text

    return Text(clean(words), style=style)


def console(stream: Any, width: int | None) -> Console:
    from rich.console import Console

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        file=stream, width=width, force_terminal=True, color_system=colours, highlight=False, markup=False, emoji=False
    )


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # 0: nobody has said how wide it is
    except (OSError, ValueError):
        return 80
