"""Another writer changes a row between an action's intent and its effect: the action refuses, and the change stands.

In one process (tests/support/sandbox/harness.py). What is compared before a step has begun is preflight's matter.
"""

from __future__ import annotations

import functools

import pytest
from sqlalchemy import text

from tests.proof.cases import MAIN_SHAPE
from tests.support.sandbox.fixtures import Fixtures

SOURCE, TARGET = "cell1", "cell2"
INSTANCE, MIGRATION = "instances", "migrations"

CONFLICTS = [
    ("prep-dest", "take_server", SOURCE, INSTANCE, "task_state", "rebuilding"),
    ("prep-dest", "take_server", SOURCE, INSTANCE, "task_state", "resize_prep"),
    ("prep-dest", "take_server", SOURCE, INSTANCE, "vm_state", "error"),
    ("prep-dest", "take_server", SOURCE, INSTANCE, "host", "elsewhere"),
    ("prep-dest", "take_server", SOURCE, INSTANCE, "hidden", 1),
    ("prep-dest", "note_target", SOURCE, MIGRATION, "status", "error"),
    ("prep-dest", "mirror", SOURCE, MIGRATION, "status", "error"),
    ("prep-source", "stash", SOURCE, INSTANCE, "task_state", "deleting"),
    ("finish", "hand_over", TARGET, INSTANCE, "task_state", "deleting"),
    ("finish", "show_target", TARGET, INSTANCE, "task_state", "deleting"),
    ("finish", "hide_source", SOURCE, INSTANCE, "task_state", "deleting"),
    ("confirm", "begin_confirm", TARGET, INSTANCE, "task_state", "deleting"),
    ("confirm", "begin_confirm", TARGET, INSTANCE, "vm_state", "active"),
    ("confirm", "begin_confirm", TARGET, MIGRATION, "status", "confirming"),
    ("confirm", "begin_confirm", TARGET, MIGRATION, "status", "error"),
    ("revert", "begin_revert", TARGET, INSTANCE, "task_state", "deleting"),
    ("revert", "begin_revert", TARGET, INSTANCE, "task_state", "resize_reverting"),
    ("revert", "begin_revert", TARGET, INSTANCE, "vm_state", "active"),
    ("revert", "begin_revert", TARGET, MIGRATION, "status", "reverting"),
    ("revert", "begin_revert", TARGET, MIGRATION, "status", "error"),
    ("revert", "prepare_source", SOURCE, INSTANCE, "task_state", "deleting"),
    ("revert", "prepare_source", SOURCE, MIGRATION, "status", "error"),
]
"""Step, action, the cell whose row another writer changes, the row, its column and the new value."""


@functools.cache
def fixtures() -> Fixtures:
    """One for all cases."""
    return Fixtures()


@pytest.mark.parametrize(("step", "action", "cell", "table", "column", "value"), CONFLICTS)
def test_a_row_that_another_changed_is_left_as_it_is(
    step: str, action: str, cell: str, table: str, column: str, value: object
) -> None:
    checkpoint = fixtures().set(MAIN_SHAPE, step)
    harness, server = fixtures().harness, checkpoint.scene.server
    key = "uuid" if table == INSTANCE else "instance_uuid"
    changed = {}

    def on_journal(point: str, name: str) -> None:
        if (point, name) == ("after-intent", action) and not changed:
            with harness.cloud.engines[cell].begin() as connection:
                query = f"UPDATE {table} SET {column} = :value WHERE {key} = :server AND deleted = 0"  # noqa: S608
                assert connection.execute(text(query), {"value": value, "server": server}).rowcount == 1
            changed.update(harness.cloud.row(cell, table, **{key: server}) or {})

    harness.taps.on_journal = on_journal
    outcome = harness.run(step, checkpoint.move)
    assert changed, f"never came to {action}"
    assert outcome.code in (1, 3, 7), outcome.text
    assert "changed by another process" in outcome.message, outcome.text
    row = harness.cloud.row(cell, table, **{key: server})
    assert row == changed
