"""Running `cellmove` on a journal that has no room left; in a module of its own, for the process that it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.sandbox.place import run_command


def run_with_room(pages: int, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """Be `cellmove` where the journal cannot have more than so many pages, as on a full disk."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def limit(connection: Any, _record: Any) -> None:
        (_number, _name, path) = connection.execute("PRAGMA database_list").fetchone()
        if path == environment["CELLMOVE_JOURNAL"]:
            connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(Pool, "connect", limit)
    run_command(arguments, environment, out, err)
