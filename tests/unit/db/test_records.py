"""Rows of one server, copied and removed; compare-and-swap. On SQLite tables like nova's."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, text

from cellmove.core.errors import CallFailed, NotFound
from cellmove.db import records, state
from cellmove.db.tables import CellDatabase
from tests.support.nova_tables import NOW, OTHER, SERVER, another_writer, content, make_cell, put, rows


@pytest.fixture
def source() -> CellDatabase:
    database = make_cell("cell1")
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
    target = make_cell("cell2")
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
    target = make_cell("cell2")
    put(target, "instance_actions", instance_uuid="other", action="y", request_id="r")
    copy(source, target)
    actions = {row["id"]: row["request_id"] for row in rows(target, "instance_actions")}
    events = {row["event"]: actions[row["action_id"]] for row in rows(target, "instance_actions_events")}
    assert events == {"event of req-1": "req-1", "event of req-2": "req-2"}


def test_events_stay_with_their_actions_while_another_server_acts(source: CellDatabase) -> None:
    target = make_cell("cell2")
    with target.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER theirs AFTER INSERT ON instance_actions WHEN NEW.instance_uuid <> 'other' BEGIN "
                "INSERT INTO instance_actions (instance_uuid, action, request_id, deleted) VALUES ('other', 'y', 'r', 0); END"
            )
        )
    copy(source, target)
    actions = {row["id"]: row["request_id"] for row in rows(target, "instance_actions")}
    events = {row["event"]: actions[row["action_id"]] for row in rows(target, "instance_actions_events")}
    assert events == {"event of req-1": "req-1", "event of req-2": "req-2"}


def test_a_server_without_a_history_is_copied_without_one(source: CellDatabase) -> None:
    with source.engine.begin() as connection:
        connection.execute(source["instance_actions_events"].delete())
        connection.execute(source["instance_actions"].delete())
    target = make_cell("cell2")
    assert "instance_actions" not in copy(source, target)
    assert rows(target, "instance_actions") == []


def test_copying_again_changes_nothing(source: CellDatabase) -> None:
    target = make_cell("cell2")
    copy(source, target)
    before = {name: rows(target, name) for name in target.tables}
    copy(source, target)
    assert {name: rows(target, name) for name in target.tables} == before


def test_data_without_a_column_stops_the_copy_and_leaves_nothing(source: CellDatabase) -> None:
    target = make_cell("cell2", extra_column=False)
    with pytest.raises(CallFailed, match="keypairs"):
        copy(source, target)
    assert all(rows(target, name) == [] for name in target.tables)


def test_only_a_hidden_copy_is_deleted(source: CellDatabase) -> None:
    with pytest.raises(CallFailed, match="visible"):
        records.delete_server(source, SERVER)
    assert len(rows(source, "instances")) == 2
    target = make_cell("cell2")
    copy(source, target)
    put(target, "block_device_mapping", instance_uuid=SERVER, uuid="old", deleted=3)
    put(target, "instances", uuid="other", host="h2", hidden=0)
    assert records.delete_server(target, SERVER)
    assert [row["uuid"] for row in rows(target, "instances")] == ["other"]
    assert all(rows(target, name) == [] for name in target.tables if name != "instances")
    assert not records.delete_server(target, SERVER)


def reflected(database: CellDatabase) -> dict[str, Table]:
    """The tables as they are in the database now."""
    metadata = MetaData()
    metadata.reflect(database.engine)
    return dict(metadata.tables)


SERVER_COLUMN = {
    "instance_extra": "instance_uuid", "instance_info_caches": "instance_uuid", "instance_metadata": "instance_uuid",
    "instance_system_metadata": "instance_uuid", "block_device_mapping": "instance_uuid",
    "virtual_interfaces": "instance_uuid", "instance_actions": "instance_uuid", "migrations": "instance_uuid",
    "instance_faults": "instance_uuid", "instance_id_mappings": "uuid",
}  # fmt: skip
"""Tables whose rows are copied and deleted with a server, beside its row, its tags and its events."""
NOT_COPIED = {
    "console_auth_tokens": "instance_uuid",
    "consoles": "instance_uuid",
    "security_group_instance_association": "instance_uuid",
}
"""Tables whose rows are only deleted."""


def fill(database: CellDatabase, server: str, *, hidden: int = 0, **more: Any) -> None:
    """One row of a server in every table that has some, and a soft-deleted one."""
    for name, key in {**SERVER_COLUMN, **NOT_COPIED}.items():
        for deleted in (0, 6):
            put(database, name, deleted=deleted, **{key: server}, **more.get(name, {}))
    put(database, "instances", uuid=server, hidden=hidden)
    with database.engine.begin() as connection:
        connection.execute(insert(database["tags"]).values(resource_id=server, tag="blue"))
    for row in rows(database, "instance_actions"):
        if row["instance_uuid"] == server:
            put(database, "instance_actions_events", action_id=row["id"])


def test_a_delete_leaves_nothing_of_the_server_and_all_of_the_others() -> None:
    target, alone = make_cell("cell2"), make_cell("cell2")
    for database in (target, alone):
        fill(database, OTHER, hidden=1)
    fill(target, SERVER, hidden=1)
    assert records.delete_server(target, SERVER)
    assert content(target) == content(alone)


def test_a_table_that_an_older_release_lacks_is_not_deleted_from() -> None:
    target = make_cell("cell2")
    fill(target, SERVER, hidden=1)
    del target.tables["console_auth_tokens"]
    target.tables["consoles"] = Table("consoles", MetaData(), Column("id", Integer, primary_key=True))
    assert records.delete_server(target, SERVER)
    assert rows(target, "instances") == []


@pytest.mark.parametrize("hidden", [0, None])
def test_a_visible_row_is_not_deleted(hidden: int | None) -> None:
    target = make_cell("cell2")
    fill(target, SERVER)
    with target.engine.begin() as connection:
        connection.execute(target["instances"].update().values(hidden=hidden))
    before = content(target)
    with pytest.raises(CallFailed) as refused:
        records.delete_server(target, SERVER)
    assert refused.value.kind == "conflict"
    assert content(target) == before


def test_a_row_that_another_shows_in_between_is_not_deleted() -> None:
    target = make_cell("cell2")
    fill(target, SERVER, hidden=1)
    before = content(target)
    theirs = "UPDATE instances SET hidden = 0 WHERE uuid = 'server-1'"
    with another_writer(target.engine, "DELETE FROM instances", theirs) as came, pytest.raises(CallFailed) as refused:
        records.delete_server(target, SERVER)
    assert came
    assert refused.value.kind == "conflict"
    assert content(target) == before


def test_only_live_rows_of_the_server_are_copied() -> None:
    source, target = make_cell("cell1"), make_cell("cell2")
    flavor = {"instance_extra": {"flavor": '{"cur": {}}'}, "migrations": {"uuid": "m1"}}
    fill(source, OTHER, **flavor)
    fill(source, SERVER, **flavor)
    copy(source, target)
    for name, key in {**SERVER_COLUMN, "instances": "uuid", "tags": "resource_id"}.items():
        (row,) = rows(target, name)
        assert (row[key], row.get("deleted", 0)) == (SERVER, 0), name
    assert len(rows(target, "instance_actions_events")) == 1
    assert [name for name in NOT_COPIED if rows(target, name)] == []


def test_deleted_events_are_not_copied_and_the_others_keep_their_order(source: CellDatabase) -> None:
    action = rows(source, "instance_actions")[0]["id"]
    put(source, "instance_actions_events", action_id=action, event="a deleted one", deleted=3)
    put(source, "instance_actions_events", action_id=action, event="an event")
    with source.engine.begin() as connection:
        for name, columns in (
            ("instance_actions_events", "action_id, event"), ("instance_actions", "instance_uuid, deleted, request_id DESC"),
        ):  # fmt: skip
            connection.execute(text(f"CREATE INDEX {name}_by ON {name} ({columns})"))
    target = make_cell("cell2")
    copy(source, target)
    events = [row["event"] for row in rows(target, "instance_actions_events")]
    assert events == ["event of req-1", "event of req-2", "an event"]
    assert [row["request_id"] for row in rows(target, "instance_actions")] == ["req-1", "req-2"]


def test_devices_that_were_taken_off() -> None:
    database = make_cell("cell1")
    for server, uuid, deleted in ((SERVER, "b1", 0), (SERVER, "b2", 2), (SERVER, None, 3), (OTHER, "b4", 4)):
        put(database, "block_device_mapping", instance_uuid=server, uuid=uuid, deleted=deleted)
    assert records.removed_devices(database, SERVER) == ["b2"]


def test_a_server_that_is_not_there_is_not_copied(source: CellDatabase) -> None:
    target = make_cell("cell2")
    with pytest.raises(CallFailed) as missing:
        records.copy_server(source, target, "nobody", migration_uuid="m1", new_flavor={})
    assert missing.value.kind == "404"


@pytest.mark.parametrize(("server", "uuid"), [(SERVER, "m2"), (OTHER, "m1")])
def test_a_migration_of_another_move_or_server_does_not_pass_for_a_copy(
    source: CellDatabase, server: str, uuid: str
) -> None:
    target = make_cell("cell2")
    put(target, "migrations", instance_uuid=server, uuid=uuid)
    copy(source, target)
    assert [row["uuid"] for row in rows(target, "instances")] == [SERVER]


def test_a_local_disk_keeps_what_its_mapping_says_and_another_table_has_no_attachment(source: CellDatabase) -> None:
    put(
        source, "block_device_mapping", instance_uuid=SERVER, uuid="bdm-2", destination_type="local",
        connection_info="its own",
    )  # fmt: skip
    target = make_cell("cell2")
    copy(source, target)
    found = {row["uuid"]: row["connection_info"] for row in rows(target, "block_device_mapping")}
    assert found == {"bdm-1": None, "bdm-2": "its own"}


@pytest.mark.parametrize("value", [None, "", 0])
def test_a_column_that_the_target_lacks_is_left_out_when_it_holds_nothing(source: CellDatabase, value: object) -> None:
    with source.engine.begin() as connection:
        connection.execute(source["instance_extra"].update().values(keypairs=value))
        if value == 0:
            connection.execute(text("ALTER TABLE instance_extra ADD COLUMN number INTEGER DEFAULT 0"))
            connection.execute(source["instance_extra"].update().values(keypairs=None))
    if value == 0:
        source = dataclasses.replace(source, tables=reflected(source))
    target = make_cell("cell2", extra_column=False)
    copy(source, target)
    (row,) = rows(target, "instance_extra")
    assert "keypairs" not in row


def test_data_that_has_no_column_is_a_difference_of_schemas(source: CellDatabase) -> None:
    with pytest.raises(CallFailed) as lost:
        copy(source, make_cell("cell2", extra_column=False))
    assert lost.value.kind == "schema"


def test_the_ec2_id_is_kept_where_it_is_free(source: CellDatabase) -> None:
    put(source, "instance_id_mappings", id=41, uuid=SERVER)
    target, crowded, old = make_cell("cell2"), make_cell("cell2"), make_cell("cell2")
    put(target, "instance_id_mappings", id=10, uuid=OTHER)
    copy(source, target)
    assert [(row["id"], row["uuid"]) for row in rows(target, "instance_id_mappings")] == [(10, OTHER), (41, SERVER)]
    put(crowded, "instance_id_mappings", id=41, uuid=OTHER)
    copy(source, crowded)
    assert [row["uuid"] for row in rows(crowded, "instance_id_mappings")] == [OTHER, SERVER]
    del old.tables["instance_id_mappings"]
    copy(source, old)
    assert len(rows(old, "instances")) == 1


def test_labels_become_what_they_are_now(source: CellDatabase) -> None:
    target = make_cell("cell2")
    copy(source, target)
    put(source, "instance_metadata", instance_uuid=SERVER, key="colour", value="green")
    put(source, "instance_metadata", instance_uuid=OTHER, key="colour", value="red")
    put(target, "instance_metadata", instance_uuid=SERVER, key="size", value="old")
    put(target, "instance_metadata", instance_uuid=OTHER, key="colour", value="blue")
    with target.engine.begin() as connection:
        connection.execute(insert(target["tags"]).values(resource_id=OTHER, tag="red"))
        connection.execute(insert(target["tags"]).values(resource_id=SERVER, tag="of old"))
        records.copy_labels(source, target, SERVER, connection)
    labels = {(row["instance_uuid"], row["key"], row["value"]) for row in rows(target, "instance_metadata")}
    assert labels == {(SERVER, "colour", "green"), (OTHER, "colour", "blue")}
    assert {(row["resource_id"], row["tag"]) for row in rows(target, "tags")} == {(SERVER, "blue"), (OTHER, "red")}


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
