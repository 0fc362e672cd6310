"""Block device mappings that came or went while a server was resized."""

from __future__ import annotations

import pytest

from cellmove.core.errors import CallFailed
from cellmove.db import mappings
from cellmove.db.tables import CellDatabase
from tests.support.nova_tables import LATER, OTHER, SERVER, content, make_cell, put, rows


@pytest.fixture
def database() -> CellDatabase:
    """A volume of the server, the same once detached, and one of another server."""
    cell = make_cell("cell1")
    volume = {"instance_uuid": SERVER, "destination_type": "volume", "attachment_id": "a1", "connection_info": "{c}"}
    put(cell, "block_device_mapping", uuid="b1", deleted=1, **volume | {"volume_id": "detached"})
    put(cell, "block_device_mapping", uuid="b1", **volume | {"volume_id": "v1"})
    put(cell, "block_device_mapping", uuid="b2", **volume | {"instance_uuid": OTHER, "volume_id": "v2"})
    return cell


def test_one_mapping_is_copied_without_its_attachment(database: CellDatabase) -> None:
    target = make_cell("cell2")
    put(target, "block_device_mapping", id=2, uuid="another")
    mappings.copy_mapping(database, target, "b1")
    _another, copied = rows(target, "block_device_mapping")
    assert (copied["uuid"], copied["volume_id"], copied["attachment_id"], copied["connection_info"]) == (
        "b1", "v1", None, "{c}",
    )  # fmt: skip
    assert (copied["instance_uuid"], copied["deleted"]) == (SERVER, 0)


def test_a_column_that_the_target_lacks_is_left_out(database: CellDatabase) -> None:
    target = make_cell("cell2")
    table = target["block_device_mapping"]
    table._columns.remove(table.c.device_name)  # type: ignore[attr-defined]
    mappings.copy_mapping(database, target, "b1")
    assert len(rows(target, "block_device_mapping")) == 1


def test_a_mapping_that_was_deleted_in_between_is_a_conflict(database: CellDatabase) -> None:
    target = make_cell("cell2")
    with pytest.raises(CallFailed) as conflict:
        mappings.copy_mapping(database, target, "b9")
    assert conflict.value.kind == "conflict"
    assert rows(target, "block_device_mapping") == []


def test_one_mapping_is_deleted_as_nova_does(database: CellDatabase) -> None:
    before = content(database)["block_device_mapping"]
    for number in (1, 2):
        mappings.delete_mapping(database, number, LATER)
    after = rows(database, "block_device_mapping")
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] == before[1] | {"deleted": 2, "deleted_at": LATER}


def test_whether_a_volume_goes_with_its_server_is_set_for_one(database: CellDatabase) -> None:
    before = content(database)["block_device_mapping"]
    for number in (1, 2):
        mappings.set_delete_on_termination(database, number, 1, LATER)
    after = rows(database, "block_device_mapping")
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] == before[1] | {"delete_on_termination": "1", "updated_at": LATER}
