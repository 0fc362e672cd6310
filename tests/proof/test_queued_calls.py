"""cellmove dies while its call waits in a host's queue: the next run must not send the call again."""

from __future__ import annotations

import pytest

from tests.proof import cases
from tests.support.sandbox.cloud_oracle import violations
from tests.support.sandbox.fixtures import Fixtures
from tests.support.sandbox.harness import Crash, Outcome, Seen


@pytest.fixture(scope="module")
def fixtures() -> Fixtures:
    return Fixtures()


@pytest.mark.parametrize(
    ("step", "verb", "method"),
    [
        ("prep-source", "rollback", "revert_snapshot_based_resize_at_dest"),
        ("finish", "rollback", "revert_snapshot_based_resize_at_dest"),
        ("finish", "rollback", "finish_revert_snapshot_based_resize_at_source"),
        ("finish", "finish", "finish_snapshot_based_resize_at_dest"),
        ("confirm", "confirm", "confirm_snapshot_based_resize_at_source"),
        ("revert", "revert", "revert_snapshot_based_resize_at_dest"),
        ("revert", "revert", "finish_revert_snapshot_based_resize_at_source"),
    ],
)
def test_a_call_in_a_queue_is_waited_for_by_the_next_run(fixtures, step, verb, method):
    checkpoint, harness = fixtures.set(cases.MAIN_SHAPE, step), fixtures.harness
    outcomes: list[Outcome] = []
    sent: list[str] = []

    def on_call(seen: Seen) -> str:
        if sent:
            raise Crash
        if not seen.text.endswith(method):
            return ""
        sent.append(method)
        return "queued"

    harness.taps.on_call = on_call
    outcomes.append(harness.run(verb, checkpoint.move))
    harness.taps.on_call = lambda _seen: ""
    assert (outcomes[-1].code, sent) == (-9, [method])
    recovery = "back" if verb == "rollback" else "on"
    cases.recover(harness, outcomes, recovery, cases.GOALS.get(step, cases.State.FINISHED))
    harness.work_to_the_end()
    assert violations(harness, checkpoint.scene, outcomes) == [], outcomes
