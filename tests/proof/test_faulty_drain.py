"""A cell drained in bad weather by a run that is killed every few seconds: see tests/proof/faulty_drain.py."""

from __future__ import annotations

from tests.proof import faulty_drain


def test_a_cell_is_drained_whatever_goes_wrong() -> None:
    """One seed; `make test-long` plays more. It prints how to replay it when it fails."""
    told = faulty_drain.play(1)
    assert told.problems == [], f"{told.text}\nreplay: python -m tests.proof.faulty_drain {told.seed}"
    assert told.runs.count(-9) >= 3
    assert min(told.hits.values()) > 5
