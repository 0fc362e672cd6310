"""An older copy of the journal on real nova: what once stopped a guest for good is refused, and the original goes on."""

from __future__ import annotations

import shutil

import pytest
import sqlalchemy

from lab import cloud, oracle

COMMANDS = ("prep-source", "rollback", "resume", "revert", "confirm", "finish")


def refuses_everything(cellmove, server, move, older):
    """Every command with the older copy ends with 5 and changes nothing."""
    before, guests = oracle.snapshot(server.id), cloud.guests(server.id)
    for command in COMMANDS:
        refused = cellmove(command, move, env=older, expect=5)
        assert "this journal is older than the move" in refused.stderr, refused.stderr
        assert "as before" not in refused.stderr
    assert oracle.snapshot(server.id) == before
    assert cloud.guests(server.id) == guests


@pytest.mark.lab
def test_a_copy_from_before_the_guest_was_stopped(cellmove, boot, tmp_path):
    server = boot("older", volumes=1)
    before, disk = oracle.snapshot(server.id), cloud.disk_hash(server.id)
    original, copy = tmp_path / "original.db", tmp_path / "copy.db"
    ours, older = {"CELLMOVE_JOURNAL": str(original)}, {"CELLMOVE_JOURNAL": str(copy)}
    move = cellmove("plan", server.name, "m1.small", "--cell", "cell2", "-f", "json", env=ours).json["move"]
    cellmove("prep-dest", move, env=ours)
    shutil.copy(original, copy)
    cellmove("prep-source", move, env=ours)
    refuses_everything(cellmove, server, move, older)
    rolled_back = cellmove("rollback", move, env=ours)
    assert "every action was rolled back; looked at since" in rolled_back.stderr
    cloud.wait_ports(server.id, "ACTIVE")  # their agent follows a moment later
    assert oracle.compare(before, oracle.snapshot(server.id)) == []
    assert cloud.disk_hash(server.id) == disk
    refuses_everything(cellmove, server, move, older)


@pytest.mark.lab
def test_a_copy_of_a_shared_journal(cellmove, boot, shared):
    """The database of a journal that machines share, put back from a dump."""
    server = boot("older-shared")
    move = cellmove(
        "plan", server.name, "--cell", "cell2", "-f", "json", env={"CELLMOVE_JOURNAL": shared}
    ).json["move"]  # fmt: skip
    cellmove("prep-dest", move, env={"CELLMOVE_JOURNAL": shared})
    url = sqlalchemy.make_url(shared)
    copied = url.set(database=f"{url.database}_old")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {copied.database}")
        for table in sqlalchemy.inspect(connection).get_table_names():
            connection.exec_driver_sql(f"CREATE TABLE {copied.database}.{table} LIKE {table}")
            connection.exec_driver_sql(f"INSERT INTO {copied.database}.{table} SELECT * FROM {table}")  # noqa: S608
    try:
        cellmove("prep-source", move, env={"CELLMOVE_JOURNAL": shared})
        older = {"CELLMOVE_JOURNAL": copied.render_as_string(hide_password=False)}
        refuses_everything(cellmove, server, move, older)
        assert "finished" in cellmove("finish", move, env={"CELLMOVE_JOURNAL": shared}).stdout
        refuses_everything(cellmove, server, move, older)
        cellmove("revert", move, env={"CELLMOVE_JOURNAL": shared})
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {copied.database}")
