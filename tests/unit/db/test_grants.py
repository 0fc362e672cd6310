"""docs/database-grants.sql: the rights that cellmove asks for, and no more."""

from __future__ import annotations

import re
from pathlib import Path

from cellmove.db import rights
from cellmove.db.records import DELETED_FIRST, KEYS

FILE = Path(__file__).resolve().parents[3] / "docs" / "database-grants.sql"
GRANT = re.compile(r"GRANT (.+) ON (\w+)\.(\w+|\*) TO 'cellmove'@'%';")


def granted() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the rights by database and table."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in FILE.read_text().splitlines():
        if line and not line.startswith("--"):
            statement = GRANT.fullmatch(line)
            assert statement, line
            given, database, table = statement.groups()
            assert table not in found.setdefault(database, {}), f"{database}.{table} is granted twice"
            found[database][table] = tuple(given.split(", "))
    return found


def test_a_cell_grants_what_plan_asks_for() -> None:
    tables = dict(granted()["nova_cell1"])
    assert tables.pop("*") == ("SELECT",)
    assert tables == rights.cell_writes([*KEYS, rights.EVENTS, *DELETED_FIRST])


def test_the_api_database_grants_what_plan_asks_for_and_what_a_drain_does() -> None:
    tables = granted()["nova_api"]
    assert tables.pop("*") == ("SELECT",)
    assert tables.pop("cell_mappings") == ("UPDATE (disabled)",)  # cellmove.db.cells.set_disabled
    assert tables == rights.API_WRITES


def test_cell0_is_only_read() -> None:
    assert granted()["nova_cell0"] == {"*": ("SELECT",)}
    assert set(granted()) == {"nova_api", "nova_cell0", "nova_cell1"}
