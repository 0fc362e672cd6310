"""What a check comes to."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much a result weighs."""

    OK = "ok"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True)
class CheckResult:
    """One result of a check.

    :param code: for scripts
    :param text: what was found
    :param remedy: what to do about it; empty when there is nothing to do
    """

    code: str
    level: Level
    text: str
    remedy: str = ""


CheckResults = Iterator[CheckResult]


def refusal(code: str, text: str, remedy: str) -> CheckResult:
    """A result that forbids the move."""
    return CheckResult(code, Level.REFUSAL, text, remedy)


def warning(code: str, text: str, remedy: str = "") -> CheckResult:
    """A result to know about."""
    return CheckResult(code, Level.WARNING, text, remedy)
