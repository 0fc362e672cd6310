"""What is found wrong with actions before any of them runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from cellmove.core.documents import NOTHING, Nothing, structure, to_document
from cellmove.core.errors import JournalUnreachable
from cellmove.core.move import Step
from cellmove.engine.action import Action, AnyAction, Context, require_order
from cellmove.engine.record import ActionType, result_from
from cellmove.steps import ACTIONS
from tests.support.pipeline_harness import toy, toy_type


@dataclass(frozen=True)
class Chosen:
    """A result with a required key and one with a default."""

    host: str
    node: str = ""


PICK, USE = ActionType("pick", Nothing, Chosen), ActionType("use", Nothing, Nothing)


def pick(_context: Context, _intent: Nothing) -> Chosen:
    return Chosen("c2-host1")


def use(context: Context, _intent: Nothing) -> Nothing:
    assert context[PICK].host
    return NOTHING


CHOOSER = Action(PICK, "pick", pick)
USER = Action(USE, "use", use, requires=(PICK,))


def only_some(_context: Context) -> bool:
    return False


def test_an_action_comes_after_those_that_it_requires() -> None:
    require_order({Step.PREP_DEST: [CHOOSER, USER]})
    require_order({Step.PREP_DEST: [CHOOSER], Step.FINISH: [USER]})
    require_order({Step.PREP_DEST: [replace(CHOOSER, applies=only_some), replace(USER, applies=only_some)]})


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ({Step.PREP_DEST: [USER]}, "use requires pick, which does not come before it"),
        ({Step.PREP_DEST: [USER, CHOOSER]}, "use requires pick, which does not come before it"),
        ({Step.PREP_DEST: [USER], Step.FINISH: [CHOOSER]}, "use requires pick, which does not come before it"),
        ({Step.CONFIRM: [CHOOSER], Step.REVERT: [USER]}, "use requires pick, which does not come before it"),
        (
            {Step.PREP_DEST: [replace(CHOOSER, applies=only_some), USER]},
            "use requires pick, which is left out of some moves that need use",
        ),
        (
            {Step.PREP_DEST: [replace(USER, requires=(), retry_from=PICK)]},
            "use requires pick, which does not come before it",
        ),
    ],
)
def test_a_requirement_that_is_not_met_is_an_error_when_actions_are_put_together(
    actions: dict[Step, list[AnyAction]], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        require_order(actions)


def test_a_title_names_what_a_move_has() -> None:
    with pytest.raises(TypeError, match="the title of a names color, target_hots, which no move has"):
        toy("a", "{target_hots} {color} {target_host}", lambda *_all: {})


def test_an_intent_that_nothing_makes_is_an_error() -> None:
    with pytest.raises(TypeError, match="a declares an intent, and nothing makes it"):
        Action(ActionType("a", Chosen, Nothing), "a", lambda *_all: NOTHING)


def test_names_of_actions_are_unique() -> None:
    names = [action.name for own in ACTIONS.values() for action in own]
    assert len(names) == len(set(names))


def test_a_result_is_read_and_stored_by_its_fields() -> None:
    assert structure(Chosen, {"host": "h", "colour": "red"}, "it") == Chosen("h")
    assert to_document(Chosen("h")) == {"host": "h", "node": ""}
    assert result_from(PICK, {}, "it") is None
    assert result_from(USE, {}, "it") == NOTHING
    with pytest.raises(JournalUnreachable, match="it lacks host"):
        structure(Chosen, {"node": "n"}, "it")
    with pytest.raises(JournalUnreachable, match="the result of pick lacks host"):
        result_from(PICK, {"node": "n"}, "the result of pick")


def test_a_mapping_is_kept_as_it_is() -> None:
    assert structure(toy_type("a").result, {"any": 1}, "it") == {"any": 1}
    assert to_document(None) == {}
