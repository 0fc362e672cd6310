"""The sixteen moves of tests/scenarios on the sandbox, which has to end up exactly like the lab's nova."""

from __future__ import annotations

import pytest

from tests.scenarios import moves


@pytest.mark.parametrize(("backing", "state", "kind", "ending"), moves.CASES)
def test_there_and_back(sandbox, agrees, backing, state, kind, ending):
    moves.there_and_back(sandbox, agrees, backing, state, kind, ending)
