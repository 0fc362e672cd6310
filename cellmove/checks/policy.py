"""What the operator's own rules say."""

from __future__ import annotations

from cellmove.checks.result import CheckResults, refusal
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.core.policy import violations


def check_policy(snapshot: ServerSnapshot) -> CheckResults:
    """Refuses by each rule that forbids the move."""
    for rule in violations(snapshot.policy, snapshot.subject):
        yield refusal(rule.code, rule.text, rule.remedy)
