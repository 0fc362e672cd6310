"""The sandbox with its databases on a real database server: the same snapshots as on SQLite, and as the lab's own nova."""

from __future__ import annotations

import pytest

from cellmove.sandbox.process import start
from lab.client import layout
from lab.layout import LOOPBACK, PASSWORD
from lab.rows import connect_database
from tests.scenarios import moves
from tests.support.sandbox.environment import Sandbox

NAMES = ("api", "cell1", "cell2")


@pytest.fixture
def prefix(tmp_path):
    """In front of the names of databases that are this test's own, and gone afterwards."""
    name = f"sandbox_{abs(hash(tmp_path)):x}_"
    yield name
    connection = connect_database()
    with connection.cursor() as cursor:
        for each in NAMES:
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}{each}`")
    connection.close()


@pytest.mark.lab
def test_there_and_back_on_mariadb(lab_environment, agrees, prefix, tmp_path):
    url = f"mysql+pymysql://lab:{PASSWORD}@{LOOPBACK}:{layout().port('mariadb')}/{prefix}"
    process = start(tmp_path / "cloud", url)
    try:
        assert sorted(process.databases.values()) == [f"{url}{name}" for name in NAMES]
        moves.there_and_back(Sandbox(process, tmp_path), agrees, "image", "active", "resize", "confirm")
    finally:
        process.end()
