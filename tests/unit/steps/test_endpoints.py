"""How a call stands: what nova's records tell, what the operator's word adds, and to which calls it does not apply."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cellmove.core.clock import Clock
from cellmove.core.move import State
from cellmove.db import history
from cellmove.db.tables import CellDatabase
from cellmove.engine.action import Context
from cellmove.hosts import compute
from cellmove.steps import endpoints

BEGUN = datetime.datetime(2026, 1, 1, 12, 0, 0)  # noqa: DTZ001 - as nova's tables hold it
DATABASE = cast(CellDatabase, None)


def context(*, state: State = State.SOURCE_PREPARED, seconds: float = 0.0, host_restarted: bool = False) -> Context:
    now = BEGUN.replace(tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return cast(
        Context,
        SimpleNamespace(
            move=SimpleNamespace(id="move-1", server_id="server-1", state=state),
            gateway=SimpleNamespace(
                settings=SimpleNamespace(rpc_response_timeout=60.0), sent_calls=compute.SentCalls()
            ),
            clock=Clock(utc_now=lambda: now),
            host_restarted=host_restarted,
        ),
    )


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An event that has begun and not ended; what is written when it is ended."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(history, "event_state", lambda *_: history.ERROR if written else "running")
    monkeypatch.setattr(history, "event_begun", lambda *_: BEGUN)
    monkeypatch.setattr(history, "finish_event", lambda _database, _server, **values: written.append(values))
    return written


def stands(asked: Context) -> str:
    return endpoints.how_it_stands(asked, DATABASE, compute.FINISH_AT_DEST, "req-1")


def test_without_a_word_an_open_event_is_a_call_under_way(ended: list[dict[str, Any]]) -> None:
    assert stands(context(seconds=86400)) == "running"
    assert ended == []


def test_the_word_ends_the_event_for_every_later_look(ended: list[dict[str, Any]]) -> None:
    assert stands(context(host_restarted=True)) == history.ERROR
    assert [(values["event"], values["now"]) for values in ended] == [(compute.FINISH_AT_DEST.event, BEGUN)]
    assert stands(context()) == history.ERROR
    assert len(ended) == 1


def test_the_word_is_not_about_calls_of_this_very_run(
    ended: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "call", lambda *_words, **_more: None)
    asked = context(host_restarted=True)
    service, sent = compute.ComputeService("h", 74), asked.gateway.sent_calls
    compute.invoke(cast(Any, None), {"request_id": "req-1"}, compute.FINISH_AT_DEST, service, {}, sent)
    assert stands(asked) == "running"
    assert ended == []


@pytest.mark.parametrize(("seconds", "overdue"), [(59.0, False), (61.0, True)])
def test_a_call_is_overdue_when_its_answer_is(ended: list[dict[str, Any]], seconds: float, overdue: bool) -> None:
    asked = context(seconds=seconds)
    assert endpoints.is_overdue(asked, DATABASE, compute.PREP_AT_DEST, "req-1") is overdue
    assert ended == []


@pytest.mark.parametrize(("state", "verb"), [(State.SOURCE_PREPARED, "resume"), (State.ROLLING_BACK, "rollback")])
def test_what_to_type_goes_the_way_the_move_is_going(state: State, verb: str) -> None:
    text = endpoints.still_at_work(context(state=state), "c2-host1", compute.FINISH_AT_DEST)
    assert text.endswith(f"cellmove {verb} move-1 --host-restarted")


def test_only_calls_that_do_no_harm_twice_may_be_repeated() -> None:
    methods = (
        compute.PREP_AT_DEST, compute.PREP_AT_SOURCE, compute.FINISH_AT_DEST, compute.CONFIRM_AT_SOURCE,
        compute.REVERT_AT_DEST, compute.FINISH_REVERT_AT_SOURCE,
    )  # fmt: skip
    assert [method for method in methods if method.repeatable] == [
        compute.PREP_AT_DEST, compute.CONFIRM_AT_SOURCE, compute.REVERT_AT_DEST,
    ]  # fmt: skip
