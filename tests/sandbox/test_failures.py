"""The failures of tests/scenarios on the sandbox, which has to fail exactly like the lab's nova."""

from __future__ import annotations

import pytest

from tests.scenarios import failures


@pytest.mark.parametrize(("name", "backing"), failures.CASES)
def test_a_failure_is_taken_back(sandbox, agrees, name, backing):
    failures.a_failure_is_taken_back(sandbox, agrees, name, backing)


def test_a_stopped_server_stays_stopped_when_the_start_fails(sandbox, agrees):
    failures.a_stopped_server_stays_stopped(sandbox, agrees)


def test_a_step_alone_takes_back_only_itself(sandbox, agrees):
    failures.a_step_alone_takes_back_only_itself(sandbox, agrees)


def test_a_dead_destination_is_refused_before_a_write(sandbox):
    failures.a_dead_destination_is_refused(sandbox)


@pytest.mark.parametrize("name", failures.ALTERNATES)
def test_the_next_host_is_tried(sandbox, name):
    failures.the_next_host_is_tried(sandbox, name)
