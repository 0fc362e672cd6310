"""What a move would fail of, found by its plan on a real cloud: buses, rights of the database user, the scheduler, zones."""

from __future__ import annotations

import contextlib
import time
import uuid

import certifi
import pytest
import sqlalchemy

from lab import cloud, oracle
from lab.layout import CELL_UUIDS, PASSWORD
from lab.rows import connect_database

pytestmark = pytest.mark.lab

SECONDS = 60.0
"""Long enough for a busy machine; a call over a bus that refuses us would not end at all."""


class Copy:
    """An API database of one's own: all tables of the real one as views, and copies of those that are changed."""

    def __init__(self, cursor, url):
        self.cursor = cursor
        self.name = f"nova_api_{uuid.uuid4().hex[:8]}"
        self.url = (
            sqlalchemy.make_url(url).set(username="lab", database=self.name).render_as_string(hide_password=False)
        )

    @property
    def environment(self):
        """Lead cellmove to it, by the logins that stand in the URLs: the user of cellmove's own knows nova's databases only."""
        own = ("DATABASE_USER", "DATABASE_PASSWORD", "BUS_USER", "BUS_PASSWORD")
        return {"CELLMOVE_API_DATABASE": self.url, **{f"CELLMOVE_{name}": "" for name in own}}

    def make(self, copied):
        """Create it."""
        self.execute(f"CREATE DATABASE {self.name}")
        self.execute(f"USE {self.name}")
        self.execute("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'nova_api'")
        for name in [row["t"] for row in self.cursor.fetchall()]:
            kind = "TABLE" if name in copied else "VIEW"
            self.execute(f"CREATE {kind} {name} AS SELECT * FROM nova_api.{name}")  # noqa: S608 - our own

    def execute(self, statement, *values):
        """One statement, as the lab's own user."""
        self.cursor.execute(statement, values or None)

    def change_cell(self, **values):
        """Another value in the mapping of cell2."""
        for column, value in values.items():
            self.execute(f"UPDATE cell_mappings SET {column} = %s WHERE name = 'cell2'", value)  # noqa: S608 - our own

    def zone(self, host, zone):
        """Put a host into an availability zone; the real nova does not know of it."""
        self.execute("INSERT INTO aggregates (id, uuid, name) VALUES (9999, UUID(), %s)", zone)
        self.execute("INSERT INTO aggregate_hosts (id, host, aggregate_id) VALUES (9999, %s, 9999)", host)
        self.execute(
            "INSERT INTO aggregate_metadata (id, aggregate_id, `key`, value) VALUES (9999, 9999, 'availability_zone', %s)",
            zone,
        )


def refusals(outcome):
    """What a plan refuses."""
    return [check for check in outcome.json["checks"] if check["level"] == "refusal"]


@contextlib.contextmanager
def isolated(host, trait):
    """A host is for a while in an aggregate that is only for servers that require a trait."""
    compute, name = cloud.connect().compute, f"isolated-{uuid.uuid4().hex[:6]}"

    def post(path, **body):
        response = compute.post(path, json=body)
        cloud.raise_for(response)
        return response.json()["aggregate"]["id"]

    number = post("/os-aggregates", aggregate={"name": name})
    act = f"/os-aggregates/{number}/action"
    try:
        post(act, set_metadata={"metadata": {f"trait:{trait}": "required"}})
        post(act, add_host={"host": host})
        try:
            yield name
        finally:
            post(act, remove_host={"host": host})
    finally:
        cloud.raise_for(compute.delete(f"/os-aggregates/{number}"))


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


def with_other_tls(url):
    """The bus's URL with TLS where its broker speaks none, or with a CA that did not sign the broker's certificate."""
    base, _, tls = url.partition("?")
    return f"{base}?{tls.replace(str(cloud.layout().ca), certifi.where())}" if tls else f"{base}?ssl=1"


def test_a_bus_that_does_not_let_us_in_is_found_before_anything_is_written(cellmove, boot, api, environment):
    server = boot("bus")
    before, real = oracle.snapshot(server.id), environment["CELLMOVE_LAB_CELL2_BUS"]
    host = cloud.layout().virtual_hosts["cell2"]
    for wrong, words in (
        (real.replace(PASSWORD, "wrong"), "the user name or password is refused"),
        (real.replace(f"/{host}", f"/{host}-none"), f"no access to the virtual host {host}-none"),
        (with_other_tls(real), "TLS"),
    ):
        api.change_cell(transport_url=wrong)
        begun = time.monotonic()
        ended = cellmove("migrate", server.id, "--cell", "cell2", expect=4, env=api.environment)
        assert time.monotonic() - begun < SECONDS
        assert "cell2" in ended.stderr
        assert words in ended.stderr
        assert "transport_url" in ended.stderr
        assert "nothing was written" in ended.stderr
    assert oracle.snapshot(server.id) == before
    assert cellmove("list", "--all", "-f", "json").json["moves"] == []


def test_a_second_mapping_of_a_cells_database_is_found_by_asking_the_server(cellmove, boot, api):
    """nova bug 1923899: create_cell with templates makes a second row; other words in the URL, the same database."""
    server, second = boot("mapped-twice"), str(uuid.uuid4())
    url = cloud.layout().database_url("nova_cell2").replace("127.0.0.1", "localhost")
    api.execute(
        "INSERT INTO cell_mappings (id, uuid, name, transport_url, database_connection, disabled) "
        "SELECT 99, %s, name, transport_url, %s, 0 FROM cell_mappings WHERE name = 'cell2'",
        second,
        url,
    )
    planned = cellmove("plan", server.id, "--dry-run", "-f", "json", env=api.environment).json
    (found,) = [check for check in planned["checks"] if check["code"] == "duplicate-cell"]
    assert (found["level"], second in found["remedy"]) == ("warning", True)
    assert {host["cell_uuid"] for host in planned["summary"]["target_hosts"]} == {CELL_UUIDS["cell2"]}
    audited = cellmove("audit", "-f", "json", expect=10, env=api.environment).json["findings"]
    assert [each["cell_uuid"] for each in audited if each["kind"] == "duplicate-cell"] == [second]
    assert [each for each in audited if "visible" in each["kind"]] == []


def test_a_database_user_who_may_not_write_is_told_what_to_grant(cellmove, boot, api, lab_environment):
    server = boot("rights")
    before, account = oracle.snapshot(server.id), "'cellmove_limited'@'%'"
    url = sqlalchemy.make_url(lab_environment["CELLMOVE_LAB_CELL2_DB"]).set(username="cellmove_limited")
    api.change_cell(database_connection=url.render_as_string(hide_password=False))
    own = api.environment
    api.execute("DROP USER IF EXISTS cellmove_limited")
    api.execute(f"CREATE USER cellmove_limited IDENTIFIED BY '{PASSWORD}'")
    try:
        api.execute("GRANT SELECT ON nova_cell2.* TO cellmove_limited")
        (found,) = refusals(
            cellmove("plan", server.id, "--cell", "cell2", "--dry-run", "-f", "json", expect=5, env=own)
        )
        assert found["code"] == "target-rights"
        assert f"the user {account} lacks rights for a move" in found["text"]
        assert found["remedy"].endswith(f"GRANT INSERT, UPDATE, DELETE ON nova_cell2.* TO {account};")

        api.execute("SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'nova_cell2'")
        for name in [row["t"] for row in api.cursor.fetchall()]:
            rights = "INSERT, UPDATE" if name == "migrations" else "INSERT, UPDATE, DELETE"
            api.execute(f"GRANT {rights} ON nova_cell2.{name} TO cellmove_limited")
        refused = cellmove("migrate", server.id, "--cell", "cell2", "-f", "json", expect=5, env=own)
        (found,) = refusals(refused)
        assert "it lacks DELETE on migrations" in found["text"]
        assert oracle.snapshot(server.id) == before

        api.execute(found["remedy"].removeprefix("at that database: "))  # as it is printed
        assert refusals(cellmove("plan", server.id, "--cell", "cell2", "--dry-run", "-f", "json", env=own)) == []
    finally:
        api.execute("DROP USER cellmove_limited")


def test_a_host_that_the_scheduler_will_refuse(cellmove, boot):
    server = boot("isolated", volumes=1)
    before = oracle.snapshot(server.id)
    there = ("--host", "c2-host2", "--dry-run", "-f", "json")
    with isolated("c2-host2", "CUSTOM_LAB_ISOLATED") as name:
        (found,) = refusals(cellmove("plan", server.id, *there, expect=5))
        assert found["code"] == "no-valid-host"
        assert "nova-scheduler does not accept c2-host2 for it: No valid host was found." in found["text"]
        assert f"its aggregate {name} is only for servers whose flavor or image requires" in found["text"]
        assert "req-" in found["remedy"]
        assert refusals(cellmove("plan", server.id, "--cell", "cell2", "--dry-run", "-f", "json")) == []
    assert oracle.snapshot(server.id) == before, "nothing was claimed"


def test_a_volume_of_another_zone(cellmove, boot, api, environment, tmp_path):
    server = boot("zone", volumes=1)
    (tmp_path / "apart.conf").write_text("[cinder]\ncross_az_attach = false\n")
    conf = f"{environment['CELLMOVE_NOVA_CONF']}:{tmp_path / 'apart.conf'}"
    api.zone("c2-host2", "east")
    plan = ("plan", server.id, "--dry-run", "-f", "json")
    apart = {**api.environment, "CELLMOVE_NOVA_CONF": conf}
    (found,) = refusals(cellmove(*plan, "--host", "c2-host2", expect=5, env=apart))
    assert found["code"] == "volume-zone"
    assert "c2-host2 in cell2 is in the availability zone east, and the server has volumes in nova" in found["text"]
    assert refusals(cellmove(*plan, "--host", "c2-host1", env=apart)) == []
