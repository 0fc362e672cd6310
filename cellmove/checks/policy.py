"""What the operator's own rules say."""

from __future__ import annotations

from cellmove.checks.finding import Findings, refusal
from cellmove.checks.snapshot import ServerSnapshot
from cellmove.core.policy import broken


def check_policy(snapshot: ServerSnapshot) -> Findings:
    """Refuses by each rule that forbids the move."""
    for rule in broken(snapshot.policy, snapshot.subject):
        yield refusal(rule.code, rule.text, rule.remedy)
