"""finish: the guest starts at the target, and the server's mapping follows it.

Follows the conductor's FinishResizeAtDestTask. The pivot is the instance mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellmove.db import history, state
from cellmove.hosts import compute
from cellmove.pipeline import Action, Context, Finding, Pivot
from cellmove.steps import places, prep_dest, recover

NOTHING: Mapping[str, Any] = {}


def _hand_over(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts, server, now = context.facts, places.server_id(context), places.now(context)
    state.swap_instance(
        places.target(context), server, {"task_state": "resize_prep"}, {"task_state": "resize_migrated"}, now
    )
    history.start_event(
        places.source(context), server, request_id=facts["request_id"], event=compute.FINISH_AT_DEST.event,
        host=facts["target_host"], now=now,
    )  # fmt: skip
    return NOTHING


def _take_over(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    facts, server, now = context.facts, places.server_id(context), places.now(context)
    database = places.target(context)
    instance = state.read_instance(database, server)
    if instance is not None and instance["task_state"] == "resize_migrated":
        expected = {"task_state": "resize_migrated"}
        state.swap_instance(database, server, expected, {"task_state": "resize_prep"}, now)
    history.finish_event(
        places.source(context), server, request_id=facts["request_id"], event=compute.FINISH_AT_DEST.event,
        now=now, error="the step was taken back",
    )  # fmt: skip


def _start_target(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    facts = context.facts
    places.call_target(context, compute.FINISH_AT_DEST, facts["request_id"], snapshot_id=facts.get("image_id"))
    return NOTHING


def _probe_target(context: Context, _intent: Mapping[str, Any]) -> Finding:
    facts = context.facts
    return places.find_out(
        context, places.target_cell(context), facts["target_host"], compute.FINISH_AT_DEST, facts["request_id"]
    )


def _release(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    recover.release_target(context)


def _show_target(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    expected = {"vm_state": "resized", "task_state": None}
    state.swap_instance(places.target(context), places.server_id(context), expected, {"hidden": 0}, places.now(context))
    return NOTHING


def _hide_target(context: Context, _intent: Mapping[str, Any], _result: Mapping[str, Any]) -> None:
    database = places.target(context)
    if state.read_instance(database, places.server_id(context)) is not None:
        state.swap_instance(database, places.server_id(context), {}, {"hidden": 1}, places.now(context))


def _switch_mapping(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    state.swap_mapping(
        context.gateway.api_engine,
        places.server_id(context),
        places.source_cell(context).id,
        places.target_cell(context).id,
        places.now(context),
    )
    return NOTHING


def _hide_source(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    state.swap_instance(places.source(context), places.server_id(context), {}, {"hidden": 1}, places.now(context))
    return NOTHING


def _is_resize(context: Context) -> bool:
    return bool(context.facts["kind"] == "resize")


def _save_request_spec(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stored spec gets the new flavor; what belongs to one request only is never stored."""
    store_flavor(context, context.facts["new_flavor"])
    return NOTHING


def store_flavor(context: Context, flavor: Mapping[str, Any]) -> None:
    """Put a flavor into the server's stored request spec."""
    engine, server = context.gateway.api_engine, places.server_id(context)
    spec = state.read_request_spec(engine, server)
    spec["nova_object.data"]["flavor"] = dict(flavor)
    state.write_request_spec(engine, server, spec, places.now(context))


def _close(context: Context, _intent: Mapping[str, Any]) -> Mapping[str, Any]:
    """End the events in both cells and take our mark off: from here on any tool may go on."""
    facts, server, now = context.facts, places.server_id(context), places.now(context)
    for database in (places.source(context), places.target(context)):
        with state.transaction(database.engine, database.name) as connection:
            for event in (*prep_dest.EVENTS, compute.FINISH_AT_DEST.event):
                history.finish_event(
                    database, server, request_id=facts["request_id"], event=event, now=now, connection=connection
                )
            state.set_system_metadata(connection, database, server, places.MARK, None, now)
    return NOTHING


ACTIONS = (
    Action("hand_over", "hand the server over to {target_cell} (resize_migrated)", _hand_over, undo=_take_over),
    Action(
        "start_target",
        "connect ports and volumes and start the guest on {target_host}",
        _start_target,
        probe=_probe_target,
        undo=_release,
        takes_all_back=True,
    ),
    Action("show_target", "show the server in {target_cell}", _show_target, undo=_hide_target, joined=True),
    Action(
        "switch_mapping",
        "point the server's mapping at {target_cell}",
        _switch_mapping,
        pivot=Pivot.WHEN_DONE,
        joined=True,
    ),
    Action("hide_source", "hide the server in {source_cell}", _hide_source),
    Action("save_request_spec", "store the new flavor in the request spec", _save_request_spec, applies=_is_resize),
    Action("close", "close the events in both cells", _close),
)
