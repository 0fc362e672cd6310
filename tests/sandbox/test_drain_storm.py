"""A cell drained in bad weather by a run that is killed every few seconds: see tests/sandbox/storm.py."""

from __future__ import annotations

from tests.sandbox import storm


def test_a_cell_is_drained_whatever_goes_wrong() -> None:
    """One seed; `make test-long` plays more. It prints how to replay it when it fails."""
    told = storm.play(1)
    assert told.problems == [], f"{told.text}\nreplay: python -m tests.sandbox.storm {told.seed}"
    assert told.runs.count(-9) >= 3
    assert min(told.hits.values()) > 5
