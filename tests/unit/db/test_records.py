"""Rows of one server, copied and removed; compare-and-swap; the action history. On SQLite tables like nova's."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, Text, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from cellmove.db import history, records, state
from cellmove.db.tables import CellDatabase
from cellmove.errors import CallFailed, NotFound

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as nova's tables hold it
SERVER = "server-1"


def table(metadata: MetaData, name: str, *columns: str, key: str = "instance_uuid") -> None:
    Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column(key, String(36)),
        Column("deleted", Integer, default=0),
        Column("deleted_at", DateTime),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
        *(Column(column, DateTime if column.endswith("_time") else Text) for column in columns),
    )


def cell(name: str, *, extra_column: bool = True) -> CellDatabase:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata = MetaData()
    table(metadata, "instances", "host", "task_state", "vm_state", "display_name", "locked", key="uuid")
    instances = metadata.tables["instances"]
    instances.append_column(Column("hidden", Integer, default=0))
    instances.append_column(Column("compute_id", Integer))
    table(metadata, "instance_extra", "flavor", "migration_context", *(["keypairs"] if extra_column else []))
    table(metadata, "instance_info_caches", "network_info")
    table(metadata, "instance_metadata", "key", "value")
    table(metadata, "instance_system_metadata", "key", "value")
    table(
        metadata, "block_device_mapping", "uuid", "volume_id", "destination_type", "attachment_id", "connection_info",
        "device_name",
    )  # fmt: skip
    table(metadata, "virtual_interfaces", "address")
    Table(
        "tags",
        metadata,
        Column("resource_id", String(36), primary_key=True),
        Column("tag", String(80), primary_key=True),
    )
    table(metadata, "instance_actions", "action", "request_id", "user_id", "project_id", "start_time", "message")
    table(
        metadata, "instance_actions_events", "event", "host", "result", "start_time", "finish_time", "details",
        key="unused",
    )  # fmt: skip
    metadata.tables["instance_actions_events"].append_column(Column("action_id", Integer))
    table(metadata, "migrations", "uuid", "status", "dest_compute")
    metadata.tables["migrations"].append_column(Column("dest_compute_id", Integer))
    table(metadata, "instance_faults", "message")
    table(metadata, "instance_id_mappings", key="uuid")
    metadata.create_all(engine)
    return CellDatabase(name, engine, dict(metadata.tables))


def put(database: CellDatabase, name: str, **values: Any) -> int:
    with database.engine.begin() as connection:
        return int(connection.execute(insert(database[name]).values(values)).inserted_primary_key[0] or 0)


def rows(database: CellDatabase, name: str) -> list[dict[str, Any]]:
    with database.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(*database[name].c))]


@pytest.fixture
def source() -> CellDatabase:
    database = cell("cell1")
    put(database, "instances", uuid="another", host="h", vm_state="active", hidden=0)
    put(
        database,
        "instances",
        uuid=SERVER,
        host="h1",
        vm_state="active",
        task_state="resize_prep",
        hidden=0,
        compute_id=7,
    )
    flavors = {"cur": {"f": "small"}, "old": None, "new": None}
    put(
        database, "instance_extra", instance_uuid=SERVER, flavor=json.dumps(flavors), migration_context="{}",
        keypairs="the key pair",
    )  # fmt: skip
    put(database, "instance_info_caches", instance_uuid=SERVER, network_info="[]")
    put(database, "instance_system_metadata", instance_uuid=SERVER, key="a", value="1")
    put(database, "instance_system_metadata", instance_uuid=SERVER, key="gone", value="1", deleted=9)
    put(
        database, "block_device_mapping", instance_uuid=SERVER, uuid="bdm-1", volume_id="v1", destination_type="volume",
        attachment_id="a1", connection_info="{secret}",
    )  # fmt: skip
    put(database, "virtual_interfaces", instance_uuid=SERVER, address="fa:16:3e:00:00:01/port-1")
    with database.engine.begin() as connection:
        connection.execute(insert(database["tags"]).values(resource_id=SERVER, tag="blue"))
    for request in ("req-1", "req-2"):
        action = put(database, "instance_actions", instance_uuid=SERVER, action="x", request_id=request, created_at=NOW)
        put(database, "instance_actions_events", action_id=action, event=f"event of {request}", start_time=NOW)
    put(database, "migrations", instance_uuid=SERVER, uuid="m1", status="pre-migrating", dest_compute_id=5)
    put(database, "instance_faults", instance_uuid=SERVER, message="once")
    return database


def copy(source: CellDatabase, target: CellDatabase) -> dict[str, int]:
    return records.copy_server(source, target, SERVER, migration_uuid="m1", new_flavor={"f": "large"})


def test_everything_arrives_hidden_and_what_belongs_to_the_source_stays(source: CellDatabase) -> None:
    target = cell("cell2")
    put(target, "instances", uuid="other", host="h2", hidden=0)
    counts = copy(source, target)
    assert counts["instance_actions"] == 2
    copied = next(row for row in rows(target, "instances") if row["uuid"] == SERVER)
    assert (copied["hidden"], copied["compute_id"], copied["task_state"]) == (1, None, "resize_prep")
    (extra,) = rows(target, "instance_extra")
    assert json.loads(extra["flavor"])["new"] == {"f": "large"}
    assert (extra["migration_context"], extra["keypairs"]) == (None, "the key pair")
    (mapping,) = rows(target, "block_device_mapping")
    assert (mapping["uuid"], mapping["attachment_id"], mapping["connection_info"]) == ("bdm-1", None, None)
    assert [row["address"] for row in rows(target, "virtual_interfaces")] == ["fa:16:3e:00:00:01/port-1"]
    assert [row["key"] for row in rows(target, "instance_system_metadata")] == ["a"]
    assert rows(target, "migrations")[0]["dest_compute_id"] is None
    assert len(rows(target, "instance_faults")) == len(rows(target, "tags")) == 1


def test_events_stay_with_their_actions(source: CellDatabase) -> None:
    target = cell("cell2")
    put(target, "instance_actions", instance_uuid="other", action="y", request_id="r")
    copy(source, target)
    actions = {row["id"]: row["request_id"] for row in rows(target, "instance_actions")}
    events = {row["event"]: actions[row["action_id"]] for row in rows(target, "instance_actions_events")}
    assert events == {"event of req-1": "req-1", "event of req-2": "req-2"}


def test_copying_again_changes_nothing(source: CellDatabase) -> None:
    target = cell("cell2")
    copy(source, target)
    before = {name: rows(target, name) for name in target.tables}
    copy(source, target)
    assert {name: rows(target, name) for name in target.tables} == before


def test_data_without_a_column_stops_the_copy_and_leaves_nothing(source: CellDatabase) -> None:
    target = cell("cell2", extra_column=False)
    with pytest.raises(CallFailed, match="keypairs"):
        copy(source, target)
    assert all(rows(target, name) == [] for name in target.tables)


def test_only_a_hidden_copy_is_deleted(source: CellDatabase) -> None:
    with pytest.raises(CallFailed, match="visible"):
        records.delete_server(source, SERVER)
    assert len(rows(source, "instances")) == 2
    target = cell("cell2")
    copy(source, target)
    put(target, "block_device_mapping", instance_uuid=SERVER, uuid="old", deleted=3)
    put(target, "instances", uuid="other", host="h2", hidden=0)
    assert records.delete_server(target, SERVER)
    assert [row["uuid"] for row in rows(target, "instances")] == ["other"]
    assert all(rows(target, name) == [] for name in target.tables if name != "instances")
    assert not records.delete_server(target, SERVER)


def test_labels_become_what_they_are_now(source: CellDatabase) -> None:
    target = cell("cell2")
    copy(source, target)
    put(source, "instance_metadata", instance_uuid=SERVER, key="colour", value="green")
    with target.engine.begin() as connection:
        records.copy_labels(source, target, SERVER, connection)
    assert [(row["key"], row["value"]) for row in rows(target, "instance_metadata")] == [("colour", "green")]
    assert [row["tag"] for row in rows(target, "tags")] == ["blue"]


def test_a_swap_is_content_with_its_own_work_and_with_nobody_elses(source: CellDatabase) -> None:
    expected, values = {"task_state": "resize_prep"}, {"task_state": "resize_migrating"}
    state.swap_instance(source, SERVER, expected, values, NOW)
    state.swap_instance(source, SERVER, expected, values, NOW)
    with pytest.raises(CallFailed) as strict:
        state.swap_instance(source, SERVER, expected, values, NOW, content=False)
    assert strict.value.kind == "conflict"
    with pytest.raises(CallFailed) as conflict:
        state.swap_instance(source, SERVER, {"task_state": None}, {"task_state": "deleting"}, NOW)
    assert "resize_migrating" in str(conflict.value)
    with pytest.raises(NotFound):
        state.swap_instance(source, "nobody", {}, {"hidden": 1}, NOW)
    others = [row["task_state"] for row in rows(source, "instances") if row["uuid"] != SERVER]
    assert others == [None]


def test_a_condition_may_be_null_or_one_of_several(source: CellDatabase) -> None:
    state.swap_instance(source, SERVER, {"task_state": (None, "resize_prep")}, {"task_state": None}, NOW)
    state.swap_instance(source, SERVER, {"task_state": (None, "resize_prep")}, {"task_state": "x"}, NOW)
    assert state.read_instance(source, SERVER)["task_state"] == "x"


def test_removed_system_metadata_is_gone_for_good(source: CellDatabase) -> None:
    with source.engine.begin() as connection:
        state.set_system_metadata(connection, source, SERVER, "a", "2", NOW)
        state.set_system_metadata(connection, source, SERVER, "b", "3", NOW)
    assert state.read_system_metadata(source, SERVER) == {"a": "2", "b": "3"}
    with source.engine.begin() as connection:
        state.set_system_metadata(connection, source, SERVER, "a", None, NOW)
    assert [row["key"] for row in rows(source, "instance_system_metadata")] == ["gone", "b"]


def test_an_event_tells_how_the_newest_call_stands(source: CellDatabase) -> None:
    def stands() -> str:
        return history.event_state(source, SERVER, "req-1", "call")

    later = NOW + datetime.timedelta(seconds=5)
    assert stands() == ""
    history.start_event(source, SERVER, request_id="req-1", event="call", host="h", now=NOW)
    assert stands() == "running"
    history.finish_event(source, SERVER, request_id="req-1", event="call", now=later, error="no")
    assert stands() == history.ERROR
    assert next(row["message"] for row in rows(source, "instance_actions") if row["request_id"] == "req-1") == "Error"
    # nova inserts a second row for a second call and ends it in the first one.
    action = next(row["id"] for row in rows(source, "instance_actions") if row["request_id"] == "req-1")
    put(
        source,
        "instance_actions_events",
        action_id=action,
        event="call",
        start_time=later + datetime.timedelta(seconds=9),
    )
    assert stands() == "running"


def test_an_action_is_recorded_once(source: CellDatabase) -> None:
    arguments = {"action": "resize", "request_id": "req-9", "user_id": "u", "project_id": "p", "now": NOW}
    with source.engine.begin() as connection:
        first = history.ensure_action(connection, source, SERVER, **arguments)
        assert history.ensure_action(connection, source, SERVER, **arguments) == first
        assert history.has_action(connection, source, SERVER, "req-9")
