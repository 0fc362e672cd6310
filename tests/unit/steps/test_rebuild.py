"""Which actions of a move happened, told from values. Whole moves are rebuilt on the sandbox and on the lab."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cellmove.cloud.network import Port
from cellmove.cloud.volume import Attachment
from cellmove.core.documents import to_document
from cellmove.core.move import Phase, State
from cellmove.core.move_plan import ChosenHost
from cellmove.hosts import compute
from cellmove.steps import ACTIONS
from cellmove.steps.action_types import ServerBefore
from cellmove.steps.rebuild import REPLACED, CellState, ObservedState, finished_lines, rebuild
from tests.support.plans import a_plan

PORT = Port("port-1", "c1-host1", "ACTIVE", "normal", "ovs", "compute:nova")
ARRIVAL = ChosenHost("cell2", "uuid-2", "c2-host1", "c2-node1", new_flavor={"a": 1})
ORDER = [action.name for actions in ACTIONS.values() for action in actions]


def end(
    *, stashed: bool = False, context: str | None = None, events: dict[str, str] | None = None, **row: Any
) -> CellState:
    flavors = {"cur": {"a": 1}, "old": {"a": 1} if stashed else None, "new": None}
    migration = {"status": row.pop("status", "pre-migrating"), "dest_compute": row.pop("dest_compute", None)}
    return CellState(
        instance={"task_state": "resize_prep", "hidden": 0, "vm_state": "active"} | row,
        metadata={},
        extra={"flavor": json.dumps(flavors), "migration_context": context},
        migration=migration,
        volumes=({"id": 7, "volume_id": "volume-1", "attachment_id": "attachment-1"},),
        events=events or {},
    )


def observed(**changes: Any) -> ObservedState:
    """Taken, recorded, allocations moved; nothing in the target yet."""
    values: dict[str, Any] = {
        "before": ServerBefore(3, 0, None), "source": end(), "target": None, "migration_uuid": "migration-1",
        "mapped_to_target": False, "holds": True, "volume_backed": True, "arrival": None, "ports": (PORT,),
        "bound": frozenset(), "attachments": (Attachment("attachment-1", "volume-1", "server-1", "attached"),),
        "image_id": "",
    }  # fmt: skip
    return ObservedState(**values | changes)


def copied(**changes: Any) -> ObservedState:
    """And copied to the target, ports and volumes made ready, nothing claimed."""
    target = dataclasses.replace(
        end(hidden=1), volumes=({"id": 9, "volume_id": "volume-1", "attachment_id": "theirs"},)
    )
    return observed(target=target, arrival=ARRIVAL, bound=frozenset({"port-1"}), **changes)


def told(of: ObservedState) -> tuple[State, dict[str, str]]:
    state, lines = rebuild(of)
    names = [line.action for line in lines]
    assert names == sorted(names, key=ORDER.index), "lines stand in the order in which actions are done"
    return state, {line.action: line.phase.value for line in lines}


def test_a_server_just_taken() -> None:
    state, lines = told(observed(migration_uuid="", holds=False))
    assert (state, lines) == (State.PLANNED, {"take_server": "done"})
    assert rebuild(observed())[1][0].intent == to_document(ServerBefore(3, 0, None))


def test_what_is_not_certain_is_an_intent() -> None:
    state, lines = told(copied())
    assert state is State.PLANNED
    assert lines["copy_records"] == "done"
    assert {lines[name] for name in ("bind_ports", "reserve_volumes", "claim")} == {"intent"}


def test_a_claim_is_not_thought_of_before_everything_is_ready() -> None:
    assert "claim" not in told(dataclasses.replace(copied(), bound=frozenset()))[1]
    target = dataclasses.replace(end(hidden=1), volumes=({"id": 1, "volume_id": "v", "attachment_id": None},))
    assert "claim" not in told(dataclasses.replace(copied(), target=target))[1]


@pytest.mark.parametrize(("needs_limits", "phase"), [(True, Phase.INTENT), (False, Phase.DONE)])
def test_limits_that_only_the_scheduler_knows_are_asked_for_again(needs_limits: bool, phase: Phase) -> None:
    lines = {line.action: line for line in rebuild(dataclasses.replace(copied(), needs_limits=needs_limits))[1]}
    assert lines["schedule"].phase is phase
    assert bool(lines["schedule"].result) is not needs_limits
    claimed = dataclasses.replace(
        copied(), needs_limits=needs_limits, target=end(hidden=1, events={compute.PREP_AT_DEST.event: "Success"})
    )
    assert told(claimed)[1]["schedule"] == "done"


def test_only_attachments_that_are_not_the_moves_own_are_known() -> None:
    loose = Attachment("new-1", "volume-1", "server-1", "reserved")
    foreign = Attachment("old-1", "volume-2", "server-1", "attached")
    target = dataclasses.replace(end(hidden=1), volumes=({"id": 1, "volume_id": "v", "attachment_id": "theirs"},))
    theirs = Attachment("theirs", "volume-1", "server-1", "reserved")
    of = dataclasses.replace(copied(), target=target, attachments=(*observed().attachments, loose, foreign, theirs))
    (line,) = [line for line in rebuild(of)[1] if line.action == "reserve_volumes"]
    assert line.intent == {"known": ["attachment-1", "old-1"]}


def test_the_sources_attachment_in_a_copy_that_nova_just_made_is_none_of_the_target() -> None:
    """Nova copies block devices as they are, and gives them an attachment of their own later."""
    of = dataclasses.replace(copied(), target=end(hidden=1), by_nova=True)
    lines = {line.action: line for line in rebuild(of)[1]}
    assert lines["reserve_volumes"].intent == {"known": ["attachment-1"]}
    assert "claim" not in lines


@pytest.mark.parametrize(("status", "before"), [("attached", "attachment-1"), ("reserved", REPLACED)])
def test_an_empty_attachment_of_the_source_has_replaced_another(status: str, before: str) -> None:
    source = end(stashed=True, task_state="resize_migrating", events={compute.PREP_AT_SOURCE.event: "Error"})
    attachments = (Attachment("attachment-1", "volume-1", "server-1", status),)
    of = dataclasses.replace(
        copied(), source=source, attachments=attachments,
        target=end(hidden=1, events={compute.PREP_AT_DEST.event: "Success"}),
    )  # fmt: skip
    (line,) = [line for line in rebuild(of)[1] if line.action == "stop_source"]
    assert (line.phase, line.intent) == (Phase.INTENT, {"attachments": {"7": before}})


STOPPED = {compute.PREP_AT_SOURCE.event: "Success"}
GOING_BACK = {
    "the target was released": {"target": end(hidden=1, status="reverted")},
    "the target is fenced": {"target": end(hidden=1, task_state="resize_reverting")},
    "the source was started again": {"source": end(events={compute.FINISH_REVERT_AT_SOURCE.event: "Success"})},
    "the source is being started": {"source": end(events={compute.FINISH_REVERT_AT_SOURCE.event: "running"})},
    "its host cleared the task state": {"source": end(task_state=None)},
    "somebody reset it": {"source": end(stashed=True, task_state=None, events=STOPPED)},
    "its owner deleted it": {"source": None},
    "the root disk's image is gone": {
        "source": end(stashed=True, task_state="resize_migrated", events=STOPPED), "volume_backed": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("how", GOING_BACK.values(), ids=list(GOING_BACK))
def test_what_can_only_go_back_goes_back(how: dict[str, Any]) -> None:
    assert told(dataclasses.replace(copied(), **how))[0] is State.ROLLING_BACK


def test_past_the_pivot_nothing_goes_back() -> None:
    of = dataclasses.replace(
        copied(), mapped_to_target=True,
        source=end(stashed=True, task_state="resize_migrated", events=STOPPED),
        target=end(
            task_state=None, vm_state="resized",
            events={compute.PREP_AT_DEST.event: "Success", compute.FINISH_AT_DEST.event: "Success"},
        ),
    )  # fmt: skip
    state, lines = told(of)
    assert state is State.SOURCE_PREPARED
    assert lines["switch_mapping"] == "done"
    assert "hide_source" not in lines
    assert set(lines.values()) == {"done"}


@pytest.mark.parametrize(("volume_backed", "kind"), [(True, "migration"), (False, "resize")])
def test_a_finished_move_has_a_line_for_every_action_that_applies(volume_backed: bool, kind: str) -> None:
    lines = finished_lines(a_plan(volume_backed=volume_backed, kind=kind), ARRIVAL, "migration-1")
    names = {line.action for line in lines}
    assert ("create_image" in names) is not volume_backed
    assert ("save_request_spec" in names) is (kind == "resize")
    assert {line.phase for line in lines} == {Phase.DONE}
    results = {line.action: line.result for line in lines if line.result}
    assert results == {"schedule": to_document(ARRIVAL), "record_migration": {"migration_uuid": "migration-1"}}


# disks that are streamed


def streamed(
    *, events: dict[str, str] | None = None, there: dict[str, str] | None = None, **source: Any
) -> ObservedState:
    """Claimed and mirrored; the source's row and the computes' parts as a case wants them."""
    claimed = {compute.PREP_AT_DEST.event: "Success"} | (there or {})
    return dataclasses.replace(
        copied(), streamed=True, volume_backed=False,
        source=end(context="{}", dest_compute="c2-host1", events=events, **source),
        target=end(hidden=1, events=claimed, context="{}"),
    )  # fmt: skip


def test_before_the_stop_all_of_the_disks_part_is_done_again() -> None:
    state, lines = told(streamed())
    assert state is State.PLANNED
    again = ("look_at_disks", "seed_base", "make_directory", "copy_running")
    assert {lines[name] for name in again} == {"intent"}
    assert lines["mirror"] == "done"
    assert "copy_again" not in lines


def test_before_the_claim_there_is_nothing_of_disks_but_the_look() -> None:
    state, lines = told(dataclasses.replace(copied(), streamed=True, volume_backed=False))
    assert (state, lines["look_at_disks"]) == (State.PLANNED, "intent")
    assert "make_directory" not in lines


@pytest.mark.parametrize("stopped", ["", "running", "Success"])
def test_around_the_stop_disks_are_looked_at_and_copied_once_more(stopped: str) -> None:
    task_state = "resize_migrated" if stopped == "Success" else "resize_migrating"
    events = {compute.PREP_AT_SOURCE.event: stopped} if stopped else {}
    state, lines = told(streamed(stashed=True, task_state=task_state, events=events))
    assert state is State.DEST_PREPARED  # whether they were placed is not known, so that they are placed anew
    assert {lines[name] for name in ("look_at_disks", "seed_base", "make_directory", "copy_running")} == {"done"}
    assert lines["copy_again"] == "intent"
    assert "place_disks" not in lines


def test_what_is_handed_over_was_placed() -> None:
    of = streamed(
        stashed=True, task_state="resize_migrated", events={compute.PREP_AT_SOURCE.event: "Success"},
        there={compute.FINISH_AT_DEST.event: "running"},
    )  # fmt: skip
    state, lines = told(of)
    assert state is State.SOURCE_PREPARED
    assert {lines[name] for name in ("copy_again", "copy_rest", "place_disks", "check_disks", "hand_over")} == {"done"}
    assert lines["start_target"] == "intent"


def test_a_stopped_guest_without_an_image_goes_back_unless_its_disks_are_streamed() -> None:
    of = streamed(stashed=True, task_state="resize_migrated", events={compute.PREP_AT_SOURCE.event: "Success"})
    assert rebuild(of)[0] is not State.ROLLING_BACK
    assert rebuild(dataclasses.replace(of, streamed=False))[0] is State.ROLLING_BACK


def test_what_is_finished_has_no_lines_of_disks() -> None:
    names = {line.action for line in finished_lines(a_plan(kind="resize"), ARRIVAL, "migration-1")}
    assert "create_image" in names
    assert not names & {"look_at_disks", "copy_rest", "place_disks", "check_disks"}
