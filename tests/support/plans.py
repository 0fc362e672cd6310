"""Plans of moves for tests that need one: everything is there, and a test names what matters to it."""

from __future__ import annotations

from typing import Any

from cellmove.core.move_plan import MovePlan


def a_plan(**changes: Any) -> MovePlan:
    """The plan of a migration from cell1 to cell2."""
    values: dict[str, Any] = {
        "server_id": "uuid-1", "server_name": "web-1", "project_id": "project", "user_id": "user", "kind": "migration",
        "source_cell": "cell1", "source_cell_uuid": "cell-uuid-1", "source_host": "c1-host1", "source_node": "c1-node1",
        "wanted_host": "", "target_cells": ("cell2",), "target_cell_uuids": ("cell-uuid-2",), "flavor_name": "m1.tiny",
        "new_flavor_id": "1", "old_instance_type_id": 1, "new_instance_type_id": 1, "volume_backed": False,
        "vm_state": "active", "active": True, "image_ref": "image-1", "request_id": "req-1",
    }  # fmt: skip
    return MovePlan(**values | changes)
