"""Which databases are one, by what they say about themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from cellmove.db.identity import DatabaseIdentity, identity_of, is_same
from cellmove.db.tables import CellDatabase

A, B = frozenset({"service-a", "service-b"}), frozenset({"service-c"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (DatabaseIdentity("server/nova", A), DatabaseIdentity("server/nova", A), True),
        (DatabaseIdentity("server/nova", A), DatabaseIdentity("server/nova", A | B), True),  # one came in between
        (DatabaseIdentity("node-1/nova", A), DatabaseIdentity("node-2/nova", A), True),  # two addresses
        (DatabaseIdentity("server/nova", A), DatabaseIdentity("server/nova", B), False),  # servers made from one copy
        (DatabaseIdentity("node-1/nova", A), DatabaseIdentity("node-2/nova", A | B), False),  # begun as a copy
        (DatabaseIdentity("server/nova", A), DatabaseIdentity("server/nova", frozenset()), False),
        (DatabaseIdentity("server/nova", frozenset()), DatabaseIdentity("server/nova", frozenset()), True),
        (DatabaseIdentity("server/nova", frozenset()), DatabaseIdentity("server/other", frozenset()), False),
    ],
)
def test_services_decide_and_without_any_the_location(
    one: DatabaseIdentity, other: DatabaseIdentity, same: bool
) -> None:
    assert is_same(one, other) is same
    assert is_same(other, one) is same


def test_one_file_by_two_paths_is_one_database(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    found = []
    table = sqlalchemy.Table("services", sqlalchemy.MetaData(), sqlalchemy.Column("uuid", sqlalchemy.String(36)))
    for path in (tmp_path / "cell.db", tmp_path / "link" / "cell.db"):
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            table.create(connection, checkfirst=True)
            connection.execute(table.insert(), [{"uuid": None}, {"uuid": path.parent.name}])
        found.append(identity_of(CellDatabase("cell", engine, {"services": table})))
    assert found[0].location == found[1].location == str((tmp_path / "cell.db").resolve())
    assert found[1].services == {tmp_path.name, "link"}
    assert is_same(*found)
