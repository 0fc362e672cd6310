"""What a move would fail of, found by its plan on a real cloud: buses, rights of the database user, the scheduler, zones."""

from __future__ import annotations

import contextlib
import time
import uuid

import pytest
import sqlalchemy

from lab import oracle
from lab.layout import PASSWORD
from lab.rows import connect_database

pytestmark = pytest.mark.lab

SECONDS = 15.0
"""For a command that is refused by a bus; an importing process on a busy machine included."""


class Copy:
    """An API database of one's own: all tables of the real one as views, and copies of those that are changed."""

    def __init__(self, cursor, url):
        self.cursor = cursor
        self.name = f"nova_api_{uuid.uuid4().hex[:8]}"
        self.url = (
            sqlalchemy.make_url(url).set(username="lab", database=self.name).render_as_string(hide_password=False)
        )

    def make(self, copied):
        """Create it."""
        self.cursor.execute(f"CREATE DATABASE {self.name}")
        self.cursor.execute("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'nova_api'")
        for name in [row["t"] for row in self.cursor.fetchall()]:
            kind = "TABLE" if name in copied else "VIEW"
            self.cursor.execute(f"CREATE {kind} {self.name}.{name} AS SELECT * FROM nova_api.{name}")  # noqa: S608 - names of our own

    def change_cell(self, **values):
        """Another value in the mapping of cell2."""
        for column, value in values.items():
            statement = f"UPDATE {self.name}.cell_mappings SET {column} = %s WHERE name = 'cell2'"  # noqa: S608 - our own
            self.cursor.execute(statement, (value,))


@pytest.fixture
def api(lab_environment):
    """Makes an API database of this test's own; cellmove is led to it by its environment."""
    connection = connect_database()
    with contextlib.closing(connection), connection.cursor() as cursor:
        copy = Copy(cursor, lab_environment["CELLMOVE_LAB_API_DB"])
        try:
            copy.make({"cell_mappings", "aggregate_hosts", "aggregate_metadata", "aggregates"})
            yield copy
        finally:
            cursor.execute(f"DROP DATABASE IF EXISTS {copy.name}")


def test_a_bus_that_does_not_let_us_in_is_found_before_anything_is_written(cellmove, boot, api, environment):
    server = boot("bus")
    before, real = oracle.picture(server.id), environment["CELLMOVE_LAB_CELL2_BUS"]
    for wrong, words in (
        (real.replace(PASSWORD, "wrong"), "the user name or password is refused"),
        (f"{real}-none", "no access to the virtual host cell2-none"),
        (f"{real}?ssl=1", "TLS"),
    ):
        api.change_cell(transport_url=wrong)
        begun = time.monotonic()
        ended = cellmove("migrate", server.id, "--cell", "cell2", expect=4, env={"CELLMOVE_API_DATABASE": api.url})
        assert time.monotonic() - begun < SECONDS
        assert "cell2" in ended.stderr
        assert words in ended.stderr
        assert "transport_url" in ended.stderr
        assert "nothing was written" in ended.stderr
    assert oracle.picture(server.id) == before
    assert cellmove("list", "--all", "-f", "json").json["moves"] == []
