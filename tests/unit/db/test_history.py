"""The action history: what is recorded of calls, and copied from one cell to the other."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from sqlalchemy import text

from cellmove.db import history
from cellmove.db.tables import CellDatabase
from tests.support.nova_tables import LATER, NOW, OTHER, SERVER, content, make_cell, put, rolled_back, rows

MUCH_LATER = LATER + datetime.timedelta(hours=1)


@pytest.fixture
def database() -> CellDatabase:
    """Two actions of the server with the same request (the second one is newer), one deleted, one of another server."""
    cell = make_cell("cell1")
    alike = {"instance_uuid": SERVER, "action": "resize", "request_id": "req-1", "created_at": NOW}
    put(cell, "instance_actions", **alike | {"created_at": LATER, "action": "resize"})
    put(cell, "instance_actions", **alike | {"created_at": NOW, "action": "confirm"})
    put(cell, "instance_actions", **alike | {"created_at": MUCH_LATER, "deleted": 3})
    put(cell, "instance_actions", **alike | {"created_at": MUCH_LATER, "instance_uuid": OTHER})
    put(cell, "instance_actions", **alike | {"created_at": MUCH_LATER, "request_id": "req-2"})
    return cell


def only_set(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that have a value."""
    return {name: value for name, value in row.items() if value is not None}


def start(database: CellDatabase, event: str = "call", *, request: str = "req-1", now: Any = LATER) -> None:
    history.start_event(database, SERVER, request_id=request, event=event, host="h1", now=now)


def finish(database: CellDatabase, event: str = "call", *, error: str = "", now: Any = MUCH_LATER) -> None:
    history.finish_event(database, SERVER, request_id="req-1", event=event, now=now, error=error)


def test_an_action_is_recorded_once_as_nova_writes_it() -> None:
    cell = make_cell("cell1")
    arguments: dict[str, Any] = {
        "action": "resize",
        "request_id": "req-9",
        "user_id": "u",
        "project_id": "p",
        "now": NOW,
    }
    with cell.engine.begin() as connection:
        assert not history.has_action(connection, cell, SERVER, "req-9")
        first = history.ensure_action(connection, cell, SERVER, **arguments)
        assert history.ensure_action(connection, cell, SERVER, **arguments | {"now": LATER}) == first
        assert history.has_action(connection, cell, SERVER, "req-9")
        assert not history.has_action(connection, cell, OTHER, "req-9")
    assert [only_set(row) for row in rows(cell, "instance_actions")] == [
        {
            "id": first, "instance_uuid": SERVER, "action": "resize", "request_id": "req-9", "user_id": "u",
            "project_id": "p", "start_time": NOW, "created_at": NOW, "updated_at": NOW, "deleted": 0,
        }
    ]  # fmt: skip


def test_whether_an_action_is_recorded(database: CellDatabase) -> None:
    assert history.is_recorded(database, SERVER, "req-1")
    assert not history.is_recorded(database, SERVER, "req-9")


def test_an_event_is_recorded_once_with_the_newest_action(database: CellDatabase) -> None:
    start(database)
    before = content(database)
    start(database, now=MUCH_LATER)
    assert content(database) == before
    start(database, "another call")
    first, second = rows(database, "instance_actions_events")
    assert only_set(first) == {
        "id": 1, "action_id": 1, "event": "call", "host": "h1", "start_time": LATER, "created_at": LATER, "deleted": 0,
    }  # fmt: skip
    assert (second["event"], second["action_id"]) == ("another call", 1)
    assert [row["id"] for row in rows(database, "instance_actions") if row["updated_at"] == LATER] == [1]


def test_the_same_event_of_another_action_is_another_one(database: CellDatabase) -> None:
    start(database)
    start(database, request="req-2")
    assert [row["action_id"] for row in rows(database, "instance_actions_events")] == [1, 5]


def test_without_its_action_no_event_is_written(database: CellDatabase) -> None:
    before = content(database)
    start(database, request="req-9")
    history.finish_event(database, SERVER, request_id="req-9", event="call", now=LATER)
    history.finish_event(database, SERVER, request_id="req-1", event="never began", now=LATER)
    assert rows(database, "instance_actions_events") == before["instance_actions_events"]
    assert history.event_state(database, SERVER, "req-9", "call") == ""
    assert history.event_begun(database, SERVER, "req-9", "call") is None


def test_an_end_is_written_into_its_own_event_and_action(database: CellDatabase) -> None:
    start(database)
    start(database, "another call")
    start(database, request="req-2")
    before = content(database)
    finish(database)
    (event,) = [row for row in rows(database, "instance_actions_events") if row["finish_time"]]
    assert (event["id"], event["result"], event["finish_time"], event["updated_at"], event["details"]) == (
        1, "Success", MUCH_LATER, MUCH_LATER, None,
    )  # fmt: skip
    actions = rows(database, "instance_actions")
    assert [row["id"] for row in actions if row["updated_at"] == MUCH_LATER] == [1]
    assert [row["message"] for row in actions] == [row["message"] for row in before["instance_actions"]]
    finish(database, now=LATER, error="too late")
    assert event in rows(database, "instance_actions_events")


def test_an_error_is_written_in_full_as_far_as_it_fits(database: CellDatabase) -> None:
    start(database)
    finish(database, error="x" * 300)
    (event,) = rows(database, "instance_actions_events")
    assert (event["result"], event["details"]) == ("Error", "x" * 255)
    assert [row["id"] for row in rows(database, "instance_actions") if row["message"] == "Error"] == [1]


def test_an_older_schema_has_no_details() -> None:
    cell = make_cell("cell1")
    put(cell, "instance_actions", instance_uuid=SERVER, request_id="req-1")
    events = cell["instance_actions_events"]
    events._columns.remove(events.c.details)  # type: ignore[attr-defined]
    start(cell)
    finish(cell, error="no")
    (event,) = rows(cell, "instance_actions_events")
    assert event["result"] == "Error"


def test_an_event_in_a_transaction_goes_with_it(database: CellDatabase) -> None:
    before = content(database)
    with rolled_back(database) as connection:
        own: dict[str, Any] = {"request_id": "req-1", "event": "call", "now": LATER, "connection": connection}
        history.start_event(database, SERVER, host="h1", **own)
        history.finish_event(database, SERVER, **own)
    assert content(database) == before


# how an event stands


def events(database: CellDatabase, *times: tuple[Any, Any, str]) -> str:
    """What is said of events that began and ended at these times."""
    for began, ended, result in times:
        put(
            database, "instance_actions_events", action_id=1, event="call", start_time=began, finish_time=ended,
            result=result,
        )  # fmt: skip
    put(database, "instance_actions_events", action_id=5, event="call", start_time=MUCH_LATER)
    put(database, "instance_actions_events", action_id=1, event="other", start_time=MUCH_LATER)
    return history.event_state(database, SERVER, "req-1", "call")


@pytest.mark.parametrize(
    ("times", "state"),
    [
        ([], ""),
        ([(NOW, None, "")], "running"),
        ([(NOW, LATER, "Success")], "Success"),
        ([(LATER, NOW, "Error")], "Error"),
        ([(NOW, LATER, "Error"), (NOW, None, "")], "Error"),
        ([(NOW, LATER, "Error"), (LATER, None, "")], "Error"),
        ([(NOW, LATER, "Error"), (MUCH_LATER, None, "")], "running"),
        ([(NOW, None, ""), (LATER, None, "")], "running"),
        ([(NOW, MUCH_LATER, "Success"), (NOW, LATER, "Error")], "Success"),
        ([(NOW, LATER, "Error"), (LATER, MUCH_LATER, "Success")], "Success"),
        ([(NOW, LATER, "Success"), (LATER, MUCH_LATER, "Error")], "Error"),
    ],
)
def test_how_the_newest_call_stands(database: CellDatabase, times: list[tuple[Any, Any, str]], state: str) -> None:
    """nova inserts a row for a second call and ends it in the first row. A clock may even go backwards."""
    assert events(database, *times) == state


def test_when_an_event_was_last_begun(database: CellDatabase) -> None:
    events(database, (NOW, None, ""), (LATER, None, ""))
    assert history.event_begun(database, SERVER, "req-1", "call") == LATER
    assert history.event_begun(database, SERVER, "req-1", "never") is None


def test_the_newest_live_fault_of_the_server() -> None:
    cell = make_cell("cell1")
    assert history.last_fault(cell, SERVER) == ""
    for server, message, deleted in ((SERVER, "old", 0), (SERVER, "new", 0), (SERVER, "gone", 3), (OTHER, "theirs", 0)):
        put(cell, "instance_faults", instance_uuid=server, message=message, deleted=deleted)
    assert history.last_fault(cell, SERVER) == "new"


# copying


@pytest.fixture
def target(database: CellDatabase) -> CellDatabase:
    """The other cell: it has one of the actions, with one of its events."""
    cell = make_cell("cell2")
    put(cell, "instance_actions", id=50, instance_uuid=OTHER, action="resize", request_id="req-1")
    put(cell, "instance_actions", id=51, instance_uuid=SERVER, action="confirm", request_id="req-1")
    put(cell, "instance_actions_events", action_id=51, event="one")
    for action, event, deleted in ((2, "one", 0), (2, "two", 0), (2, "three", 8), (1, "one", 0), (4, "theirs", 0)):
        put(database, "instance_actions_events", action_id=action, event=event, deleted=deleted)
    for server, message, deleted in ((SERVER, "a", 0), (SERVER, "b", 0), (SERVER, "c", 5), (OTHER, "d", 0)):
        put(
            database,
            "instance_faults",
            instance_uuid=server,
            message=message,
            code="500",
            created_at=NOW,
            deleted=deleted,
        )
    for request, more in (("req-7", {"instance_uuid": OTHER}), ("req-8", {"deleted": 8})):
        action = {"instance_uuid": SERVER, "action": "reboot", "request_id": request, "created_at": NOW} | more
        put(
            database,
            "instance_actions_events",
            action_id=put(database, "instance_actions", **action),
            event="not copied",
        )
    for name, columns in (
        ("instance_actions", "instance_uuid, deleted, request_id DESC"), ("instance_faults", "instance_uuid, deleted, message DESC"),
    ):  # fmt: skip
        with database.engine.begin() as connection:
            connection.execute(text(f"CREATE INDEX {name}_by ON {name} ({columns})"))
    put(cell, "instance_faults", instance_uuid=SERVER, message="0", code="500", created_at=NOW)
    put(cell, "instance_faults", instance_uuid=OTHER, message="b", code="500", created_at=NOW)
    return cell


def copied(target: CellDatabase) -> tuple[set[tuple[Any, ...]], list[tuple[Any, ...]], list[str]]:
    """The server's actions, its events with their actions, its faults."""
    actions = {row["id"]: (row["action"], row["request_id"]) for row in rows(target, "instance_actions")}
    mine = {row["id"] for row in rows(target, "instance_actions") if row["instance_uuid"] == SERVER}
    happened = [(*actions[row["action_id"]], row["event"]) for row in rows(target, "instance_actions_events")]
    faults = [row["message"] for row in rows(target, "instance_faults") if row["instance_uuid"] == SERVER]
    return {actions[number] for number in mine}, sorted(happened), faults


def test_what_the_other_cell_lacks_is_copied_once(database: CellDatabase, target: CellDatabase) -> None:
    history.copy_news(database, target, SERVER)
    actions, happened, faults = copied(target)
    assert actions == {("confirm", "req-1"), ("resize", "req-1"), ("resize", "req-2")}
    assert happened == [("confirm", "req-1", "one"), ("confirm", "req-1", "two"), ("resize", "req-1", "one")]
    assert faults == ["0", "a", "b"]
    added = [row["request_id"] for row in rows(target, "instance_actions") if row["id"] > 51]
    assert added == ["req-1", "req-2"]
    before = content(target)
    history.copy_news(database, target, SERVER)
    assert content(target) == before


def test_of_two_actions_of_one_key_the_newest_gets_the_events(database: CellDatabase, target: CellDatabase) -> None:
    alike = {"instance_uuid": SERVER, "action": "resize", "request_id": "req-1"}
    newest = put(target, "instance_actions", **alike, created_at=LATER)
    put(target, "instance_actions", **alike, created_at=NOW)
    history.copy_news(database, target, SERVER)
    events = rows(target, "instance_actions_events")
    assert [row["event"] for row in events if row["action_id"] == newest] == ["one"]


def test_the_actions_of_one_request_are_left_as_they_are(database: CellDatabase, target: CellDatabase) -> None:
    history.copy_news(database, target, SERVER, but="req-1")
    actions, happened, _faults = copied(target)
    assert actions == {("confirm", "req-1"), ("resize", "req-2")}
    assert happened == [("confirm", "req-1", "one")]


def test_live_events_of_live_actions_of_one_server(database: CellDatabase, target: CellDatabase) -> None:
    query = history.events_of_server(database["instance_actions"], database["instance_actions_events"])
    put(database, "instance_actions_events", action_id=3, event="of a deleted action")
    with database.engine.connect() as connection:
        found = connection.execute(query, {"instance_uuid": SERVER, "deleted": 0}).all()
    assert [(row.action_id, row.event) for row in found] == [(2, "one"), (2, "two"), (1, "one")]


@pytest.mark.parametrize("change", [{"message": "other"}, {"code": "404"}, {"created_at": LATER}])
def test_a_fault_that_differs_is_another_one(change: dict[str, Any]) -> None:
    source, cell = make_cell("cell1"), make_cell("cell2")
    fault = {"instance_uuid": SERVER, "message": "a", "code": "500", "created_at": NOW}
    put(source, "instance_faults", **fault)
    put(cell, "instance_faults", **fault | change)
    history.copy_news(source, cell, SERVER)
    assert len(rows(cell, "instance_faults")) == 2


def test_a_column_that_the_other_cell_lacks_is_left_out(database: CellDatabase, target: CellDatabase) -> None:
    table = target["instance_actions_events"]
    table._columns.remove(table.c.details)  # type: ignore[attr-defined]
    history.copy_news(database, target, SERVER)
    assert len(rows(target, "instance_actions_events")) == 3
