"""Results of checks."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Level(enum.StrEnum):
    """The consequence of a result."""

    OK = "ok"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True)
class CheckResult:
    """One result of a check.

    :param code: for scripts
    :param text: what the check found
    :param remedy: what to do; empty when there is nothing to do
    """

    code: str
    level: Level
    text: str
    remedy: str = ""


CheckResults = Iterator[CheckResult]


def refusal(code: str, text: str, remedy: str) -> CheckResult:
    """Return a result that forbids the move."""
    return CheckResult(code, Level.REFUSAL, text, remedy)


def warning(code: str, text: str, remedy: str = "") -> CheckResult:
    """Return a result that does not forbid the move."""
    return CheckResult(code, Level.WARNING, text, remedy)
