"""Writes results and errors to terminals and other streams.

Results go to stdout in the requested format; progress and errors go to stderr. Text is drawn from the same document that
``--format json`` prints, so the two cannot differ. On a terminal, rich draws; any other stream gets plain lines without
escape sequences.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import IO, TYPE_CHECKING, Literal, TextIO

from cellmove.core.errors import Locked, Unreachable
from cellmove.operations.documents import Document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from cellmove.core.errors import CellmoveError

FORMATS = ("table", "json", "value")
WORD_STYLES = {
    "done": "green",
    "finished": "green",
    "confirmed": "green",
    "reverted": "green",
    "running": "cyan",
    "intent": "cyan",
    "undoing": "yellow",
    "rolling-back": "yellow",
    "failed": "red",
    "refused": "red",
    "refusal": "red",
    "warning": "yellow",
    "server-gone": "yellow",
    "repaired": "green",
    "repairing": "cyan",
    "mended": "green",
    "left": "yellow",
    "undone": "dim",
    "pending": "dim",
    "rolled-back": "dim",
    "superseded": "dim",
    "nothing": "dim",
}


# results


NEEDS_WIDTH = {"kind": 155, "from": 155, "changed (UTC)": 155, "to": 100}
"""The smallest width of a terminal that shows a column. ``show`` has the same values."""

MIN_COLUMN_WIDTH = 8
"""Smallest width of a column that may be cut."""

NEVER_CUT = frozenset({"move", "state", "next", "step", "action", "began", "took"})
"""Columns that are typed, or are short."""


class Command(str):
    """A command. It stays in one line on any terminal, so that it can be copied."""

    __slots__ = ()


class Page:
    """Collects drawn text.

    :param rich_width: width of the terminal; None for any other stream
    """

    def __init__(self, rich_width: int | None) -> None:
        self._buffer = io.StringIO()
        self._console: Console | None = None
        if rich_width is not None:
            self._console = console(self._buffer, rich_width)

    @property
    def text(self) -> str:
        """Return the text so far."""
        return self._buffer.getvalue()

    def gap(self) -> None:
        """Draw an empty line."""
        self._buffer.write("\n")

    def fields(self, rows: Sequence[tuple[str, str]], style: str = "") -> None:
        """Draw labels and values in two aligned columns."""
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
        """Draw a table. States and the like have colours on a terminal."""
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
        """Return the width at which no column of :data:`NEVER_CUT` is cut, and the others keep a minimum."""
        columns = [column for column in shown if headers[column] in NEVER_CUT]
        widths = [max(len(headers[column]), *(len(row[column]) for row in rows)) for column in columns]
        return sum(widths) + MIN_COLUMN_WIDTH * (len(shown) - len(columns)) + 2 * (len(shown) - 1)

    def _one_by_one(self, headers: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> None:
        """Draw the rows of a table that is too wide: a line for each value, commands in one line."""
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
    """Write a result to a stream.

    :param form: one of :data:`FORMATS`
    :param draw: draws the document for the format ``table``
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
    """Return the lines of ``--format value``: of leftovers, servers, schemas, numbers or moves."""
    if "findings" in document:
        return map(_leftover_values, document["findings"])
    if "servers" in document:
        return map(_server_values, document["servers"])
    if "schemas" in document:
        return [[schema["name"], ", ".join(schema["commands"])] for schema in document["schemas"]]
    if "checked" in document:
        return [[name, str(number)] for name, number in document["checked"].items()]
    if "counts" in document:
        return [[stage, str(number)] for stage, number in document["counts"].items() if number]
    return map(_move_values, document.get("moves", [document]))


def _move_values(document: Document) -> list[str]:
    return [document["move"] or "-", document["state"], (document["next"] or [""])[0]]


def _server_values(server: Document) -> list[str]:
    """Return id, verdict and checks for a plan of a drain; id, stage and move for its report."""
    if "verdict" in server:
        return [server["id"], server["verdict"], ",".join(server["codes"]) or "-"]
    return [server["server"]["id"], server["stage"], server["move"] or "-"]


def _leftover_values(leftover: Document) -> list[str]:
    whose = "owned" if leftover["owner"] else leftover["outcome"] or ("safe" if leftover["safe"] else "by hand")
    return [leftover["kind"], leftover["server"]["id"] or "-", leftover["subject"], whose]


def render_error(error: CellmoveError, stream: TextIO) -> None:
    """Write an error: what failed, the state of the server, the next command.

    An error without any effect (unreachable, locked) takes one line.
    """
    if error.exit_code in (Unreachable.exit_code, Locked.exit_code):
        again = f"next: {error.next_command}" if error.next_command else ""
        write_safely(stream, "; ".join(_lines(text) for text in (error.message, error.state, again) if text) + "\n")
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


# tools


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that understands escape sequences."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except ValueError:  # closed
        return False


def draws_over(stream: TextIO) -> bool:
    """Return whether a stream can be drawn over. NO_COLOR asks for text without escape sequences."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_same_file(one: TextIO, other: TextIO) -> bool:
    """Return whether two streams lead to the same terminal, mail or log."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False


def write(stream: TextIO, text: str) -> None:
    """Write and flush. A reader that is gone is no error."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        silence(stream)


def write_safely(stream: TextIO, text: str) -> None:
    """Write and flush. A stream that is full, closed or without a reader is no error."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Redirect a stream without a reader to /dev/null, because Python flushes it again at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return


def clean(text: str) -> str:
    """Return the text without control characters. Names of servers are input of other people."""
    return "".join(character if character.isprintable() else " " for character in text)


def duration(seconds: float) -> str:
    """Return a duration as text: 0.1 s, 12 s, 2 min 05 s, 1 h 04 min."""
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


def styled(text: str, style: str) -> Text:
    """Return text with a style of rich, without control characters."""
    from rich.text import Text

    return Text(clean(text), style=style)


def console(stream: TextIO | IO[str], width: int | None) -> Console:
    """Return a console of rich that draws on a stream.

    :param width: None: that of the terminal
    """
    from rich.console import Console

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        file=stream, width=width, force_terminal=True, color_system=colours, highlight=False, markup=False, emoji=False
    )


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # 0: unknown
    except (OSError, ValueError):
        return 80
