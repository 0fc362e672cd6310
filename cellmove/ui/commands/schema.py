"""The command ``schema``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cellmove.ui import schemas
from cellmove.ui.answers import answer
from cellmove.ui.invocation import Options
from cellmove.ui.options import output_options, pass_options

if TYPE_CHECKING:
    from cellmove.ui.console import Page


@click.command("schema", short_help="Print the JSON Schema of a document.")
@click.argument("name", metavar="[NAME]", required=False, type=click.Choice(tuple(schemas.COMMANDS)))
@output_options
@pass_options
def schema(options: Options, name: str | None) -> None:
    """Print the JSON Schema of a document that --format json prints; without NAME, list the schemas.

    A schema is printed as JSON in every format and includes all definitions that it needs. It permits keys that
    it does not name, because a newer cellmove may add keys. If a key is removed or its meaning changes, the
    schema_version is raised.

    \b
    Example:
      cellmove schema
      cellmove schema drain-status
    """
    if name is None:
        answer(options, schemas.list_document(), _draw_list)
        return
    options.output_format = "json"
    answer(options, schemas.schema(name), lambda _page, _document: None)


def _draw_list(page: Page, document: schemas.SchemaList) -> None:
    rows = [(each["name"], each["title"], ", ".join(each["commands"])) for each in document["schemas"]]
    page.table(("schema", "document", "printed by"), rows)
