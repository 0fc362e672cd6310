"""The commands about the journal itself."""

from __future__ import annotations

import click

from cellmove.ui.answers import answer
from cellmove.ui.group import InOrder
from cellmove.ui.invocation import Options
from cellmove.ui.options import output_options, pass_options
from cellmove.ui.running import running


@click.group("journal", cls=InOrder, short_help="Check the journal.")
def journal() -> None:
    """Check the journal, the record of all moves.

    \b
    Example:
      cellmove journal check
    """


@journal.command("check", short_help="Check every line of the journal.")
@output_options
@pass_options
def check(options: Options) -> None:
    """Check that no move and no line of the journal is missing or changed.

    Every command checks what it reads: the open moves, and the lines of its own move. This command also checks
    the closed moves, which takes seconds for a long history. It only reads. Exit code 4 means that the journal
    is damaged; the message names the place.

    \b
    Example:
      cellmove journal check
      cellmove journal check -f json
    """
    with running(options, activity="checking the journal", only_reads=True) as session:
        location, result = session.journal.location, session.journal.check()
    from cellmove.ui.documents import journal_check_document
    from cellmove.ui.move_text import draw_journal_check

    answer(options, journal_check_document(location, result), draw_journal_check)
