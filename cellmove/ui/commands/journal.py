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
    """Check the journal: the record of all moves.

    \b
    Example:
      cellmove journal check
    """


@journal.command("check", short_help="Check every line of the journal.")
@output_options
@pass_options
def check(options: Options) -> None:
    """Check that every move and line of the journal is what cellmove wrote, and that none is missing.

    Every command checks what it reads: the open moves, and the lines of the move that it is about. This command
    also checks the moves that are over, which takes seconds for a long history. It only reads. Exit code 4 says
    that the journal is damaged; the message says where.

    \b
    Example:
      cellmove journal check
      cellmove journal check -f json
    """
    with running(options, activity="checking the journal", only_reads=True) as session:
        opened = session.journal
        checked = opened.check()
    from cellmove.ui.documents import journal_check_document
    from cellmove.ui.move_text import draw_journal_check

    answer(options, journal_check_document(opened.location, checked), draw_journal_check)
