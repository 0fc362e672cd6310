"""The one retry policy: what is tried again, how long, and what is not."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from cellmove.core.errors import CallError, CallFailed, CallUncertain, CannotConnect, Misconfigured
from cellmove.engine.retry import patiently

WAITS = (0.25, 0.5, 1.0, 2.0)


class Runner:
    """A clock that only sleeping moves."""

    def __init__(self, patience: float) -> None:
        self.time = 100.0
        self.slept: list[float] = []
        self.calls = 0
        self.clock: Any = SimpleNamespace(
            monotonic=lambda: self.time, sleep=self.sleep, waits=lambda: itertools.chain(WAITS, itertools.repeat(2.0))
        )
        self.gateway: Any = SimpleNamespace(settings=SimpleNamespace(patience=patience))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def call(self, *errors: CallError) -> str:
        """A call that fails so often, and then answers."""
        self.calls += 1
        if self.calls <= len(errors):
            raise errors[self.calls - 1]
        return "answer"


@pytest.mark.parametrize(
    "error",
    [
        CannotConnect("no route"), CallUncertain("no answer"), CallFailed("deadlock", kind="deadlock"),
        CallFailed("lost", kind="lost"),
    ],
)  # fmt: skip
def test_what_wrote_nothing_or_may_be_repeated_is_tried_again(error: CallError) -> None:
    runner = Runner(patience=60)
    assert patiently(runner, lambda: runner.call(error, error)) == "answer"
    assert runner.slept == [0.25, 0.5]


@pytest.mark.parametrize("kind", ["500", "503", "409", "conflict", "duplicate"])
def test_what_may_pass_is_tried_again_only_where_it_has_to_succeed(kind: str) -> None:
    runner, other = Runner(patience=60), Runner(patience=60)
    error = CallFailed("not now", kind=kind)
    assert patiently(runner, lambda: runner.call(error), insists=True) == "answer"
    with pytest.raises(CallFailed):
        patiently(other, lambda: other.call(error))
    assert (other.calls, other.slept) == (1, [])


@pytest.mark.parametrize("kind", ["404", "403", "schema", ""])
def test_a_refusal_is_the_last_word(kind: str) -> None:
    runner = Runner(patience=60)
    with pytest.raises(CallFailed):
        patiently(runner, lambda: runner.call(CallFailed("no", kind=kind)), insists=True)
    assert runner.calls == 1


def test_what_is_configured_wrongly_stays_wrong() -> None:
    runner = Runner(patience=60)
    with pytest.raises(Misconfigured):
        patiently(runner, lambda: runner.call(Misconfigured("no such option")), insists=True)
    assert runner.calls == 1


def test_another_error_is_not_caught() -> None:
    runner = Runner(patience=60)
    with pytest.raises(ZeroDivisionError):
        patiently(runner, lambda: 1 // 0, insists=True)
    assert runner.slept == []


@pytest.mark.parametrize(
    ("patience", "slept"), [(0.0, []), (0.74, [0.25]), (0.75, [0.25, 0.5]), (2.0, [0.25, 0.5, 1.0])]
)
def test_it_gives_up_when_the_next_wait_would_be_too_long(patience: float, slept: list[float]) -> None:
    """The error of the last try is the one that is told."""
    runner = Runner(patience)
    errors = [CannotConnect(f"try {number}") for number in range(1, 9)]
    with pytest.raises(CannotConnect, match=f"try {len(slept) + 1}"):
        patiently(runner, lambda: runner.call(*errors))
    assert runner.slept == slept
