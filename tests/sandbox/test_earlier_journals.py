"""Journals of an earlier version are opened, resumed and rolled back, and what is stored now has the same keys."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from cellmove.core.documents import structure, to_document
from cellmove.core.errors import JournalUnreachable
from cellmove.core.move import Entry, Move, Phase, State
from cellmove.core.move_plan import plan_document, plan_of
from cellmove.drain import cordon as cell_cordon
from cellmove.engine.action import Action
from cellmove.engine.record import result_from
from cellmove.operations.documents import move_document
from cellmove.steps import ACTIONS, cordon, repair
from tests.proof.cases import recover
from tests.support.sandbox import cloud_oracle
from tests.support.sandbox.earlier_journals import Moment, moments, put
from tests.support.sandbox.harness import Harness, Outcome

MOVES = [name for name in moments() if name != "repair" and not name.startswith("drain")]
OPEN = [name for name in MOVES if not name.startswith("closed")]
GOALS = {"begin_confirm": State.CONFIRMED, "clean_source": State.CONFIRMED} | dict.fromkeys(
    ("begin_revert", "switch_back"), State.REVERTED
)
GOES_BACK = ("half_rolled_back", "claim_undoing")
ENDS = ("clean_source",)
"""What they began at the source cannot be rolled back."""


@pytest.fixture(scope="module")
def harness() -> Harness:
    return Harness()


def opened(harness: Harness, name: str) -> tuple[Move, list[Entry]]:
    put(harness, moments()[name])
    with harness.session() as session:
        move = session.journal.move(moments()[name].move)
        assert move is not None
        return move, session.journal.entries_of(move.id)


@pytest.mark.parametrize("name", MOVES)
def test_every_key_that_was_stored_is_declared_and_stored_again(harness: Harness, name: str) -> None:
    move, entries = opened(harness, name)
    assert json.loads(json.dumps(plan_document(plan_of(move)))) == move.plan
    kinds = {action.name: action.kind for own in ACTIONS.values() for action in own if isinstance(action, Action)}
    for entry in entries:
        kind = kinds[entry.action]
        intent = to_document(structure(kind.intent, entry.intent, "")) if entry.intent else {}
        result = result_from(kind, entry.result, "")
        assert json.loads(json.dumps(intent)) == entry.intent, entry.action
        assert json.loads(json.dumps(to_document(result))) == entry.result, entry.action
    document = move_document(move, entries)
    assert document["source"]["host"] == "c1-host1"
    assert document["move"] == move.id


def played(harness: Harness, moment: Moment, recovery: str) -> list[str]:
    put(harness, moment)
    outcomes = [Outcome(("an earlier run",), -9)]
    recover(harness, outcomes, recovery, GOALS.get(moment.name, State.FINISHED))
    harness.work_to_the_end()
    return cloud_oracle.violations(harness, moment.scene, outcomes)


@pytest.mark.parametrize("name", [name for name in OPEN if name not in GOES_BACK])
def test_a_move_goes_on(harness: Harness, name: str) -> None:
    assert played(harness, moments()[name], "on") == []
    assert harness.state() is GOALS.get(name, State.FINISHED)


@pytest.mark.parametrize("name", [name for name in OPEN if name not in ENDS])
def test_a_move_is_rolled_back(harness: Harness, name: str) -> None:
    assert played(harness, moments()[name], "back") == []
    assert harness.state() in (State.ROLLED_BACK, State.REVERTED)


def test_a_repair_goes_on(harness: Harness) -> None:
    move, _entries = opened(harness, "repair")
    assert repair.actions_for(move)
    assert harness.run("resume", move.id).code == 0
    with harness.session() as session:
        (entry,) = session.journal.entries_of(move.id)
    assert entry.phase is Phase.DONE
    assert repair.outcome_of(entry).mended


@pytest.mark.parametrize("name", ["drain_cordoning", "drain_draining"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["on", "back"])
def test_a_drain_closes_its_cell_and_opens_it(harness: Harness, name: str, goes_on: bool) -> None:
    record, entries = opened(harness, name)
    assert json.loads(json.dumps(to_document(cordon.plan_of(record)))) == record.plan
    kinds = {action.name: action.kind for action in cordon.actions_for(record) if isinstance(action, Action)}
    for entry in entries:
        result = to_document(result_from(kinds[entry.action], entry.result, ""))
        assert (to_document(structure(kinds[entry.action].intent, entry.intent, "")), result) == (
            entry.intent,
            entry.result,
        )
    with harness.session() as session:
        if goes_on:
            record = cell_cordon.cordon_cell(session, record, lambda _event: None, "cellmove drain-cell cell1")
        else:
            record = cell_cordon.uncordon_cell(session, record, lambda _event: None)
    (cell,) = harness.cloud.rows("api", "cell_mappings", uuid=record.server_id)
    assert record.state is (State.DRAINING if goes_on else State.ROLLED_BACK)
    assert bool(cell["disabled"]) is goes_on


def test_a_key_of_a_newer_version_is_no_error(harness: Harness) -> None:
    move, _entries = opened(harness, "source_prepared")
    newer = Move(**(vars(move) | {"plan": {**move.plan, "colour": "red"}}))
    assert plan_of(newer) == plan_of(move)


def test_a_key_that_is_missing_is_named(harness: Harness) -> None:
    move, _entries = opened(harness, "source_prepared")
    less = {key: value for key, value in move.plan.items() if key != "source_host"}
    with pytest.raises(JournalUnreachable, match=f"the plan of {move.id} lacks source_host"):
        plan_of(Move(**(vars(move) | {"plan": less})))


def test_the_archive_is_of_the_version_that_it_is_said_to_be_of(harness: Harness) -> None:
    put(harness, moments()["finished"])
    with closing(sqlite3.connect(harness.folder / "journal.db")) as journal:
        (plan,) = journal.execute("SELECT plan FROM moves").fetchone()
    assert {"request", "command", "target_cell_uuids"} <= json.loads(plan).keys()
