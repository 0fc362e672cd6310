"""A move's states: the order of the steps and what can be typed next."""

from __future__ import annotations

import pytest

from cellmove.core.move import CLOSED, TO_FINISH, TRANSITIONS, Move, State, Step, next_commands


def a_move(state: State, kind: str = "migration") -> Move:
    return Move("m1", "uuid-1", "web-1", kind, state, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")


def test_the_steps_to_finish_follow_on_each_other() -> None:
    state = State.PLANNED
    for step in TO_FINISH:
        before, after = TRANSITIONS[step]
        assert before is state
        state = after
    assert state is State.FINISHED
    assert {TRANSITIONS[step][0] for step in (Step.CONFIRM, Step.REVERT)} == {State.FINISHED}


def test_every_state_but_the_closed_ones_leads_somewhere() -> None:
    of_a_cell = {State.CORDONING, State.DRAINING, State.DRAINED}
    for state in set(State) - of_a_cell:
        commands = next_commands(a_move(state), None)
        assert bool(commands) == (state not in CLOSED)
        assert all(command.startswith("cellmove ") and command.endswith(" m1") for command in commands)


def test_a_drain_goes_on_until_it_is_over() -> None:
    for state in (State.CORDONING, State.DRAINING):
        assert next_commands(a_move(state, "drain"), None) == ("cellmove drain-cell uuid-1",)
    assert next_commands(a_move(State.ROLLING_BACK, "drain"), None) == ("cellmove drain abort uuid-1",)
    assert next_commands(a_move(State.DRAINED, "drain"), None) == ()


@pytest.mark.parametrize(
    ("state", "busy", "expected"),
    [
        (State.PLANNED, None, ("prep-dest", "rollback")),
        (State.PLANNED, Step.PREP_DEST, ("resume", "rollback")),
        (State.DEST_PREPARED, None, ("prep-source", "rollback")),
        (State.SOURCE_PREPARED, None, ("finish", "rollback")),
        (State.FINISHED, None, ("confirm", "revert")),
        (State.FINISHED, Step.CONFIRM, ("resume",)),
        (State.FINISHED, Step.REVERT, ("resume",)),
        (State.ROLLING_BACK, None, ("rollback",)),
        (State.CONFIRMED, None, ()),
    ],
)
def test_what_can_be_typed_next(state: State, busy: Step | None, expected: tuple[str, ...]) -> None:
    assert next_commands(a_move(state), busy) == tuple(f"cellmove {verb} m1" for verb in expected)


@pytest.mark.parametrize("state", list(State))
def test_a_move_is_open_until_it_is_over(state: State) -> None:
    assert a_move(state).is_open == (state not in CLOSED)
