"""Who is asked before a move, and which rules refuse it: commands in one process, without a terminal.

tests/sandbox/test_policy.py has the terminal, the configuration file and what an earlier run left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from cellmove.core.policy import Consent, Policy
from cellmove.core.request import Destination, MoveRequest
from cellmove.operations import planning
from cellmove.sandbox import seed
from cellmove.sandbox.seed import PROJECT
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.harness import Harness

SHAPE, FILE = "image-active-full", "/etc/cellmove/config.toml"
OFF, ON = Policy(FILE), Policy(FILE, unattended=True)
STEPS = ("prep-dest", "prep-source", "finish", "confirm", "revert")


@dataclass
class Person:
    """Gives the same answer to each question, and keeps the questions."""

    answer: str = ""
    questions: list[str] = field(default_factory=list)

    def __call__(self, question: str) -> str:
        self.questions.append(question)
        return self.answer


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@contextmanager
def at_work(harness: Harness, policy: Policy, consent: Consent) -> Iterator[None]:
    """Run commands under other rules, with somebody to be asked."""
    settings = harness.settings
    harness.settings = harness.gateway.settings = replace(settings, policy=policy)
    harness.consent = consent
    try:
        yield
    finally:
        harness.settings = harness.gateway.settings = settings
        harness.consent = None


@pytest.mark.parametrize("answer", ["n", "", "yellow"])
def test_any_answer_but_yes_opens_no_move(fixtures: Fixtures, answer: str) -> None:
    """An empty answer is also what the end of the input gives (tests/sandbox/test_policy.py)."""
    scene = fixtures.set(SHAPE, "home").scene
    harness, person = fixtures.harness, Person(answer)
    with at_work(harness, OFF, Consent(prompt=person)):
        outcome = harness.run("migrate", scene.server, "--confirm")
        with harness.session() as session:
            assert session.journal.all_moves() == []
    assert (outcome.code, outcome.state) == (5, "nothing was written")
    assert outcome.next_command.startswith(f"cellmove migrate {scene.server} ")
    assert outcome.next_command.endswith(" --confirm")
    (question,) = person.questions
    assert f"web ({scene.server}) moves from cell1 / c1-host1 to cell2" in question
    assert "its records and disks at the source are deleted" in question
    assert question.endswith("[y/N] ")


@pytest.mark.parametrize("answer", ["y", " YES "])
def test_a_person_is_asked_once_a_command(fixtures: Fixtures, answer: str) -> None:
    scene = fixtures.set(SHAPE, "home").scene
    person = Person(answer)
    with at_work(fixtures.harness, OFF, Consent(prompt=person)):
        assert fixtures.harness.run("migrate", scene.server, "--confirm").code == 0
    assert len(person.questions) == 1
    assert fixtures.harness.state().value == "confirmed"


@pytest.mark.parametrize(("policy", "yes"), [(OFF, True), (ON, False)])
def test_nobody_is_asked_who_has_answered_or_need_not(fixtures: Fixtures, policy: Policy, yes: bool) -> None:
    scene = fixtures.set(SHAPE, "home").scene
    person = Person("n")
    with at_work(fixtures.harness, policy, Consent(yes, person)):
        assert fixtures.harness.run("migrate", scene.server).code == 0
    assert person.questions == []


QUESTIONS = {
    "prep-dest": "a host is claimed and prepared in cell2; the guest runs on at cell1 / c1-host1",
    "prep-source": "the guest stops at cell1 / c1-host1: its downtime starts now",
    "finish": "the guest starts at cell2 / c2-host1, which becomes its home",
    "confirm": "its records and disks at cell1 / c1-host1 are deleted for good",
    "revert": "the guest stops at cell2 / c2-host1 now and starts again at cell1 / c1-host1",
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_asks_once_and_not_when_it_is_done(fixtures: Fixtures, step: str) -> None:
    checkpoint = fixtures.set(SHAPE, step)
    harness, person = fixtures.harness, Person("n")
    before = harness.state()
    with at_work(harness, OFF, Consent(prompt=person)):
        refused = harness.run(step, checkpoint.move)
    assert (refused.code, refused.next_command) == (5, f"cellmove {step} {checkpoint.move}")
    assert (refused.effects, harness.state()) == (0, before)
    assert QUESTIONS[step] in person.questions[0]

    person = Person("y")
    with at_work(harness, OFF, Consent(prompt=person)):
        assert harness.run(step, checkpoint.move).code == 0
        harness.consent = Consent(prompt=person)  # the next command
        assert harness.run(step, checkpoint.move).code == 0
    assert len(person.questions) == 1, "done already: nothing to ask"


@pytest.mark.parametrize("yes", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_no_step_begins_unattended_before_that_is_switched_on(fixtures: Fixtures, step: str, yes: bool) -> None:
    """``--yes`` answers for a person who is there."""
    checkpoint = fixtures.set(SHAPE, step)
    harness = fixtures.harness
    with at_work(harness, OFF, Consent(yes)):
        refused = harness.run(step, checkpoint.move)
    assert (refused.code, refused.effects, refused.state) == (5, 0, "nothing was written")
    assert "unattended = true" in refused.message
    assert FILE in refused.message
    assert refused.next_command == f"cellmove {step} {checkpoint.move}"


RULES = [
    (Policy(FILE, deny={"projects": ("5a5a*",)}), "policy-denied", 'policy.deny.projects = "5a5a*"'),
    (Policy(FILE, deny={"projects": ("gold", "adm*")}), "policy-denied", 'policy.deny.projects = "adm*"'),
    (Policy(FILE, deny={"flavors": ("m1.small",)}), "policy-denied", 'policy.deny.flavors = "m1.small"'),
    (Policy(FILE, deny={"tags": ("b*",)}), "policy-denied", 'policy.deny.tags = "b*"'),
    (Policy(FILE, deny={"hosts": ("c1-*",)}), "policy-denied", 'policy.deny.hosts = "c1-*"'),
    (Policy(FILE, allow={"projects": ("gold",)}), "policy-not-allowed", "policy.allow.projects"),
    (Policy(FILE, allow={"flavors": ("m1.tiny",)}), "policy-not-allowed", "policy.allow.flavors"),
    (Policy(FILE, allow={"tags": ("green",)}), "policy-not-allowed", "policy.allow.tags"),
    (Policy(FILE, allow={"hosts": ("c2-*",)}), "policy-not-allowed", "policy.allow.hosts"),
    (Policy(FILE, moves_a_day=0), "policy-day", "policy.moves_a_day = 0"),
]


@pytest.mark.parametrize(("policy", "code", "words"), RULES, ids=[words for _policy, _code, words in RULES])
def test_each_rule_refuses_by_its_name_and_with_all_other_reasons(
    fixtures: Fixtures, policy: Policy, code: str, words: str
) -> None:
    scene = fixtures.set(SHAPE, "home").scene
    harness = fixtures.harness
    seed.lock(harness.cloud, scene.server)
    request = MoveRequest(scene.server, "m1.small", Destination("cell2"))
    with at_work(harness, policy, Consent()), harness.session() as session:
        report = planning.move_for(session, request)
        assert session.journal.all_moves() == []
    found = {check.code: check for check in report.checks}
    assert report.move is None
    assert {code, "locked", "policy-unattended"} <= found.keys()
    assert words in found[code].text
    assert FILE in (found[code].remedy or "")


def test_what_every_rule_lets_through_is_moved(fixtures: Fixtures) -> None:
    scene = fixtures.set(SHAPE, "home").scene
    allow = {"projects": ("admin",), "flavors": ("m1.*",), "tags": ("blue",), "hosts": ("c1-host?",)}
    policy = Policy(FILE, True, 1, allow, {"projects": ("gold",), "tags": ("pin*",)})
    with at_work(fixtures.harness, policy, Consent()):
        outcome = fixtures.harness.run("resize", scene.server, "m1.small")
    assert outcome.code == 0, outcome.text
    assert PROJECT.startswith("5a5a")
