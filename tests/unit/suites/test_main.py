"""How suites are run from the command line: which shard is meant, what is said, when a run ends."""

from __future__ import annotations

import pytest

from tests.suites import __main__ as main
from tests.suites.shards import Unit, divide

SHARDS = divide([Unit("proof", f"kill:{number}", frozenset(), 10.0) for number in range(10)], 50.0)


def test_a_shard_is_named_by_its_number_and_how_many_there_are() -> None:
    assert [main.find(SHARDS, text) for text in ("1", "2/2")] == SHARDS
    assert main.describe(SHARDS[1], 2) == "SHARD=2/2: 5 of proof; about 1 minutes"


@pytest.mark.parametrize(("text", "words"), [("3", "there are 2 shards"), ("0/2", "there are 2 shards"),
                                             ("1/7", "there are 2 shards, not 7"), ("x", "there are 2 shards")])  # fmt: skip
def test_a_shard_that_is_not_there_is_refused(text: str, words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        main.find(SHARDS, text)


def test_the_first_failure_ends_a_run_and_the_table_has_all_that_ran(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [("lint", lambda: 0), ("unit", lambda: 2), ("smoke", lambda: 0)]
    assert main.run_in_order(parts) == 1
    said = capsys.readouterr().out
    assert "| unit | 0.0 | failed |" in said
    assert "smoke" not in said
    assert said.endswith("failed: unit\n")


def test_shards_go_on_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_in_order([("1", lambda: 1), ("2", lambda: 0)], keep_going=True) == 1
    assert "| 2 | 0.0 |  |" in capsys.readouterr().out
    assert main.run_in_order([("1", lambda: 0)]) == 0


def test_targets_that_run_at_once_fail_when_one_of_them_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.make("help+no-such-target") == 2
    said = capsys.readouterr().out
    assert "test-long" in said
    assert "no-such-target" in said
    assert main.make("help+help") == 0
