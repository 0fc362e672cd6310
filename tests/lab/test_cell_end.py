"""A cell that nobody needs any more: what `drain-cell` says in the end is typed, and a real nova takes the cell away."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lab import cloud, layout, stores
from lab.rows import connect_database, rows

pytestmark = [pytest.mark.lab, pytest.mark.alone]

CELL, LIKE = "cell3", "cell2"
HOST, LIKE_HOST = "c3-host1", "c2-host1"
GONE_HOST = "c3-host2"
"""A host that is mapped to the cell and has no service any more."""


def copy_row(connection: Any, table: str, like: str, where: str, **changes: str) -> None:
    """One row more, like another one but for its id and these columns."""
    columns = [each["Field"] for each in rows(connection, f"SHOW COLUMNS FROM {like}") if each["Field"] != "id"]
    names = ", ".join(f"`{name}`" for name in columns)
    values = ", ".join("%s" if name in changes else f"`{name}`" for name in columns)
    given = [changes[name] for name in columns if name in changes]
    rows(connection, f"INSERT INTO {table} ({names}) SELECT {values} FROM {like} WHERE {where} LIMIT 1", *given)  # noqa: S608


def make_cell(connection: Any) -> None:
    """A cell with nova's schema, a host whose nova-compute is stopped, and a host without a service; no servers."""
    rows(connection, "CREATE DATABASE nova_cell3")
    rows(connection, "GRANT ALL ON nova_cell3.* TO 'nova'@'127.0.0.1'")
    for (table,) in (each.values() for each in rows(connection, "SHOW TABLES FROM nova_cell2")):
        rows(connection, f"CREATE TABLE nova_cell3.`{table}` LIKE nova_cell2.`{table}`")
    for statement in () if layout.load().plain else stores.cell_rights("cell3"):
        rows(connection, statement.replace("%", "%%"))
    rows(connection, "INSERT INTO nova_cell3.alembic_version SELECT * FROM nova_cell2.alembic_version")
    service = f"host = '{LIKE_HOST}' AND `binary` = 'nova-compute' AND deleted = 0"
    copy_row(connection, "nova_cell3.services", "nova_cell2.services", service, host=HOST, uuid=str(uuid.uuid4()))
    node = str(uuid.uuid4())
    placement = cloud.connect().placement
    made = placement.post("/resource_providers", json={"name": HOST, "uuid": node}, microversion="1.20")
    assert made.status_code == 200, made.text
    copy_row(
        connection, "nova_cell3.compute_nodes", "nova_cell2.compute_nodes", f"host = '{LIKE_HOST}' AND deleted = 0",
        host=HOST, hypervisor_hostname=HOST, uuid=node,
    )  # fmt: skip
    (mapping,) = rows(connection, "SELECT database_connection FROM nova_api.cell_mappings WHERE name = %s", LIKE)
    database = mapping["database_connection"].replace("nova_cell2", "nova_cell3")
    copy_row(
        connection, "nova_api.cell_mappings", "nova_api.cell_mappings", f"name = '{LIKE}'",
        name=CELL, uuid=str(uuid.uuid4()), database_connection=database,
    )  # fmt: skip
    for host in (HOST, GONE_HOST):
        rows(
            connection,
            "INSERT INTO nova_api.host_mappings (created_at, cell_id, host) "
            "SELECT UTC_TIMESTAMP(), id, %s FROM nova_api.cell_mappings WHERE name = %s",
            host,
            CELL,
        )


def restart_api() -> None:
    """nova-api knows the cells that there were when it started."""
    cloud.stop_daemon("nova-api", signal.SIGTERM)
    cloud.start_daemon("nova-api")


@pytest.fixture
def third_cell(lab_environment: dict[str, str]) -> Iterator[Any]:
    """The cell, and a connection to all databases; afterwards there is no trace of it, whatever came out."""
    connection = connect_database()
    try:
        make_cell(connection)
        restart_api()
        yield connection
    finally:
        rows(
            connection,
            "DELETE FROM nova_api.host_mappings WHERE cell_id IN "
            "(SELECT id FROM nova_api.cell_mappings WHERE name = %s)",
            CELL,
        )
        rows(connection, "DELETE FROM nova_api.cell_mappings WHERE name = %s", CELL)
        placement = cloud.connect().placement
        for left in placement.get(f"/resource_providers?name={HOST}").json()["resource_providers"]:
            placement.delete(f"/resource_providers/{left['uuid']}")
        rows(connection, "REVOKE ALL ON nova_cell3.* FROM 'nova'@'127.0.0.1'")
        rows(connection, "DROP DATABASE nova_cell3")
        connection.close()
        restart_api()
        cloud.wait_for_all()


def type_it(command: str) -> None:
    """As an operator of this cloud would."""
    words = shlex.split(command, comments=True)
    if words[0] == "systemctl":
        restart_api()
        return
    place = layout.load()
    if words[0] == "nova-manage":
        words[1:1] = map(str, place.nova_conf_arguments)
    done = subprocess.run(
        words, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{place.venv / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip
    # nova-manage's archive says with 1 that it has archived something.
    assert done.returncode == 0 or (done.returncode == 1 and "archive_deleted_rows" in words), done.stdout + done.stderr


def at_a_terminal(environment: dict[str, str], *arguments: str) -> str:
    """What a command prints there; of an empty cell it says nothing elsewhere."""
    command = shlex.join([sys.executable, "-m", "cellmove", *arguments])
    done = subprocess.run(
        ["script", "-qec", f"{command} 2>/dev/null", "/dev/null"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=True, env={**environment, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    return done.stdout


def test_what_is_said_in_the_end_takes_the_cell_away(cellmove, environment, third_cell):
    server = cloud.boot("stays", host=LIKE_HOST)
    try:
        told = at_a_terminal(environment, "drain-cell", CELL, "--to", LIKE, "--no-cordon")
        assert "the cell can be deleted. Type, in this order:" in told
        lines = re.sub(r"\x1b\[\d*m", "", told).partition("in this order:")[2].splitlines()
        commands = [line.strip() for line in lines if line.strip()]
        kinds = [" ".join(command.split()[:3]) for command in commands]
        assert kinds == [
            "nova-manage db archive_deleted_rows", "openstack --os-compute-api-version 2.53", "nova-manage cell_v2 delete_host",
            "nova-manage cell_v2 delete_cell", "systemctl restart nova-scheduler",
        ]  # fmt: skip
        for command in commands:
            type_it(command)

        assert rows(third_cell, "SELECT id FROM nova_api.cell_mappings WHERE name = %s", CELL) == []
        assert rows(third_cell, "SELECT id FROM nova_api.host_mappings WHERE host LIKE 'c3-%%'") == []
        found = cloud.connect().placement.get(f"/resource_providers?name={HOST}").json()
        assert found["resource_providers"] == []
        assert f"there is no cell {CELL};" in cellmove("drain-cell", CELL, expect=2).stderr
        assert cloud.show(server)["status"] == "ACTIVE"
    finally:
        cloud.delete(server)
