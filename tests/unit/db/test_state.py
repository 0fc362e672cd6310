"""Compare-and-swap and the other single writes: what changes, what stays, and what another writer makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import StaticPool

from cellmove.core.errors import CallFailed, NotFound
from cellmove.db import state
from cellmove.db.tables import CellDatabase
from tests.support.nova_tables import (
    LATER,
    NOW,
    OTHER,
    SERVER,
    another_writer,
    content,
    make_cell,
    put,
    rolled_back,
    rows,
)


@pytest.fixture
def database() -> CellDatabase:
    """A cell with the server, a deleted row of the same server, and another server, all three alike."""
    cell = make_cell("cell1")
    alike = {"vm_state": "active", "task_state": "resize_prep", "display_name": "web", "hidden": 0}
    put(cell, "instances", uuid=SERVER, deleted=7, **alike)
    put(cell, "instances", uuid=SERVER, **alike)
    put(cell, "instances", uuid=OTHER, **alike)
    return cell


def changed_rows(database: CellDatabase, name: str, before: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows that differ now, with id and what is new in each; every other table has to be the same."""
    now = content(database)
    assert {other: found for other, found in now.items() if other != name} == {
        other: found for other, found in before.items() if other != name
    }
    known = {row["id"]: row for row in before[name]}
    return [
        {"id": row["id"], **{key: value for key, value in row.items() if known.get(row["id"], {}).get(key) != value}}
        for row in now[name]
        if known.get(row["id"]) != row
    ]


# instances


def test_the_live_row_is_read(database: CellDatabase) -> None:
    row = state.read_instance(database, SERVER)
    assert row is not None
    assert (row["id"], row["deleted"]) == (2, 0)
    assert state.read_instance(database, "nobody") is None


def test_a_swap_changes_one_row_and_its_time(database: CellDatabase) -> None:
    before = content(database)
    state.swap_instance(database, SERVER, {"task_state": "resize_prep"}, {"host": "h2"}, LATER, content=False)
    assert changed_rows(database, "instances", before) == [{"id": 2, "host": "h2", "updated_at": LATER}]


def test_a_swap_of_a_row_that_another_changed_in_between_raises_and_writes_nothing(database: CellDatabase) -> None:
    before = content(database)
    theirs = "UPDATE instances SET task_state = 'deleting' WHERE uuid = 'server-1'"
    with another_writer(database.engine, "UPDATE instances", theirs) as came, pytest.raises(CallFailed) as conflict:
        state.swap_instance(database, SERVER, {"task_state": "resize_prep"}, {"host": "h2"}, LATER)
    assert came
    assert conflict.value.kind == "conflict"
    assert "task_state='deleting'" in str(conflict.value)
    assert changed_rows(database, "instances", before) == []


def test_a_swap_without_new_values_is_a_check(database: CellDatabase) -> None:
    state.swap_instance(database, SERVER, {"task_state": "resize_prep"}, {}, LATER)
    with pytest.raises(CallFailed) as conflict:
        state.swap_instance(database, SERVER, {"task_state": None}, {}, LATER)
    assert conflict.value.kind == "conflict"


def test_a_swap_compares_only_what_is_expected_of_the_row_that_has_it(database: CellDatabase) -> None:
    """The new values of one column are there, and another column is not as expected: that is nobody's work but ours."""
    state.swap_instance(database, SERVER, {"vm_state": "stopped"}, {"task_state": "resize_prep"}, LATER)
    with pytest.raises(CallFailed):
        state.swap_instance(
            database, SERVER, {"vm_state": "stopped"}, {"task_state": "resize_prep", "host": "h"}, LATER
        )
    with pytest.raises(CallFailed):
        state.swap_instance(
            database, SERVER, {"vm_state": "stopped"}, {"task_state": "resize_prep"}, LATER, content=False
        )


def test_new_values_that_are_half_there_are_not_our_work(database: CellDatabase) -> None:
    values = {"task_state": "resize_prep", "host": "h2"}
    with pytest.raises(CallFailed) as conflict:
        state.swap_instance(database, SERVER, {"task_state": "resize_migrating"}, values, LATER)
    assert conflict.value.kind == "conflict"


def test_null_is_expected_only_where_it_is_named(database: CellDatabase) -> None:
    for expected in (None, (None, "x"), ("x", "y"), ()):
        with pytest.raises(CallFailed):
            state.swap_instance(database, SERVER, {"task_state": expected}, {"host": "h2"}, LATER)
    put(database, "instances", uuid="server-3")
    for expected in ("x", ("x", "y")):
        with pytest.raises(CallFailed):
            state.swap_instance(database, "server-3", {"task_state": expected}, {"host": "h2"}, LATER)
    state.swap_instance(database, "server-3", {"task_state": ("x", None)}, {"host": "h2"}, LATER)


def test_a_column_that_an_older_schema_lacks_is_left_out(database: CellDatabase) -> None:
    before = content(database)
    state.swap_instance(database, SERVER, {}, {"host": "h2", "colour": "green"}, LATER)
    assert changed_rows(database, "instances", before) == [{"id": 2, "host": "h2", "updated_at": LATER}]


def test_a_swap_in_a_transaction_goes_with_it(database: CellDatabase) -> None:
    before = content(database)
    with rolled_back(database) as connection:
        state.swap_instance(database, SERVER, {}, {"host": "h2"}, LATER, connection)
    assert content(database) == before


def test_a_deleted_server_is_not_changed(database: CellDatabase) -> None:
    put(database, "instances", uuid="gone", deleted=9)
    before = content(database)
    with pytest.raises(NotFound, match="cell1"):
        state.swap_instance(database, "gone", {}, {"host": "h2"}, LATER)
    assert content(database) == before


def test_what_the_owner_may_change_is_carried_over(database: CellDatabase) -> None:
    before = content(database)
    theirs = {"display_name": "shop", "locked": "1", "task_state": "deleting", "host": "h9"}
    with database.engine.begin() as connection:
        state.carry_over(connection, database, SERVER, theirs, LATER)
    expected = {"id": 2, "display_name": "shop", "locked": "1", "updated_at": LATER}
    assert changed_rows(database, "instances", before) == [expected]
    assert set(state.CARRIED_OVER) == {"display_name", "display_description", "hostname", "locked", "locked_by"}


# system metadata


@pytest.fixture
def metadata(database: CellDatabase) -> CellDatabase:
    """Two keys of the server, one of them soft-deleted once, and the same of another server."""
    for server in (SERVER, OTHER):
        put(database, "instance_system_metadata", instance_uuid=server, key="a", value="old", deleted=5)
        put(database, "instance_system_metadata", instance_uuid=server, key="a", value="1")
        put(database, "instance_system_metadata", instance_uuid=server, key="b", value="2")
    return database


def test_live_system_metadata_is_read(metadata: CellDatabase) -> None:
    put(metadata, "instance_system_metadata", instance_uuid=OTHER, key="c", value="theirs")
    put(metadata, "instance_system_metadata", instance_uuid=SERVER, key="d", value="old", deleted=5)
    assert state.read_system_metadata(metadata, SERVER) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("a", "1", []),
        ("a", "3", [{"id": 2, "value": "3", "updated_at": LATER}]),
        ("c", "9", [{"id": 7, "instance_uuid": SERVER, "key": "c", "value": "9", "deleted": 0, "created_at": LATER}]),
    ],
)
def test_one_key_is_set(metadata: CellDatabase, key: str, value: str, changed: list[dict[str, Any]]) -> None:
    before = content(metadata)
    with metadata.engine.begin() as connection:
        state.set_system_metadata(connection, metadata, SERVER, key, value, LATER)
    found = changed_rows(metadata, "instance_system_metadata", before)
    assert [{name: each[name] for name in each if each[name] is not None} for each in found] == changed


def test_a_removed_key_leaves_no_row_of_that_server(metadata: CellDatabase) -> None:
    with metadata.engine.begin() as connection:
        state.set_system_metadata(connection, metadata, SERVER, "a", None, LATER)
    assert [row["id"] for row in rows(metadata, "instance_system_metadata")] == [3, 4, 5, 6]


def test_several_keys_are_removed(metadata: CellDatabase) -> None:
    with metadata.engine.begin() as connection:
        state.remove_system_metadata(connection, metadata, SERVER, {"a", "never there"})
    assert [row["id"] for row in rows(metadata, "instance_system_metadata")] == [3, 4, 5, 6]


# instance_extra


FLAVORS = {"cur": {"nova_object.data": {"f": "small"}}, "old": None, "new": None}


@pytest.fixture
def extra(database: CellDatabase) -> CellDatabase:
    """A live row, a deleted one before it and another server's."""
    put(database, "instance_extra", instance_uuid=SERVER, flavor='"deleted"', deleted=4)
    put(database, "instance_extra", instance_uuid=SERVER, flavor=json.dumps(FLAVORS))
    put(database, "instance_extra", instance_uuid=OTHER, flavor=json.dumps(FLAVORS))
    return database


def test_the_live_extra_is_read(extra: CellDatabase) -> None:
    assert state.read_extra(extra, SERVER)["id"] == 2
    assert state.read_extra(extra, "nobody") == {}


def test_the_extra_of_one_server_is_changed(extra: CellDatabase) -> None:
    before = content(extra)
    with extra.engine.begin() as connection:
        state.set_extra(connection, extra, SERVER, {"migration_context": "{}", "colour": "green"}, LATER)
    assert changed_rows(extra, "instance_extra", before) == [{"id": 2, "migration_context": "{}", "updated_at": LATER}]


def test_old_and_new_flavor_are_stashed_beside_the_current_one(extra: CellDatabase) -> None:
    before = content(extra)
    with extra.engine.begin() as connection:
        state.set_flavors(connection, extra, SERVER, old={"f": "small"}, new={"f": "large"}, now=LATER)
    (changed,) = changed_rows(extra, "instance_extra", before)
    assert json.loads(changed["flavor"]) == {
        "cur": {"nova_object.data": {"f": "small"}},
        "old": {"f": "small"},
        "new": {"f": "large"},
    }
    assert (changed["id"], changed["updated_at"]) == (2, LATER)


def test_of_two_live_extras_the_older_one_is_read(extra: CellDatabase) -> None:
    put(extra, "instance_extra", instance_uuid=SERVER, flavor="a")
    with extra.engine.begin() as connection:
        connection.execute(text("CREATE INDEX by_flavor ON instance_extra (instance_uuid, deleted, flavor)"))
    assert state.read_extra(extra, SERVER)["id"] == 2


def test_flavors_of_a_server_without_extra_are_not_stashed(extra: CellDatabase) -> None:
    with pytest.raises(NotFound), extra.engine.begin() as connection:
        state.set_flavors(connection, extra, "nobody", old=None, new=None, now=LATER)


def test_the_current_flavor(extra: CellDatabase) -> None:
    assert state.current_flavor(state.read_extra(extra, SERVER)) == {"nova_object.data": {"f": "small"}}
    with pytest.raises(NotFound):
        state.current_flavor({})


@pytest.mark.parametrize("stored", ["5", "null", "{}", "[]", '"nova_object.data"'])
def test_a_current_flavor_that_is_none_is_no_traceback(stored: str) -> None:
    with pytest.raises(CallFailed):
        state.current_flavor({"flavor": f'{{"cur": {stored}}}'})


# migrations


@pytest.fixture
def migrations(database: CellDatabase) -> CellDatabase:
    """A record, a deleted one with the same uuid, and another one."""
    put(database, "migrations", instance_uuid=SERVER, uuid="m1", status="error", deleted=3)
    put(database, "migrations", instance_uuid=SERVER, uuid="m1", status="pre-migrating")
    put(database, "migrations", instance_uuid=SERVER, uuid="m2", status="pre-migrating")
    return database


def test_a_live_migration_is_read(migrations: CellDatabase) -> None:
    row = state.read_migration(migrations, "m1")
    assert row is not None
    assert row["id"] == 2
    assert state.read_migration(migrations, "m9") is None


def test_a_migration_is_recorded_once(migrations: CellDatabase) -> None:
    before = content(migrations)
    state.insert_migration(migrations, {"uuid": "m1", "instance_uuid": SERVER, "status": "other"}, LATER)
    assert content(migrations) == before
    values = {"uuid": "m3", "instance_uuid": SERVER, "status": "pre-migrating", "colour": "green"}
    state.insert_migration(migrations, values, LATER)
    (row,) = changed_rows(migrations, "migrations", before)
    assert {name: value for name, value in row.items() if value is not None} == {
        "id": 4, "uuid": "m3", "instance_uuid": SERVER, "status": "pre-migrating", "deleted": 0, "created_at": LATER,
    }  # fmt: skip


def test_a_migration_is_swapped_like_a_server(migrations: CellDatabase) -> None:
    before = content(migrations)
    expected, values = {"status": "pre-migrating"}, {"status": "migrating"}
    state.swap_migration(migrations, "m1", expected, values, LATER, content=False)
    assert changed_rows(migrations, "migrations", before) == [{"id": 2, "status": "migrating", "updated_at": LATER}]
    state.swap_migration(migrations, "m1", expected, values, LATER)
    with pytest.raises(CallFailed, match="the migration was changed"):
        state.swap_migration(migrations, "m1", expected, values, LATER, content=False)
    with pytest.raises(NotFound, match="the migration"):
        state.swap_migration(migrations, "m9", expected, values, LATER)


def test_a_swap_of_a_migration_in_a_transaction_goes_with_it(migrations: CellDatabase) -> None:
    before = content(migrations)
    with rolled_back(migrations) as connection:
        state.swap_migration(migrations, "m1", {}, {"status": "migrating"}, LATER, connection)
    assert content(migrations) == before


# block device mappings and services


@pytest.fixture
def devices(database: CellDatabase) -> CellDatabase:
    """Two volumes, a local disk, a detached volume and another server's, the second volume's row first."""
    alike = {"instance_uuid": SERVER, "destination_type": "volume", "attachment_id": "a"}
    put(database, "block_device_mapping", id=9, **alike | {"volume_id": "v2", "uuid": "b2"})
    put(database, "block_device_mapping", id=2, **alike | {"volume_id": "v1", "uuid": "b1", "device_name": "/dev/vdb"})
    put(database, "block_device_mapping", id=3, **alike | {"destination_type": "local"})
    put(database, "block_device_mapping", id=4, **alike | {"deleted": 4})
    put(database, "block_device_mapping", id=5, **alike | {"instance_uuid": OTHER})
    return database


def test_live_volumes_are_listed_in_their_order(devices: CellDatabase) -> None:
    with devices.engine.begin() as connection:
        by_volume = "block_device_mapping (instance_uuid, deleted, destination_type, volume_id DESC)"
        connection.execute(text(f"CREATE INDEX by_volume ON {by_volume}"))
    found = state.volume_mappings(devices, SERVER)
    assert [row["volume_id"] for row in found] == ["v1", "v2"]
    assert found[0] == {
        "id": 2, "uuid": "b1", "volume_id": "v1", "attachment_id": "a", "device_name": "/dev/vdb",
        "delete_on_termination": None,
    }  # fmt: skip


def test_one_mapping_gets_another_attachment(devices: CellDatabase) -> None:
    before = content(devices)
    state.set_attachment(devices, 2, "a2", LATER)
    assert changed_rows(devices, "block_device_mapping", before) == [
        {"id": 2, "attachment_id": "a2", "updated_at": LATER}
    ]


def test_the_service_of_a_host(database: CellDatabase) -> None:
    for host, binary, deleted in (
        ("h1", "nova-compute", 8), ("h1", "nova-conductor", 0), ("h2", "nova-compute", 0), ("h1", "nova-compute", 0),
    ):  # fmt: skip
        put(database, "services", host=host, binary=binary, deleted=deleted)
    row = state.read_service(database, "h1")
    assert row is not None
    assert row["id"] == 4
    assert state.read_service(database, "h3") is None
    conductor = state.read_service(database, "h1", "nova-conductor")
    assert conductor is not None
    assert conductor["id"] == 2


# the API database

API_SCHEMA = """
CREATE TABLE cell_mappings (id INTEGER PRIMARY KEY, uuid TEXT);
CREATE TABLE instance_mappings (id INTEGER PRIMARY KEY, instance_uuid TEXT, updated_at DATETIME,
    cell_id INTEGER REFERENCES cell_mappings (id));
CREATE TABLE request_specs (id INTEGER PRIMARY KEY, instance_uuid TEXT, updated_at DATETIME, spec TEXT);
INSERT INTO instance_mappings VALUES (1, 'server-2', NULL, 1), (2, 'server-1', NULL, 1), (3, 'unscheduled', NULL, NULL);
INSERT INTO request_specs VALUES (1, 'server-2', NULL, '{"x": 2}'), (2, 'server-1', NULL, '{"nova_object.data": {"x": 1}}');
"""


@pytest.fixture
def api() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        for statement in filter(str.strip, API_SCHEMA.split(";")):
            connection.execute(text(statement))
    return engine


def api_rows(engine: Engine, name: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY id"))]  # noqa: S608


def test_the_pivot_changes_one_mapping_from_source_to_target(api: Engine) -> None:
    state.swap_mapping(api, SERVER, 1, 2, LATER)
    assert api_rows(api, "instance_mappings") == [
        (1, OTHER, None, 1), (2, SERVER, str(LATER), 2), (3, "unscheduled", None, None),
    ]  # fmt: skip
    assert state.mapped_cell(api, SERVER) == 2
    assert state.mapped_cell(api, OTHER) == 1


def test_the_pivot_done_before_writes_nothing(api: Engine) -> None:
    state.swap_mapping(api, SERVER, 1, 2, LATER)
    before = api_rows(api, "instance_mappings")
    state.swap_mapping(api, SERVER, 1, 2, NOW)
    assert api_rows(api, "instance_mappings") == before


@pytest.mark.parametrize(("value", "cell"), [("3", 3), ("NULL", None)])
def test_the_pivot_of_a_mapping_that_another_changed_in_between_raises_and_writes_nothing(
    api: Engine, value: str, cell: int | None
) -> None:
    change = "UPDATE instance_mappings SET cell_id = VALUE WHERE instance_uuid = 'server-1'".replace("VALUE", value)
    with another_writer(api, "UPDATE instance_mappings", change) as came, pytest.raises(CallFailed) as conflict:
        state.swap_mapping(api, SERVER, 1, 2, LATER)
    assert came
    assert conflict.value.kind == "conflict"
    assert api_rows(api, "instance_mappings")[:2] == [(1, OTHER, None, 1), (2, SERVER, None, cell)]


def test_a_pivot_that_happened_is_not_doubted_when_another_one_follows_at_once(api: Engine) -> None:
    theirs = "UPDATE instance_mappings SET cell_id = 1 WHERE instance_uuid = 'server-1'"
    with another_writer(api, "SELECT", theirs):
        state.swap_mapping(api, SERVER, 1, 2, LATER)


def test_the_pivot_of_a_server_without_mapping_raises(api: Engine) -> None:
    with pytest.raises(CallFailed):
        state.swap_mapping(api, "nobody", 1, 2, LATER)
    assert state.mapped_cell(api, "nobody") is None


def test_request_specs_are_read_and_written_for_one_server(api: Engine) -> None:
    assert state.read_request_spec(api, SERVER) == {"nova_object.data": {"x": 1}}
    state.write_request_spec(api, SERVER, {"x": 3}, LATER)
    assert api_rows(api, "request_specs") == [
        (1, OTHER, None, '{"x": 2}'), (2, SERVER, str(LATER), '{"x": 3}'),
    ]  # fmt: skip
    with pytest.raises(NotFound):
        state.read_request_spec(api, "nobody")
    with pytest.raises(NotFound):
        state.write_request_spec(api, "nobody", {}, LATER)


def test_a_request_spec_that_is_none_is_no_traceback(api: Engine) -> None:
    with api.begin() as connection:
        connection.execute(text("UPDATE request_specs SET spec = '{}'"))
    with pytest.raises(CallFailed):
        state.read_request_spec(api, SERVER)


def test_a_table_of_the_api_database_is_read_without_those_it_refers_to(api: Engine) -> None:
    table = state.api_table(api, "instance_mappings")
    assert set(table.c.keys()) == {"id", "instance_uuid", "updated_at", "cell_id"}
    assert set(table.metadata.tables) == {"instance_mappings"}
