"""Whole commands with URLs, files and credentials that cannot be used: nothing is written, and the message names the setting."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox.cloud_process import served_cloud
from tests.support.sandbox.environment import Sandbox

SECRET = "s3cr3t"
CELL3 = "33333333-3333-4333-8333-333333333333"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Sandbox]:
    """A cloud of this module's own, whose cell mappings it breaks."""
    with served_cloud() as (process, folder):
        yield Sandbox(process, folder)


@contextlib.contextmanager
def mapped(cloud: Sandbox, cell: str, **values: Any) -> Iterator[None]:
    """Change a cell's mapping, and put it back."""
    view = cloud.process.cloud()
    before = view.row("api", "cell_mappings", name=cell) or {}
    view.update("api", "cell_mappings", values, name=cell)
    try:
        yield
    finally:
        view.update("api", "cell_mappings", {name: before[name] for name in values}, name=cell)


@contextlib.contextmanager
def third_cell(cloud: Sandbox, **values: Any) -> Iterator[None]:
    """A cell that nobody needs."""
    view = cloud.process.cloud()
    row = {
        "id": 9,
        "uuid": CELL3,
        "name": "cell3",
        "disabled": 0,
        "transport_url": "none:///",
        "database_connection": "none://",
    }
    view.insert("api", "cell_mappings", row | values)
    try:
        yield
    finally:
        view.delete("api", "cell_mappings", name="cell3")


def refused(cloud: Sandbox, code: int, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What a command says that ends with this code; it writes nothing, and shows no secret."""
    outcome = cloud.cellmove(*arguments, expect=code, env=env)
    for text in (outcome.stdout, outcome.stderr):
        assert SECRET not in text
        assert "fault in cellmove" not in text
        assert "Traceback" not in text
    return " ".join(outcome.stderr.split())


UNUSABLE = {
    "none:///": "are not supported",
    "": "it is empty",
    "nova": "cannot be parsed",
    f"SCHEME://u:{SECRET}@h:port/nova": "its port has to be a number",
    f"SCHEME://u:x@{SECRET}@a..b/nova": "is no host name",
    f"SCHEME://u:{SECRET}@h:99999/nova": "99999 is no port",
    f"SCHEME://u:{SECRET}@127.0.0.1:1/nova?nosuch=1": "the option nosuch is not known",
    f"SCHEME://u:{SECRET}@127.0.0.1:1/nova?ssl_ca=/nowhere/ca.pem&ssl=1&ssl_ca_file=/nowhere/ca.pem": "/nowhere/ca.pem: there is no such file on this machine",
    "SCHEME://{username1}:{password1}@{hostname1}:{port1}/nova": "which has no {username1}",
}  # fmt: skip
COLUMNS = {
    "transport_url": ("rabbit", "the message bus of {cell}: the URL in cell_mappings.transport_url of {cell} cannot be used: "),
    "database_connection": ("mysql", "the database of {cell}: the URL in cell_mappings.database_connection of {cell} cannot be used: "),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(cloud: Sandbox) -> str:
    """A server that could be moved."""
    return cloud.boot("settled", ports=1).id


@pytest.mark.parametrize("cell", ["cell1", "cell2"])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("url", UNUSABLE)
def test_a_cell_whose_url_cannot_be_used_is_refused_before_anything_is_written(
    cloud: Sandbox, server: str, cell: str, column: str, url: str
) -> None:
    scheme, begin = COLUMNS[column]
    said = UNUSABLE[url]
    made = url.replace("SCHEME", scheme)
    if "ssl_ca=" in made:
        made = (
            made.partition("?")[0] + ("?ssl=1&ssl_ca_file=" if scheme == "rabbit" else "?ssl_ca=") + "/nowhere/ca.pem"
        )
    before = cloud.snapshot(server)
    with mapped(cloud, cell, **{column: made}):
        # A plan looks at all buses, and names all that cannot be used: 4, as when they do not answer.
        message = refused(cloud, 4 if column == "transport_url" else 2, "migrate", server, "--cell", "cell2")
    assert begin.format(cell=cell) in message
    assert said in message
    assert "nothing was written" in message
    assert cloud.snapshot(server) == before
    assert cloud.cellmove("list", "-f", "json").json["moves"] == []


@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("CELLMOVE_API_DATABASE", "nova", 2, "the API database: the URL in [api_database]connection, or CELLMOVE_API_DATABASE"),
        ("CELLMOVE_API_DATABASE", f"mysql+pymysql://u:{SECRET}@h/nova?ssl_ca=/nowhere", 2, "ssl_ca=/nowhere: there is no such file"),
        ("CELLMOVE_API_DATABASE", f"mysql+pymysql://u:{SECRET}@127.0.0.1:1/nova", 4, "the API database: Can't connect"),
        ("CELLMOVE_API_DATABASE", f"mysql+pymysql://u:{SECRET}@127.0.0.1:1/nova?ssl_mode=VERIFY_CA", 4, "the API database: "),
        ("CELLMOVE_TRANSPORT_URL", "none:///", 4, "the message bus of API: the URL in [DEFAULT]transport_url, or CELLMOVE_TRANSPORT_URL"),
        ("CELLMOVE_TRANSPORT_URL", f"rabbit://u:a/{SECRET}@h:1/", 4, "have to be written"),
        ("CELLMOVE_TRANSPORT_URL", f"rabbit://u:{SECRET}@127.0.0.1:1/", 4, "message bus of API cannot be reached"),
        ("OS_CLOUD", "nosuch", 2, "clouds.yaml has no cloud nosuch; it has: sandbox"),
        ("OS_CLIENT_CONFIG_FILE", "BROKEN", 2, "broken.yaml, line 4: expected"),
        ("CELLMOVE_SERVICE_CLOUD", "nosuch", 2, "the service credential"),
        ("CELLMOVE_CONFIG", "/nowhere/config.toml", 2, "/nowhere/config.toml, named by CELLMOVE_CONFIG, does not exist"),
        ("CELLMOVE_NOVA_CONF", "/nowhere/nova.conf", 2, "/nowhere/nova.conf does not exist"),
        ("CELLMOVE_JOURNAL", f"mysql+pymysql://u:{SECRET}@127.0.0.1:1/j?ssl_ca=/nowhere", 2, "the journal's URL"),
        ("CELLMOVE_JOURNAL", f"mysql+pymysql://u:{SECRET}@127.0.0.1:1/j", 4, "the journal mysql+pymysql://u:***@127.0.0.1:1/j cannot be opened"),
        ("CELLMOVE_CONNECT_TIMEOUT", "nan", 2, "connect_timeout"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_ends_a_plan(
    cloud: Sandbox, server: str, tmp_path: Path, variable: str, value: str, code: int, said: str
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"clouds:\n  sandbox:\n    auth: {{password: {SECRET}\n")
    message = refused(cloud, code, "plan", server, env={variable: str(broken) if value == "BROKEN" else value})
    assert said in message


THIRD = {
    "none://": "of the kind none are not supported",
    f"postgresql://u:{SECRET}@h/nova": "of the kind postgresql are not supported",
    f"mysql+pymysql://u:{SECRET}@127.0.0.1:1/nova": "Can't connect",
    f"mysql+pymysql://u:{SECRET}@h/nova?ssl_ca=/nowhere": "there is no such file",
    "mysql+pymysql://{username3}@h/nova": "which has no {username3}",
    "": "it is empty",
}


@pytest.mark.parametrize("url", THIRD)
def test_a_third_cell_that_cannot_be_used_is_a_warning(cloud: Sandbox, server: str, url: str) -> None:
    said = THIRD[url]
    with third_cell(cloud, database_connection=url):
        planned = cloud.cellmove("plan", server, "--dry-run", "-f", "json").json
        audited = cloud.cellmove("audit", "-f", "json", expect=4).json
        shown = cloud.cellmove("audit", expect=4)
        limited = cloud.cellmove("audit", "--cell", "cell1", expect=4)
        named = refused(cloud, 2 if "127.0.0.1" not in url else 4, "plan", server, "--cell", "cell3")
        repaired = refused(cloud, 4, "audit", "--repair", "--yes")
    (warning,) = [check for check in planned["checks"] if check["code"] == "target-unreachable"]
    assert warning["level"] == "warning"
    assert said in warning["text"]
    assert "the database of cell3" in warning["text"]
    assert audited["cells"] == ["cell1", "cell2"]
    assert "the audit is incomplete: the database of cell3" in " ".join(limited.stderr.split())
    assert "next: cellmove audit --cell cell1" in limited.stderr
    assert audited["error"]["exit_code"] == 4
    assert audited["counts"] == {"owned": 0, "mended": 0, "left": 0}
    (unseen,) = audited["unseen"]
    assert "the database of cell3" in unseen
    assert said in " ".join(shown.stdout.split())
    assert said in named
    assert said in repaired
    assert SECRET not in f"{planned}{audited}{shown.stdout}"


@pytest.mark.parametrize("statement", ["CREATE TABLE x (a)", "CREATE TABLE instances (a)", ""])
def test_a_database_that_is_no_cell_of_nova_is_named(
    cloud: Sandbox, server: str, tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    lacks = "instance_extra" if "instances" in statement else "instances"
    said = f"the database of cell2: it is no cell database of nova: it has no table {lacks}"
    with mapped(cloud, "cell2", database_connection=f"sqlite:///{path}"):
        assert said in refused(cloud, 2, "plan", server, "--cell", "cell2")
        assert said in refused(cloud, 4, "audit")
        assert said in refused(cloud, 2, "drain-cell", "cell1", "--to", "cell2", "--dry-run")


def test_a_move_goes_on_beside_a_third_cell_that_cannot_be_used(cloud: Sandbox) -> None:
    moving = cloud.boot("beside", ports=1)
    with third_cell(cloud):
        migrated = cloud.cellmove("migrate", moving.id)
        assert "the database of cell3" in migrated.stderr
        cloud.cellmove("verify", moving.id)
        cloud.cellmove("confirm", moving.id)
        looked = cloud.cellmove("drain-cell", "cell1", "--dry-run", "-f", "json").json
        assert [text.partition(":")[0] for text in looked["left_out"]] == ["the database of cell3"]


def test_a_request_spec_and_a_flavor_that_cannot_be_read_are_refused(cloud: Sandbox) -> None:
    view = cloud.process.cloud()
    for table, where, column, code in (
        ("request_specs", "api", "spec", "no-request-spec"),
        ("instance_extra", "cell1", "flavor", "no-flavor"),
    ):
        for text in ("", "x", "[]", "5", '{"cur": 5}'):
            odd = cloud.boot("odd")
            view.update(where, table, {column: text}, instance_uuid=odd.id)
            refused(cloud, 5, "plan", odd.id)
            found = cloud.cellmove("plan", odd.id, "-f", "json", expect=5).json["checks"]
            assert code in [check["code"] for check in found]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/network/v2.0/ports", "neutron, GET /ports: HTTP 500"),
        ("/placement/allocations", "placement, GET /allocations/"),
        ("/compute/v2.1/servers", "nova, GET /servers/"),
    ],
)
def test_an_api_that_fails_is_named_with_its_call(cloud: Sandbox, server: str, path: str, said: str) -> None:
    cloud.process.control("world", broken={f"GET {path}": 500})
    message = refused(cloud, 4, "plan", server)
    cloud.process.control("world", broken={})
    assert said in message
    assert "nothing was written" in message
